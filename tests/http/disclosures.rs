//! The ledger of disclosures: who was handed whose data, exactly, and what of it was really sent; and the command that tells.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::process::{Command, Output, Stdio};

use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::secured::{PATIENT, ROLES, set_up};
use crate::support::{Caller, Database, Manifest, Random, Server, eventually, put_mebibytes, trusting};

type Ids = BTreeSet<String>;

/// What the ledger says of each file: whose data is in it.
async fn recorded(database: &Database) -> BTreeMap<String, Ids> {
    let rows: Vec<(String, i32, Vec<u8>)> = sqlx::query_as("select file_id, patients, patient_ids from disclosed_file")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    let set = |(id, count, deflated): (String, i32, Vec<u8>)| {
        let mut text = String::new();
        flate2::read::DeflateDecoder::new(&deflated[..]).read_to_string(&mut text).unwrap();
        let ids: Ids = text.lines().map(str::to_owned).collect();
        assert_eq!(ids.len(), usize::try_from(count).unwrap());
        (id, ids)
    };
    rows.into_iter().map(set).collect()
}

/// The Patients to which any reference in it points, and those it is.
fn walk(value: &Value, ids: &mut Ids) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("reference").and_then(Value::as_str) {
                let unversioned = reference.split("/_history/").next().unwrap();
                let (before, id) = unversioned.rsplit_once('/').unwrap_or_default();
                let is_patient = before == "Patient" || before.starts_with("http") && before.ends_with("/Patient");
                ids.extend(is_patient.then(|| id.to_owned()));
            }
            if members.get("resourceType").is_some_and(|name| name == "Patient") {
                ids.extend(members.get("id").and_then(Value::as_str).map(str::to_owned));
            }
            members.values().for_each(|value| walk(value, ids));
        }
        Value::Array(values) => values.iter().for_each(|value| walk(value, ids)),
        _ => {}
    }
}

/// To whom belongs what these are about, as the store has it now.
async fn owners(database: &Database, targets: &[String]) -> Ids {
    if targets.is_empty() {
        return Ids::new();
    }
    let owners: Vec<String> = sqlx::query_scalar(
        "select unnest(patients) from resource
        where superseded_at = 'infinity' and resource_type || '/' || id = any($1)",
    )
    .bind(targets)
    .fetch_all(&database.pool)
    .await
    .unwrap();
    owners.into_iter().collect()
}

/// The names of what a Provenance is about.
fn targets(provenance: &Value) -> Vec<String> {
    let targets = provenance["target"].as_array().into_iter().flatten();
    targets.filter_map(|target| Some(target["reference"].as_str()?.split("/_history/").next()?.to_owned())).collect()
}

/// Whose data is in the files of an export, by what is written in them; `deleted` says who was in what is not there now.
async fn written(
    database: &Database,
    caller: &Caller,
    manifest: &Manifest,
    deleted: &BTreeMap<String, Ids>,
    is_of_some: bool,
) -> BTreeMap<String, Ids> {
    let mut files = BTreeMap::new();
    for list in ["output", "deleted", "error"] {
        for url in manifest.urls(list) {
            let mut ids = Ids::new();
            for line in String::from_utf8(caller.download(&url).await).unwrap().lines() {
                let resource: Value = serde_json::from_str(line).unwrap();
                walk(&resource, &mut ids);
                if is_of_some {
                    ids.extend(owners(database, &targets(&resource)).await);
                }
                if let Some(name) = resource["entry"][0]["request"]["url"].as_str() {
                    ids.extend(deleted[name].iter().cloned());
                }
            }
            files.insert(url.rsplit('/').next().unwrap().to_owned(), ids);
        }
    }
    files
}

/// Checks every file of an export; gives how many there are.
async fn check(database: &Database, caller: &Caller, path: &str, deleted: &BTreeMap<String, Ids>) -> usize {
    let manifest = caller.accepted(caller.export_at(path)).await.completed().await;
    // A Provenance comes for the sake of those to whom belongs what it is about (H10); in a block that is its patient.
    let is_of_some = !path.starts_with("/$") && !path.starts_with("/Patient/$export?_") && !path.contains("organize");
    let written = written(database, caller, &manifest, deleted, is_of_some).await;
    let recorded = recorded(database).await;
    for (file, ids) in &written {
        assert_eq!(&recorded[file], ids, "{path}: {file}");
    }
    written.len()
}

async fn load_demo(database: &Database) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ehealth-demo");
    let loaded = database.load(&[folder], b"").await;
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
}

