//! `includeAssociatedData`: Provenance for the sake of what comes out (rules G7, K21).

use crate::support::{Caller, Database, Server};

const RESOURCES: [&str; 12] = [
    r#"{"resourceType":"Patient","id":"a"}"#,
    r#"{"resourceType":"Patient","id":"b"}"#,
    r#"{"resourceType":"Observation","id":"oa","subject":{"reference":"Patient/a"}}"#,
    r#"{"resourceType":"Observation","id":"ob","subject":{"reference":"Patient/b"}}"#,
    r#"{"resourceType":"Device","id":"d"}"#,
    r#"{"resourceType":"Provenance","id":"first","recorded":"2025-01-02T00:00:00+02:00","target":[{"reference":"Observation/oa"}]}"#,
    r#"{"resourceType":"Provenance","id":"last","recorded":"2025-01-01T23:00:00Z","target":[{"reference":"Observation/oa/_history/1"},{"reference":"Device/none"}]}"#,
    r#"{"resourceType":"Provenance","id":"never","recorded":"at some time","target":[{"reference":"Observation/oa"},{"reference":"Observation/ob"}]}"#,
    r#"{"resourceType":"Provenance","id":"of-a","recorded":"2025-01-01T00:00:00Z","target":[{"reference":"Patient/a"}]}"#,
    r#"{"resourceType":"Provenance","id":"of-d","recorded":"2025-01-01T00:00:00Z","target":[{"reference":"Device/d"}]}"#,
    r#"{"resourceType":"Provenance","id":"of-nothing","recorded":"2025-01-01T00:00:00Z","target":[{"reference":"Device/x"}]}"#,
    r#"{"resourceType":"Provenance","id":"of-provenance","target":[{"reference":"Provenance/first"}]}"#,
];
const LATEST: &str = "includeAssociatedData=LatestProvenanceResources";
const RELEVANT: &str = "includeAssociatedData=RelevantProvenanceResources";

async fn set_up() -> (Database, Server) {
    let database = Database::create().await;
    database.put(&RESOURCES).await;
    let server = Server::start(&database).await;
    (database, server)
}

/// The ids of the Provenances that come out, and how many other resources do.
async fn provenances(caller: &Caller, path: &str) -> (String, usize) {
    let manifest = caller.accepted(caller.export_at(path)).await.completed().await;
    let names: Vec<String> = manifest.resources().await.into_keys().collect();
    let ids: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("Provenance/")).collect();
    (ids.join(" "), names.len() - ids.len())
}

// G7: all about what comes out, or the latest of each; at every level, whatever _type says
#[tokio::test]
async fn provenance_comes_for_the_sake_of_what_comes_out() {
    let (database, server) = set_up().await;
    let anybody = server.anybody();
    for targets in ["as they are written", "as an older version has left them"] {
        for (path, latest, relevant, others) in [
            ("/$export?", "last never of-a of-d", "first last never of-a of-d", 5),
            ("/$export?_type=Observation&", "last never", "first last never", 2),
            ("/$export?_type=Device,Provenance&", "of-d", "of-d", 1),
            ("/$export?_type=Provenance&", "", "", 0),
            ("/Patient/$export?", "last never of-a", "first last never of-a", 4),
            ("/Patient/b/$export?", "never", "never", 2),
            ("/Patient/$export?patient=a&_type=Observation&", "last", "first last never", 1),
        ] {
            let wanted = |ids: &str| (ids.to_owned(), others);
            assert_eq!(provenances(&anybody, &format!("{path}{LATEST}")).await, wanted(latest), "{path}, {targets}");
            let all = provenances(&anybody, &format!("{path}{RELEVANT}")).await;
            assert_eq!(all, wanted(relevant), "{path}, {targets}");
            assert_eq!(provenances(&anybody, &format!("{path}{LATEST}&{RELEVANT}")).await, wanted(relevant));
        }
        database.execute("update resource set targets = null").await;
    }
    // Without it those of the whole, as ever (rule G8).
    assert_eq!(provenances(&anybody, "/$export").await.0.split(' ').count(), 7);
}

// K21: STU4's Coding
#[tokio::test]
async fn it_may_be_a_coding() {
    let (_database, server) = set_up().await;
    let anybody = server.anybody();
    let system = "http://hl7.org/fhir/uv/bulkdata/CodeSystem/include-associated-data";
    for value in [
        r#""valueCode":"LatestProvenanceResources""#.to_owned(),
        format!(r#""valueCoding":{{"system":"{system}","code":"LatestProvenanceResources"}}"#),
    ] {
        let body = format!(
            r#"{{"resourceType":"Parameters","parameter":[{{"name":"includeAssociatedData",{value}}},
                {{"name":"_type","valueString":"Device"}}]}}"#
        );
        let manifest = anybody.accepted(anybody.export_by_post_at("/$export", &body)).await.completed().await;
        let names: Vec<String> = manifest.resources().await.into_keys().collect();
        assert_eq!(names, ["Device/d", "Provenance/of-d"], "{value}");
    }
    let text = anybody.refused(anybody.export("?includeAssociatedData=_custom"), 400).await;
    assert!(text.contains("_custom") && text.contains("RelevantProvenanceResources"), "{text}");
}

