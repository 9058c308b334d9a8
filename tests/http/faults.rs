//! What stands in the way of an export: what goes away by itself is waited for, what stays is named, and nothing that
//! would not be whole is called complete (DESIGN 5, C6, C7).

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Database, Job, Server, eventually};
use crate::workers::hold_basic;

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p"}"#;

/// Every file that is stored meets this error, until it is mended.
async fn break_with(database: &Database, sqlstate: &str) {
    let function = format!(
        "create function fault() returns trigger language plpgsql
        as $$ begin raise exception 'as if' using errcode = '{sqlstate}'; end $$;
        create trigger fault before insert on binary_file for each row execute function fault()"
    );
    database.execute(&function).await;
}

async fn mend(database: &Database) {
    database.execute("drop trigger fault on binary_file").await;
}

/// Why it failed.
async fn failure(server: &Server, job: &Job) -> String {
    eventually("it fails", || async { job.poll().await.status() == 500 }).await;
    server.anybody().refused(server.anybody().get(&job.url), 500).await
}

/// A job of many small parts, most of which wait while it is read slowly.
async fn slow_job(database: &Database) -> (Server, Job) {
    slow_job_with(database, "1h").await
}

async fn slow_job_with(database: &Database, patience: &str) -> (Server, Job) {
    let text = "x".repeat(70_000);
    let texts: Vec<String> =
        (0..12).map(|n| format!(r#"{{"resourceType":"Basic","id":"b{n}","code":{{"text":"{text}"}}}}"#)).collect();
    database.put(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let settings = [
        ("export.workers", "1"),
        ("export.file_target", "64KiB"),
        ("export.pace", "32KiB"),
        ("export.patience", patience),
    ];
    let server = Server::start_with(database, &settings).await;
    let job = server.anybody().kick_off("").await;
    eventually("its first part is read", || async { database.count("export_part where state = 'running'").await == 1 })
        .await;
    (server, job)
}

async fn hurry(database: &Database) {
    database.execute("update export_governor set pace = 0; notify export_work").await;
}

#[tokio::test]
async fn a_full_disk_is_waited_for_and_is_no_failed_attempt() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start_with(&database, &[("export.attempts", "1")]).await;
    break_with(&database, "53100").await;
    let job = server.anybody().kick_off("").await;
    eventually("it was tried more than once", || async { database.count("export_part where attempt > 2").await == 1 })
        .await;
    assert_eq!(job.poll().await.status(), 202);
    let shown = database.command("jobs", &["show", job.id()], b"").await.stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("part 0: the disk of the database is full"), "{shown}");
    mend(&database).await;
    assert_eq!(job.completed().await.resources().await.len(), 1);
    assert_eq!(database.count("export_part where failures = 0").await, 1);
}

#[tokio::test]
async fn a_fault_that_stays_fails_the_job_and_is_named() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start_with(&database, &[("export.patience", "2s")]).await;
    break_with(&database, "53100").await;
    let job = server.anybody().kick_off("").await;
    let text = failure(&server, &job).await;
    assert!(text.contains("the disk of the database is full") && text.contains("Patient"), "{text}");
}

#[tokio::test]
async fn an_export_that_does_not_end_fails_at_its_deadline() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let settings = [("export.deadline", "2s"), ("retention.sweep", "100ms")];
    let server = Server::start_with(&database, &settings).await;
    break_with(&database, "57014").await;
    let job = server.anybody().kick_off("").await;
    let text = failure(&server, &job).await;
    assert!(text.contains("within 2s (export.deadline); at last: a statement took longer"), "{text}");
    // One that waits to be planned, too.
    let planner_waits = database.lock_writers().await;
    let waiting = server.anybody().kick_off("").await;
    let text = failure(&server, &waiting).await;
    assert!(text.ends_with("within 2s (export.deadline)."), "{text}");
    drop(planner_waits);
}

#[tokio::test]
async fn a_database_that_is_away_for_a_while_costs_no_attempt() {
    let database = Database::create().await;
    let (server, job) = slow_job(&database).await;
    database.close(true).await;
    let answer = job.poll().await;
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (503, true), "C7");
    tokio::time::sleep(Duration::from_secs(2)).await;
    database.close(false).await;
    hurry(&database).await;
    eventually("polls are answered again", || async { job.poll().await.status() != 503 }).await;
    assert_eq!(job.completed().await.resources().await.len(), 12);
    assert_eq!(database.count("export_part where failures > 0").await, 0);
    drop(server);
}

