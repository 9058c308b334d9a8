//! Whose an export is: only who started it may poll, cancel and download, with whatever token of theirs (rules A8,
//! A30, A35, D9, F15; DESIGN 6).

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::support::secured::{PATIENT, ROLES, calls, set_up};
use crate::support::{Caller, Database, Issuer, Job, Server, trusting};

// A8, D9, F15, L18
#[tokio::test]
async fn nobody_elses_export_can_be_seen() {
    let (_database, issuer, server) = set_up().await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let job = alice.kick_off("").await;
    let manifest = job.completed().await;
    let file = manifest.urls("output").remove(0);

    let bob = server.with_token(&issuer.ehealth_token("bob", &ROLES));
    for request in calls(&bob, &job, &file) {
        bob.refused(request, 404).await;
    }
    // A foreign one is answered exactly as one that never was.
    let unknown_job = "00000000-0000-4000-8000-000000000000";
    let foreign = bob.refused(bob.get(&job.url), 404).await;
    let unknown = bob.refused(bob.get(&job.url.replace(job.id(), unknown_job)), 404).await;
    assert_eq!(foreign.replace(job.id(), unknown_job), unknown);
    let foreign = bob.refused(bob.get(&file), 404).await;
    let unknown = bob.refused(bob.get("/Binary/00000000000000000000000000000000"), 404).await;
    assert_eq!(foreign, unknown);
    // And it is unharmed.
    assert_eq!(job.poll().await.status(), 200);
    assert_eq!(manifest.resources().await.len(), 2);
}

// A30, L20: the same name at two issuers is two people
#[tokio::test]
async fn the_issuer_is_part_of_the_owner() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let (one, other) = (Issuer::start().await, Issuer::start().await);
    let server = Server::start_with(&database, &trusting(&[&one, &other])).await;
    let job = server.with_token(&one.ehealth_token("alice", &ROLES)).kick_off("").await;
    let file = job.completed().await.urls("output").remove(0);
    let namesake = server.with_token(&other.ehealth_token("alice", &ROLES));
    for request in calls(&namesake, &job, &file) {
        namesake.refused(request, 404).await;
    }
}

// A30, A35, L21: tokens live minutes, exports longer; a user without user_id is known by sub
#[tokio::test]
async fn a_renewed_token_of_the_same_user_can_go_on() {
    let (_database, issuer, server) = set_up().await;
    for claim in ["user_id", "sub"] {
        let token =
            || issuer.token(&json!({ claim: "carol", "user_type": "SYSTEM", "realm_access": { "roles": ROLES } }));
        let job = server.with_token(&token()).kick_off("?_type=Patient").await;
        let manifest = job.completed().await;
        let renewed = server.with_token(&token());
        assert_eq!(renewed.get(&job.url).send().await.unwrap().status(), 200);
        assert!(!renewed.download(&manifest.urls("output")[0]).await.is_empty());
        assert_eq!(renewed.request(Method::DELETE, &job.url).send().await.unwrap().status(), 202);
    }
}

/// An answer as bytes, without what differs from one request to the next: its time, its id, and the id asked for.
async fn answer(request: RequestBuilder, id: &str) -> (u16, Vec<String>, String) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let mut headers: Vec<_> = response
        .headers()
        .iter()
        .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    headers.sort();
    (status, headers, response.text().await.unwrap().replace(id, "<id>"))
}

/// Every way to ask for a job.
fn calls_about_job(caller: &Caller, id: &str) -> Vec<RequestBuilder> {
    let path = format!("/$export-poll-status?_jobId={id}");
    let body = json!({ "resourceType": "Parameters", "parameter": [{ "name": "_jobId", "valueString": id }] });
    let post = caller.request(Method::POST, "/$export-poll-status").header("content-type", "application/fhir+json");
    vec![
        caller.get(&path),
        caller.get(&path).header("accept", "application/json"),
        caller.request(Method::POST, &path),
        post.body(body.to_string()),
        caller.request(Method::DELETE, &path),
        caller.request(Method::PUT, &path),
    ]
}

/// Every way to ask for a file.
fn calls_about_file(caller: &Caller, id: &str) -> Vec<RequestBuilder> {
    let path = format!("/Binary/{id}");
    let mut calls = Vec::new();
    for path in
        [path.clone(), format!("{path}/_history/1"), format!("{path}/_history/2"), format!("{path}?_format=json")]
    {
        calls.push(caller.get(&path));
        calls.push(caller.request(Method::HEAD, &path));
        // One that exists would be 406 for its owner.
        for accept in ["application/fhir+json", "application/fhir+ndjson", "application/fhir+xml"] {
            calls.push(caller.get(&path).header("accept", accept));
        }
        calls.push(caller.get(&path).header("accept-encoding", "gzip").header("range", "bytes=0-0"));
        calls.push(caller.get(&path).header("if-none-match", "*"));
    }
    calls.push(caller.request(Method::DELETE, &path));
    calls
}

