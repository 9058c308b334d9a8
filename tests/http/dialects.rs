//! The manifest in each dialect: its form by JSON schema, and that what it says of its files is true (rules E1-E16, A20,
//! K1, K11-K14).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::schema::Schema;
use crate::support::{Caller, Database, Server};

const DIALECTS: [(&str, &str); 3] = [
    ("stu3", include_str!("schemas/stu3.json")),
    ("stu4", include_str!("schemas/stu4.json")),
    ("ehealth", include_str!("schemas/ehealth.json")),
];

/// A store with an export of which every list of the manifest has a file, but for outcomes.
async fn filled() -> Database {
    let database = Database::create().await;
    database.put_patients(3).await;
    database.put(&[r#"{"resourceType":"Task","id":"t","description":"Vurdér måling"}"#]).await;
    database.delete("Patient", "p0").await;
    database
}

async fn server(database: &Database, dialect: &str) -> Server {
    Server::start_with(database, &[("wire.dialect", dialect)]).await
}

/// The manifest of an export, and a file in each of its lists.
async fn manifest(caller: &Caller) -> Value {
    // What is not known, and left out under lenient, is told in a file of outcomes.
    let query = "?_type=Patient,Task&_since=2020-01-01T00:00:00Z&_unknown=1";
    let job = caller.accepted(caller.export(query).header("prefer", "handling=lenient")).await;
    job.completed().await.json
}

fn schema(dialect: &str) -> Schema {
    let (_, text) = DIALECTS.iter().find(|(name, _)| *name == dialect).unwrap();
    Schema::parse(text)
}

/// What a file really is.
struct Found {
    bytes: usize,
    lines: usize,
    sha256: String,
}

async fn read(caller: &Caller, item: &Value) -> Found {
    let content = caller.download(item["url"].as_str().unwrap()).await;
    Found {
        bytes: content.len(),
        lines: content.iter().filter(|byte| **byte == b'\n').count(),
        sha256: Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// The items of these lists, none of which is empty.
fn items<'a>(manifest: &'a Value, lists: [&str; 3]) -> Vec<&'a Value> {
    let of = |list: &str| manifest[list].as_array().unwrap();
    assert!(lists.iter().all(|list| !of(list).is_empty()), "{manifest}");
    lists.into_iter().flat_map(of).collect()
}

#[tokio::test]
async fn every_manifest_has_the_form_of_its_dialect() {
    let database = filled().await;
    let empty = Database::create().await;
    for (dialect, _) in DIALECTS {
        let schema = schema(dialect);
        let server = server(&database, dialect).await;
        let manifest = manifest(&server.anybody()).await;
        assert_eq!(schema.problems(&manifest), [""; 0], "{dialect}");
        // Nor is it taken for another one.
        for (other, text) in DIALECTS.iter().filter(|(other, _)| *other != dialect) {
            assert!(!Schema::parse(text).problems(&manifest).is_empty(), "{dialect} is not {other}");
        }
        // By GET and by POST, whatever the dialect (K1, K7).
        let body = json!({ "resourceType": "Parameters", "parameter": [
            { "name": "_type", "valueString": "Patient" },
            { "name": "_type", "valueString": "Task" },
        ] });
        let job = server.anybody().accepted(server.anybody().export_by_post(&body.to_string())).await;
        let by_post = job.completed().await.json;
        assert_eq!(schema.problems(&by_post), [""; 0], "{dialect}");
        assert!(by_post.get("deleted").is_none());
        // What there is none of (E8, E10).
        let of_nothing = self::server(&empty, dialect).await.anybody().kick_off("").await.completed().await.json;
        assert_eq!(schema.problems(&of_nothing), [""; 0], "{dialect}");
        assert_eq!(of_nothing["output"], json!([]));
    }
}

// E6, E7, E8: organised files, two of them with one block
#[tokio::test]
async fn organised_files_have_no_type_and_say_where_they_go_on() {
    let database = Database::create().await;
    let text = "x".repeat(400_000);
    let all: Vec<String> = (0..4)
        .map(|n| {
            let subject = json!({ "reference": "Patient/p" });
            json!({ "resourceType": "Observation", "id": format!("o{n}"), "language": text, "subject": subject })
                .to_string()
        })
        .collect();
    database.put(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    database.delete("Observation", "o3").await;
    for (dialect, _) in DIALECTS {
        let server = server(&database, dialect).await;
        let anybody = server.anybody();
        let path = "/Patient/$export?organizeOutputBy=Patient&_maximumFileSize=1048576&_since=2020-01-01T00:00:00Z";
        let manifest = anybody.accepted(anybody.export_at(path)).await.completed().await.json;
        assert_eq!(schema(dialect).problems(&manifest), [""; 0], "{dialect}");
        assert_eq!(manifest["outputOrganizedBy"], "Patient");
        let output = manifest["output"].as_array().unwrap();
        assert_eq!(output.len(), 2, "{manifest}");
        assert_eq!(output[0]["continuesInFile"], output[1]["url"]);
        assert!(output[1].get("continuesInFile").is_none());
        for (item, lines) in output.iter().zip([3, 2]) {
            assert_eq!((read(&anybody, item).await.lines, &item["count"]), (lines, &lines.into()), "{dialect}: E17");
        }
        assert_eq!(manifest["deleted"].as_array().unwrap().len(), 1);
    }
}

// E2, E8, E12
#[tokio::test]
async fn stu3_says_size_hash_and_lines_in_an_object() {
    let database = filled().await;
    let server = server(&database, "stu3").await;
    let anybody = server.anybody();
    let manifest = manifest(&anybody).await;
    for item in items(&manifest, ["output", "deleted", "error"]) {
        let found = read(&anybody, item).await;
        let url = |name| format!("{}/StructureDefinition/{name}", server.base);
        let extension = json!({
            url("file-size"): found.bytes,
            url("file-sha256"): found.sha256,
            url("file-lines"): found.lines,
        });
        assert_eq!((&item["extension"], &item["count"]), (&extension, &found.lines.into()));
    }
}

// E1, E5, E8, E10, E12, K11-K14
#[tokio::test]
async fn stu4_says_them_in_fields_and_fhir_extensions() {
    let database = filled().await;
    let server = server(&database, "stu4").await;
    let anybody = server.anybody();
    let manifest = manifest(&anybody).await;
    for item in items(&manifest, ["output", "deleted", "outcome"]) {
        let found = read(&anybody, item).await;
        let extensions: BTreeMap<&str, &Value> =
            item["extension"].as_array().unwrap().iter().map(|e| (e["url"].as_str().unwrap(), e)).collect();
        let of = |name: &str| extensions[format!("{}/StructureDefinition/{name}", server.base).as_str()];
        assert_eq!(item["fileSize"], found.bytes);
        assert_eq!(item["count"], found.lines);
        assert_eq!(of("file-sha256")["valueString"], found.sha256.as_str());
        assert_eq!(of("file-lines")["valueUnsignedInt"], found.lines);
        assert_eq!(extensions.len(), 2);
    }
    let types: Vec<_> = manifest["output"].as_array().unwrap().iter().map(|item| item["type"].clone()).collect();
    assert_eq!(types, ["Patient", "Task"]);
    // The severity is that of the issues in the file.
    let outcome = &manifest["outcome"][0];
    assert_eq!(outcome["countSeverity"], json!([{ "code": "warning", "count": 1 }]));
    let line = anybody.download(outcome["url"].as_str().unwrap()).await;
    let line: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line["issue"][0]["severity"], "warning");
}

// K27
#[tokio::test]
async fn in_stu4_a_kick_off_affects_state() {
    let database = Database::create().await;
    for (dialect, affects) in [("stu3", false), ("stu4", true), ("ehealth", false)] {
        let server = server(&database, dialect).await;
        let response = server.anybody().get("/OperationDefinition/-s-export").send().await.unwrap();
        assert_eq!(response.json::<Value>().await.unwrap()["affectsState"], affects, "{dialect}");
    }
}
