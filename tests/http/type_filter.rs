//! `_typeFilter` and `_typePostFetchFilterUrl`: what a client may ask, and what comes out of it (rules G9, G12, L6).

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::support::{Caller, Database, Issuer, Manifest, Server, trusting};

const TYPE_FILTER: &str = "Invalid _typeFilter, ";
const POST_FETCH: &str = "Invalid post-fetch filter URL, ";

fn patient(id: &str, gender: &str) -> String {
    json!({ "resourceType": "Patient", "id": id, "gender": gender }).to_string()
}

fn observation(id: &str, patient: &str, status: &str, date: &str) -> String {
    json!({
        "resourceType": "Observation",
        "id": id,
        "status": status,
        "subject": { "reference": format!("Patient/{patient}") },
        "effectiveDateTime": date,
    })
    .to_string()
}

fn episode(id: &str, patient: &str, status: &str) -> String {
    let patient = json!({ "reference": format!("Patient/{patient}") });
    json!({ "resourceType": "EpisodeOfCare", "id": id, "status": status, "patient": patient }).to_string()
}

/// Two patients with three Observations and two episodes, and who has seen one of them.
async fn fill(database: &Database) {
    let resources = [
        patient("a", "female"),
        patient("b", "male"),
        observation("a1", "a", "final", "2024-01-01T00:00:00+02:00"),
        observation("a2", "a", "amended", "2024-06-01"),
        observation("b1", "b", "final", "2023-06-01"),
        episode("a3", "a", "active"),
        episode("b3", "b", "finished"),
        r#"{"resourceType":"Practitioner","id":"p","active":true}"#.to_owned(),
    ];
    database.put(&resources.each_ref().map(String::as_str)).await;
}

async fn filled() -> (Database, Server) {
    let database = Database::create().await;
    fill(&database).await;
    let server = Server::start(&database).await;
    (database, server)
}

/// A query as a part of a URL, encoded once, as the guide has it.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

async fn completed(caller: &Caller, request: RequestBuilder) -> Manifest {
    caller.accepted(request).await.completed().await
}

async fn names_of(manifest: &Manifest) -> String {
    manifest.resources().await.into_keys().collect::<Vec<_>>().join(" ")
}

/// What comes out at a path, `Type/id` after `Type/id`; only an `&` of a query has to be encoded.
async fn names(caller: &Caller, path: &str) -> String {
    names_of(&completed(caller, caller.export_at(path)).await).await
}

fn lenient(caller: &Caller, path: &str) -> RequestBuilder {
    caller.export_at(path).header("prefer", "handling=lenient")
}

/// What the outcome file says, an issue each.
async fn remarks(manifest: &Manifest) -> Vec<String> {
    let lines = manifest.lines("error").await;
    let text = |line: &str| {
        let outcome: Value = serde_json::from_str(line).unwrap();
        outcome["issue"][0]["diagnostics"].as_str().unwrap().to_owned()
    };
    lines.iter().map(|(_, line)| text(line)).collect()
}

// B.4, G9, G12
#[tokio::test]
async fn a_resource_matches_one_query_of_each_parameter_and_other_types_come_whole() {
    let (_database, server) = filled().await;
    let anybody = server.anybody();
    let rest = "Patient/a Patient/b Practitioner/p";
    let final_ones = "EpisodeOfCare/a3 EpisodeOfCare/b3 Observation/a1 Observation/b1";
    for parameter in ["_typeFilter", "_typePostFetchFilterUrl"] {
        let found = names(&anybody, &format!("/$export?{parameter}=Observation?status=final")).await;
        assert_eq!(found, format!("{final_ones} {rest}"), "{parameter}");
    }
    for (query, found) in [
        // Several of a type are or, …
        ("_typeFilter=Observation?status=amended&_typeFilter=Observation?subject=Patient/b", "a2 b1"),
        ("_typePostFetchFilterUrl=Observation?status=amended,Observation?subject=Patient/b", "a2 b1"),
        // … parameters of one and, …
        ("_typeFilter=Observation?status=final%26subject=Patient/b", "b1"),
        // … and so are the two.
        ("_typeFilter=Observation?status=final&_typePostFetchFilterUrl=Observation?subject=Patient/a", "a1"),
        ("_typeFilter=Observation?status=unknown", ""),
    ] {
        let of_observations: Vec<_> = found.split_whitespace().map(|id| format!("Observation/{id}")).collect();
        let found = names(&anybody, &format!("/$export?_type=Observation&{query}")).await;
        assert_eq!(found, of_observations.join(" "), "{query}");
    }
}