// An export that misses a part, or whose files do not hold what its parts say, must not be called complete
#[tokio::test]
async fn an_export_that_would_not_be_whole_fails_loudly() {
    for damage in [
        "delete from export_part where state = 'pending' and ordinal = 7",
        "update export_part set key_from = key_from + 1 where state = 'pending' and ordinal = 7",
        "update export_part set resource_types = '{Task}' where state = 'pending' and ordinal = 7",
        "update export_job set planned_types = '{Basic,Patient}'",
        "create function less() returns trigger language plpgsql
         as 'begin new.resources = new.resources + 1; return new; end';
         create trigger less before insert on binary_file for each row execute function less()",
    ] {
        let database = Database::create().await;
        let (server, job) = slow_job(&database).await;
        database.execute(damage).await;
        hurry(&database).await;
        let text = failure(&server, &job).await;
        assert!(text.contains("would not have been whole"), "{damage}: {text}");
        assert!(server.log().contains("would not have been whole"));
        assert_eq!(
            database.count("binary_file as f join export_job j on j.id = job_id and j.state = 'completed'").await,
            0
        );
    }
}

// A newer version may have planned it, and may do it; if there is none, the job does not complete without it
#[tokio::test]
async fn a_type_this_version_does_not_know_is_not_left_out() {
    let database = Database::create().await;
    let (server, job) = slow_job_with(&database, "2s").await;
    database
        .execute("update export_part set resource_types = '{Novelty}' where state = 'pending' and ordinal = 7")
        .await;
    hurry(&database).await;
    let text = failure(&server, &job).await;
    assert!(text.contains("does not know the type Novelty"), "{text}");
}

// D7: a process that is frozen notices nothing; its sessions must not outlive the job
#[tokio::test]
async fn the_sessions_of_a_frozen_worker_end_with_its_job() {
    let database = Database::create().await;
    let (frozen, job) = slow_job(&database).await;
    let other = Server::start_with(&database, &[("retention.sweep", "200ms"), ("export.workers", "1")]).await;
    let sessions = "pg_stat_activity
        where datname = current_database() and application_name like 'export %' and state <> 'idle'";
    eventually("it has a transaction open", || async { database.count(sessions).await > 0 }).await;
    frozen.signal(Signal::STOP);
    let url = format!("{}/$export-poll-status?_jobId={}", other.base, job.id());
    let delete = other.anybody().request(reqwest::Method::DELETE, &url).send().await.unwrap();
    assert_eq!(delete.status(), 202);
    eventually("its sessions are gone", || async { database.count(sessions).await == 0 }).await;
    frozen.signal(Signal::CONT);
    hurry(&database).await;
    eventually("it works again", || async {
        frozen.anybody().kick_off("").await.completed().await.resources().await.len() == 12
    })
    .await;
}

// STONITH by attempt: it wakes up with an open transaction and a lease that is another's
#[tokio::test]
async fn a_frozen_worker_that_wakes_up_writes_nothing() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let settings = [("export.lease", "1s"), ("export.workers", "1"), ("export.fallback_poll", "300ms")];
    let frozen = Server::start_with(&database, &settings).await;
    // A file waits to be stored as long as this is held.
    let mut blocker = database.pool.begin().await.unwrap();
    sqlx::query("lock table binary_file in share mode").execute(&mut *blocker).await.unwrap();
    let job = frozen.anybody().kick_off("").await;
    eventually("it runs", || async { database.count("export_part where state = 'running'").await == 1 }).await;
    frozen.signal(Signal::STOP);
    let other = Server::start_with(&database, &settings).await;
    eventually("another has the part", || async { database.count("export_part where attempt = 2").await == 1 }).await;
    frozen.signal(Signal::CONT);
    blocker.rollback().await.unwrap();
    let url = format!("{}/$export-poll-status?_jobId={}", other.base, job.id());
    is_complete(&other, &url).await;
    // By its lease, or by its session, whichever it asks about first.
    eventually("the first has noticed", || async {
        frozen.log().contains("no longer ours") || frozen.log().contains("an attempt failed")
    })
    .await;
    assert_eq!(database.count("binary_file").await, 1);
    assert_eq!(database.count("binary_chunk").await, 1);
    assert_eq!(database.count("export_part where attempt = 2 and failures = 1").await, 1);
}

