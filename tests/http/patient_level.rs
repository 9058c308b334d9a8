//! `Patient/$export`, `Patient/{id}/$export` and the parameter `patient` (rules B1, B3, G6, H1 to H4, H10, H11).

use reqwest::RequestBuilder;

use crate::support::{Caller, Database, Issuer, Server, secured::ROLES, trusting};

const RESOURCES: [&str; 11] = [
    r#"{"resourceType":"Patient","id":"a"}"#,
    r#"{"resourceType":"Patient","id":"b","link":[{"other":{"reference":"Patient/a"}}]}"#,
    r#"{"resourceType":"Observation","id":"of-a","subject":{"reference":"Patient/a"}}"#,
    r#"{"resourceType":"Observation","id":"of-b","subject":{"reference":"https://x/fhir/Patient/b/_history/1"}}"#,
    r#"{"resourceType":"Observation","id":"of-nobody","subject":{"reference":"Group/g"}}"#,
    r#"{"resourceType":"Appointment","id":"of-both","participant":[{"actor":{"reference":"Patient/a"}},{"actor":{"reference":"Patient/b"}}]}"#,
    r#"{"resourceType":"Task","id":"t","for":{"reference":"Patient/a"}}"#,
    r#"{"resourceType":"Provenance","id":"about-of-a","target":[{"display":"x"},{"reference":"Observation/of-a"}]}"#,
    r#"{"resourceType":"Provenance","id":"about-b","target":[{"reference":"https://x/fhir/Patient/b/_history/1"}]}"#,
    r#"{"resourceType":"Provenance","id":"about-task","target":[{"reference":"Task/t"},{"reference":"\u0000"}]}"#,
    r#"{"resourceType":"Provenance","id":"about-both","target":[{"reference":"http://x/Appointment/of-both/_history/3"}]}"#,
];

const OF_A: &str = "Appointment/of-both Observation/of-a Patient/a Patient/b Provenance/about-b \
    Provenance/about-both Provenance/about-of-a";
const OF_B: &str = "Appointment/of-both Observation/of-b Patient/b Provenance/about-b Provenance/about-both";

async fn set_up() -> (Database, Server) {
    let database = Database::create().await;
    database.put(&RESOURCES).await;
    let server = Server::start(&database).await;
    (database, server)
}

async fn names(caller: &Caller, request: RequestBuilder) -> String {
    let manifest = caller.accepted(request).await.completed().await;
    manifest.resources().await.into_keys().collect::<Vec<_>>().join(" ")
}

// H1 to H4, G8
#[tokio::test]
async fn all_patients_are_all_compartments() {
    let (_database, server) = set_up().await;
    let anybody = server.anybody();
    let all = "Appointment/of-both Observation/of-a Observation/of-b Patient/a Patient/b Provenance/about-b \
        Provenance/about-both Provenance/about-of-a";
    let manifest = anybody.accepted(anybody.export_at("/Patient/$export?_format=json")).await.completed().await;
    assert_eq!(manifest.resources().await.into_keys().collect::<Vec<_>>().join(" "), all);
    assert_eq!(manifest.json["request"], format!("{}/Patient/$export?_format=json", server.base), "E2");
    assert_eq!(names(&anybody, anybody.export_by_post_at("/Patient/$export", "")).await, all);
    assert_eq!(names(&anybody, anybody.export_at("/Patient/$export?_type=Patient")).await, "Patient/a Patient/b");
}

