//! Workers: several jobs in turn, small ones never behind large ones, and none stuck when a process goes
//! (DESIGN 1, 5).

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Database, Job, Server, eventually};

/// Keeps every file of Basic waiting to be stored, until this is rolled back.
pub async fn hold_basic(database: &Database) -> sqlx::Transaction<'static, sqlx::Postgres> {
    database
        .execute(
            "create function hold() returns trigger language plpgsql
            as 'begin perform pg_advisory_xact_lock_shared(42); return new; end';
            create trigger hold before insert on binary_file for each row
            when (new.resource_type = 'Basic') execute function hold()",
        )
        .await;
    let mut transaction = database.pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(42)").execute(&mut *transaction).await.unwrap();
    transaction
}

/// A job of one large part of Basic that waits for a worker.
async fn large_job(database: &Database, server: &Server) -> Job {
    let planner_waits = database.lock_writers().await;
    let job = server.anybody().kick_off("?_type=Basic").await;
    database
        .execute(&format!(
            "{ABLE} update export_job set state = 'running', transaction_time = clock_timestamp(), started_at = now(),
                attempt = 9
            where id = '{0}';
            insert into export_part (job_id, ordinal, stage, resource_types, key_from, key_to, estimated_resources,
                estimated_bytes)
            values ('{0}', 0, 'output', '{{Basic}}', 0, 9223372036854775807, 1, 1000000000);
            notify export_work;",
            job.id(),
            ABLE = Database::ABLE
        ))
        .await;
    drop(planner_waits);
    job
}

async fn wait_until_claimed(database: &Database) {
    eventually("the part is claimed", || async { database.count("export_part where state = 'running'").await == 1 })
        .await;
}

#[tokio::test]
async fn several_exports_run_at_once() {
    let database = Database::create().await;
    database.put_patients(300).await;
    let settings = [("export.workers", "3"), ("export.file_target", "4KiB")];
    let server = Server::start_with(&database, &settings).await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(server.anybody().kick_off("").await);
    }
    for job in jobs {
        assert_eq!(job.completed().await.resources().await.len(), 300);
    }
}

#[tokio::test]
async fn a_small_export_does_not_wait_behind_a_large_one() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Basic","id":"b"}"#]).await;
    database.put_patients(1).await;
    let server = Server::start(&database).await;
    let hold = hold_basic(&database).await;
    let large = large_job(&database, &server).await;
    wait_until_claimed(&database).await;
    let small = server.anybody().kick_off("?_type=Patient").await;
    assert_eq!(small.completed().await.resources().await.len(), 1);
    assert_eq!(large.poll().await.status(), 202);
    hold.rollback().await.unwrap();
    assert_eq!(large.completed().await.resources().await.len(), 1);
}

// DESIGN 5: running jobs are limited, further ones wait and are done later
#[tokio::test]
async fn jobs_past_the_limit_wait_their_turn() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Basic","id":"b"}"#]).await;
    database.put_patients(1).await;
    let server = Server::start_with(&database, &[("export.max_running", "1")]).await;
    let hold = hold_basic(&database).await;
    let large = large_job(&database, &server).await;
    let next = server.anybody().kick_off("?_type=Patient").await;
    wait_until_claimed(&database).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(next.poll().await.headers()["x-progress"], "0% - waiting to start");
    hold.rollback().await.unwrap();
    large.completed().await;
    next.completed().await;
}

// Its place is free at once, not when somebody happens to look
#[tokio::test]
async fn a_cancelled_job_makes_room_for_the_next() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Basic","id":"b"}"#]).await;
    database.put_patients(1).await;
    let settings = [("export.max_running", "1"), ("export.fallback_poll", "10m"), ("export.lease", "10m")];
    let server = Server::start_with(&database, &settings).await;
    let hold = hold_basic(&database).await;
    let large = large_job(&database, &server).await;
    wait_until_claimed(&database).await;
    let next = server.anybody().kick_off("?_type=Patient").await;
    assert_eq!(large.delete().await.status(), 202);
    next.completed().await;
    hold.rollback().await.unwrap();
}

