//! `load`: files into the store (DESIGN 2, 9).

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::Database;

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p","active":true}"#;
const TASK: &str =
    r#"{"resourceType":"Task","id":"t","for":{"reference":"https://other.example/fhir/Patient/p/_history/3"}}"#;

/// Runs `load`; gives its exit status and what it said.
async fn load(database: &Database, arguments: &[&str], input: &str) -> (i32, String) {
    let output = database.load(arguments, input.as_bytes()).await;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), said)
}

async fn body(database: &Database, id: &str) -> String {
    let query = "select body from resource where id = $1 and superseded_at = 'infinity' and not deleted";
    let row: (String,) = sqlx::query_as(query).bind(id).fetch_one(&database.pool).await.unwrap();
    row.0
}

#[tokio::test]
async fn files_folders_and_gzip_are_read() {
    let database = Database::create().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("deep")).unwrap();
    std::fs::write(path("a.ndjson"), format!("{PATIENT}\r\n\n")).unwrap();
    std::fs::write(path("deep/pretty.json"), TASK.replace(",", ",\n  ")).unwrap();
    std::fs::write(path("notes.txt"), "not for us").unwrap();
    let mut gzip = GzEncoder::new(std::fs::File::create(path("b.ndjson.gz")).unwrap(), Compression::fast());
    gzip.write_all(br#"{"resourceType":"Device","id":"d"}"#).unwrap();
    gzip.finish().unwrap();
    let (status, said) = load(&database, &[folder.path().to_str().unwrap()], "").await;
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("3 new versions, 0 unchanged, 0 deleted, 0 refused"), "{said}");
    let (status, said) = load(&database, &[path("missing.ndjson").to_str().unwrap()], "").await;
    assert!(status == 1 && said.contains("missing.ndjson"), "{said}");
}

