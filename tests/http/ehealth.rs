//! A client of the Danish eHealth Infrastructure: its exact requests, and the answers it knows (rules A3-A7, A16-A26;
//! M.1).

use base64::Engine;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::support::{Caller, Database, Issuer, Job, Server, eventually, trusting};

const USER: &str = "b3b0a3a2-95e8-4a7c-9f0c-0f2a1c7d9e11";
const ROLES: [&str; 4] = ["Task.search", "ClinicalImpression.search", "$bulk-export", "Binary.read"];
const QUERY: &str = "?_format=json&_pretty=true";

async fn set_up(database: &Database, issuer: &Issuer) -> Server {
    database
        .put(&[
            r#"{"resourceType":"Task","id":"1100","meta":{"profile":["http://ehealth.sundhed.dk/fhir/StructureDefinition/ehealth-task"]},"status":"requested","intent":"plan","description":"Vurdér måling","for":{"reference":"https://patient.local/fhir/Patient/72754"}}"#,
            r#"{"resourceType":"ClinicalImpression","id":"7","status":"completed","subject":{"reference":"Patient/20000"}}"#,
            r#"{"resourceType":"Patient","id":"20000"}"#,
        ])
        .await;
    let mut settings = trusting(&[issuer]);
    settings.push(("wire.dialect", "ehealth".to_owned()));
    Server::start_with(database, &settings).await
}

/// The headers of a HAPI client (rule A16).
fn as_hapi(request: RequestBuilder) -> RequestBuilder {
    request
        .header("accept", "application/fhir+json;q=1.0, application/json+fhir;q=0.9")
        .header("accept-encoding", "gzip")
        .header("accept-charset", "utf-8")
}

fn kick_off(client: &Caller, export_id: &str) -> RequestBuilder {
    let body = format!(
        r#"{{"resourceType":"Parameters","parameter":[{{"name":"_outputFormat","valueString":"application/fhir+ndjson"}},
        {{"name":"_type","valueString":"Task,ClinicalImpression"}},
        {{"name":"_since","valueInstant":"2025-04-16T12:05:13.449+00:00"}}{export_id}]}}"#
    );
    as_hapi(client.request(Method::POST, &format!("/$export{QUERY}")))
        .header("prefer", "respond-async")
        .header("cache-control", "no-cache")
        .header("content-type", "application/fhir+json; charset=UTF-8")
        .body(body)
}

async fn completed(client: &Caller, job: &Job) -> Value {
    let url = format!("{}&_format=json&_pretty=true", job.url);
    let poll = async || as_hapi(client.get(&url)).send().await.unwrap();
    eventually("it completes", || async { poll().await.status() == 200 }).await;
    let response = poll().await;
    assert_eq!(response.headers()["content-type"], "application/json", "A20: no charset");
    response.json().await.unwrap()
}