/// Observations, Groups, Tasks and Patients that mention each other at random, in several versions; some are deleted.
/// Gives whom those were about.
async fn put_random(database: &Database, random: &mut Random) -> BTreeMap<String, Ids> {
    let mut last: BTreeMap<String, Ids> = BTreeMap::new();
    let mut deleted = BTreeMap::new();
    for _ in 0..400 {
        let (n, patient) = (random.below(120), random.below(40));
        let mut member = || match random.below(4) {
            0 => {
                json!({ "entity": { "reference": format!("https://else.example/fhir/Patient/r{}", random.below(40)) } })
            }
            1 => json!({ "entity": { "reference": format!("Practitioner/{}", random.below(9)) } }),
            _ => json!({ "entity": { "reference": format!("Patient/r{}/_history/2", random.below(40)) } }),
        };
        let subject = json!({ "reference": format!("Patient/r{patient}") });
        let resource = match n % 4 {
            0 => json!({ "resourceType": "Patient", "id": format!("r{patient}"), "active": n % 8 == 0,
                "link": [{ "other": { "reference": format!("Patient/r{}", n % 40) } }] }),
            1 => {
                json!({ "resourceType": "Observation", "id": format!("o{n}"), "status": if n % 8 == 1 { "final" } else { "amended" },
                "subject": subject, "extension": [{ "valueReference": { "reference": format!("Patient/r{}", n % 40) } }] })
            }
            2 => json!({ "resourceType": "Group", "id": format!("g{n}"), "member": [member(), member(), member()] }),
            _ => json!({ "resourceType": "Task", "id": format!("t{n}"), "for": subject }),
        };
        let name = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        if random.below(6) == 0 {
            if let Some(ids) = last.remove(&name) {
                let (resource_type, id) = name.split_once('/').unwrap();
                database.delete(resource_type, id).await;
                deleted.insert(name, ids);
            }
            continue;
        }
        let mut ids = Ids::new();
        walk(&resource, &mut ids);
        database.put(&[&resource.to_string()]).await;
        deleted.remove(&name);
        last.insert(name, ids);
    }
    deleted
}