/// Two replicas of one worker each, the first of which is frozen at work on the part of a job of one part; gives the job as
/// the second has it.
async fn frozen_at_work(database: &Database, is_there: impl AsyncFn()) -> (Server, Server, String) {
    let settings = [("export.lease", "1s"), ("export.workers", "1"), ("export.fallback_poll", "300ms")];
    let frozen = Server::start_with(database, &settings).await;
    let job = frozen.anybody().kick_off("").await;
    is_there().await;
    frozen.signal(Signal::STOP);
    let other = Server::start_with(database, &settings).await;
    let url = format!("{}/$export-poll-status?_jobId={}", other.base, job.id());
    (frozen, other, url)
}

async fn is_complete(server: &Server, url: &str) {
    eventually("it is complete", || async { server.anybody().get(url).send().await.unwrap().status() == 200 }).await;
}

// A file that it has written, and that refers to the part, must not keep the part from being taken over
#[tokio::test]
async fn a_part_is_taken_over_from_a_worker_that_is_frozen_between_two_files() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Account","id":"a"}"#, r#"{"resourceType":"Basic","id":"b"}"#]).await;
    let hold = hold_basic(&database).await;
    let waits = "pg_locks where locktype = 'advisory' and not granted and objid = 42
        and database = (select oid from pg_database where datname = current_database())";
    let (_frozen, other, url) = frozen_at_work(&database, async || {
        eventually("its second file waits", || async { database.count(waits).await == 1 }).await;
    })
    .await;
    eventually("another has the part", || async { database.count("export_part where attempt = 2").await == 1 }).await;
    hold.rollback().await.unwrap();
    is_complete(&other, &url).await;
}

// It has locked the job, which everybody wants who does a part of it or ends it
#[tokio::test]
async fn a_worker_that_is_frozen_while_it_completes_a_part_holds_nobody_up() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    // Completing a part takes a lock here, after that on the job.
    database
        .execute(
            "create function pause() returns trigger language plpgsql
            as 'begin perform pg_advisory_xact_lock_shared(42); return new; end';
            create trigger pause before update on export_part for each row
            when (new.state = 'done') execute function pause()",
        )
        .await;
    let mut hold = database.pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(42)").execute(&mut *hold).await.unwrap();
    let waits = "pg_locks where locktype = 'advisory' and not granted and objid = 42
        and database = (select oid from pg_database where datname = current_database())";
    let (_frozen, other, url) = frozen_at_work(&database, async || {
        eventually("it completes the part", || async { database.count(waits).await == 1 }).await;
    })
    .await;
    // Its transaction goes on, and then waits for a process that is frozen.
    hold.rollback().await.unwrap();
    is_complete(&other, &url).await;
}

// A lease is picked up when it runs out, not when somebody happens to look
#[tokio::test]
async fn a_dead_workers_part_is_taken_up_as_its_lease_runs_out() {
    let database = Database::create().await;
    let lease =
        [("export.lease", "3s"), ("export.fallback_poll", "60s"), ("export.workers", "1"), ("export.pace", "32KiB")];
    let (idle, mut dying) = (Server::start_with(&database, &lease).await, None);
    let text = "x".repeat(200_000);
    database.put(&[&format!(r#"{{"resourceType":"Basic","id":"b","code":{{"text":"{text}"}}}}"#)]).await;
    idle.signal(Signal::STOP);
    let server = dying.insert(Server::start_with(&database, &lease).await);
    let job = server.anybody().kick_off("").await;
    eventually("it runs", || async { database.count("export_part where state = 'running'").await == 1 }).await;
    idle.signal(Signal::CONT);
    // It looks once, since it was told of the work, and then has a minute to wait.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.signal(Signal::KILL);
    eventually("it is taken over", || async { database.count("export_part where attempt = 2").await == 1 }).await;
    hurry(&database).await;
    let url = format!("{}/$export-poll-status?_jobId={}", idle.base, job.id());
    is_complete(&idle, &url).await;
}
