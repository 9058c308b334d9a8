//! Polling: progress, manifest, and every way in which there is nothing to poll (rules C, E).

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Database, Server, eventually};

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p"}"#;

// C2, C4, K18, clients.md 6
#[tokio::test]
async fn a_waiting_export_answers_202_with_progress_and_when_to_ask_again() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let planner_waits = database.lock_writers().await;
    let job = server.anybody().kick_off("").await;
    let response = job.poll().await;
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["x-progress"], "0% - waiting to start");
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(response.headers()["content-length"], "0");
    drop(planner_waits);
    job.completed().await;
}

// C2: the ledger as it stands in the middle of an export
#[tokio::test]
async fn a_running_export_says_how_far_it_is() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let job = running_elsewhere(&database, &server).await;
    let response = job.poll().await;
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["x-progress"], "42% - 126000 of about 300000 resources");
    let hapi = Server::start_with(&database, &[("wire.progress", "hapi")]).await;
    let response = hapi.anybody().get(&format!("/$export-poll-status?_jobId={}", job.id())).send().await.unwrap();
    let text = response.headers()["x-progress"].to_str().unwrap().to_owned();
    let at = text.strip_prefix("Build in progress - Status set to IN_PROGRESS at ").expect(&text);
    assert!(at.ends_with("+00:00") && text.len() < 100, "A19, C3, L16: {text}");
    // An export that has been running for ten minutes is asked for once a minute.
    database.execute("update export_job set accepted_at = accepted_at - interval '10 minutes'").await;
    assert_eq!(job.poll().await.headers()["retry-after"], "60");
}

/// An export that a worker of another replica is in the middle of.
async fn running_elsewhere(database: &Database, server: &Server) -> crate::support::Job {
    let planner_waits = database.lock_writers().await;
    let job = server.anybody().kick_off("?_type=Patient").await;
    database
        .execute(&format!(
            "{ABLE} update export_job set state = 'running', transaction_time = now(), started_at = now(), attempt = 9;
            insert into export_part (job_id, ordinal, stage, resource_types, key_from, key_to, estimated_resources,
                estimated_bytes, state, attempt, lease_until, worker, resources)
            values ('{0}', 0, 'output', '{{Patient}}', 0, 10, 100, 1, 'done', 1, null, null, 100000),
                ('{0}', 1, 'output', '{{Patient}}', 10, 20, 200000, 1, 'running', 1, 'infinity', gen_random_uuid(), 26000)",
            job.id(),
            ABLE = Database::ABLE
        ))
        .await;
    drop(planner_waits);
    job
}

// C9, E2-E10, E16, K15, C16
#[tokio::test]
async fn a_complete_export_answers_200_with_the_same_manifest_each_time() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start(&database).await;
    let job = server.anybody().kick_off("?_type=Patient").await;
    let manifest = job.completed().await;
    let url = manifest.urls("output").remove(0);
    assert!(url.starts_with(&format!("{}/Binary/", server.base)) && url.len() == server.base.len() + 8 + 32);
    assert_eq!(
        manifest.json,
        json!({
            "transactionTime": manifest.transaction_time(),
            "request": format!("{}/$export?_type=Patient", server.base),
            "requiresAccessToken": false,
            "output": [{
                "type": "Patient", "url": url, "count": 1, "extension": manifest.json["output"][0]["extension"],
            }],
            "error": [],
        })
    );
    // A poll with the headers of a HAPI client gets it too (C1, L1, A18).
    for accept in ["application/fhir+json;q=1.0, application/json+fhir;q=0.9", "application/json", "*/*"] {
        let request = server.anybody().get(&format!("{}&_format=json&_pretty=true", job.url)).header("accept", accept);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        let expires = httpdate::parse_http_date(response.headers()["expires"].to_str().unwrap()).unwrap();
        let left = expires.duration_since(std::time::SystemTime::now()).unwrap().as_secs();
        assert!((7000..=7200).contains(&left), "two hours: {left}");
        assert_eq!(response.json::<Value>().await.unwrap(), manifest.json);
    }
    let post =
        server.anybody().request(Method::POST, "/$export-poll-status").header("content-type", "application/json");
    let body = json!({ "resourceType": "Parameters", "parameter": [{ "name": "_jobId", "valueString": job.id() }] });
    let response = post.body(body.to_string()).send().await.unwrap();
    assert_eq!(response.json::<Value>().await.unwrap(), manifest.json, "C13");
}

// E15, L10
#[tokio::test]
async fn an_export_of_nothing_has_no_files() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    for query in ["", "?_type=Patient", "?_since=2020-01-01T00:00:00Z", "?_since=2999-01-01T00:00:00Z"] {
        let manifest = server.anybody().kick_off(query).await.completed().await;
        assert_eq!(manifest.json["output"], json!([]), "{query}");
        assert_eq!(manifest.json["error"], json!([]));
        assert_eq!(manifest.json["deleted"], if query.contains("_since") { json!([]) } else { Value::Null });
    }
}

// D9, G17
#[tokio::test]
async fn what_is_not_there_cannot_be_polled() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for id in ["00000000-0000-4000-8000-000000000000", "nonsense", "%27%3B--"] {
        let text = anybody.refused(anybody.get(&format!("/$export-poll-status?_jobId={id}")), 404).await;
        assert!(text.starts_with("not-found: Unknown instance ID: "), "{text}");
    }
    for query in ["", "?_jobId=", "?_jobId=a&_jobId=b"] {
        anybody.refused(anybody.get(&format!("/$export-poll-status{query}")), 400).await;
    }
}

// C6: a part that fails each time ends the job, with the reason
#[tokio::test]
async fn a_failed_export_answers_500_with_its_reason() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start_with(&database, &[("export.attempts", "2")]).await;
    // No file can be stored: a fault that stays.
    database.execute("alter table binary_chunk add constraint broken check (octet_length(data) < 0)").await;
    let job = server.anybody().kick_off("?_type=Patient").await;
    eventually("it fails", || async { job.poll().await.status() == 500 }).await;
    let text = server.anybody().refused(server.anybody().get(&job.url), 500).await;
    assert!(text.starts_with("processing: ") && text.contains("Patient") && text.contains("SQLSTATE 23514"), "{text}");
    assert_eq!(database.count("binary_file").await, 0);
}

// C7, A37: a database that is away is no failed job
#[tokio::test]
async fn a_poll_without_a_database_says_try_again() {
    let database = Database::create().await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let job = anybody.kick_off("").await;
    job.completed().await;
    database.execute("alter table export_job rename to away").await;
    let response = job.poll().await;
    assert!(response.headers().contains_key("retry-after"));
    let text = anybody.refused(anybody.get(&job.url), 503).await;
    assert!(text.starts_with("transient: ") && !text.contains("away"), "{text}");
    database.execute("alter table away rename to export_job").await;
    assert_eq!(job.poll().await.status(), 200);
}
