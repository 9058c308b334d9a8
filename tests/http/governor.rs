//! The load governor: how much of the database exports may take, changed while they run, for all replicas.

use std::time::Duration;

use crate::support::{Database, Server, eventually};

async fn govern(database: &Database, arguments: &[&str]) -> String {
    let output = database.command("govern", arguments, b"").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// About four MiB of Basic.
async fn put_much(database: &Database) {
    let text = "x".repeat(100_000);
    let texts: Vec<String> =
        (0..40).map(|n| format!(r#"{{"resourceType":"Basic","id":"b{n}","code":{{"text":"{text}"}}}}"#)).collect();
    database.put(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn workers_keep_the_pace_until_it_is_changed() {
    let database = Database::create().await;
    put_much(&database).await;
    // Four minutes' worth.
    let server = Server::start_with(&database, &[("export.pace", "16KiB"), ("export.lease", "1s")]).await;
    let job = server.anybody().kick_off("").await;
    eventually("it runs", || async { database.count("export_part where state = 'running'").await == 1 }).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(job.poll().await.status(), 202, "it is slow");
    assert_eq!(database.count("export_part where attempt = 1").await, 1, "its lease is kept");
    let said = govern(&database, &["--pace", "unlimited"]).await;
    assert!(said.contains("pace     unlimited"), "{said}");
    assert_eq!(job.completed().await.resources().await.len(), 40);
    let said = govern(&database, &["--pace", "32KiB"]).await;
    assert!(said.contains("pace     32 KiB a second"), "{said}");
    let other = server.anybody().kick_off("").await;
    eventually("it is slow again", || async { server.log().contains("pace=32768") }).await;
    assert_eq!(other.poll().await.status(), 202);
}

#[tokio::test]
async fn all_workers_of_all_replicas_rest_while_they_may_not_work() {
    let database = Database::create().await;
    database.put_patients(3).await;
    let servers = [Server::start(&database).await, Server::start(&database).await];
    govern(&database, &["--workers", "0"]).await;
    for server in &servers {
        eventually("it knows", || async { server.log().contains("workers=0") }).await;
    }
    let job = servers[0].anybody().kick_off("").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(job.poll().await.status(), 202);
    assert_eq!(database.count("export_job where state = 'accepted' and attempt = 0").await, 1);
    let said = govern(&database, &["--workers", "default"]).await;
    assert!(said.contains("workers  as configured"), "{said}");
    job.completed().await;
}

// One worker that may work does what four do: also large parts
#[tokio::test]
async fn the_ceiling_bounds_the_connections_of_workers() {
    let database = Database::create().await;
    put_much(&database).await;
    let settings = [("export.file_target", "400KiB"), ("export.pace", "256KiB")];
    let server = Server::start_with(&database, &settings).await;
    govern(&database, &["--workers", "1"]).await;
    eventually("it knows", || async { server.log().contains("workers=1") }).await;
    let job = server.anybody().kick_off("").await;
    eventually("it runs", || async { database.count("export_part where state = 'running'").await == 1 }).await;
    for _ in 0..20 {
        let working = "pg_stat_activity where datname = current_database() and application_name like 'export %'";
        assert!(database.count(working).await <= 2, "a worker has two connections");
        assert!(database.count("export_part where state = 'running'").await <= 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    govern(&database, &["--pace", "unlimited"]).await;
    assert_eq!(job.completed().await.resources().await.len(), 40);
}

#[tokio::test]
async fn a_limit_that_is_none_is_refused() {
    let database = Database::create().await;
    for arguments in [["--pace", "fast"], ["--pace", "0"], ["--workers", "-1"], ["--workers", "many"]] {
        let output = database.command("govern", &arguments, b"").await;
        assert!(!output.status.success(), "{arguments:?}");
    }
    assert!(govern(&database, &[]).await.contains("as configured (export.pace)"));
}
