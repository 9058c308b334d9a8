//! A client of the Danish eHealth Infrastructure: its exact requests, and the answers it knows (rules A3-A7, A16-A26;
//! M.1).

use base64::Engine;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

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

/// A server with what `config/ehealth.toml` sets, but for the issuers, and the infrastructure's demo data.
async fn shipped(database: &Database, issuer: &Issuer) -> Server {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ehealth-demo");
    let output = database.load(&[folder], b"").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config/ehealth.toml")).parse::<toml::Table>().unwrap();
    let sections = file.iter().filter(|(section, _)| *section != "auth");
    let shipped: Vec<(String, String)> = sections
        .flat_map(|(section, keys)| keys.as_table().unwrap().iter().map(move |(key, value)| (section, key, value)))
        .map(|(section, key, value)| {
            (format!("{section}.{key}"), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
        .collect();
    let mut settings: Vec<(&str, String)> = trusting(&[issuer]);
    settings.extend(shipped.iter().map(|(name, value)| (name.as_str(), value.clone())));
    Server::start_with(database, &settings).await
}

/// The resources of one type in the demo data, by id.
fn demo(type_name: &str) -> std::collections::BTreeMap<String, Value> {
    let path = format!("{}/tests/data/ehealth-demo/{type_name}.ndjson", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| identified(serde_json::from_str(line).unwrap())).collect()
}

/// Without what the store gives every version anew.
fn identified(mut resource: Value) -> (String, Value) {
    for given in ["versionId", "lastUpdated"] {
        resource["meta"].as_object_mut().unwrap().shift_remove(given);
    }
    (resource["id"].as_str().unwrap().to_owned(), resource)
}

// A7, A16-A18, A20, A23-A25, E14, F16, M.1, with a token as Keycloak signs it (A28)
#[tokio::test]
async fn its_files_are_binary_resources_with_every_task_in_them() {
    let database = Database::create().await;
    let issuer = Issuer::start_rs256().await;
    let server = shipped(&database, &issuer).await;
    let client = server.with_token(&issuer.ehealth_token(USER, &ROLES));

    // M.1 without _since: all there is, and nothing is said of deletions.
    let body = r#"{"resourceType":"Parameters","parameter":[
        {"name":"_outputFormat","valueString":"application/fhir+ndjson"},
        {"name":"_type","valueString":"Task,ClinicalImpression"}]}"#;
    let job = client.accepted(kick_off(&client, "").body(body)).await;
    let manifest = completed(&client, &job).await;
    let keys: Vec<_> = manifest.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["transactionTime", "request", "requiresAccessToken", "output", "error"], "A20");

    let mut found = std::collections::BTreeMap::new();
    let mut expected = demo("Task");
    expected.extend(demo("ClinicalImpression"));
    for item in manifest["output"].as_array().unwrap() {
        let url = item["url"].as_str().unwrap();
        let response = as_hapi(client.get(&format!("{url}{QUERY}"))).send().await.unwrap();
        let headers = response.headers().clone();
        assert!(!headers.contains_key("content-encoding"), "such a client gets it as it is");
        let body = response.bytes().await.unwrap();
        assert_eq!(headers["content-length"], body.len().to_string().as_str());
        let binary: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(binary["resourceType"], "Binary");
        let id = binary["id"].as_str().unwrap();
        assert!(url.ends_with(id) && id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        let keys: Vec<_> = binary["meta"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["extension", "versionId", "lastUpdated", "profile"]);
        assert_eq!(binary["meta"]["versionId"], "1");
        assert_eq!(binary["meta"]["profile"], json!(["http://hl7.org/fhir/StructureDefinition/Binary"]));
        let modified = httpdate::parse_http_date(headers["last-modified"].to_str().unwrap()).unwrap();
        let stamp = binary["meta"]["lastUpdated"].as_str().unwrap();
        let stamp = time::OffsetDateTime::parse(stamp, &time::format_description::well_known::Rfc3339).unwrap();
        assert_eq!(time::OffsetDateTime::from(modified).unix_timestamp(), stamp.unix_timestamp());

        let data = base64::engine::general_purpose::STANDARD.decode(binary["data"].as_str().unwrap()).unwrap();
        assert_eq!(data.last(), Some(&b'\n'));
        assert_eq!(data, client.download(url).await, "the same as the raw file");
        for line in std::str::from_utf8(&data).unwrap().lines() {
            let resource: Value = serde_json::from_str(line).unwrap();
            assert_eq!(resource["resourceType"], item["type"]);
            let (id, resource) = identified(resource);
            assert!(found.insert(id, resource).is_none());
        }

        // The version it says it is.
        let version = headers["content-location"].to_str().unwrap();
        let again = as_hapi(client.get(&format!("{version}{QUERY}"))).send().await.unwrap();
        assert_eq!(again.headers()["etag"], "W/\"1\"");
        assert_eq!(again.bytes().await.unwrap(), body);
        client.refused(as_hapi(client.get(&version.replace("/_history/1", "/_history/2"))), 404).await;
        let head = as_hapi(client.request(Method::HEAD, url)).send().await.unwrap();
        assert_eq!(head.headers()["content-length"], headers["content-length"]);
    }
    assert_eq!(found, expected);
}

// A19, C3, A6, D4, D5, D9: an export in the middle of its work
#[tokio::test]
async fn it_sees_progress_and_may_cancel() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let server = shipped(&database, &issuer).await;
    let client = server.with_token(&issuer.ehealth_token(USER, &ROLES));
    // The part cannot store its first chunk while this lock is held.
    let mut blocker = database.pool.begin().await.unwrap();
    sqlx::query("lock table binary_chunk in exclusive mode").execute(&mut *blocker).await.unwrap();
    let job = client.accepted(kick_off(&client, "")).await;
    let url = format!("{}&_format=json&_pretty=true", job.url);
    let poll = async || as_hapi(client.get(&url)).send().await.unwrap();
    let is_running = |text: &str| text.starts_with("Build in progress - Status set to IN_PROGRESS at ");
    eventually("it runs", || async { is_running(poll().await.headers()["x-progress"].to_str().unwrap()) }).await;
    let response = poll().await;
    assert_eq!(response.status(), 202);
    let progress = response.headers()["x-progress"].to_str().unwrap();
    let at = progress.rsplit(' ').next().unwrap().strip_suffix("+00:00").expect(progress);
    let at = time::OffsetDateTime::parse(&format!("{at}Z"), &time::format_description::well_known::Rfc3339).unwrap();
    let now: time::OffsetDateTime =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&database.pool).await.unwrap();
    assert!((at - now).abs() < time::Duration::minutes(2), "{progress}");
    assert!(progress.len() < 100, "C2");
    assert!((1..=120).contains(&response.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap()));
    assert_eq!(response.headers()["content-length"], "0");

    let delete = || as_hapi(client.request(Method::DELETE, &url));
    let response = delete().send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["content-type"], "application/fhir+json; charset=UTF-8");
    let outcome: Value = response.json().await.unwrap();
    let issue = &outcome["issue"][0];
    assert_eq!((&outcome["resourceType"], outcome["issue"].as_array().unwrap().len()), (&json!("OperationOutcome"), 1));
    assert_eq!((&issue["severity"], &issue["code"]), (&json!("information"), &json!("informational")));
    assert_eq!(issue["diagnostics"], format!("Job instance {} successfully cancelled.", job.id()));
    client.refused(delete(), 404).await;
    client.refused(as_hapi(client.get(&url)), 404).await;
    blocker.rollback().await.unwrap();
    // Another one goes through, and the cancelled one does not come back.
    let next = client.accepted(kick_off(&client, "")).await;
    completed(&client, &next).await;
    client.refused(as_hapi(client.get(&url)), 404).await;
}
