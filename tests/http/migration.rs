//! A rolling upgrade: the schema changes while others work with it, and a version works with the schema of the next
//! (migrations/README.md).

use std::time::{Duration, Instant};

use crate::support::{Database, Server, eventually};

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p"}"#;

/// Undoes migration 5, as if it had never been run.
async fn without_faults(database: &Database) {
    database
        .execute(
            "delete from _sqlx_migrations where version = 5;
            alter table export_job drop column fault, drop column fault_since, drop column planned_types;
            alter table export_part drop column fault, drop column fault_since",
        )
        .await;
}

#[tokio::test]
async fn a_version_starts_and_works_on_the_schema_of_the_next() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let running = Server::start(&database).await;
    database
        .execute(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                values (9999, 'of a newer version', true, '\\x00', 0);
            alter table export_job add column novelty text;
            alter table export_part add column novelty text;
            alter table binary_file add column novelty text;
            alter table resource add column novelty text",
        )
        .await;
    running.anybody().kick_off("").await.completed().await;
    let restarted = Server::start(&database).await;
    assert_eq!(restarted.anybody().kick_off("").await.completed().await.resources().await.len(), 1);
    assert!(database.command("migrate", &[], b"").await.status.success());
}

#[tokio::test]
async fn a_change_of_the_schema_gives_way_to_those_who_work() {
    let database = Database::create().await;
    without_faults(&database).await;
    // Somebody is in the middle of a part.
    let mut busy = database.pool.begin().await.unwrap();
    sqlx::query("lock table export_part in row share mode").execute(&mut *busy).await.unwrap();
    let migrate = database.command("migrate", &[], b"");
    let others = async {
        let waits = "pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        eventually("the change waits", || async { database.count(waits).await == 1 }).await;
        let started = Instant::now();
        // Who comes now stands in line behind it, but not for long.
        database.execute("update export_part set resources = resources").await;
        let waited = started.elapsed();
        busy.rollback().await.unwrap();
        waited
    };
    let (output, waited) = tokio::join!(migrate, others);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(waited < Duration::from_secs(20), "others waited {waited:?}");
    assert_eq!(database.count("_sqlx_migrations where version = 5 and success").await, 1);
}

#[tokio::test]
async fn replicas_that_start_together_migrate_once() {
    let database = Database::create().await;
    without_faults(&database).await;
    database.put(&[PATIENT]).await;
    let servers = tokio::join!(Server::start(&database), Server::start(&database), Server::start(&database));
    for server in [servers.0, servers.1, servers.2] {
        server.anybody().kick_off("").await.completed().await;
    }
}

// A replica of a version before would not keep within the caller's rights, nor record whose data it exports (I20)
#[tokio::test]
async fn a_version_that_cannot_do_all_of_an_export_gets_no_lease_on_it() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    database.command("govern", &["--workers", "0"], b"").await;
    let job = server.anybody().kick_off("").await;
    for (able, leases) in [(2, 0), (3, 1)] {
        let claim = format!(
            "set fhir_bulk_export.able = {able}; update export_job set attempt = attempt + 1 where id = '{}'",
            job.id()
        );
        let claimed = sqlx::raw_sql(sqlx::AssertSqlSafe(claim)).execute(&database.pool).await.unwrap();
        assert_eq!(claimed.rows_affected(), leases, "{able}");
    }
}
