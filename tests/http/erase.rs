//! `erase Patient/X`: what is stored of a patient goes, whoever it was handed to, and who that was stays known.

use serde_json::{Value, json};

use crate::support::{Database, Server, eventually};

fn patient(id: &str) -> String {
    json!({ "resourceType": "Patient", "id": id }).to_string()
}

fn observation(id: &str, patient: &str, status: &str) -> String {
    let subject = json!({ "reference": format!("Patient/{patient}") });
    json!({ "resourceType": "Observation", "id": id, "status": status, "subject": subject }).to_string()
}

fn group(members: &[&str]) -> String {
    let member = |id: &&str| json!({ "entity": { "reference": format!("Patient/{id}") } });
    let members: Vec<_> = members.iter().map(member).collect();
    json!({ "resourceType": "Group", "id": "g", "type": "person", "actual": true, "member": members }).to_string()
}

fn provenance(id: &str, targets: &[&str]) -> String {
    let targets: Vec<_> = targets.iter().map(|target| json!({ "reference": target })).collect();
    json!({ "resourceType": "Provenance", "id": id, "target": targets }).to_string()
}

/// Two patients, one of whom has Observations that were changed and deleted.
async fn filled() -> Database {
    let database = Database::create().await;
    database.put(&[&patient("x"), &patient("y"), &observation("x1", "x", "registered")]).await;
    database.put(&[&observation("x1", "x", "final"), &observation("x2", "x", "final")]).await;
    database.put(&[&observation("y1", "y", "final")]).await;
    database.delete("Observation", "x2").await;
    database
}

/// Runs it, and gives whether it was done and what it said.
async fn erase(database: &Database, arguments: &[&str]) -> (bool, String) {
    let output = database.command("erase", arguments, b"").await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

async fn mentions_of_x(database: &Database) -> i64 {
    database.count("resource where 'x' = any(mentions) or id like 'x%'").await
}

#[tokio::test]
async fn versions_tombstones_and_exports_of_a_patient_go() {
    let database = filled().await;
    let server = Server::start(&database).await;
    let before = server.anybody().kick_off("").await;
    let manifest = before.completed().await;
    let file = manifest.urls("output").remove(0);
    server.anybody().download(&file).await;
    let of_y = server.anybody();
    let of_y = of_y.accepted(of_y.export_at("/Patient/y/$export")).await;
    of_y.completed().await;
    assert_eq!(mentions_of_x(&database).await, 5);

    let (done, told) = erase(&database, &["Patient/x"]).await;
    assert!(done && told.contains("5 versions and tombstones and 1 exports"), "{told}");
    assert_eq!(mentions_of_x(&database).await, 0);
    assert_eq!(before.poll().await.status(), 404);
    assert_eq!(server.anybody().get(&file).send().await.unwrap().status(), 404);
    // What is somebody else's stays, exports of it too.
    assert_eq!(of_y.poll().await.status(), 200);
    assert_eq!(database.count("binary_chunk").await, 2);
    let since = manifest.transaction_time().replace('+', "%2B");
    let manifest = server.anybody().kick_off(&format!("?_since={since}")).await.completed().await;
    assert!(manifest.deletions().await.is_empty() && manifest.resources().await.is_empty());
    let manifest = server.anybody().kick_off("").await.completed().await;
    assert_eq!(manifest.resources().await.into_keys().collect::<Vec<_>>(), ["Observation/y1", "Patient/y"]);
    for table in ["resource_patient", "resource_observation", "binary_chunk_0"] {
        let vacuumed = format!("pg_stat_user_tables where relname = '{table}' and last_vacuum is not null");
        eventually("it is vacuumed", || async { database.count(&vacuumed).await == 1 }).await;
    }

    let told = database.command("disclosures", &["--patient", "x"], b"").await;
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains(before.id()) && !told.contains(of_y.id()), "{told}");
    assert!(told.contains("downloaded whole"), "{told}");
    let erasures = "disclosure where event = 'erase' and detail ->> 'patient' = 'Patient/x'";
    assert_eq!(database.count(erasures).await, 2);
    let (done, told) = erase(&database, &["Patient/x"]).await;
    assert!(done && told.contains("0 versions and tombstones and 0 exports"), "{told}");
}

