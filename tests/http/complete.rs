//! Everything that is loaded comes out, once, byte for byte.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::support::{Database, Server};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample");

/// All lines of the sample's files, by `Type/id`.
fn sample() -> BTreeMap<String, String> {
    let mut resources = BTreeMap::new();
    for entry in std::fs::read_dir(SAMPLE).unwrap() {
        let path = entry.unwrap().path();
        if path.extension() != Some("ndjson".as_ref()) {
            continue;
        }
        for line in std::fs::read_to_string(Path::new(&path)).unwrap().lines() {
            let resource: Value = serde_json::from_str(line).unwrap();
            let (type_name, id) = (resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            resources.insert(format!("{type_name}/{id}"), line.to_owned());
        }
    }
    assert_eq!(resources.len(), 1_678);
    resources
}

/// The text with its version and date taken out: what may differ between what was loaded and what comes out.
fn without_version(text: &str) -> Value {
    let mut resource: Value = serde_json::from_str(text).unwrap();
    let meta = resource["meta"].as_object_mut().unwrap();
    meta.remove("versionId");
    meta.remove("lastUpdated");
    resource
}

#[tokio::test]
async fn the_whole_sample_comes_out_as_it_was_loaded() {
    let database = Database::create().await;
    let output = database.load(&[SAMPLE], b"").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Small files, so that types are cut into parts and parts into files.
    let server = Server::start_with(&database, &[("export.file_target", "64KiB"), ("export.workers", "4")]).await;
    let manifest = server.anybody().kick_off("").await.completed().await;
    assert!(manifest.urls("output").len() > 25, "{}", manifest.json);
    let put_out = manifest.resources().await;

    let loaded = sample();
    assert!(put_out.keys().eq(loaded.keys()), "every resource once, no other");
    for (name, line) in &put_out {
        assert_eq!(without_version(line), without_version(&loaded[name]), "{name}");
    }
    let stored: Vec<(String,)> = sqlx::query_as("select body from resource").fetch_all(&database.pool).await.unwrap();
    let mut stored: Vec<String> = stored.into_iter().map(|(body,)| body).collect();
    let mut lines: Vec<String> = put_out.into_values().collect();
    stored.sort_unstable();
    lines.sort_unstable();
    assert!(stored == lines, "byte for byte what is stored");
}

// L: decimals; DESIGN 2: every token as it came
#[tokio::test]
async fn odd_content_survives() {
    let database = Database::create().await;
    let attachment = "QUJD".repeat(100_000);
    let large = "x".repeat(20 << 20);
    let odd = [
        r#"{"resourceType":"Observation","id":"decimals","valueQuantity":{"value":1.00},"component":[{"valueQuantity":{"value":1.0e3}},{"valueQuantity":{"value":-0.000000000000000000010}},{"valueQuantity":{"value":12345678901234567890.123456789}}]}"#.to_owned(),
        r#"{"resourceType":"Basic","id":"text","code":{"text":"","coding":[{"display":"blåbær ☃ 𝒳 \u00e6 \ud83d\ude00 \/ \" \\ \u2028"}]}}"#.to_owned(),
        format!(r#"{{"resourceType":"DocumentReference","id":"attachment","content":[{{"attachment":{{"data":"{attachment}"}}}}]}}"#),
        format!(r#"{{"resourceType":"Basic","id":"large","code":{{"text":"{large}"}}}}"#),
    ];
    let input = odd.join("\n");
    let output = database.load(&["-"], input.as_bytes()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Server::start(&database).await;
    let put_out = server.anybody().kick_off("").await.completed().await.resources().await;
    assert_eq!(put_out.len(), odd.len());
    for text in &odd {
        let value: Value = serde_json::from_str(text).unwrap();
        let name = format!("{}/{}", value["resourceType"].as_str().unwrap(), value["id"].as_str().unwrap());
        let line = &put_out[&name];
        // After type, id and meta, which the server sets, the text goes on as it came.
        let rest = |text: &str, from: &str| text.split_once(from).map(|(_, rest)| rest.to_owned()).unwrap();
        let id = format!(r#""id":"{}","#, value["id"].as_str().unwrap());
        let tail = rest(text, &id);
        assert!(line.ends_with(&tail), "{name}");
        let meta = line.strip_suffix(&tail).unwrap();
        assert!(
            meta.starts_with(&format!(
                r#"{{"resourceType":"{}",{id}"meta":{{"versionId":"1""#,
                value["resourceType"].as_str().unwrap()
            )),
            "{meta}"
        );
    }
}

// B15, B20, B21: only the current version, no Binary
#[tokio::test]
async fn only_the_current_version_comes_out() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Task","id":"t","status":"draft"}"#]).await;
    database.put(&[r#"{"resourceType":"Task","id":"t","status":"ready"}"#]).await;
    database.put(&[r#"{"resourceType":"Task","id":"gone"}"#]).await;
    database.delete("Task", "gone").await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let resources = anybody.kick_off("").await.completed().await.resources().await;
    assert_eq!(resources.len(), 1);
    let task: Value = serde_json::from_str(&resources["Task/t"]).unwrap();
    assert_eq!((&task["status"], &task["meta"]["versionId"]), (&"ready".into(), &"2".into()));
    // The export's own files are not exported.
    assert_eq!(anybody.kick_off("").await.completed().await.resources().await.len(), 1);
}
