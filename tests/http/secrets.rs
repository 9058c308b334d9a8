//! What is secret stays so: it may come from a file, and it is never logged.

use std::os::unix::fs::PermissionsExt;

use reqwest::Method;
use sqlx::ConnectOptions;

use crate::support::{Database, Issuer, Server, trusting};

const ROLES: [&str; 3] = ["$bulk-export", "Binary.read", "Patient.search"];

/// The URL of this database with a password, which no Postgres of the tests asks for.
fn with_password(database: &Database) -> String {
    database.options().password("hunter2-of-the-database").to_url_lossy().to_string()
}

#[tokio::test]
async fn a_whole_export_logs_nothing_secret_and_nothing_of_a_patient() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Patient","id":"patient-4711","name":[{"family":"Brontosaurus"}]}"#]).await;
    let issuer = Issuer::start().await;
    let token = issuer.ehealth_token("user-of-the-test", &ROLES);
    let mut settings = trusting(&[&issuer]);
    settings.extend([("log.filter", "trace".to_owned()), ("database.url", with_password(&database))]);
    let server = Server::start_with(&database, &settings).await;
    let caller = server.with_token(&token);
    let filter = "_typeFilter=Patient?family=Brontosaurus";
    for request in
        [caller.export_at(&format!("/Patient/patient-4711/$export?{filter}")), caller.export("?_type=Patient")]
    {
        let job = caller.accepted(request).await;
        let manifest = job.completed().await;
        assert_eq!(manifest.resources().await.len(), 1);
        job.delete().await;
    }
    let body = r#"{"resourceType":"Parameters","parameter":[
        {"name":"patient","valueReference":{"reference":"Patient/patient-4711"}}]}"#;
    caller.accepted(caller.export_by_post_at("/Patient/$export", body)).await.completed().await;
    // Nor where something is wrong.
    let (head, _) = token.rsplit_once('.').unwrap();
    let forged = server.with_token(&format!("{head}.AAAA"));
    assert_eq!(forged.export("").send().await.unwrap().status(), 401);
    assert_eq!(caller.export_at("/Patient/patient-4711/nowhere").send().await.unwrap().status(), 404);
    assert_eq!(caller.request(Method::POST, "/Patient/patient-4711/$export").send().await.unwrap().status(), 400);
    let log = server.log();
    assert!(log.contains("TRACE") && log.contains("accepted an export"));
    for secret in [head, "hunter2", "patient-4711", "Brontosaurus", "user-of-the-test"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} stands in the log");
    }
}

#[tokio::test]
async fn the_database_may_be_named_in_a_file() {
    let database = Database::create().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), with_password(&database) + "\n").unwrap();
    std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o604)).unwrap();
    let path = file.path().to_str().unwrap();
    let server = Server::start_with(&database, &[("database.url.file", path)]).await;
    server.anybody().kick_off("").await.completed().await;
    let log = server.log();
    assert!(log.contains("every user of this machine can read a file with a secret") && log.contains(path), "{log}");
    std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o600)).unwrap();
    let server = Server::start_with(&database, &[("database.url.file", path)]).await;
    assert!(!server.log().contains("every user"), "{}", server.log());
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_stops_the_start() {
    let database = Database::create().await;
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "[database]\nurl = { file = '/there/is/none' }\n").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fhir-bulk-export"));
    command.arg("--config").arg(config.path()).arg("migrate").env_remove("DATABASE_URL");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("database.url: cannot read the file /there/is/none"), "{text}");
    drop(database);
}