#[tokio::test]
async fn sigterm_ends_an_idle_server_in_good_order() {
    let database = Database::create().await;
    let mut server = Server::start(&database).await;
    server.signal(Signal::TERM);
    eventually_ended(&mut server, Duration::from_secs(20)).await;
    assert!(server.log().contains("stopped"), "{}", server.log());
}

/// Waits for a clean end.
async fn eventually_ended(server: &mut Server, patience: Duration) {
    let started = Instant::now();
    loop {
        if let Some(status) = server.has_ended() {
            assert!(status.success(), "{status}");
            return;
        }
        assert!(started.elapsed() < patience, "the server does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn sigterm_lets_a_running_part_finish() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Basic","id":"b"}"#]).await;
    let mut server = Server::start(&database).await;
    let hold = hold_basic(&database).await;
    large_job(&database, &server).await;
    wait_until_claimed(&database).await;
    server.signal(Signal::TERM);
    eventually("it is stopping", || async { server.log().contains("stopping") }).await;
    hold.rollback().await.unwrap();
    eventually_ended(&mut server, Duration::from_secs(20)).await;
    assert_eq!(database.count("export_job where state = 'completed'").await, 1);
}

#[tokio::test]
async fn a_part_that_cannot_finish_is_released_for_another_replica() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Basic","id":"b"}"#]).await;
    let mut server = Server::start_with(&database, &[("http.shutdown_grace", "200ms")]).await;
    let hold = hold_basic(&database).await;
    let job = large_job(&database, &server).await;
    wait_until_claimed(&database).await;
    server.signal(Signal::TERM);
    eventually_ended(&mut server, Duration::from_secs(20)).await;
    assert_eq!(database.count("export_part where state = 'pending' and failures = 0 and attempt = 1").await, 1);
    hold.rollback().await.unwrap();
    let other = Server::start(&database).await;
    let url = format!("{}/$export-poll-status?_jobId={}", other.base, job.id());
    eventually("the other replica completes it", || async {
        other.anybody().get(&url).send().await.unwrap().status() == 200
    })
    .await;
}

// Promise 2: kill -9 at any time
#[tokio::test]
async fn a_killed_servers_part_is_taken_over() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Basic","id":"b"}"#]).await;
    let lease = [("export.lease", "1s"), ("export.fallback_poll", "200ms")];
    let mut server = Server::start_with(&database, &lease).await;
    let hold = hold_basic(&database).await;
    let job = large_job(&database, &server).await;
    wait_until_claimed(&database).await;
    server.signal(Signal::KILL);
    eventually("it is dead", || {
        let ended = server.has_ended().is_some();
        async move { ended }
    })
    .await;
    let other = Server::start_with(&database, &lease).await;
    eventually("the part is taken over", || async { database.count("export_part where attempt >= 2").await == 1 })
        .await;
    hold.rollback().await.unwrap();
    let url = format!("{}/$export-poll-status?_jobId={}", other.base, job.id());
    eventually("the other replica completes it", || async {
        other.anybody().get(&url).send().await.unwrap().status() == 200
    })
    .await;
    assert_eq!(database.count("binary_file").await, 1);
}

// A job that was being planned by a server that died
#[tokio::test]
async fn a_lost_planner_is_replaced_and_keeps_the_transaction_time() {
    let database = Database::create().await;
    database.put_patients(3).await;
    let server = Server::start_with(&database, &[("export.lease", "1s"), ("export.fallback_poll", "200ms")]).await;
    let planner_waits = database.lock_writers().await;
    let job = server.anybody().kick_off("").await;
    let at = "2999-01-01T00:00:00.000Z";
    database
        .execute(&format!(
            "{} update export_job set transaction_time = '{at}', attempt = 7, lease_until = clock_timestamp() + interval '1 second'",
            Database::ABLE
        ))
        .await;
    drop(planner_waits);
    let manifest = job.completed().await;
    assert_eq!(manifest.transaction_time(), at);
    assert_eq!(manifest.resources().await.len(), 3);
}
