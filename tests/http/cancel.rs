//! DELETE of the poll URL: ends an export, or says that its files are needed no more (rules D, K3).

use crate::support::{Database, Server, eventually};

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p"}"#;

// D1, D4, D5, D6, D9, C14
#[tokio::test]
async fn an_export_that_is_not_finished_is_cancelled() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let planner_waits = database.lock_writers().await;
    let job = anybody.kick_off("").await;
    let text = anybody.refused(anybody.request(reqwest::Method::DELETE, &job.url), 202).await;
    assert_eq!(text, format!("informational: Job instance {} successfully cancelled.", job.id()));
    anybody.refused(anybody.get(&job.url), 404).await;
    anybody.refused(anybody.request(reqwest::Method::DELETE, &job.url), 404).await;
    drop(planner_waits);
    // The worker that was about to plan it does not bring it back (L22).
    anybody.kick_off("").await.completed().await;
    anybody.refused(anybody.get(&job.url), 404).await;
    assert_eq!(database.count("export_job where state = 'cancelled'").await, 1);
}

// D7: within a second, and nothing of it can be read
#[tokio::test]
async fn a_running_part_stops_and_leaves_nothing() {
    let database = Database::create().await;
    database.put_patients(2_000).await;
    let server = Server::start_with(&database, &[("export.lease", "3s")]).await;
    let anybody = server.anybody();
    // The part cannot store its first chunk while this lock is held.
    let mut blocker = database.pool.begin().await.unwrap();
    sqlx::query("lock table binary_chunk in exclusive mode").execute(&mut *blocker).await.unwrap();
    let job = anybody.kick_off("?_type=Patient").await;
    eventually("it runs", || async { job.poll().await.headers()["x-progress"].to_str().unwrap().contains("of about") })
        .await;
    assert_eq!(job.delete().await.status(), 202);
    eventually("the worker notices", || async { server.log().contains("no longer ours") }).await;
    blocker.rollback().await.unwrap();
    anybody.refused(anybody.get(&job.url), 404).await;
    let next = anybody.kick_off("?_type=Patient").await.completed().await;
    assert_eq!(next.resources().await.len(), 2_000);
    assert_eq!(database.count(&format!("binary_file where job_id = '{}'", job.id())).await, 0);
}

// D3, K3, clients.md 8
#[tokio::test]
async fn delete_of_a_complete_export_removes_its_files() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start_with(&database, &[("retention.sweep", "100ms")]).await;
    let anybody = server.anybody();
    let job = anybody.kick_off("").await;
    let manifest = job.completed().await;
    let url = manifest.urls("output").remove(0);
    assert_eq!(anybody.download(&url).await.len(), manifest.resources().await["Patient/p"].len() + 1);
    assert_eq!(job.delete().await.status(), 202);
    anybody.refused(anybody.get(&job.url), 404).await;
    anybody.refused(anybody.get(&url), 404).await;
    assert_eq!(job.delete().await.status(), 404);
    eventually("all of it is gone", || async {
        // Held for a moment, since it has just been downloaded: let that pass.
        database.execute("update binary_file set held_until = null").await;
        database.count("export_job").await + database.count("binary_chunk").await == 0
    })
    .await;
}

// A6, K3
#[tokio::test]
async fn in_the_ehealth_dialect_the_files_of_a_complete_export_stay() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start_with(&database, &[("wire.delete_completed", "ehealth")]).await;
    let anybody = server.anybody();
    let job = anybody.kick_off("").await;
    let manifest = job.completed().await;
    let text = anybody.refused(anybody.request(reqwest::Method::DELETE, &job.url), 404).await;
    let expected = format!("Job instance {} was already cancelled or has completed.  Nothing to do.", job.id());
    assert_eq!(text, format!("not-found: {expected}"));
    assert_eq!(job.poll().await.status(), 200);
    assert_eq!(manifest.resources().await.len(), 1);
}