// G9, K8, L5, L6: however it is sent
#[tokio::test]
async fn a_filter_is_read_however_clients_encode_and_list_it() {
    let (_database, server) = filled().await;
    let anybody = server.anybody();
    let found = "EpisodeOfCare/a3 Observation/a1 Observation/a2";
    let both = "Observation?status=final,amended&subject=Patient/a,EpisodeOfCare?status=active";
    for query in [
        // Encoded once, as it should be; not at all, but for the `&`; and the inner query encoded, too.
        format!("_typeFilter={}", encoded(both)),
        format!("_typeFilter={}", both.replace('&', "%26")),
        format!(
            "_typeFilter={}",
            encoded("Observation?status=final%2Camended&subject=Patient%2Fa,EpisodeOfCare?status=active")
        ),
        "_typeFilter=EpisodeOfCare?status=active&_typeFilter=Observation?status=final,amended%26subject=Patient/a"
            .to_owned(),
        format!("_typePostFetchFilterUrl={}&_format=json&_pretty=true", encoded(both)),
    ] {
        assert_eq!(
            names(&anybody, &format!("/$export?_type=Observation,EpisodeOfCare&{query}")).await,
            found,
            "{query}"
        );
    }
    for parameters in [
        json!([{ "name": "_typeFilter", "valueString": both }]),
        json!([
            { "name": "_typeFilter", "valueString": "Observation?status=final,amended&subject=Patient/a" },
            { "name": "_typePostFetchFilterUrl", "valueUri": "EpisodeOfCare?status=active" },
        ]),
    ] {
        let mut all = vec![json!({ "name": "_type", "valueString": "Observation,EpisodeOfCare" })];
        all.extend(parameters.as_array().unwrap().clone());
        let body = json!({ "resourceType": "Parameters", "parameter": all }).to_string();
        assert_eq!(names_of(&completed(&anybody, anybody.export_by_post(&body)).await).await, found, "{body}");
    }
    // A zone's `+` as it is, which arrives as a blank, and encoded.
    for date in ["2024-01-01T00:00:00+02:00", "2024-01-01T00:00:00%2B02:00", "2024-01-01T00:00:00%252B02:00"] {
        let query = format!("/$export?_type=Observation&_typeFilter=Observation?date={date}");
        assert_eq!(names(&anybody, &query).await, "Observation/a1", "{date}");
    }
    let date = "Observation?date=2024-01-01T00:00:00+02:00";
    let body = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "_type", "valueCode": "Observation" }, { "name": "_typeFilter", "valueString": date },
    ]});
    let manifest = completed(&anybody, anybody.export_by_post(&body.to_string())).await;
    assert_eq!(names_of(&manifest).await, "Observation/a1");
}

// B.5, B17, G9, G12
#[tokio::test]
async fn what_cannot_be_carried_out_is_refused_by_name() {
    let (_database, server) = filled().await;
    let anybody = server.anybody();
    for (path, begin, words) in [
        ("/$export?_typeFilter=Observation?nope=1", TYPE_FILTER, "nope"),
        ("/$export?_typeFilter=Observation?status:nope=1", TYPE_FILTER, "nope"),
        ("/$export?_typeFilter=Observation?date=yesterday", TYPE_FILTER, "yesterday"),
        ("/$export?_typeFilter=Observation?_sort=date", TYPE_FILTER, "_sort"),
        ("/$export?_typeFilter=Observation?_include=Observation:subject", TYPE_FILTER, "_include"),
        ("/$export?_typeFilter=Patient?gender=male,Observation?nope=1", TYPE_FILTER, "nope"),
        ("/$export?_typePostFetchFilterUrl=Observation?nope=1", POST_FETCH, "nope"),
        ("/$export?_typePostFetchFilterUrl=Nope?status=final", POST_FETCH, "unknown resource type: Nope"),
        (
            "/$export?_typePostFetchFilterUrl=status",
            POST_FETCH,
            "must be in the format [resourceType]?[parameters]: status",
        ),
        (
            "/$export?_type=Patient&_typeFilter=Observation?status=final",
            TYPE_FILTER,
            "Observation resources are not exported",
        ),
        ("/Patient/$export?_typeFilter=Task?status=draft", TYPE_FILTER, "Task resources are not exported"),
    ] {
        let text = anybody.refused(anybody.export_at(path), 400).await;
        assert!(text.starts_with(&format!("not-supported: {begin}")) && text.contains(words), "{path}: {text}");
    }
    let text =
        anybody.refused(anybody.export("?_typeFilter=Patient?x=1&_typePostFetchFilterUrl=Patient?y=1"), 400).await;
    assert_eq!(text.lines().count(), 2, "all at once: {text}");
    for parameter in ["_typeFilter", "_typePostFetchFilterUrl"] {
        let text = anybody.refused(lenient(&anybody, &format!("/$export?{parameter}=")), 400).await;
        assert!(text.starts_with("value: ") && text.contains("[resourceType]?[parameters]"), "{text}");
    }
}

