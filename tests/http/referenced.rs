//! `include.referenced`: what is outside the Patient compartment, but referred to from it (rules H1, H8, B18, G4).

use std::time::Duration;

use reqwest::RequestBuilder;
use rustix::process::Signal;
use sqlx::postgres::PgListener;

use crate::support::{Caller, Database, Issuer, Job, Manifest, Server, eventually, trusting};

const TYPES: &str = r#"["Practitioner", "Organization", "Location", "Medication"]"#;

async fn server(database: &Database) -> Server {
    Server::start_with(database, &[("include.referenced", TYPES)]).await
}

async fn export(caller: &Caller, path: &str) -> Manifest {
    caller.accepted(caller.export_at(path)).await.completed().await
}

async fn names(caller: &Caller, path: &str) -> String {
    export(caller, path).await.resources().await.into_keys().collect::<Vec<_>>().join(" ")
}

fn named(type_name: &str, id: &str) -> String {
    format!(r#"{{"resourceType":"{type_name}","id":"{id}"}}"#)
}

fn observation(id: &str, patient: &str, performers: &[&str]) -> String {
    let performers: Vec<_> = performers.iter().map(|of| format!(r#"{{"reference":"{of}"}}"#)).collect();
    let performers = performers.join(",");
    format!(
        r#"{{"resourceType":"Observation","id":"{id}","subject":{{"reference":"Patient/{patient}"}},"performer":[{performers}]}}"#
    )
}

/// Two patients, and what their resources refer to in one way or another.
async fn fill(database: &Database, base: &str) {
    for id in ["relative", "versioned", "absolute", "escaped", "shared", "far", "foreign", "nobodys", "of-b"] {
        database.put(&[&named("Practitioner", id)]).await;
    }
    let absolute = format!("{base}/Practitioner/absolute/_history/7");
    let of_a = [
        "Practitioner/relative",
        "Practitioner/versioned/_history/1",
        &absolute,
        r"Practitioner\/escaped",
        "https://other.example.org/fhir/Practitioner/foreign",
        "Practitioner/missing",
        "#contained",
        "Practitioner/shared",
        "Task/t",
    ];
    let long = "x".repeat(2_500_000);
    database
        .put(&[
            r#"{"resourceType":"Patient","id":"a","managingOrganization":{"reference":"Organization/one-step"}}"#,
            &named("Patient", "b"),
            r#"{"resourceType":"Organization","id":"one-step","partOf":{"reference":"Organization/two-steps"}}"#,
            &named("Organization", "two-steps"),
            &named("Location", "nobody-was-there"),
            &named("Task", "t"),
            &observation("of-a", "a", &of_a),
            // By identifier, in a text, in a contained resource.
            r#"{"resourceType":"Observation","id":"logical","subject":{"reference":"Patient/a"},"performer":[{"type":"Practitioner","identifier":{"value":"Practitioner/nobodys"}}],"valueString":"\"reference\":\"Practitioner/nobodys\""}"#,
            &format!(r#"{{"resourceType":"Observation","id":"long","subject":{{"reference":"Patient/a"}},"valueString":"{long}","performer":[{{"reference":"Practitioner/far"}}]}}"#),
            &observation("of-b", "b", &["Practitioner/of-b", "Practitioner/shared"]),
            r#"{"resourceType":"Group","id":"g","member":[{"entity":{"reference":"Patient/b"}}]}"#,
        ])
        .await;
}

const OF_A: &str = "Practitioner/absolute Practitioner/escaped Practitioner/far Practitioner/relative Practitioner/shared \
    Practitioner/versioned";

// H1, H8: one step, each once, in every form that means a resource of this server
#[tokio::test]
async fn what_is_referred_to_comes_once() {
    let database = Database::create().await;
    let server = server(&database).await;
    fill(&database, &server.base).await;
    let anybody = server.anybody();
    let all = "Observation/logical Observation/long Observation/of-a Organization/one-step Patient/a";
    assert_eq!(names(&anybody, "/Patient/a/$export").await, format!("{all} {OF_A}"));
    let of_b = "Group/g Observation/of-b Patient/b Practitioner/of-b Practitioner/shared";
    assert_eq!(names(&anybody, "/Patient/$export?patient=b&_includeHistory=true").await, of_b);
    assert_eq!(names(&anybody, "/Group/g/$export").await, of_b);
    let both = names(&anybody, "/Patient/$export").await;
    assert_eq!(both.matches("Practitioner/").count(), 7, "{both}");
    assert_eq!(names(&anybody, "/$export?_type=Patient").await, "Patient/a Patient/b", "not of the whole system");
    assert_eq!(names(&anybody, "/$export?_type=Organization").await, "Organization/one-step Organization/two-steps");
    // They go with their job.
    assert!(database.count("export_reference").await > 0);
    database.execute("delete from binary_chunk; delete from binary_file; delete from export_job").await;
    assert_eq!(database.count("export_reference").await, 0);
    let definition = anybody.get("/OperationDefinition/Group-i-export").send().await.unwrap().text().await.unwrap();
    assert!(definition.contains("Location, Medication, Organization, Practitioner to which"), "{definition}");
    // Off unless it is configured.
    let other = Server::start(&database).await;
    assert_eq!(names(&other.anybody(), "/Patient/b/$export").await, "Group/g Observation/of-b Patient/b");
    let anybody = other.anybody();
    anybody.refused(anybody.export_at("/Patient/$export?_type=Patient,Practitioner"), 400).await;
}

// G4, G5
#[tokio::test]
async fn types_and_elements_limit_it() {
    let database = Database::create().await;
    let server = server(&database).await;
    fill(&database, &server.base).await;
    let anybody = server.anybody();
    let typed = names(&anybody, "/Patient/a/$export?_type=Observation,Practitioner").await;
    assert_eq!(typed, format!("Observation/logical Observation/long Observation/of-a {OF_A}"));
    assert_eq!(names(&anybody, "/Patient/a/$export?_type=Patient,Practitioner").await, "Patient/a");
    assert_eq!(names(&anybody, "/Patient/a/$export?_type=Patient").await, "Patient/a");
    let text = anybody.refused(anybody.export_at("/Patient/a/$export?_type=Practitioner"), 400).await;
    assert!(text.contains("where others refer to them"), "{text}");
    anybody.refused(anybody.export_at("/Patient/a/$export?_type=Patient,Device"), 400).await;
    // What is cut off refers to nothing.
    let cut = names(
        &anybody,
        "/Patient/a/$export?_type=Patient,Observation,Practitioner,Organization&_elements=Observation.status",
    )
    .await;
    assert_eq!(cut, "Observation/logical Observation/long Observation/of-a Organization/one-step Patient/a");
    let cut = export(&anybody, "/Patient/a/$export?_elements=id,managingOrganization,partOf").await.resources().await;
    assert!(cut["Organization/one-step"].contains("SUBSETTED") && cut["Organization/one-step"].contains("partOf"));
    assert_eq!(cut.keys().filter(|name| name.starts_with("Practitioner/")).count(), 0);
}

// B18, G2, G3, E14
#[tokio::test]
async fn it_comes_whether_or_not_it_has_changed() {
    let database = Database::create().await;
    let server = server(&database).await;
    let anybody = server.anybody();
    database.put(&[&named("Patient", "a"), &named("Practitioner", "old"), &named("Practitioner", "gone")]).await;
    let first = export(&anybody, "/Patient/$export").await;
    let since = first.transaction_time();
    database.put(&[&observation("o", "a", &["Practitioner/old", "Practitioner/late", "Practitioner/gone"])]).await;
    database.delete("Practitioner", "gone").await;
    let second = export(&anybody, &format!("/Patient/$export?_since={since}")).await;
    assert_eq!(second.resources().await.into_keys().collect::<Vec<_>>().join(" "), "Observation/o Practitioner/old");
    assert!(second.deletions().await.is_empty(), "of what belongs to nobody no deletion is told");
    let until = second.transaction_time();
    tokio::time::sleep(Duration::from_millis(5)).await;
    database.put(&[&named("Practitioner", "late")]).await;
    let until = names(&anybody, &format!("/Patient/$export?_until={until}")).await;
    assert!(!until.contains("Practitioner/late"), "{until}");
    let all = names(&anybody, "/Patient/$export").await;
    assert_eq!(all, "Observation/o Patient/a Practitioner/late Practitioner/old");
    database.put(&[r#"{"resourceType":"Practitioner","id":"late","active":true}"#]).await;
    let history = export(&anybody, "/Patient/$export?_includeHistory=true").await.resources().await;
    assert!(history["Practitioner/late"].contains("active"), "once, as it is now");
}

// A33, B15
#[tokio::test]
async fn only_granted_types_come() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let mut settings = trusting(&[&issuer]);
    settings.push(("include.referenced", TYPES.to_owned()));
    let server = Server::start_with(&database, &settings).await;
    database
        .put(&[
            r#"{"resourceType":"Patient","id":"a","generalPractitioner":[{"reference":"Practitioner/x"}],"managingOrganization":{"reference":"Organization/y"}}"#,
            &named("Practitioner", "x"),
            &named("Organization", "y"),
        ])
        .await;
    let roles = ["$bulk-export", "Binary.read", "Patient.search", "Organization.search"];
    let alice = server.with_token(&issuer.ehealth_token("alice", &roles));
    assert_eq!(names(&alice, "/Patient/$export").await, "Organization/y Patient/a");
    alice.refused(alice.export_at("/Patient/$export?_type=Patient,Practitioner"), 403).await;
    assert_eq!(names(&alice, "/Patient/$export?_type=Patient,Organization").await, "Organization/y Patient/a");
}

/// A job whose first parts have read, and cannot store what they have read until the transaction ends.
async fn held(
    database: &Database,
    request: RequestBuilder,
    caller: &Caller,
) -> (Job, sqlx::Transaction<'static, sqlx::Postgres>) {
    let mut busy = database.pool.begin().await.unwrap();
    sqlx::query("lock table binary_file in share mode").execute(&mut *busy).await.unwrap();
    let job = caller.accepted(request).await;
    eventually("it runs", || async { database.count("export_part where state = 'running'").await > 0 }).await;
    (job, busy)
}

// E3, DESIGN 2: the state at the transaction time; and who waits is woken when the first stage has ended
#[tokio::test]
async fn it_is_of_the_transaction_time_and_nobody_waits_for_a_poll() {
    let database = Database::create().await;
    let settings = [("include.referenced", TYPES), ("export.fallback_poll", "1h"), ("export.workers", "2")];
    let server = Server::start_with(&database, &settings).await;
    let names = ["changed", "deleted", "same"].map(|id| format!("Practitioner/{id}"));
    database
        .put(&[
            &named("Practitioner", "changed"),
            &named("Practitioner", "deleted"),
            &named("Practitioner", "same"),
            &named("Patient", "a"),
            &observation("o", "a", &[&names[0], &names[1], &names[2], "Practitioner/new"]),
        ])
        .await;
    let anybody = server.anybody();
    let (job, busy) = held(&database, anybody.export_at("/Patient/$export"), &anybody).await;
    database.put(&[r#"{"resourceType":"Practitioner","id":"changed","active":true}"#]).await;
    database.put(&[&named("Practitioner", "new")]).await;
    database.delete("Practitioner", "deleted").await;
    // Nobody is to take what is not known yet.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(database.count("export_part where stage = 'referenced' and attempt > 0").await, 0);
    let mut listener = PgListener::connect_with(&database.pool).await.unwrap();
    listener.listen("export_work").await.unwrap();
    busy.rollback().await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), listener.recv()).await.unwrap().unwrap();
    assert_eq!(told.payload(), "", "that there is work, before the end is told");
    let resources = job.completed().await.resources().await;
    let found: Vec<_> = resources.keys().filter(|name| name.starts_with("Practitioner/")).collect();
    assert_eq!(found, names.iter().collect::<Vec<_>>());
    assert!(!resources["Practitioner/changed"].contains("active"), "{}", resources["Practitioner/changed"]);
}

// DESIGN 5: what an attempt that was lost has noted is not there; what others found meanwhile is, once
#[tokio::test]
async fn many_parts_and_lost_workers_neither_lose_nor_repeat_it() {
    let database = Database::create().await;
    let practitioners: Vec<_> = (0..300).map(|n| named("Practitioner", &format!("d{n}"))).collect();
    database.put(&practitioners.iter().map(String::as_str).collect::<Vec<_>>()).await;
    database.put_patients(1).await;
    let text = "x".repeat(2_000);
    let observations: Vec<_> = (0..600)
        .map(|n| {
            // In another order in each part.
            let performers = [0, 1, 2].map(|k| format!("Practitioner/d{}", (n * 7 + k * 100) % 300));
            let of = observation(&format!("o{n}"), "p0", &performers.each_ref().map(String::as_str));
            of.replacen(r#","subject""#, &format!(r#","valueString":"{text}","subject""#), 1)
        })
        .collect();
    for batch in observations.chunks(100) {
        database.put(&batch.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let settings = [
        ("include.referenced", TYPES),
        ("export.workers", "4"),
        ("export.lease", "1s"),
        ("export.file_target", "64KiB"),
    ];
    let first = Server::start_with(&database, &settings).await;
    let (job, busy) = held(&database, first.anybody().export_at("/Patient/$export"), &first.anybody()).await;
    first.signal(Signal::KILL);
    let second = Server::start_with(&database, &settings).await;
    busy.rollback().await.unwrap();
    assert!(database.count("export_part where stage = 'output'").await > 4);
    let resources = job.at(&second).completed().await.resources().await;
    assert_eq!(resources.len(), 300 + 1 + 600);
    assert!(database.count("export_part where attempt > 1").await > 0, "{}", second.log());
}