// D9, F15, C10: nobody can find out which jobs and files there are
#[tokio::test]
async fn what_is_somebody_elses_is_answered_byte_for_byte_as_what_never_was() {
    let (database, issuer, server) = set_up().await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let bob = server.with_token(&issuer.ehealth_token("bob", &ROLES));
    let unknown_job = uuid::Uuid::new_v4().to_string();
    let unknown_file = uuid::Uuid::new_v4().simple().to_string();
    let compare_jobs = async |job: &Job| {
        for (foreign, unknown) in calls_about_job(&bob, job.id()).into_iter().zip(calls_about_job(&bob, &unknown_job)) {
            let shown = format!("{foreign:?}");
            let foreign = answer(foreign, job.id()).await;
            assert!([404, 405].contains(&foreign.0), "{shown}: {foreign:?}");
            assert_eq!(foreign, answer(unknown, &unknown_job).await, "{shown}");
        }
    };
    let planner_waits = database.lock_writers().await;
    let job = alice.kick_off("").await;
    compare_jobs(&job).await;
    drop(planner_waits);
    // It goes on unharmed.
    let manifest = job.completed().await;
    compare_jobs(&job).await;
    for url in manifest.urls("output") {
        let id = url.rsplit('/').next().unwrap();
        assert_eq!(id.len(), unknown_file.len());
        for (foreign, unknown) in calls_about_file(&bob, id).into_iter().zip(calls_about_file(&bob, &unknown_file)) {
            let shown = format!("{foreign:?}");
            let foreign = answer(foreign, id).await;
            assert!([404, 405].contains(&foreign.0), "{shown}: {foreign:?}");
            assert_eq!(foreign, answer(unknown, &unknown_file).await, "{shown}");
        }
    }
    assert_eq!(manifest.resources().await.len(), 2);
    // Cancelled: nobody's, not even for its owner.
    let _planner_waits = database.lock_writers().await;
    let cancelled = alice.kick_off("").await;
    assert_eq!(cancelled.delete().await.status(), 202);
    compare_jobs(&cancelled).await;
    let own = answer(alice.get(&cancelled.url), cancelled.id()).await;
    assert_eq!(own, answer(bob.get(&format!("/$export-poll-status?_jobId={unknown_job}")), &unknown_job).await);
}

// A8, F15: the right to read files is not the right to read this file; a wide token is no master key
#[tokio::test]
async fn no_role_walks_past_the_owner() {
    let (_database, issuer, server) = set_up().await;
    let job = server.with_token(&issuer.ehealth_token("alice", &ROLES)).kick_off("").await;
    let file = job.completed().await.urls("output").remove(0);
    let roles = [&ROLES[..], &["Binary.*", "*.*", "admin", "Binary.write", "Binary.delete"]].concat();
    for user in ["bob", "ALICE", "alice ", " alice", "%", "alic_", "anonymous"] {
        let other = server.with_token(&issuer.ehealth_token(user, &roles));
        for request in calls(&other, &job, &file) {
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 404, "{user:?}");
        }
    }
    // Without the role, the answer does not depend on whose the file is, either.
    let bob = server.with_token(&issuer.ehealth_token("bob", &["$bulk-export"]));
    let foreign = answer(bob.get(&file), file.rsplit('/').next().unwrap()).await;
    assert_eq!(foreign.0, 403);
    assert_eq!(foreign, answer(bob.get("/Binary/00000000000000000000000000000000"), "-").await);
}

// F15, F17: a NUL, which Postgres does not store, is no reason for a 503
#[tokio::test]
async fn a_name_that_cannot_be_stored_is_unknown_too() {
    let (_database, issuer, server) = set_up().await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    for id in ["%00", "%ff", "a%00b", "..%2f..", "%E2%98%83", &"a".repeat(3_000)] {
        let status = alice.get(&format!("/Binary/{id}")).send().await.unwrap().status().as_u16();
        assert!([400, 404].contains(&status), "{id}: {status}");
    }
    let nul = server.with_token(&issuer.ehealth_token("alice\u{0}", &ROLES));
    for request in [nul.get("/$export-poll-status?_jobId=00000000-0000-4000-8000-000000000000"), nul.export("")] {
        let status = request.send().await.unwrap().status().as_u16();
        assert!(status < 500, "{status}");
    }
}

// A30, L20: user_id is the name of the user where there is one, exactly as written
#[tokio::test]
async fn user_id_names_the_owner_and_sub_only_where_there_is_none() {
    let (_database, issuer, server) = set_up().await;
    let caller = |user_id: serde_json::Value, sub: &str| {
        let claims =
            json!({ "user_id": user_id, "sub": sub, "user_type": "SYSTEM", "realm_access": { "roles": ROLES } });
        server.with_token(&issuer.token(&claims))
    };
    let job = caller(json!("https://patient.example/fhir/Practitioner/1"), "s1").kick_off("?_type=Patient").await;
    let manifest = job.completed().await;
    let status = async |caller: Caller| caller.get(&job.url).send().await.unwrap().status().as_u16();
    assert_eq!(status(caller(json!("https://patient.example/fhir/Practitioner/1"), "s2")).await, 200);
    assert_eq!(status(caller(json!("https://patient.example/fhir/Practitioner/1/"), "s1")).await, 404);
    assert_eq!(status(caller(json!("https://PATIENT.example/fhir/Practitioner/1"), "s1")).await, 404);
    assert_eq!(status(caller(json!("Practitioner/1"), "s1")).await, 404);
    for none in [json!(null), json!("")] {
        assert_eq!(status(caller(none, "s1")).await, 404);
    }
    let json: serde_json::Value = caller(json!("https://patient.example/fhir/Practitioner/1"), "s3")
        .get(&manifest.urls("output")[0])
        .header("accept", "application/fhir+json")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let shown = &json["securityContext"]["identifier"]["value"];
    assert_eq!(shown, "https://patient.example/fhir/Practitioner/1", "A25");

    let by_sub = caller(json!(null), "s9").kick_off("?_type=Patient").await;
    by_sub.completed().await;
    assert_eq!(caller(json!(""), "s9").get(&by_sub.url).send().await.unwrap().status(), 200);
    assert_eq!(caller(json!("u"), "s9").get(&by_sub.url).send().await.unwrap().status(), 404);
}