// G9: limits hold for whoever is lenient, too
#[tokio::test]
async fn too_many_and_too_long_queries_are_refused() {
    let (_database, server) = filled().await;
    let anybody = server.anybody();
    let many = |count| vec!["Patient?gender=male"; count].join(",");
    let long = |length: usize| format!("Patient?family={}", "æ".repeat(length - "Patient?family=".len()));
    let sent = |value: &str| {
        let parameter = json!([{ "name": "_typeFilter", "valueString": value }]);
        let body = json!({ "resourceType": "Parameters", "parameter": parameter }).to_string();
        anybody.export_by_post(&body).header("prefer", "handling=lenient")
    };
    for allowed in [many(100), long(8_192)] {
        anybody.accepted(sent(&allowed)).await;
    }
    for (refused, limit) in [(many(101), "100"), (many(1_000), "100"), (long(8_193), "8192")] {
        let text = anybody.refused(sent(&refused), 400).await;
        assert!(text.starts_with(&format!("too-long: {TYPE_FILTER}")) && text.contains(limit), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let both = format!("?_typeFilter={}&_typePostFetchFilterUrl={}", many(50), many(51));
    assert!(anybody.refused(anybody.export(&both), 400).await.contains("100"));
}

// B17: nothing that was not asked for comes without being told
#[tokio::test]
async fn lenient_handling_leaves_out_what_is_not_supported_and_says_so() {
    let (_database, server) = filled().await;
    let anybody = server.anybody();
    for (query, found, words) in [
        ("_typeFilter=Observation?nope=1,Observation?status=final", "Observation/a1 Observation/b1", "nope"),
        ("_typeFilter=Observation?nope=1", "Observation/a1 Observation/a2 Observation/b1", "nope"),
        ("_typePostFetchFilterUrl=Patient?gender=male", "Observation/a1 Observation/a2 Observation/b1", "Patient"),
    ] {
        let path = format!("/$export?_type=Observation&{query}");
        let manifest = completed(&anybody, lenient(&anybody, &path)).await;
        assert_eq!(names_of(&manifest).await, found, "{query}");
        let remarks = remarks(&manifest).await;
        assert!(remarks.len() == 1 && remarks[0].contains(words), "{query}: {remarks:?}");
    }
}

// A33, B15: a filter tells of a type what it has found there
#[tokio::test]
async fn whoever_filters_needs_the_right_to_the_type() {
    let database = Database::create().await;
    fill(&database).await;
    let issuer = Issuer::start().await;
    let server = Server::start_with(&database, &trusting(&[&issuer])).await;
    let roles = ["$bulk-export", "Binary.read", "Observation.search"];
    let alice = server.with_token(&issuer.ehealth_token("alice", &roles));
    assert_eq!(names(&alice, "/$export?_typeFilter=Observation?status=amended").await, "Observation/a2");
    for query in [
        "_typeFilter=Patient?gender=male",
        "_typePostFetchFilterUrl=Patient?gender=male",
        // A chain looks at it, too.
        "_typeFilter=Observation?patient.gender=male",
        "_type=Observation&_typeFilter=Observation?subject:Patient.gender=male",
    ] {
        for request in [alice.export(&format!("?{query}")), lenient(&alice, &format!("/$export?{query}"))] {
            let text = alice.refused(request, 403).await;
            assert!(text.starts_with("forbidden: ") && text.contains("Patient"), "{query}: {text}");
        }
    }
}

// G9, H1, B18: at any level; also what others refer to
#[tokio::test]
async fn filters_hold_at_every_level_and_for_what_is_referred_to() {
    let database = Database::create().await;
    fill(&database).await;
    let group = json!({ "resourceType": "Group", "id": "g", "member": [{ "entity": { "reference": "Patient/a" } }] });
    let mut seen: Value = serde_json::from_str(&observation("a4", "a", "final", "2022-01-01")).unwrap();
    seen["performer"] = json!([{ "reference": "Practitioner/p" }, { "reference": "Practitioner/q" }]);
    let idle = r#"{"resourceType":"Practitioner","id":"q","active":false}"#;
    database.put(&[&group.to_string(), &seen.to_string(), idle]).await;
    let server = Server::start_with(&database, &[("include.referenced", r#"["Practitioner"]"#)]).await;
    let anybody = server.anybody();
    let filter = "_type=Observation,Practitioner&_typeFilter=Observation?status=final,Practitioner?active=true";
    for (level, found) in [
        ("", "Observation/a1 Observation/a4 Observation/b1 Practitioner/p"),
        ("/Patient", "Observation/a1 Observation/a4 Observation/b1 Practitioner/p"),
        ("/Patient/b", "Observation/b1"),
        ("/Group/g", "Observation/a1 Observation/a4 Practitioner/p"),
    ] {
        assert_eq!(names(&anybody, &format!("{level}/$export?{filter}")).await, found, "{level}");
    }
    // What is left out refers to nothing.
    let filter = "_type=Observation,Practitioner&_typeFilter=Observation?date=ge2023";
    assert_eq!(names(&anybody, &format!("/Group/g/$export?{filter}")).await, "Observation/a1 Observation/a2");
}

// F9, G10: a block of which nothing is left has no header
#[tokio::test]
async fn blocks_have_what_the_filter_admits() {
    let (_database, server) = filled().await;
    let anybody = server.anybody();
    for (filter, found) in [
        ("Observation?status=amended,Patient?gender=other,EpisodeOfCare?status=active", "Parameters a3 a2"),
        ("Observation?status=final,Patient?gender=other,EpisodeOfCare?status=waitlist", "Parameters a1 Parameters b1"),
        ("Observation?status=unknown,Patient?gender=other,EpisodeOfCare?status=waitlist", ""),
    ] {
        let path = format!("/Patient/$export?organizeOutputBy=Patient&_typeFilter={filter}");
        let manifest = completed(&anybody, anybody.export_at(&path)).await;
        let mut told = Vec::new();
        for url in manifest.urls("output") {
            let text = String::from_utf8(anybody.download(&url).await).unwrap();
            told.extend(text.lines().map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                line.get("id").unwrap_or(&line["resourceType"]).as_str().unwrap().to_owned()
            }));
        }
        assert_eq!(told.join(" "), found, "{filter}");
    }
}

// E14, G2, G5: a filter sees the whole resource, whatever comes of it; what was deleted has nothing to be seen
#[tokio::test]
async fn filters_go_with_other_parameters() {
    let (database, server) = filled().await;
    let anybody = server.anybody();
    let path = "/$export?_type=Patient&_elements=birthDate&_typeFilter=Patient?gender=female";
    let patients = completed(&anybody, anybody.export_at(path)).await.resources().await;
    assert_eq!(patients.keys().collect::<Vec<_>>(), ["Patient/a"]);
    assert!(!patients["Patient/a"].contains("female"), "{patients:?}");

    let before = completed(&anybody, anybody.export("?_type=Patient")).await.transaction_time().to_owned();
    database.put(&[&observation("c1", "a", "final", "2025"), &observation("c2", "a", "amended", "2025")]).await;
    database.delete("Observation", "a2").await;
    let path = format!("/$export?_since={before}&_typeFilter=Observation?status=final");
    let manifest = completed(&anybody, anybody.export_at(&path)).await;
    assert_eq!(names_of(&manifest).await, "Observation/c1");
    assert_eq!(manifest.deletions().await, ["Observation/a2"]);
}

// G9, G15
#[tokio::test]
async fn every_version_is_judged_by_itself() {
    let database = Database::create().await;
    for (id, status) in [("o", "preliminary"), ("o", "final"), ("p", "final"), ("p", "amended")] {
        database.put(&[&observation(id, "a", status, "2024")]).await;
    }
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for (status, found) in [("final", "o/2 p/1"), ("preliminary", "o/1"), ("amended,preliminary", "o/1 p/2")] {
        let path = format!("/$export?_includeHistory=true&_typeFilter=Observation?status={status}");
        let lines = completed(&anybody, anybody.export_at(&path)).await.lines("output").await;
        let version = |line: &str| {
            let resource: Value = serde_json::from_str(line).unwrap();
            format!("{}/{}", resource["id"].as_str().unwrap(), resource["meta"]["versionId"].as_str().unwrap())
        };
        let mut versions: Vec<String> = lines.iter().map(|(_, line)| version(line)).collect();
        versions.sort_unstable();
        assert_eq!(versions.join(" "), found, "{status}");
    }
}

// G9: a filter has to read a long resource, too
#[tokio::test]
async fn a_long_resource_is_judged_as_a_whole() {
    let database = Database::create().await;
    let long = |id: &str, status: &str| {
        let mut resource: Value = serde_json::from_str(&observation(id, "a", status, "2024")).unwrap();
        resource["a"] = "æ".repeat(1_500_000).into();
        resource.to_string()
    };
    let observations = [long("l1", "amended"), long("l2", "final"), observation("s", "a", "final", "2024")];
    database.put(&[&patient("a", "male")]).await;
    database.put(&observations.each_ref().map(String::as_str)).await;
    let stored: (String,) =
        sqlx::query_as("select body from resource where id = 'l2'").fetch_one(&database.pool).await.unwrap();
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    for path in ["/$export", "/Patient/$export?organizeOutputBy=Patient"] {
        let query = if path.contains('?') { "&" } else { "?" };
        let path = format!("{path}{query}_type=Observation&_typeFilter=Observation?status=final");
        let manifest = completed(&anybody, anybody.export_at(&path)).await;
        let mut lines = Vec::new();
        for url in manifest.urls("output") {
            lines.extend(String::from_utf8(anybody.download(&url).await).unwrap().lines().map(str::to_owned));
        }
        assert!(lines.contains(&stored.0), "{path}: byte for byte");
        lines.retain(|line| !line.contains(r#""resourceType":"Parameters""#));
        assert_eq!(lines.len(), 2, "{path}");
    }
}

// G9: left out, but neither silently nor at the cost of the others
#[tokio::test]
async fn what_a_filter_cannot_read_is_left_out_and_told() {
    let (database, server) = filled().await;
    let anybody = server.anybody();
    database.put(&[&observation("odd", "a", "final", "last summer")]).await;
    let manifest = completed(&anybody, anybody.export("?_type=Observation&_typeFilter=Observation?date=ge2000")).await;
    assert_eq!(names_of(&manifest).await, "Observation/a1 Observation/a2 Observation/b1");
    let told = remarks(&manifest).await;
    assert!(told.len() == 1 && told[0].contains("Observation/odd") && told[0].contains("date"), "{told:?}");
    // One that looks elsewhere reads it.
    let path = "/$export?_type=Observation&_typeFilter=Observation?status=final";
    let manifest = completed(&anybody, anybody.export_at(path)).await;
    assert_eq!(names_of(&manifest).await, "Observation/a1 Observation/b1 Observation/odd");
    assert!(manifest.urls("error").is_empty());

    let many: Vec<String> = (0..1_003).map(|n| observation(&format!("odd{n}"), "a", "final", "once")).collect();
    database.put(&many.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let manifest = completed(&anybody, anybody.export("?_type=Observation&_typeFilter=Observation?date=ge2000")).await;
    assert_eq!(names_of(&manifest).await, "Observation/a1 Observation/a2 Observation/b1");
    let told = remarks(&manifest).await;
    assert_eq!(told.len(), 1_001);
    assert!(told[1_000].starts_with("4 more"), "{}", told[1_000]);
}

// C3: progress is what was read, also of what does not come out
#[tokio::test]
async fn progress_counts_what_was_read() {
    let (database, server) = filled().await;
    database.put_patients(500).await;
    let job = server.anybody().kick_off("?_type=Patient&_typeFilter=Patient?gender=female").await;
    assert_eq!(names_of(&job.completed().await).await, "Patient/a");
    let told = database.command("jobs", &["show", job.id()], b"").await;
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("502 of about 502"), "{told}");
}