#[tokio::test]
async fn a_bad_line_is_reported_and_the_rest_is_loaded() {
    let database = Database::create().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mixed.ndjson");
    let lines = [
        PATIENT,
        r#"{"resourceType":"Patient","id":"secret-name","#,
        r#"{"resourceType":"Patinet","id":"x"}"#,
        r#"{"resourceType":"Binary","id":"x"}"#,
        r#"{"resourceType":"Patient"}"#,
        r#"{"resourceType":"Patient","id":"not an id"}"#,
        "[]",
        TASK,
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    let (status, said) = load(&database, &[file], "").await;
    assert_eq!(status, 2, "{said}");
    for number in 2..=7 {
        assert!(said.contains(&format!("{file}:{number}: refused: ")), "{number}: {said}");
    }
    assert!(said.contains("2 new versions") && said.contains("6 refused"), "{said}");
    assert!(!said.contains("secret-name") && !said.contains("not an id"), "what is in a resource is private: {said}");
    assert_eq!(database.count("resource").await, 2);
}

#[tokio::test]
async fn the_same_again_makes_no_version() {
    let database = Database::create().await;
    load(&database, &["-"], PATIENT).await;
    let spellings = [
        PATIENT.to_owned(),
        PATIENT.replace(':', " : "),
        PATIENT.replace("\"active\"", r#""meta":{"versionId":"77","lastUpdated":"2001-01-01T00:00:00Z"},"active""#),
    ];
    for text in &spellings {
        let (status, said) = load(&database, &["-"], text).await;
        assert!(status == 0 && said.contains("0 new versions, 1 unchanged"), "{said}");
    }
    assert_eq!(database.count("resource").await, 1);
    let (_, said) = load(&database, &["-"], &PATIENT.replace("true", "false")).await;
    assert!(said.contains("1 new versions"), "{said}");
    let joined = "resource as old join resource as new on old.superseded_at = new.last_updated
        where old.version_id = 1 and new.version_id = 2 and new.superseded_at = 'infinity'";
    assert_eq!(database.count(joined).await, 1, "the second takes over exactly when the first ends");
}

#[tokio::test]
async fn the_last_line_about_a_resource_counts() {
    let database = Database::create().await;
    let lines: String = (0..3_000)
        .map(|n| format!("{{\"resourceType\":\"Task\",\"id\":\"t{}\",\"language\":\"l{n}\"}}\n", n % 7))
        .collect();
    let (status, said) = load(&database, &["-"], &lines).await;
    assert_eq!(status, 0, "{said}");
    assert_eq!(database.count("resource where superseded_at = 'infinity'").await, 7);
    for n in 2_993..3_000 {
        assert!(body(&database, &format!("t{}", n % 7)).await.contains(&format!("\"l{n}\"")));
    }
    assert_eq!(database.count("resource").await, 3_000, "every line is a version of its own");
}

#[tokio::test]
async fn bundles_are_unpacked_and_their_references_follow() {
    let database = Database::create().await;
    let urn = "urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a";
    let bundle = format!(
        r#"{{
        "resourceType": "Bundle", "type": "transaction", "entry": [
          {{"fullUrl": "{urn}", "resource": {{"resourceType": "Patient"}}, "request": {{"method": "POST", "url": "Patient"}}}},
          {{"resource": {{"resourceType": "Observation", "id": "o", "subject": {{"reference": "{urn}"}}}},
            "request": {{"method": "PUT", "url": "Observation/o"}}}}]}}"#
    );
    let (status, said) = load(&database, &["-"], &bundle).await;
    assert_eq!(status, 0, "{said}");
    assert!(body(&database, "o").await.contains(r#""reference":"Patient/61ebe359-bfdc-4613-8bf2-c5e300945f0a""#));
    let delete =
        r#"{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"DELETE","url":"Observation/o"}}]}"#;
    let (_, said) = load(&database, &["-"], delete).await;
    assert!(said.contains("1 deleted"), "{said}");
    assert_eq!(
        database.count("resource where deleted and patients = '{61ebe359-bfdc-4613-8bf2-c5e300945f0a}'").await,
        1
    );
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing_and_a_batch_is_not() {
    let database = Database::create().await;
    let bundle = |kind: &str| {
        format!(
            r#"{{"resourceType":"Bundle","type":"{kind}","entry":[{{"resource":{PATIENT}}},{{"resource":{{"resourceType":"Patient"}}}}]}}"#
        )
    };
    let (status, said) = load(&database, &["-"], &bundle("transaction")).await;
    assert!(status == 2 && said.contains("entry[1]"), "{said}");
    assert_eq!(database.count("resource").await, 0);
    let (status, said) = load(&database, &["-"], &bundle("batch")).await;
    assert!(status == 2 && said.contains("1 new versions"), "{said}");
}

// H2-H6
#[tokio::test]
async fn it_is_noted_whose_data_a_resource_is() {
    let database = Database::create().await;
    let observation = r##"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/a/_history/2"},"contained":[{"resourceType":"Patient","id":"c"}],"performer":[{"reference":"#c"},{"reference":"Practitioner/a2"},{"identifier":{"value":"x"}}],"hasMember":[{"reference":"https://x.example/fhir/Observation/1"}],"focus":[{"reference":"Patient/b"}]}"##;
    load(&database, &["-"], &[PATIENT, TASK, observation].join("\n")).await;
    for row in [
        "id = 'p' and patients = '{p}' and mentions = '{p}'",
        "id = 't' and patients = '{}' and mentions = '{p}'",
        "id = 'o' and patients = '{a}' and mentions = '{a,b}'",
    ] {
        assert_eq!(database.count(&format!("resource where {row}")).await, 1, "{row}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_without_the_next() {
    let database = Database::create().await;
    let large = format!(r#"{{"resourceType":"Basic","id":"b","code":{{"text":"{}"}}}}"#, "x".repeat(70 << 20));
    let (status, said) = load(&database, &["-"], &format!("{PATIENT}\n{large}\n{TASK}\n")).await;
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("-:2: refused: longer than store.max_resource"), "{said}");
    assert_eq!(database.count("resource").await, 2);
}

// DESIGN 9: two writers race
#[tokio::test]
async fn two_loads_of_the_same_leave_one_current_version_each() {
    let database = Database::create().await;
    let lines = |language: &str| -> String {
        (0..2_000)
            .map(|n| format!("{{\"resourceType\":\"Task\",\"id\":\"t{n}\",\"language\":\"{language}\"}}\n"))
            .collect()
    };
    let (one, other) = (lines("da"), lines("en"));
    let (one, other) = tokio::join!(load(&database, &["-"], &one), load(&database, &["-"], &other));
    assert_eq!((one.0, other.0), (0, 0), "{} {}", one.1, other.1);
    assert_eq!(database.count("resource where superseded_at = 'infinity'").await, 2_000);
    assert_eq!(database.count("resource").await, 4_000);
}

#[tokio::test]
async fn the_name_of_a_file_tells_a_terminal_nothing() {
    let database = Database::create().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a\u{1b}[2J\nloaded.ndjson"), "no resource\n").unwrap();
    let output = database.load(&[folder.path().to_str().unwrap()], b"").await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(r"a\u{1b}[2J\nloaded.ndjson:1: refused"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}