// G2, G7, G10: about what has changed, whenever it was written itself; and in the block of the patient
#[tokio::test]
async fn it_follows_what_has_changed() {
    let (database, server) = set_up().await;
    let anybody = server.anybody();
    let first = anybody.accepted(anybody.export("")).await.completed().await;
    let since = format!("_since={}", first.transaction_time());
    assert_eq!(provenances(&anybody, &format!("/$export?{since}&{LATEST}")).await, (String::new(), 0));
    database
        .put(&[r#"{"resourceType":"Observation","id":"ob","language":"da","subject":{"reference":"Patient/b"}}"#])
        .await;
    for path in ["/$export?", "/Patient/$export?", "/Patient/b/$export?"] {
        let found = provenances(&anybody, &format!("{path}{since}&{LATEST}")).await;
        assert_eq!(found, ("never".to_owned(), 1), "{path}");
    }
    database.delete("Provenance", "last").await;
    assert_eq!(provenances(&anybody, &format!("/Patient/a/$export?{LATEST}")).await, ("first of-a".to_owned(), 2));
    database.delete("Observation", "oa").await;
    assert_eq!(provenances(&anybody, &format!("/Patient/a/$export?{RELEVANT}")).await, ("of-a".to_owned(), 1));
    let blocks = format!("/Patient/$export?organizeOutputBy=Patient&{since}&{LATEST}");
    let manifest = anybody.accepted(anybody.export_at(&blocks)).await.completed().await;
    let mut text = String::new();
    for url in manifest.urls("output") {
        text += &String::from_utf8(anybody.download(&url).await).unwrap();
    }
    assert!(text.contains(r#""id":"never""#) && !text.contains(r#""id":"of-a""#), "{text}");
}

// B.4, G7, G9: filters come first, then Provenance of what they have let through; and what that refers to
#[tokio::test]
async fn it_follows_what_filters_let_through() {
    let database = Database::create().await;
    database.put(&RESOURCES).await;
    database
        .put(&[
            r#"{"resourceType":"Practitioner","id":"author"}"#,
            r#"{"resourceType":"Provenance","id":"of-ob","recorded":"2024-01-01T00:00:00Z","target":[{"reference":"Observation/ob"}],"agent":[{"who":{"reference":"Practitioner/author"}}]}"#,
        ])
        .await;
    let server = Server::start_with(&database, &[("include.referenced", r#"["Practitioner"]"#)]).await;
    let anybody = server.anybody();
    for (path, filters, provenances, others) in [
        ("/$export?_type=Observation", vec!["Observation?_id=oa"], "first last never", "Observation/oa"),
        ("/$export?_type=Observation", vec!["Observation?_id=ob"], "never of-ob", "Observation/ob"),
        ("/$export?_type=Observation", vec!["Observation?_id=none"], "", ""),
        // Those of types that are not filtered come as ever.
        (
            "/$export?_type=Observation,Device",
            vec!["Observation?_id=ob"],
            "never of-d of-ob",
            "Device/d Observation/ob",
        ),
        (
            "/$export?_type=Observation,Patient",
            vec!["Observation?patient=Patient/b", "Patient?_id=a"],
            "never of-a of-ob",
            "Observation/ob Patient/a",
        ),
        // They may be filtered themselves.
        (
            "/$export?_type=Observation",
            vec!["Observation?_id=oa", "Provenance?_id=first,of-ob"],
            "first",
            "Observation/oa",
        ),
        ("/Patient/b/$export?", vec!["Observation?_id=oa"], "", "Patient/b"),
        (
            "/Patient/$export?",
            vec!["Observation?_id=ob", "Patient?_id=none"],
            "never of-ob",
            "Observation/ob Practitioner/author",
        ),
    ] {
        let filters: String = filters.iter().map(|filter| format!("&_typeFilter={filter}")).collect();
        let path = format!("{path}&{RELEVANT}{filters}");
        let manifest = anybody.accepted(anybody.export_at(&path)).await.completed().await;
        let names: Vec<String> = manifest.resources().await.into_keys().collect();
        let (of_provenance, rest): (Vec<_>, Vec<_>) =
            names.iter().map(String::as_str).partition(|name| name.starts_with("Provenance/"));
        let found = of_provenance.join(" ").replace("Provenance/", "");
        assert_eq!((found.as_str(), rest.join(" ").as_str()), (provenances, others), "{path}");
    }
}

// B17, G10
#[tokio::test]
async fn with_filters_it_does_not_come_in_blocks() {
    let (_database, server) = set_up().await;
    let anybody = server.anybody();
    let blocks = format!("/Patient/$export?organizeOutputBy=Patient&{LATEST}");
    let asked = || anybody.export_at(&format!("{blocks}&_typeFilter=Observation?_id=oa"));
    let text = anybody.refused(asked(), 400).await;
    assert!(text.contains("not-supported: organizeOutputBy: Patient does not go with"), "{text}");
    let lenient = asked().header("prefer", "handling=lenient");
    let manifest = anybody.accepted(lenient).await.completed().await;
    let names: Vec<String> = manifest.resources().await.into_keys().collect();
    assert_eq!(names.join(" "), "Observation/oa Patient/a Patient/b Provenance/last Provenance/of-a");
    assert!(manifest.lines("error").await[0].1.contains("does not go with"), "{:?}", manifest.json);
    // Without filters, or without Provenance for its sake, they do.
    anybody.accepted(anybody.export_at(&blocks)).await.completed().await;
}