// H11, G6, B3
#[tokio::test]
async fn one_patient_or_some_by_url_or_parameter() {
    let (_database, server) = set_up().await;
    let anybody = server.anybody();
    assert_eq!(names(&anybody, anybody.export_at("/Patient/a/$export")).await, OF_A);
    assert_eq!(names(&anybody, anybody.export_by_post_at("/Patient/b/$export", "")).await, OF_B);
    for query in ["patient=Patient/a", "patient=a", "patient=Patient/a,https://x/fhir/Patient/a&patient=a"] {
        assert_eq!(names(&anybody, anybody.export_at(&format!("/Patient/$export?{query}"))).await, OF_A, "{query}");
    }
    for value in [r#""valueReference":{"reference":"Patient/b"}"#, r#""valueString":"Patient/b""#, r#""valueId":"b""#] {
        let body = format!(r#"{{"resourceType":"Parameters","parameter":[{{"name":"patient",{value}}}]}}"#);
        assert_eq!(names(&anybody, anybody.export_by_post_at("/Patient/$export", &body)).await, OF_B, "{value}");
    }
    let both = anybody.export_at("/Patient/$export?patient=a,b&_type=Observation");
    assert_eq!(names(&anybody, both).await, "Observation/of-a Observation/of-b");
    assert_eq!(
        names(&anybody, anybody.export_at("/Patient/a/$export?patient=a&_type=Appointment")).await,
        "Appointment/of-both"
    );
}

// B5, G4, G6, H11
#[tokio::test]
async fn what_is_not_there_or_not_in_the_compartment_is_refused() {
    let (database, server) = set_up().await;
    let anybody = server.anybody();
    for (path, status, word) in [
        ("/Patient/nobody/$export", 404, "Patient/nobody"),
        ("/Patient/%61%20/$export", 404, "Patient/"),
        ("/Patient/$export?patient=a,nobody", 404, "Patient/nobody"),
        ("/Patient/a/$export?patient=b", 400, "Patient/b"),
        ("/Patient/$export?patient=Group/g", 400, "Group/g"),
        ("/Patient/$export?_type=Task", 400, "do not contain search parameters that refer to patients"),
        ("/Patient/$export?_type=Patient,Task", 400, "[Task]"),
        ("/$export?patient=a", 400, "patient"),
    ] {
        let text = anybody.refused(anybody.export_at(path), status).await;
        assert!(text.contains(word), "{path}: {text}");
    }
    assert_eq!(database.count("export_job").await, 0);
    let lenient = |path: &str| anybody.export_at(path).header("prefer", "handling=lenient");
    anybody.refused(lenient("/Patient/$export?_type=Task"), 400).await;
    anybody.refused(lenient("/Patient/nobody/$export"), 404).await;
    let path = "/Patient/b/$export?_type=Patient,Task&patient=b,a,nobody";
    let manifest = anybody.accepted(lenient(path)).await.completed().await;
    assert_eq!(manifest.resources().await.into_keys().collect::<Vec<_>>(), ["Patient/b"]);
    let told = manifest.lines("error").await.into_iter().map(|(_, line)| line).collect::<String>();
    for word in ["[Task]", "Patient/nobody", "Patient/a "] {
        assert!(told.contains(word), "{told}");
    }
}

// E14, G2, L9: deletions of the patients asked for, and of what was about their resources
#[tokio::test]
async fn deletions_are_those_of_the_patients() {
    let (database, server) = set_up().await;
    let anybody = server.anybody();
    let first = anybody.accepted(anybody.export_at("/Patient/$export")).await.completed().await;
    let since = first.transaction_time().to_owned();
    for (type_name, id) in [
        ("Observation", "of-a"),
        ("Observation", "of-b"),
        ("Observation", "of-nobody"),
        ("Task", "t"),
        ("Provenance", "about-of-a"),
        ("Provenance", "about-b"),
        ("Provenance", "about-task"),
    ] {
        database.delete(type_name, id).await;
    }
    let deleted = async |path: &str| {
        let manifest = anybody.accepted(anybody.export_at(&format!("{path}?_since={since}"))).await.completed().await;
        assert!(manifest.resources().await.is_empty());
        let mut deletions = manifest.deletions().await;
        deletions.sort();
        deletions.join(" ")
    };
    assert_eq!(deleted("/Patient/a/$export").await, "Observation/of-a Provenance/about-b Provenance/about-of-a");
    assert_eq!(deleted("/Patient/b/$export").await, "Observation/of-b Provenance/about-b");
    let all = "Observation/of-a Observation/of-b Provenance/about-b Provenance/about-of-a";
    assert_eq!(deleted("/Patient/$export").await, all);
}

// H10: what a version before targets had a column of their own has written
#[tokio::test]
async fn a_provenance_of_an_older_version_is_read_from_its_body() {
    let (database, server) = set_up().await;
    database.execute("update resource set targets = null").await;
    let anybody = server.anybody();
    let names = async |path: &str| names(&anybody, anybody.export_at(path)).await;
    let of_all = "Provenance/about-b Provenance/about-both Provenance/about-of-a";
    assert_eq!(names("/Patient/a/$export?_type=Provenance").await, of_all);
    assert_eq!(names("/Patient/b/$export?_type=Provenance").await, "Provenance/about-b Provenance/about-both");
    assert_eq!(names("/Patient/$export?_type=Provenance").await, of_all);
    database.delete("Provenance", "about-of-a").await;
    let since = "_since=2020-01-01T00:00:00Z";
    let path = format!("/Patient/a/$export?_type=Provenance&{since}");
    let manifest = anybody.accepted(anybody.export_at(&path)).await.completed().await;
    assert_eq!(manifest.deletions().await, ["Provenance/about-of-a"]);
}

// A large store gets its indexes while it is in use; nothing waits for them, and nothing is missing meanwhile.
#[tokio::test]
async fn indexes_that_are_missing_are_made_by_the_server() {
    let database = Database::create().await;
    database.put(&RESOURCES).await;
    let count = "pg_index where indisvalid and indexrelid in
        (to_regclass('resource_observation_patients'), to_regclass('resource_provenance_targets'))";
    database.execute("drop index resource_observation_patients, resource_provenance_targets").await;
    // What is left of an attempt that was cut off.
    database.execute("create index resource_observation_patients on resource_observation using gin (patients)").await;
    let invalid = "update pg_index set indisvalid = false where indexrelid = 'resource_observation_patients'::regclass";
    database.execute(invalid).await;
    // Somebody else is at it.
    let mut lock = database.pool.acquire().await.unwrap();
    sqlx::query("select pg_advisory_lock(x'66686972000004'::bigint)").execute(&mut *lock).await.unwrap();
    let server = Server::start(&database).await;
    let anybody = server.anybody();
    assert_eq!(names(&anybody, anybody.export_at("/Patient/a/$export")).await, OF_A);
    assert_eq!(database.count(count).await, 0);
    let text = anybody.refused(anybody.export_at("/Patient/a/$export?organizeOutputBy=Patient"), 503).await;
    assert!(text.contains("indexes"), "{text}");
    drop(lock.detach());
    drop(server);
    let server = Server::start(&database).await;
    crate::support::eventually("they are made", || async { database.count(count).await == 2 }).await;
    let anybody = server.anybody();
    assert_eq!(names(&anybody, anybody.export_at("/Patient/a/$export")).await, OF_A);
}

// A replica of a version that does not know of rights to a part of a type, or records nothing, gets no lease.
#[tokio::test]
async fn a_replica_that_knows_less_does_not_get_the_work() {
    let (database, server) = set_up().await;
    let anybody = server.anybody();
    database.command("govern", &["--workers", "0"], b"").await;
    let mut replica = database.pool.acquire().await.unwrap();
    for (able, leases) in [("", 0), ("set fhir_bulk_export.able = 2", 0), (Database::ABLE, 1)] {
        sqlx::raw_sql(able).execute(&mut *replica).await.unwrap();
        let job = anybody.accepted(anybody.export_at("/$export?_type=Patient")).await;
        let planning = format!("update export_job set attempt = attempt + 1 where id = '{}'", job.id());
        let claimed = sqlx::query(sqlx::AssertSqlSafe(planning)).execute(&mut *replica).await.unwrap();
        assert_eq!(claimed.rows_affected(), leases, "{able}");
        let part = format!(
            "insert into export_part (job_id, ordinal, stage, resource_types, key_from, key_to, estimated_resources,
                estimated_bytes) values ('{}', 0, 'output', array['Patient'], 0, 1, 0, 0)",
            job.id()
        );
        database.execute(&part).await;
        let working = format!("update export_part set attempt = attempt + 1 where job_id = '{}'", job.id());
        let claimed = sqlx::query(sqlx::AssertSqlSafe(working)).execute(&mut *replica).await.unwrap();
        assert_eq!(claimed.rows_affected(), leases, "{able}");
        job.delete().await;
    }
}