#[tokio::test]
async fn what_tells_of_others_goes_only_if_that_is_asked_for() {
    let database = filled().await;
    database.put(&[&group(&["x", "y"])]).await;
    let (done, told) = erase(&database, &["Patient/x"]).await;
    assert!(!done && told.contains("Group/g") && told.contains("--shared"), "{told}");
    assert_eq!(mentions_of_x(&database).await, 6);
    // Without the patient it may stay; the version with the patient goes.
    database.put(&[&group(&["y"])]).await;
    assert!(erase(&database, &["Patient/x"]).await.0);
    assert_eq!(mentions_of_x(&database).await, 0);
    assert_eq!(database.count("resource where resource_type = 'Group'").await, 1);
    database.put(&[&patient("x"), &group(&["x", "y"])]).await;
    assert!(erase(&database, &["Patient/x", "--shared"]).await.0);
    assert_eq!(
        database.count("resource where resource_type = 'Group' and superseded_at = 'infinity' and not deleted").await,
        0
    );
}

#[tokio::test]
async fn an_export_under_way_stands_against_it_unless_it_may_be_cancelled() {
    let database = filled().await;
    database.hold_parts().await;
    let server = Server::start(&database).await;
    let (all, of_y) = (server.anybody().kick_off("").await, server.anybody());
    let of_y = of_y.accepted(of_y.export_at("/Patient/y/$export")).await;
    let devices = server.anybody().kick_off("?_type=Device").await;
    eventually("they run", || async { database.count("export_job where state = 'running'").await >= 2 }).await;
    let (done, told) = erase(&database, &["Patient/x"]).await;
    assert!(!done && told.contains("--cancel") && told.contains(all.id()), "{told}");
    assert!(!told.contains(of_y.id()) && !told.contains(devices.id()), "{told}");
    assert_eq!(mentions_of_x(&database).await, 5);
    let (done, told) = erase(&database, &["Patient/x", "--cancel"]).await;
    assert!(done && told.contains("1 exports"), "{told}");
    assert_eq!(all.poll().await.status(), 404);
    database.let_parts_go().await;
    let manifest = of_y.completed().await;
    assert_eq!(manifest.resources().await.into_keys().collect::<Vec<_>>(), ["Observation/y1", "Patient/y"]);
    devices.completed().await;
}

#[tokio::test]
async fn where_the_data_of_a_patient_comes_from_goes_too() {
    let database = filled().await;
    let of_x = ["Observation/x1", "Patient/x"];
    database.put(&[&provenance("x3", &of_x), &provenance("y3", &["Observation/y1"])]).await;
    database.put(&[&provenance("x4", &of_x[..1])]).await;
    database.delete("Provenance", "x4").await;
    assert!(erase(&database, &["Patient/x"]).await.0);
    assert_eq!(mentions_of_x(&database).await, 0);
    assert_eq!(database.count("resource where resource_type = 'Provenance'").await, 1);
    database.put(&[&patient("x"), &provenance("xy", &["Patient/x", "Observation/y1"])]).await;
    let (done, told) = erase(&database, &["Patient/x"]).await;
    assert!(!done && told.contains("Provenance/xy"), "{told}");
}

#[tokio::test]
async fn what_was_the_patients_by_mistake_stays_with_whose_it_is() {
    let database = filled().await;
    database.put(&[&observation("o", "x", "final"), &group(&["x", "y"])]).await;
    let provenances = [provenance("of-o", &["Observation/o"]), provenance("of-g", &["Group/g"])];
    database.put(&[&observation("o", "y", "final"), &group(&["y"]), &provenances[0], &provenances[1]]).await;
    database.put(&[&observation("p", "y", "final")]).await;
    database.put(&[&observation("p", "x", "final")]).await;
    let (done, told) = erase(&database, &["Patient/x"]).await;
    assert!(done, "{told}");
    assert_eq!(mentions_of_x(&database).await, 0);
    let current = "resource where superseded_at = 'infinity' and not deleted and resource_type = ";
    assert_eq!(database.count(&format!("{current}'Provenance'")).await, 2);
    assert_eq!(database.count(&format!("{current}'Observation' and id in ('o', 'y1')")).await, 2);
    // What was last the patient's ends without naming anybody, and goes on counting.
    database.put(&[&observation("p", "y", "amended")]).await;
    let versions = "resource where resource_type = 'Observation' and id = 'p' and version_id in (1, 3, 4)";
    assert_eq!(database.count(versions).await, 3);
}