// A3-A5, A16-A20, A24, A25, C3
#[tokio::test]
async fn its_whole_export_goes_as_it_knows_it() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let server = set_up(&database, &issuer).await;
    let client = server.with_token(&issuer.ehealth_token(USER, &ROLES));

    let planner_waits = database.lock_writers().await;
    let response = kick_off(&client, "").send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.content_length()), (202, Some(0)));
    assert!(!response.headers().contains_key("content-type"), "A4");
    let job = client.accepted(kick_off(&client, "")).await;
    assert!(job.url.contains("/$export-poll-status?_jobId="), "{}", job.url);
    let response = as_hapi(client.get(&format!("{}&_format=json&_pretty=true", job.url))).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.content_length()), (202, Some(0)));
    let progress = response.headers()["x-progress"].to_str().unwrap();
    let at = progress.strip_prefix("Build in progress - Status set to QUEUED at ").expect(progress);
    assert!(at.len() == "2025-12-05T11:33:54.465+00:00".len() && at.ends_with("+00:00"), "A19: {progress}");
    drop(planner_waits);

    let manifest = completed(&client, &job).await;
    let keys: Vec<_> = manifest.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["transactionTime", "request", "requiresAccessToken", "output", "deleted", "error"]);
    assert_eq!((&manifest["requiresAccessToken"], &manifest["error"]), (&true.into(), &Value::Array(vec![])));
    assert_eq!(manifest["request"], format!("{}/$export", server.base));
    let types: Vec<_> = manifest["output"].as_array().unwrap().iter().map(|item| item["type"].clone()).collect();
    assert_eq!(types, ["ClinicalImpression", "Task"]);

    let url = manifest["output"][1]["url"].as_str().unwrap();
    let response = as_hapi(client.get(&format!("{url}{QUERY}"))).send().await.unwrap();
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], "application/fhir+json; charset=UTF-8");
    assert_eq!(headers["etag"], "W/\"1\"");
    assert!(headers.contains_key("last-modified"));
    assert_eq!(headers["content-location"], format!("{url}/_history/1").as_str());
    let binary: Value = response.json().await.unwrap();
    let keys: Vec<_> = binary.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["resourceType", "id", "meta", "contentType", "securityContext", "data"]);
    assert_eq!(binary["contentType"], "application/fhir+ndjson");
    assert_eq!(binary["securityContext"], serde_json::json!({ "identifier": { "value": USER } }), "A25");
    assert_eq!(extensions(&binary), [("bulk-export-job-id", job.id()), ("bulk-export-binary-resource-type", "Task")]);
    let data = base64::engine::general_purpose::STANDARD.decode(binary["data"].as_str().unwrap()).unwrap();
    let text = String::from_utf8(data).unwrap();
    let stored: (String,) =
        sqlx::query_as("select body from resource where id = '1100'").fetch_one(&database.pool).await.unwrap();
    assert_eq!(text, format!("{}\n", stored.0));
}

fn extensions(binary: &Value) -> Vec<(&str, &str)> {
    let extensions = binary["meta"]["extension"].as_array().unwrap();
    extensions
        .iter()
        .map(|extension| {
            let url = extension["url"].as_str().unwrap();
            (
                url.strip_prefix("https://hapifhir.org/NamingSystem/").unwrap(),
                extension["valueString"].as_str().unwrap(),
            )
        })
        .collect()
}

// A24, G14
#[tokio::test]
async fn its_export_id_labels_the_files() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let server = set_up(&database, &issuer).await;
    let client = server.with_token(&issuer.ehealth_token(USER, &ROLES));
    let job = client.accepted(kick_off(&client, r#",{"name":"_exportId","valueString":"nightly-1"}"#)).await;
    let manifest = completed(&client, &job).await;
    let binary: Value =
        as_hapi(client.get(manifest["output"][0]["url"].as_str().unwrap())).send().await.unwrap().json().await.unwrap();
    assert_eq!(extensions(&binary)[0], ("bulk-export-identifier", "nightly-1"));
}

// A6, K3
#[tokio::test]
async fn its_delete_of_a_complete_export_is_404_and_keeps_the_files() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let server = set_up(&database, &issuer).await;
    let client = server.with_token(&issuer.ehealth_token(USER, &ROLES));
    let job = client.accepted(kick_off(&client, "")).await;
    let manifest = completed(&client, &job).await;
    let text = client.refused(as_hapi(client.request(Method::DELETE, &job.url)), 404).await;
    assert!(text.ends_with("was already cancelled or has completed.  Nothing to do."), "{text}");
    assert!(!client.download(manifest["output"][0]["url"].as_str().unwrap()).await.is_empty());
}

// Real shapes: all of the demo data of the infrastructure, with references to other servers
#[tokio::test]
async fn its_data_comes_out_whole() {
    let database = Database::create().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ehealth-demo");
    let output = database.load(&[folder], b"").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Server::start(&database).await;
    let resources = server.anybody().kick_off("").await.completed().await.resources().await;
    assert_eq!(resources.len(), 782);
}