// A33, B15, I5
#[tokio::test]
async fn only_granted_types_come_out_at_any_level() {
    let database = Database::create().await;
    database.put(&RESOURCES).await;
    database.put(&[r#"{"resourceType":"Group","id":"g","member":[{"entity":{"reference":"Patient/a"}}]}"#]).await;
    let issuer = Issuer::start().await;
    let server = Server::start_with(&database, &trusting(&[&issuer])).await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    assert_eq!(names(&alice, alice.export_at("/Patient/a/$export")).await, "Patient/a Patient/b");
    alice.refused(alice.export_at("/Patient/a/$export?_type=Observation"), 403).await;
    let text = alice.refused(alice.export_at("/Group/g/$export"), 403).await;
    assert!(text.contains("Group"), "{text}");
    let nobody = server.with_token("x");
    nobody.refused(nobody.export_at("/Patient/nobody/$export"), 401).await;
}

// The frozen patients go with their job.
#[tokio::test]
async fn frozen_patients_are_removed_with_the_job() {
    let (database, server) = set_up().await;
    let anybody = server.anybody();
    let job = anybody.accepted(anybody.export_at("/Patient/$export?patient=a,b")).await;
    job.completed().await;
    assert_eq!(database.count("export_patient").await, 2);
    database.execute("delete from binary_chunk; delete from binary_file; delete from export_job").await;
    assert_eq!(database.count("export_patient").await, 0);
}
