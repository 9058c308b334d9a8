//! `_elements`: only what is asked for comes out, as it is stored, and what must be there (rule G5).

use serde_json::Value;

use crate::support::{Caller, Database, Server};

const TAG: &str = r#"{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}"#;
const PATIENT: &str = r#"{"resourceType":"Patient","id":"p","meta":{"tag":[{"code":"x"}]},"name":[{"family":"A"}],"birthDate":"1970-01-01","_birthDate":{"id":"b"},"active":true}"#;
const OBSERVATION: &str = r#"{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/p"},"code":{"text":"c"},"valueQuantity":{"value":1.00,"unit":"kg"},"note":[{"text":"\u00e6"}]}"#;

/// What comes out, without the version and the date, by type.
async fn export(caller: &Caller, query: &str) -> String {
    let resources = caller.kick_off(query).await.completed().await.resources().await;
    resources.values().map(|line| without_version(line)).collect::<Vec<_>>().join("\n")
}

fn without_version(line: &str) -> String {
    let (before, after) = line.split_once(r#""versionId""#).unwrap();
    let after = after.split_once("Z\"").unwrap().1;
    format!("{before}{}", after.strip_prefix(',').unwrap_or(after))
}

/// A resource as it comes out: its type, its id, other tags, and the rest.
fn left(resource_type: &str, id: &str, tags: &str, rest: &str) -> String {
    format!(r#"{{"resourceType":"{resource_type}","id":"{id}","meta":{{"tag":[{tags}{TAG}]}}{rest}}}"#)
}

async fn filled() -> (Database, Server) {
    let database = Database::create().await;
    database.put(&[PATIENT, OBSERVATION]).await;
    let server = Server::start(&database).await;
    (database, server)
}

// B4, G5
#[tokio::test]
async fn what_is_asked_for_and_what_is_mandatory_comes_out_as_it_is_stored() {
    let (_database, server) = filled().await;
    let anybody = server.anybody();
    let patient = |rest| left("Patient", "p", r#"{"code":"x"},"#, rest);
    let observation = |rest| left("Observation", "o", "", rest);
    let whole = format!("{}\n{}", observation(r#","status":"final","code":{"text":"c"}"#), patient(""));
    assert_eq!(export(&anybody, "?_elements=id").await, whole);
    let dated = patient(r#","birthDate":"1970-01-01","_birthDate":{"id":"b"}"#);
    assert_eq!(export(&anybody, "?_type=Patient&_elements=birthDate").await, dated);
    let valued = r#","status":"final","code":{"text":"c"},"valueQuantity":{"value":1.00,"unit":"kg"}"#;
    let both = format!("{}\n{dated}", observation(valued));
    for query in [
        "?_elements=value,birthDate",
        "?_elements=Patient.birthDate&_elements=Observation.valueQuantity,%20value",
        "?_elements=id,Patient.birthDate,value%5Bx%5D",
    ] {
        assert_eq!(export(&anybody, query).await, both, "{query}");
    }
    let other = observation(r#","status":"final","code":{"text":"c"}"#);
    assert_eq!(export(&anybody, "?_type=Observation&_elements=valueString").await, other);

    let parameters = r#"{"resourceType":"Parameters","parameter":[
        {"name":"_elements","valueString":"Patient.birthDate"},{"name":"_elements","valueCode":"value"}]}"#;
    let manifest = anybody.accepted(anybody.export_by_post(parameters)).await.completed().await;
    let lines: Vec<_> = manifest.resources().await.values().map(|line| without_version(line)).collect();
    assert_eq!(lines.join("\n"), both);
}

// G5
#[tokio::test]
async fn types_of_which_no_element_is_named_are_whole() {
    let (database, server) = filled().await;
    let anybody = server.anybody();
    let resources = anybody.kick_off("?_elements=Patient.name,Device.type").await.completed().await.resources().await;
    let stored: (String,) =
        sqlx::query_as("select body from resource where id = 'o'").fetch_one(&database.pool).await.unwrap();
    assert_eq!(resources["Observation/o"], stored.0);
    assert!(resources["Patient/p"].contains("SUBSETTED"));
}

// B17, G5
#[tokio::test]
async fn what_is_no_element_is_refused_or_left_out_with_a_remark() {
    let (_database, server) = filled().await;
    let anybody = server.anybody();
    for (query, words) in [
        ("?_elements=Patient.birthdate", "Patient has no element birthdate; it has active, address, birthDate"),
        ("?_type=Patient&_elements=value", "Patient has no element value; it has active"),
        ("?_elements=valueAddress", "no type that is exported has an element valueAddress"),
        ("?_elements=Patinet.name", "Patinet.name names no resource type"),
        ("?_elements=Patient.name.family", "root"),
        ("?_elements=", "names no element"),
    ] {
        let text = anybody.refused(anybody.export(query), 400).await;
        assert!(text.contains(words), "{query}: {text}");
    }
    let many: String = (0..1_001).map(|n| format!("e{n},")).collect();
    let text = anybody.refused(anybody.export(&format!("?_elements={many}")), 400).await;
    assert!(text.starts_with("too-long: "), "{text}");

    let lenient = |query: &str| anybody.export(query).header("prefer", "handling=lenient");
    let manifest =
        anybody.accepted(lenient("?_type=Patient&_elements=Patient.birthdate,active")).await.completed().await;
    let patient = manifest.resources().await.remove("Patient/p").unwrap();
    assert_eq!(without_version(&patient), left("Patient", "p", r#"{"code":"x"},"#, r#","active":true"#));
    let outcomes = manifest.lines("error").await;
    assert!(outcomes.len() == 1 && outcomes[0].1.contains("birthdate"), "{outcomes:?}");
    anybody.refused(lenient("?_elements=Patinet.name"), 400).await;
}

// G5, G13: one that is read in pieces is cut as any other, and only what is left of it counts
#[tokio::test]
async fn a_long_resource_is_cut_too() {
    let database = Database::create().await;
    let text = "æ☃𝄞x".repeat(500_000);
    let of = |rest: &str| format!(r#"{{"resourceType":"Observation","id":"o","status":"final",{rest}}}"#);
    database
        .put(&[&of(&format!(r#""valueString":"{text}","code":{{"text":"c"}},"note":[{{"text":"{text}"}}]"#))])
        .await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let short = left("Observation", "o", "", r#","status":"final","code":{"text":"c"}"#);
    let long =
        left("Observation", "o", "", &format!(r#","status":"final","valueString":"{text}","code":{{"text":"c"}}"#));
    let query = "?_maximumFileSize=2000000&_elements";
    let manifest = anybody.kick_off(&format!("{query}=id")).await.completed().await;
    assert_eq!(without_version(&manifest.resources().await["Observation/o"]), short);
    assert!(manifest.urls("error").is_empty());
    let manifest = anybody.kick_off(&format!("{query}=value")).await.completed().await;
    assert!(without_version(&manifest.resources().await["Observation/o"]) == long);
    assert_eq!(manifest.lines("error").await.len(), 1, "what is left is longer");
}

// E14, G5
#[tokio::test]
async fn deletions_are_told_as_always() {
    let (database, server) = filled().await;
    database.delete("Patient", "p").await;
    let query = "?_since=2020-01-01T00:00:00Z&_elements=id";
    let manifest = server.anybody().kick_off(query).await.completed().await;
    assert_eq!(manifest.deletions().await, ["Patient/p"]);
    assert_eq!(manifest.resources().await.into_keys().collect::<Vec<_>>(), ["Observation/o"]);
}

// G5, E17: over all types of the sample
#[tokio::test]
async fn every_resource_of_the_sample_comes_out_cut() {
    let database = Database::create().await;
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/sample");
    assert!(database.load(&[sample], b"").await.status.success());
    let server = Server::start(&database).await;
    let whole = server.anybody().kick_off("").await.completed().await.resources().await;
    let cut = server.anybody().kick_off("?_elements=id,status").await.completed().await.resources().await;
    assert!(cut.keys().eq(whole.keys()));
    for (name, line) in &cut {
        let (cut, whole): (Value, Value) = (of_json(line), of_json(&whole[name]));
        let (cut, whole) = (cut.as_object().unwrap(), whole.as_object().unwrap());
        assert!(cut.iter().all(|(member, value)| member == "meta" || whole[member] == *value), "{name}");
        assert_eq!(cut.get("status"), whole.get("status"), "{name}");
        assert!(!cut.contains_key("text") && line.contains(TAG), "{name}");
    }
}

fn of_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
