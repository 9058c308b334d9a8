//! What is past its time goes, physically, in every terminal state (rules A9, F6, F17, K25; DESIGN 4).

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::support::{Database, Server, eventually, put_mebibytes};

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p"}"#;
const SHORT: [(&str, &str); 2] = [("retention.files", "2s"), ("retention.sweep", "100ms")];

async fn rows_left(database: &Database) -> i64 {
    let mut rows = 0;
    for table in ["export_job", "export_part", "binary_file", "binary_chunk"] {
        rows += database.count(table).await;
    }
    rows
}

#[tokio::test]
async fn a_complete_export_goes_with_its_files() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start_with(&database, &SHORT).await;
    let anybody = server.anybody();
    let job = anybody.kick_off("").await;
    let url = job.completed().await.urls("output").remove(0);
    assert!(database.count("binary_chunk").await > 0);
    eventually("it expires", || async { job.poll().await.status() == 404 }).await;
    anybody.refused(anybody.get(&job.url), 404).await;
    anybody.refused(anybody.get(&url), 404).await;
    eventually("nothing of it is left", || async { rows_left(&database).await == 0 }).await;
    assert_eq!(database.count("resource").await, 1, "the resources stay");
}

#[tokio::test]
async fn a_cancelled_export_goes_too() {
    let database = Database::create().await;
    let server = Server::start_with(&database, &SHORT).await;
    let planner_waits = database.lock_writers().await;
    let job = server.anybody().kick_off("").await;
    assert_eq!(job.delete().await.status(), 202);
    drop(planner_waits);
    eventually("nothing of it is left", || async { rows_left(&database).await == 0 }).await;
}