// The set of a file of everybody's Provenances names nobody
#[tokio::test]
async fn files_of_provenances_go_with_what_they_are_about() {
    let database = filled().await;
    database.put(&[&provenance("x3", &["Observation/x1"]), &provenance("y3", &["Observation/y1"])]).await;
    let server = Server::start(&database).await;
    let job = server.anybody().kick_off("?_type=Provenance").await;
    job.completed().await;
    let of_y = server.anybody();
    let of_y = of_y.accepted(of_y.export_at("/Patient/y/$export?_type=Provenance")).await;
    of_y.completed().await;
    assert!(erase(&database, &["Patient/x"]).await.0);
    assert_eq!(job.poll().await.status(), 404);
    assert_eq!(of_y.poll().await.status(), 200);
}

// Of exports of others it may be known only by what they refer to
#[tokio::test]
async fn an_export_that_follows_references_stands_against_it_too() {
    let database = filled().await;
    let device = json!({ "resourceType": "Device", "id": "x5", "patient": { "reference": "Patient/x" } }).to_string();
    database.put(&[&device]).await;
    database.hold_parts().await;
    let server = Server::start_with(&database, &[("include.referenced", r#"["Device"]"#)]).await;
    let of_y = server.anybody();
    let of_y = of_y.accepted(of_y.export_at("/Patient/y/$export")).await;
    eventually("it runs", || async { database.count("export_job where state = 'running'").await == 1 }).await;
    let (done, told) = erase(&database, &["Patient/x"]).await;
    assert!(!done && told.contains(of_y.id()), "{told}");
    database.let_parts_go().await;
    of_y.completed().await;
}

#[tokio::test]
async fn it_is_said_if_an_old_transaction_keeps_it_in_the_tables() {
    let database = filled().await;
    let mut old = database.pool.begin().await.unwrap();
    sqlx::query("set transaction isolation level repeatable read").execute(&mut *old).await.unwrap();
    sqlx::query("select count(*) from resource").execute(&mut *old).await.unwrap();
    let (done, told) = erase(&database, &["Patient/x"]).await;
    old.rollback().await.unwrap();
    assert!(done && told.contains("Transactions that are open"), "{told}");
}

// Whoever downloads it gets no more of it
#[tokio::test]
async fn a_file_goes_though_it_is_being_downloaded() {
    let database = filled().await;
    let server = Server::start(&database).await;
    let job = server.anybody().kick_off("?_type=Observation").await;
    job.completed().await;
    database.execute("update binary_file set held_until = clock_timestamp() + interval '1 hour'").await;
    assert!(erase(&database, &["Patient/x"]).await.0);
    assert_eq!(database.count("binary_file").await + database.count("binary_chunk").await, 0);
}

#[tokio::test]
async fn only_a_patient_can_be_erased() {
    let database = filled().await;
    for wrong in ["x", "Observation/x1", "Patient/", "Patient/x/y", "Patient/x y", "https://a.example/Patient/x"] {
        let (done, told) = erase(&database, &[wrong]).await;
        assert!(!done && told.contains("Patient/ and the id"), "{wrong}: {told}");
    }
    let output = database.command("disclosures", &["--format", "audit-event"], b"").await;
    assert!(output.status.success());
    assert!(erase(&database, &["Patient/y"]).await.0);
    let output = database.command("disclosures", &["--format", "audit-event"], b"").await;
    let events: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let erased = events.last().unwrap();
    assert_eq!((&erased["resourceType"], &erased["action"]), (&json!("AuditEvent"), &json!("D")));
    assert!(!erased.to_string().contains("Patient/y"), "nobody is named unless asked for");
    for (patient, is_erased) in [("y", true), ("x", false)] {
        let arguments = ["--format", "audit-event", "--patient", patient];
        let text = String::from_utf8(database.command("disclosures", &arguments, b"").await.stdout).unwrap();
        assert_eq!(text.contains("Patient/y") && text.contains("erase"), is_erased, "{text}");
    }
}