#[tokio::test]
async fn of_every_file_it_is_known_whose_data_is_in_it() {
    let database = Database::create().await;
    load_demo(&database).await;
    let seed = u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().unwrap()) | 1;
    println!("seed {seed}");
    let deleted = put_random(&database, &mut Random::new(seed)).await;
    assert!(deleted.len() > 3, "some are deleted");
    database
        .put(&[
            r#"{"resourceType":"Patient","id":"z","active":true}"#,
            r#"{"resourceType":"Task","id":"z","for":{"reference":"Patient/z"}}"#,
            r#"{"resourceType":"Observation","id":"z","status":"final","subject":{"reference":"Patient/z"}}"#,
        ])
        .await;
    let settings = [("export.file_target", "64KiB"), ("include.referenced", r#"["Practitioner", "Organization"]"#)];
    let server = Server::start_with(&database, &settings).await;
    let anybody = server.anybody();
    let since = "_since=2020-01-01T00:00:00Z";
    for (path, most) in [
        ("/$export", usize::MAX),
        ("/$export?_maximumFileSize=1048576", usize::MAX),
        (&format!("/$export?{since}"), usize::MAX),
        (&format!("/$export?{since}&_maximumFileSize=1048576"), usize::MAX),
        ("/$export?_includeHistory=true", usize::MAX),
        ("/$export?_type=Observation&_typeFilter=Observation?status=final", usize::MAX),
        ("/$export?_type=Observation&_typeFilter=Observation?patient=Patient/z", 1),
        ("/$export?_type=Task&_typeFilter=Task?patient.active=true", usize::MAX),
        ("/$export?_type=Observation&_typeFilter=Observation?_id=nobody", 0),
        ("/$export?_type=Practitioner", 1),
        ("/Patient/$export?patient=z,20000", usize::MAX),
        ("/Patient/20007/$export", usize::MAX),
        ("/Patient/20007/$export?_type=Provenance", 1),
        ("/Group/alle/$export", usize::MAX),
        (&format!("/Group/alle/$export?{since}"), usize::MAX),
        (
            "/Group/alle/$export?_type=Observation,Provenance&includeAssociatedData=LatestProvenanceResources",
            usize::MAX,
        ),
        (
            "/Patient/$export?_type=Observation,Provenance&includeAssociatedData=RelevantProvenanceResources&_typeFilter=Observation?status=final",
            usize::MAX,
        ),
        ("/Patient/$export?organizeOutputBy=Patient", usize::MAX),
        ("/Patient/$export?organizeOutputBy=Patient&_maximumFileSize=1048576", usize::MAX),
        (&format!("/Patient/$export?organizeOutputBy=Patient&{since}"), usize::MAX),
        ("/Patient/$export?organizeOutputBy=Patient&_typeFilter=Observation?status=final", usize::MAX),
    ] {
        let files = check(&database, &anybody, path, &deleted).await;
        assert!(files <= most && (files > 0 || most == 0), "{path} has {files} files");
    }
}

// The pieces in which long bodies come, and who is mentioned more often than a row holds
#[tokio::test]
async fn of_long_resources_it_is_known_too() {
    let database = Database::create().await;
    let members: Vec<Value> =
        (0..40_000).map(|n| json!({ "entity": { "reference": format!("Patient/m{n}") }, "period": {} })).collect();
    let group = json!({ "resourceType": "Group", "id": "g", "type": "person", "actual": true, "member": members });
    let long = "x".repeat(3 << 20);
    let observation = json!({ "resourceType": "Observation", "id": "o", "status": "final", "valueString": long,
        "subject": { "reference": "Patient/m7" }, "performer": [{ "reference": "Patient/m8" }] });
    let gone = group.to_string().replace(r#""id":"g""#, r#""id":"gone""#);
    assert!(group.to_string().len() > 2 << 20, "it comes in pieces");
    database
        .put(&[
            &group.to_string(),
            &gone,
            &observation.to_string(),
            r#"{"resourceType":"Patient","id":"m7"}"#,
            // It is short, and about all members.
            r#"{"resourceType":"Provenance","id":"v","target":[{"reference":"Group/g"}]}"#,
        ])
        .await;
    database.delete("Group", "gone").await;
    let all: Ids = (0..40_000).map(|n| format!("m{n}")).collect();
    let deleted = BTreeMap::from([("Group/gone".to_owned(), all)]);
    let server = Server::start(&database).await;
    for path in [
        "/$export",
        "/$export?_since=2020-01-01T00:00:00Z",
        "/$export?_type=Group,Observation&_typeFilter=Observation?status=final&_typeFilter=Group?type=person",
        "/Patient/m7/$export?_type=Provenance",
        "/Patient/m7/$export?_type=Provenance&_elements=target",
        "/Patient/m7/$export?organizeOutputBy=Patient&_type=Patient,Group,Observation",
        "/Patient/m7/$export?organizeOutputBy=Patient&_type=Patient,Group,Observation&_typeFilter=Observation?status=final&_typeFilter=Group?type=person",
    ] {
        assert!(check(&database, &server.anybody(), path, &deleted).await > 0, "{path}");
    }
}

// G5: what is left of a resource may not say whose it is; it is known all the same
#[tokio::test]
async fn a_resource_without_its_subject_is_still_about_somebody() {
    let database = Database::create().await;
    let observation = r#"{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/p"}}"#;
    database.put(&[observation]).await;
    let server = Server::start(&database).await;
    let manifest = server.anybody().kick_off("?_type=Observation&_elements=id").await.completed().await;
    assert!(!manifest.resources().await["Observation/o"].contains("Patient/p"));
    assert_eq!(recorded(&database).await.into_values().collect::<Vec<_>>(), [Ids::from(["p".to_owned()])]);
}

/// What the command says, a JSON object a line.
async fn asked(database: &Database, arguments: &[&str]) -> Vec<Value> {
    let output = database.command("disclosures", arguments, b"").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The exports that held data of a patient.
async fn exports_of(database: &Database, patient: &str, more: &[&str]) -> Vec<Value> {
    let arguments = [&["--patient", patient, "--format", "json"], more].concat();
    asked(database, &arguments).await.into_iter().filter(|line| line.get("files").is_some()).collect()
}

/// What is said of how each file of a patient was downloaded: a word, and the bytes for certain.
async fn downloaded(database: &Database, patient: &str) -> Vec<(String, u64)> {
    let exports = exports_of(database, patient, &[]).await;
    let files = exports.iter().flat_map(|export| export["files"].as_array().unwrap());
    files
        .map(|file| (file["downloaded"].as_str().unwrap().to_owned(), file["bytesCertain"].as_u64().unwrap()))
        .collect()
}

async fn events(database: &Database) -> Vec<Value> {
    asked(database, &["--format", "json"]).await
}

/// How many entries there are of a kind.
async fn count(database: &Database, kind: &str) -> usize {
    events(database).await.iter().filter(|event| event["event"] == kind).count()
}

#[tokio::test]
async fn who_received_data_of_a_patient_is_told_also_when_all_of_it_is_gone() {
    let (database, issuer, server) = set_up().await;
    drop(server);
    let settings = [("retention.sweep", "100ms".to_owned()), ("retention.history", "0s".to_owned())];
    let server = Server::start_with(&database, &[trusting(&[&issuer]), settings.to_vec()].concat()).await;
    let token = issuer.token(&json!({
        "user_id": "alice", "user_type": "SYSTEM", "azp": "analytics", "realm_access": { "roles": ROLES }
    }));
    let alice = server.with_token(&token);
    database
        .put(&[
            r#"{"resourceType":"Patient","id":"other"}"#,
            r#"{"resourceType":"Task","id":"t","for":{"reference":"Patient/p"}}"#,
        ])
        .await;
    let job = alice.kick_off("").await;
    let manifest = job.completed().await;
    let patients = manifest.json["output"].as_array().unwrap().iter().find(|item| item["type"] == "Patient").unwrap();
    alice.download(patients["url"].as_str().unwrap()).await;
    // Bob has started one and got nothing of it.
    let bob = server.with_token(&issuer.ehealth_token("bob", &ROLES));
    bob.kick_off("?_type=Patient").await.completed().await;
    eventually("the end is written", || async { count(&database, "sent").await == 1 }).await;

    let check = async || {
        let exports = exports_of(&database, "Patient/p", &[]).await;
        assert_eq!(exports.len(), 2);
        let of = |who: &str| exports.iter().find(|export| export["subject"] == who).unwrap().clone();
        let export = of("alice");
        assert_eq!(export["export"], job.id());
        assert_eq!((&export["issuer"], &export["clients"]), (&json!(issuer.url()), &json!(["analytics"])));
        assert_eq!((&export["addresses"], &export["known"]), (&json!(["127.0.0.1"]), &json!(true)));
        assert_eq!(export["request"]["types"], json!(["Patient", "Task"]));
        let mut files: Vec<(Value, Value)> = export["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| (file["type"].clone(), file["downloaded"].clone()))
            .collect();
        files.sort_by_key(|(name, _)| name.to_string());
        assert_eq!(files, [(json!("Patient"), json!("whole")), (json!("Task"), json!("not"))]);
        assert_eq!(of("bob")["files"][0]["downloaded"], "not");
        let other = exports_of(&database, "other", &[]).await;
        assert!(other.iter().all(|export| export["files"].as_array().unwrap().len() == 1));
        assert_eq!(exports_of(&database, "nobody", &[]).await, [] as [Value; 0]);
        assert_eq!(exports_of(&database, "p", &["--since", "2999-01-01"]).await, [] as [Value; 0]);
        assert_eq!(exports_of(&database, "p", &["--since", "2020-01-01T00:00:00Z"]).await.len(), 2);
    };
    check().await;
    for resource in [("Patient", "p"), ("Task", "t")] {
        database.delete(resource.0, resource.1).await;
    }
    database
        .execute("update export_job set expires_at = clock_timestamp(); update binary_file set held_until = null")
        .await;
    eventually("nothing of it is left", || async {
        database.count("export_job").await + database.count("binary_file").await == 0
    })
    .await;
    eventually("history is pruned", || async {
        database.count("resource where superseded_at < 'infinity'").await == 0
    })
    .await;
    check().await;
    let output = database.command("disclosures", &["--patient", "p"], b"").await;
    let text = String::from_utf8(output.stdout).unwrap();
    for said in [
        "files of 2 exports",
        "alice (http",
        "analytics",
        "Patient 2: downloaded whole",
        "not downloaded",
        "removed since",
        "ledger begins",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
}

#[tokio::test]
async fn every_way_to_download_is_written_down() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let url = anybody.kick_off("").await.completed().await.urls("output").remove(0);
    let length = anybody.get(&url).send().await.unwrap().bytes().await.unwrap().len();
    let answers = [
        anybody.get(&url).header("accept-encoding", "gzip"),
        anybody.get(&url).header("accept", "application/fhir+json"),
        anybody.get(&url).header("range", "bytes=5-9"),
        // These send nothing of it.
        anybody.request(Method::HEAD, &url),
        anybody.get(&url).header("if-none-match", "*"),
        anybody.get(&url).header("range", "bytes=100000-"),
    ];
    let mut statuses = Vec::new();
    for request in answers {
        let response = request.send().await.unwrap();
        statuses.push(response.status().as_u16());
        response.bytes().await.unwrap();
    }
    assert_eq!(statuses, [200, 200, 206, 200, 304, 416]);
    eventually("all ends are written", || async { count(&database, "sent").await == 4 }).await;
    let events = events(&database).await;
    let downloads: Vec<&Value> = events.iter().filter(|event| event["event"] == "download").collect();
    let told = |event: &&Value| {
        let detail = &event["detail"];
        (
            detail["representation"].as_str().unwrap().to_owned(),
            detail["from"].as_u64().unwrap(),
            event["outcome"].as_u64().unwrap(),
        )
    };
    let expected = [("identity", 0, 200), ("gzip", 0, 200), ("fhir+json", 0, 200), ("identity", 5, 206)];
    assert_eq!(
        downloads.iter().map(told).collect::<Vec<_>>(),
        expected.map(|(name, from, status)| (name.to_owned(), from, status))
    );
    assert_eq!((&downloads[3]["detail"]["bytes"], &downloads[3]["detail"]["of"]), (&json!(5), &json!(length)));
    for download in downloads {
        let sent = events.iter().find(|event| event["download"] == download["number"]).unwrap();
        assert_eq!((&sent["event"], &sent["detail"]["bytes"]), (&json!("sent"), &download["detail"]["bytes"]));
        assert_eq!(sent["detail"]["whole"], true);
    }
}

#[tokio::test]
async fn of_a_download_that_is_broken_off_it_is_known_how_much_was_sent() {
    let database = Database::create().await;
    put_mebibytes(&database, 24).await;
    database.put(&[PATIENT]).await;
    database.put(&[r#"{"resourceType":"Basic","id":"b0","subject":{"reference":"Patient/p"}}"#]).await;
    let mut server = Server::start(&database).await;
    let url = server.anybody().kick_off("?_type=Basic").await.completed().await.urls("output").remove(0);
    let begin = async || {
        let mut response = server.anybody().get(&url).send().await.unwrap();
        response.chunk().await.unwrap().unwrap();
        response
    };
    let gone = begin().await;
    assert_eq!(downloaded(&database, "p").await, [("possibly".to_owned(), 0)], "it may still come");
    drop(gone);
    eventually("the end is written", || async { count(&database, "sent").await == 1 }).await;
    let [(word, bytes)] = &downloaded(&database, "p").await[..] else { panic!() };
    assert_eq!(word, "part");
    assert!((1..23 << 20).contains(bytes), "{bytes}");
    // One that is cut by a crash has no end.
    let cut = begin().await;
    server.signal(Signal::KILL);
    eventually("it is gone", || {
        let ended = server.has_ended().is_some();
        async move { ended }
    })
    .await;
    drop(cut);
    assert_eq!(downloaded(&database, "p").await, [("possibly".to_owned(), *bytes)]);
    assert_eq!(count(&database, "sent").await, 1);
}

#[tokio::test]
async fn a_server_that_stops_writes_what_it_has_sent_and_denied() {
    let (database, issuer, server) = set_up().await;
    drop(server);
    put_mebibytes(&database, 24).await;
    let settings = [("http.shutdown_grace", "1s".to_owned())];
    let mut server = Server::start_with(&database, &[trusting(&[&issuer]), settings.to_vec()].concat()).await;
    let roles = [&ROLES[..], &["Basic.search"]].concat();
    let alice = server.with_token(&issuer.ehealth_token("alice", &roles));
    let url = alice.kick_off("?_type=Basic").await.completed().await.urls("output").remove(0);
    let mut stalled = alice.get(&url).send().await.unwrap();
    stalled.chunk().await.unwrap().unwrap();
    server.anybody().refused(server.anybody().get(&url), 401).await;
    server.signal(Signal::TERM);
    eventually("it ends", || {
        let ended = server.has_ended().is_some();
        async move { ended }
    })
    .await;
    let events = events(&database).await;
    let last = |kind: &str| events.iter().rfind(|event| event["event"] == kind).unwrap();
    assert_eq!((&last("sent")["detail"]["whole"], &last("denied")["outcome"]), (&json!(false), &json!(401)));
}

// D9, F15, I1
#[tokio::test]
async fn what_is_denied_is_counted_and_says_nothing_of_what_was_asked_for() {
    let (database, issuer, server) = set_up().await;
    drop(server);
    let settings = [("http.trusted_proxies", r#"["127.0.0.0/8"]"#.to_owned())];
    let server = Server::start_with(&database, &[trusting(&[&issuer]), settings.to_vec()].concat()).await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let bob = server.with_token(&issuer.ehealth_token("bob", &ROLES));
    let job = alice.kick_off("?_type=Patient").await;
    let file = job.completed().await.urls("output").remove(0);
    let unknown = "/Binary/secretsecret";
    for _ in 0..3 {
        bob.refused(bob.get(&job.url), 404).await;
        bob.refused(bob.get(&file), 404).await;
        bob.refused(bob.get(unknown), 404).await;
        bob.refused(bob.request(Method::DELETE, &job.url), 404).await;
        let nobody = server.with_token("secret.secret.secret");
        nobody.refused(nobody.get(&file).header("x-forwarded-for", "6.6.6.6, 203.0.113.7"), 401).await;
        bob.refused(bob.export("?_type=Device"), 403).await;
    }
    // These are no denials.
    bob.refused(bob.get("/nothing"), 404).await;
    bob.refused(bob.export_at("/Patient/none/$export?_type=Patient"), 404).await;
    let stored = || async {
        sqlx::query_scalar::<_, i64>(
            "select coalesce(sum((detail ->> 'count')::int), 0) from disclosure where event = 'denied'",
        )
        .fetch_one(&database.pool)
        .await
        .unwrap()
    };
    eventually("they are written", || async { stored().await == 18 }).await;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for event in events(&database).await.iter().filter(|event| event["event"] == "denied") {
        assert!(
            !event.to_string().contains("secret") && event["file"].is_null() && event["export"].is_null(),
            "{event}"
        );
        let detail = &event["detail"];
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let key = [
            text(&event["subject"]),
            text(&event["address"]),
            event["outcome"].to_string(),
            text(&detail["method"]),
            text(&detail["route"]),
        ];
        *counts.entry(key.join(" ")).or_default() += detail["count"].as_u64().unwrap();
    }
    let expected = [
        ("- 203.0.113.7 401 GET /fhir/Binary/{id}", 3),
        ("bob 127.0.0.1 403 GET /fhir/$export", 3),
        ("bob 127.0.0.1 404 DELETE /fhir/$export-poll-status", 3),
        ("bob 127.0.0.1 404 GET /fhir/$export-poll-status", 3),
        ("bob 127.0.0.1 404 GET /fhir/Binary/{id}", 6),
    ];
    assert_eq!(counts, expected.map(|(key, count)| (key.to_owned(), count)).into());
}

// What cannot be written down does not happen
#[tokio::test]
async fn without_its_ledger_nothing_is_handed_out() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let job = anybody.kick_off("").await;
    let url = job.completed().await.urls("output").remove(0);
    database.execute("alter table disclosure add constraint full_disk check (event not in ('kick-off', 'manifest', 'download', 'delete')) not valid").await;
    anybody.refused(anybody.export(""), 503).await;
    anybody.refused(anybody.get(&job.url), 503).await;
    anybody.refused(anybody.get(&url), 503).await;
    anybody.refused(anybody.request(Method::DELETE, &job.url), 503).await;
    assert_eq!(anybody.request(Method::HEAD, &url).send().await.unwrap().status(), StatusCode::OK);
    database.execute("alter table disclosure drop constraint full_disk").await;
    assert_eq!(database.count("export_job").await, 1, "what was refused has not begun");
    anybody.download(&url).await;
    assert_eq!(job.delete().await.status(), 202);
    let kinds: Vec<Value> = events(&database).await.into_iter().map(|event| event["event"].clone()).collect();
    assert!(
        ["begin", "kick-off", "manifest", "download", "delete"].iter().all(|kind| kinds.contains(&json!(kind))),
        "{kinds:?}"
    );
}

// The ledger never shrinks: nobody is to fill the disk with it
#[tokio::test]
async fn without_space_for_its_ledger_no_file_is_handed_out() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start(&database).await;
    let url = server.anybody().kick_off("").await.completed().await.urls("output").remove(0);
    let short = Server::start_with(&database, &[("database.disk_size", "1MiB")]).await;
    let (anybody, url) = (short.anybody(), url.replace(&server.base, &short.base));
    let response = anybody.get(&url).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let text = anybody.refused(anybody.get(&url), 503).await;
    assert!(text.starts_with("no-store: "), "{text}");
    assert_eq!(anybody.request(Method::HEAD, &url).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(count(&database, "download").await, 0);
}

#[tokio::test]
async fn a_long_request_is_noted_in_short() {
    let database = Database::create().await;
    database.put_patients(2_000).await;
    let server = Server::start(&database).await;
    let ids: Vec<String> = (0..2_000).map(|n| format!("p{n}")).collect();
    server.anybody().accepted(server.anybody().export_at(&format!("/Patient/$export?patient={}", ids.join(",")))).await;
    let events = events(&database).await;
    let detail = &events.iter().find(|event| event["event"] == "kick-off").unwrap()["detail"];
    assert_eq!(detail["cut"], json!({ "patients": 2_000 }));
    let patients = detail["request"]["patients"].as_array().unwrap();
    assert!((100..1_000).contains(&patients.len()), "{}", patients.len());
    let url = detail["request"]["url"].as_str().unwrap();
    assert!(url.contains("patient=p0,p1,") && url.contains(" characters, SHA-256 "), "{url}");
    assert!(detail.to_string().len() < 8_000);
}

// Exports come out of the ledger in whatever order, their events do not
#[tokio::test]
async fn audit_events_about_a_patient_come_in_their_order() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    let jobs = [anybody.kick_off("").await, anybody.kick_off("").await, anybody.kick_off("").await];
    for job in jobs.iter().chain(&jobs) {
        server.anybody().download(&job.completed().await.urls("output").remove(0)).await;
    }
    eventually("all is written", || async { count(&database, "sent").await == 6 }).await;
    let about =
        async |after: &str| asked(&database, &["--format", "audit-event", "--patient", "p", "--after", after]).await;
    let numbers = |events: &[Value]| -> Vec<u64> {
        events.iter().map(|event| event["id"].as_str().unwrap().parse().unwrap()).collect()
    };
    let all = numbers(&about("0").await);
    assert!(all.len() >= 1 + 3 + 6 + 12 && all.is_sorted(), "{all:?}");
    let middle = all.len() / 2;
    assert_eq!(numbers(&about(&all[middle].to_string()).await), all[middle + 1..]);
    // Of an export that goes on more files may come to hold data of the patient: nothing after that is told yet.
    let planner_waits = database.lock_writers().await;
    let job = server.anybody().kick_off("").await;
    server.anybody().get(&jobs[0].url).send().await.unwrap();
    assert_eq!(numbers(&about("0").await), all);
    drop(planner_waits);
    job.completed().await;
    assert!(numbers(&about("0").await).len() >= all.len() + 3);
}

/// What the command says, with its standard output somewhere.
async fn said_to(database: &Database, arguments: &[&str], out: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fhir-bulk-export"));
    command.arg("disclosures").args(arguments).env("DATABASE_URL", database.url()).stdout(out).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    tokio::task::spawn_blocking(move || {
        let mut child = child;
        // If it is a pipe, nobody reads it.
        drop(child.stdout.take());
        child.wait_with_output().unwrap()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn an_answer_that_cannot_be_written_is_none() {
    let database = Database::create().await;
    for arguments in
        [&[][..], &["--patient", "p"], &["--patient", "p", "--format", "json"], &["--format", "audit-event"]]
    {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let said = said_to(&database, arguments, full).await;
        assert!(!said.status.success() && !said.stderr.is_empty(), "{arguments:?}");
        let said = said_to(&database, arguments, Stdio::piped()).await;
        assert!(said.status.success() && said.stderr.is_empty(), "{arguments:?}: who reads no more knows it");
    }
}

// HEAD tells nobody anything
#[tokio::test]
async fn a_poll_without_an_answer_is_no_disclosure() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start(&database).await;
    let job = server.anybody().kick_off("").await;
    job.completed().await;
    let before = count(&database, "manifest").await;
    assert_eq!(server.anybody().request(Method::HEAD, &job.url).send().await.unwrap().status(), 200);
    assert_eq!(count(&database, "manifest").await, before);
}

#[tokio::test]
async fn what_is_denied_is_written_while_a_server_stops() {
    let (database, issuer, server) = set_up().await;
    drop(server);
    put_mebibytes(&database, 24).await;
    let settings = [("http.shutdown_grace", "600s".to_owned())];
    let mut server = Server::start_with(&database, &[trusting(&[&issuer]), settings.to_vec()].concat()).await;
    let roles = [&ROLES[..], &["Basic.search"]].concat();
    let alice = server.with_token(&issuer.ehealth_token("alice", &roles));
    let url = alice.kick_off("?_type=Basic").await.completed().await.urls("output").remove(0);
    let mut stalled = alice.get(&url).send().await.unwrap();
    stalled.chunk().await.unwrap().unwrap();
    server.anybody().refused(server.anybody().get(&url), 401).await;
    server.signal(Signal::TERM);
    eventually("it is written", || async { count(&database, "denied").await == 1 }).await;
    assert!(server.has_ended().is_none(), "a download is under way");
}

#[tokio::test]
async fn the_ledger_only_grows() {
    let (_server, database) = {
        let database = Database::create().await;
        database.put(&[PATIENT]).await;
        let server = Server::start(&database).await;
        server.anybody().kick_off("").await.completed().await;
        (server, database)
    };
    for table in ["disclosure", "disclosed_file"] {
        assert!(database.count(table).await > 0);
        for statement in
            [format!("delete from {table}"), format!("truncate {table}"), format!("update {table} set job_id = null")]
        {
            let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&database.pool).await.unwrap_err();
            assert!(refused.to_string().contains("only grows"), "{refused}");
        }
        assert!(database.count(table).await > 0);
    }
}

/// What every R4 AuditEvent must have.
fn check_audit_event(event: &Value) {
    assert_eq!(event["resourceType"], "AuditEvent");
    let is_coding = |coding: &Value| {
        coding["system"].as_str().is_some_and(|system| system.starts_with("http")) && coding["code"].is_string()
    };
    assert!(is_coding(&event["type"]) && is_coding(&event["subtype"][0]), "{event}");
    assert!(["C", "R", "U", "D", "E"].contains(&event["action"].as_str().unwrap()));
    assert!(["0", "4", "8", "12"].contains(&event["outcome"].as_str().unwrap()));
    assert!(event["recorded"].as_str().unwrap().ends_with('Z'));
    assert!(event["agent"][0]["requestor"].is_boolean());
    assert!(event["source"]["observer"]["display"].is_string());
    for entity in event["entity"].as_array().into_iter().flatten() {
        // sev-1
        assert!(entity.get("name").is_none() || entity.get("query").is_none());
        assert!(is_coding(&entity["type"]) && is_coding(&entity["role"]));
        for detail in entity["detail"].as_array().into_iter().flatten() {
            assert!(detail["type"].is_string() && detail["valueString"].is_string());
        }
    }
}

#[tokio::test]
async fn audit_events_go_on_where_they_ended_and_name_a_patient_only_when_asked() {
    let (database, issuer, server) = set_up().await;
    let other = Server::start_with(&database, &trusting(&[&issuer])).await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let job = alice.kick_off("").await;
    let manifest = job.completed().await;
    let elsewhere = other.with_token(&issuer.ehealth_token("alice", &ROLES));
    for url in manifest.urls("output") {
        elsewhere.download(&url.replace(&server.base, &other.base)).await;
    }
    elsewhere.refused(elsewhere.get("/Binary/x"), 404).await;
    job.delete().await;
    eventually("all is written", || async {
        count(&database, "sent").await == 2 && count(&database, "denied").await == 1
    })
    .await;

    let all = asked(&database, &["--format", "audit-event"]).await;
    all.iter().for_each(check_audit_event);
    assert_eq!(all.len(), events(&database).await.len());
    assert!(all.iter().all(|event| !event.to_string().contains("Patient/")), "nobody is named");
    let ids =
        |events: &[Value]| events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let (mut read, mut after) = (Vec::new(), "0".to_owned());
    while read.len() < all.len() {
        let rest = asked(&database, &["--format", "audit-event", "--after", &after]).await;
        after = rest[0]["id"].as_str().unwrap().to_owned();
        read.push(after.clone());
    }
    assert_eq!(read, ids(&all));
    assert_eq!(asked(&database, &["--format", "audit-event", "--after", &after]).await, [] as [Value; 0]);

    let of_patient = asked(&database, &["--format", "audit-event", "--patient", "p"]).await;
    of_patient.iter().for_each(check_audit_event);
    // The beginning; kick-off, manifest, the one file with the patient's data, delete.
    assert_eq!(of_patient.len(), 6);
    assert!(!of_patient[0].to_string().contains("Patient/"), "that is nothing about the patient");
    for event in &of_patient[1..] {
        let entities = event["entity"].as_array().unwrap();
        assert!(entities.iter().any(|entity| entity["what"]["reference"] == "Patient/p"), "{event}");
        assert_eq!(event["agent"][0]["who"]["identifier"], json!({ "system": issuer.url(), "value": "alice" }));
        assert_eq!(event["agent"][0]["network"], json!({ "address": "127.0.0.1", "type": "2" }));
    }
}

// One that commits late has a lower number than one that was read: it must not be missed
#[tokio::test]
async fn nothing_is_told_before_all_that_comes_before_it() {
    let database = Database::create().await;
    let mut late = database.pool.begin().await.unwrap();
    sqlx::query("insert into disclosure (event, address) values ('denied', 'late')").execute(&mut *late).await.unwrap();
    database.execute("insert into disclosure (event, address) values ('denied', 'soon')").await;
    let waits = "pg_stat_activity where pid <> pg_backend_pid() and query like '%disclosure_settled%'";
    let (told, ()) = tokio::join!(events(&database), async {
        eventually("the command waits", || async { database.count(waits).await > 0 }).await;
        // Meanwhile it stands in nobody's way for long.
        database
            .execute("set lock_timeout = '2s'; insert into disclosure (event, address) values ('denied', 'meanwhile')")
            .await;
        late.commit().await.unwrap();
    });
    let addresses: Vec<_> = told.iter().filter_map(|event| event["address"].as_str()).collect();
    assert_eq!(addresses, ["late", "soon", "meanwhile"]);
}

// A replica of the version before may have handed out files for as long as it was there
#[tokio::test]
async fn what_older_replicas_may_have_handed_out_is_said() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let server = Server::start(&database).await;
    server.anybody().kick_off("").await.completed().await;
    let is_known = async || exports_of(&database, "p", &[]).await[0]["downloadsKnown"].clone();
    let text =
        async || String::from_utf8(database.command("disclosures", &["--patient", "p"], b"").await.stdout).unwrap();
    let caveat = "may have handed out files of which nothing is written";
    assert_eq!(is_known().await, false);
    assert!(text().await.contains(caveat));
    database
        .execute(
            "alter table disclosure disable trigger refuse_to_forget;
            update disclosure set at = at - interval '2 days' where event = 'begin'",
        )
        .await;
    assert_eq!(is_known().await, true);
    let text = text().await;
    assert!(!text.contains(caveat) && text.contains("ledger begins"), "{text}");
}

// Exports of versions before the ledger: their owner is known, their files are not
#[tokio::test]
async fn what_is_not_known_is_said() {
    let database = Database::create().await;
    database
        .execute(
            "insert into export_job (id, owner_issuer, owner_subject, request, state)
            values ('00000000-0000-4000-8000-000000000007', 'i', 'old', '{}', 'accepted')",
        )
        .await;
    let told = asked(&database, &["--patient", "p", "--format", "json"]).await;
    assert!(told[0]["ledgerBegins"].is_string());
    assert_eq!(
        told[1],
        json!({ "export": "00000000-0000-4000-8000-000000000007", "issuer": "i", "subject": "old", "known": false })
    );
    assert_eq!(
        asked(&database, &["--patient", "p", "--format", "json", "--since", "2999-01-01"]).await,
        [] as [Value; 0]
    );
    for wrong in [["--patient", "Device/p"], ["--patient", "a b"], ["--since", "yesterday"]] {
        assert!(!database.command("disclosures", &wrong, b"").await.status.success(), "{wrong:?}");
    }
}