// D7: the files that were done before it failed go at once, the reason stays until its time
#[tokio::test]
async fn the_files_of_a_failed_export_go_at_once() {
    let database = Database::create().await;
    database.put(&[PATIENT, r#"{"resourceType":"Task","id":"t"}"#]).await;
    database.delete("Task", "t").await;
    database.execute("alter table binary_file add constraint broken check (kind <> 'deleted')").await;
    let settings = [("export.attempts", "1"), ("retention.files", "6s"), ("retention.sweep", "100ms")];
    let server = Server::start_with(&database, &settings).await;
    let job = server.anybody().kick_off("?_since=2020-01-01T00:00:00Z").await;
    eventually("it fails", || async { job.poll().await.status() == 500 }).await;
    eventually("its files are gone", || async { database.count("binary_file").await == 0 }).await;
    assert_eq!(database.count("binary_chunk").await, 0);
    eventually("the rest goes too", || async { rows_left(&database).await == 0 }).await;
    assert_eq!(job.poll().await.status(), 404);
}

// D8, F6, L23
#[tokio::test]
async fn a_file_being_downloaded_is_kept_past_its_time() {
    let database = Database::create().await;
    put_mebibytes(&database, 24).await;
    let server = Server::start_with(&database, &[("retention.sweep", "100ms")]).await;
    let anybody = server.anybody();
    let manifest = anybody.kick_off("").await.completed().await;
    let url = manifest.urls("output").remove(0);
    let mut slow = anybody.get(&url).send().await.unwrap();
    let length = slow.content_length().unwrap();
    let mut cut = anybody.get(&url).send().await.unwrap();
    let mut received = slow.chunk().await.unwrap().unwrap().len() as u64;
    cut.chunk().await.unwrap().unwrap();

    database.execute("update export_job set expires_at = clock_timestamp() - interval '1 second'").await;
    anybody.refused(anybody.get(&url), 404).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(database.count("binary_chunk").await > 0, "the reaper leaves it alone");
    while let Some(chunk) = slow.chunk().await.unwrap() {
        received += chunk.len() as u64;
    }
    assert_eq!(received, length, "the download is whole");

    // A client that stalls cannot hold it for ever: its hold runs out.
    database.execute("update binary_file set held_until = clock_timestamp()").await;
    eventually("nothing of it is left", || async { rows_left(&database).await == 0 }).await;
    let broken = async {
        while let Some(_chunk) = cut.chunk().await? {}
        Ok::<_, reqwest::Error>(())
    };
    assert!(broken.await.is_err(), "a download that lost its file does not look whole");
}

// DESIGN 2
#[tokio::test]
async fn superseded_versions_are_pruned_unless_an_export_needs_them() {
    let database = Database::create().await;
    for status in ["draft", "ready", "completed"] {
        database.put(&[&format!(r#"{{"resourceType":"Task","id":"t","status":"{status}"}}"#)]).await;
    }
    database.put(&[r#"{"resourceType":"Task","id":"gone"}"#]).await;
    database.delete("Task", "gone").await;
    // An export of another replica that reads the store as of the second version.
    database
        .execute(
            "insert into export_job (id, owner_issuer, owner_subject, request, state, transaction_time, started_at)
            select gen_random_uuid(), '', '', '{}', 'running', superseded_at - interval '1 millisecond', now()
            from resource where id = 't' and version_id = 2",
        )
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let settings = [("retention.history", "10ms"), ("retention.sweep", "100ms"), ("export.workers", "1")];
    let _server = Server::start_with(&database, &settings).await;
    eventually("the first version is pruned", || async {
        database.count("resource where id = 't' and version_id = 1").await == 0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(database.count("resource where id = 't'").await, 2, "the second is needed");
    database.execute("delete from export_job").await;
    eventually("the second version is pruned", || async { database.count("resource").await == 2 }).await;
    assert_eq!(database.count("resource where deleted").await, 1, "the tombstone stays");
}

// What a sweep costs is in proportion to what goes, not to the store
#[tokio::test]
async fn a_sweep_with_nothing_to_remove_does_not_read_the_store() {
    let database = Database::create().await;
    // Several types, in pages enough for the planner to think that it would rather read and sort them all.
    let many = r#"insert into resource (resource_type, id, version_id, last_updated, deleted, patients, mentions, body)
        select (array['Patient', 'Observation', 'Task'])[1 + n % 3], 'r' || n, 1, now(), false, '{}', '{}',
            '{"id":"' || repeat('x', 800) || '"}'
        from generate_series(1, 20000) as n"#;
    let mut loader = PgConnection::connect(&database.url()).await.unwrap();
    sqlx::query(many).execute(&mut loader).await.unwrap();
    sqlx::query("analyze resource_patient, resource_observation, resource_task").execute(&mut loader).await.unwrap();
    loader.close().await.unwrap();
    for table in ["resource_patient", "resource_observation", "resource_task"] {
        database.execute(&format!("alter table {table} set (autovacuum_enabled = off)")).await;
    }
    let pages_read = || async {
        // A session tells what it has read when it ends.
        let others = "pg_stat_activity where datname = current_database() and application_name <> 'test'";
        eventually("all other sessions have ended", || async { database.count(others).await == 0 }).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let pages = "select sum(heap_blks_read + heap_blks_hit)::bigint from pg_statio_user_tables
            where relname in ('resource_patient', 'resource_observation', 'resource_task')";
        sqlx::query_scalar::<_, i64>(pages).fetch_one(&database.pool).await.unwrap()
    };
    let before = pages_read().await;
    let server = Server::start_with(&database, &SHORT).await;
    // Ten sweeps.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(server);
    let read = pages_read().await - before;
    assert!(read < 100, "{read} pages read");
}

// One export that cannot be removed keeps nothing else from going
#[tokio::test]
async fn what_cannot_be_removed_is_skipped_and_said() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start_with(&database, &[("retention.sweep", "100ms"), ("retention.history", "1ms")]).await;
    let anybody = server.anybody();
    let (stuck, other) = (anybody.kick_off("").await, anybody.kick_off("").await);
    stuck.completed().await;
    other.completed().await;
    let trigger = format!(
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'not this one'; end $$;
        create trigger refuse before delete on binary_file for each row when (old.job_id = '{}') execute function refuse()",
        stuck.id()
    );
    database.execute(&trigger).await;
    database.put(&[r#"{"resourceType":"Patient","id":"p","active":true}"#]).await;
    database.execute("update export_job set expires_at = clock_timestamp()").await;
    eventually("the other goes", || async { database.count("export_job").await == 1 }).await;
    eventually("history goes", || async { database.count("resource").await == 1 }).await;
    assert!(server.log().contains(&format!("cannot remove export {}", stuck.id())));
}
