//! Whose an export is: only who started it may poll, cancel and download, with whatever token of theirs (rules A8,
//! A27-A35, D9, F15, I1-I7; DESIGN 6).

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::support::{Caller, Database, Issuer, Job, Server, eventually, trusting};

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p"}"#;
const ROLES: [&str; 4] = ["$bulk-export", "Binary.read", "Patient.search", "Task.*"];

async fn set_up() -> (Database, Issuer, Server) {
    let database = Database::create().await;
    database.put(&[PATIENT, r#"{"resourceType":"Task","id":"t"}"#, r#"{"resourceType":"Device","id":"d"}"#]).await;
    let issuer = Issuer::start().await;
    let server = Server::start_with(&database, &trusting(&[&issuer])).await;
    (database, issuer, server)
}

/// Every call about a job and its file.
fn calls(caller: &Caller, job: &Job, file: &str) -> Vec<RequestBuilder> {
    vec![
        caller.get(&job.url),
        caller.request(Method::POST, &job.url),
        caller.request(Method::DELETE, &job.url),
        caller.get(file),
        caller.get(&format!("{file}/_history/1")),
        caller.get(file).header("accept", "application/fhir+json"),
    ]
}

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

// I1, I2, A29, F5, clients.md 9
#[tokio::test]
async fn without_a_good_token_nothing_is_answered() {
    let (_database, issuer, server) = set_up().await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let job = alice.kick_off("").await;
    let file = job.completed().await.urls("output").remove(0);
    let stranger = Issuer::start().await;
    let claims = |extra: serde_json::Value| {
        let mut claims = json!({ "user_id": "alice", "user_type": "SYSTEM", "realm_access": { "roles": ROLES } });
        claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        issuer.token(&claims)
    };
    let good = issuer.ehealth_token("alice", &ROLES);
    let (_, rest) = good.split_once('.').unwrap();
    // {"alg":"none","typ":"JWT"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", rest.split_once('.').unwrap().0);
    let tokens = [
        None,
        Some(String::new()),
        Some("garbage".to_owned()),
        Some(claims(json!({ "exp": 1_000 }))),
        Some(claims(json!({ "aud": "another" }))),
        Some(claims(json!({ "nbf": 4_000_000_000_u64 }))),
        Some(claims(json!({ "iss": stranger.url() }))),
        Some(claims(json!({ "user_id": null }))),
        Some(stranger.ehealth_token("alice", &ROLES)),
        Some(format!("{}x", &good[..good.len() - 1])),
        Some(none),
    ];
    for token in tokens {
        let caller = Caller::new(&server.base, token.as_deref());
        let mut requests = calls(&caller, &job, &file);
        requests.push(caller.export(""));
        requests.push(caller.export_by_post(""));
        for request in requests {
            let response = request.try_clone().unwrap().send().await.unwrap();
            let challenge = response.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
            assert!(challenge.is_some_and(|challenge| challenge.starts_with("Bearer")), "{token:?}");
            caller.refused(request, 401).await;
        }
    }
    assert_eq!(job.poll().await.status(), 200);
    let anybody = server.anybody();
    assert_eq!(anybody.get("/metadata").send().await.unwrap().status(), 200);
    assert_eq!(anybody.get("/OperationDefinition/-s-export").send().await.unwrap().status(), 200);
}

// A32, A34, I5, I6, I7
#[tokio::test]
async fn roles_decide_what_a_good_token_may_do() {
    let (_database, issuer, server) = set_up().await;
    let with = |roles: &[&str]| server.with_token(&issuer.ehealth_token("alice", roles));
    let no_export = with(&["Binary.read", "Patient.search", "$export"]);
    let text = no_export.refused(no_export.export(""), 403).await;
    assert!(text.contains("$bulk-export"), "{text}");
    let job = with(&["$bulk-export", "Patient.search"]).kick_off("").await;
    let manifest = job.completed().await;
    let file = manifest.urls("output").remove(0);
    // The rights of the token of the call count, not those of the kick-off; polling needs none but being the owner.
    let no_files = with(&["$bulk-export", "Patient.search"]);
    let text = no_files.refused(no_files.get(&file), 403).await;
    assert!(text.contains("Binary.read"), "{text}");
    assert_eq!(with(&[]).get(&job.url).send().await.unwrap().status(), 200);
    assert!(!with(&["Binary.read", "Patient.search"]).download(&file).await.is_empty());
    let patient = json!({ "user_id": "alice", "user_type": "PATIENT", "realm_access": { "roles": ROLES } });
    let patient = server.with_token(&issuer.token(&patient));
    patient.refused(patient.export(""), 403).await;
}

// A33, B15, B16, I21
#[tokio::test]
async fn only_granted_types_come_out() {
    let (_database, issuer, server) = set_up().await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let all = alice.kick_off("").await.completed().await.resources().await;
    assert_eq!(all.into_keys().collect::<Vec<_>>(), ["Patient/p", "Task/t"]);
    let text = alice.refused(alice.export("?_type=Patient,Device"), 403).await;
    assert!(text.starts_with("forbidden: ") && text.contains("Device") && !text.contains("Patient"), "{text}");
}

/// Keys are not asked for more often than every half minute, whatever keys callers invent.
async fn known_after_a_while(caller: &Caller, job: &Job) {
    let started = Instant::now();
    loop {
        let status = caller.get(&job.url).send().await.unwrap().status().as_u16();
        if status != 401 {
            assert!([200, 202].contains(&status), "{status}");
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "the new key is not accepted");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

// I3: Keycloak renews its keys; the server has the old ones, and asks again when a token names one it has not
#[tokio::test]
async fn a_new_key_of_the_issuer_is_fetched() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let server = Server::start_with(&database, &trusting(&[&issuer])).await;
    let withdrawn = issuer.ehealth_token("alice", &ROLES);
    let job = server.with_token(&withdrawn).kick_off("").await;
    issuer.rotate();
    let renewed = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    known_after_a_while(&renewed, &job).await;
    // And the key that is gone vouches for nobody any more.
    let withdrawn = server.with_token(&withdrawn);
    withdrawn.refused(withdrawn.get(&job.url), 401).await;
}

// A27, I3: keys in a file, read again when it has a new one
#[tokio::test]
async fn keys_may_be_in_a_file() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    // Nobody is asked over the network.
    issuer.is_away(true);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(issuer.jwks().as_bytes()).unwrap();
    let table =
        format!("[{{ issuer = \"{}\", audience = [\"fhir\"], jwks = \"{}\" }}]", issuer.url(), file.path().display());
    let server = Server::start_with(&database, &[("auth.mode", "token"), ("auth.issuers", table.as_str())]).await;
    let job = server.with_token(&issuer.ehealth_token("alice", &ROLES)).kick_off("").await;
    issuer.rotate();
    let renewed = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    renewed.refused(renewed.get(&job.url), 401).await;
    std::fs::write(file.path(), issuer.jwks()).unwrap();
    known_after_a_while(&renewed, &job).await;
}

// C7: no answer about the token is no answer about the job
#[tokio::test]
async fn an_issuer_that_is_away_is_a_temporary_failure() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let settings = trusting(&[&issuer]);
    let token = issuer.ehealth_token("alice", &ROLES);
    drop(issuer);
    let server = Server::start_with(&database, &settings).await;
    let alice = server.with_token(&token);
    let text = alice.refused(alice.export(""), 503).await;
    assert!(text.starts_with("transient: "), "{text}");
}

#[tokio::test]
async fn nothing_of_a_person_is_logged() {
    let (_database, issuer, server) = set_up().await;
    let user = "https://patient.example/fhir/Practitioner/4711";
    let token = issuer.ehealth_token(user, &ROLES);
    let alice = server.with_token(&token);
    let manifest = alice.kick_off("?_exportId=mine").await.completed().await;
    manifest.resources().await;
    let log = server.log();
    assert!(log.contains("accepted an export") && log.contains("answered"));
    for private in [user, "4711", &token, token.rsplit('.').next().unwrap(), "mine"] {
        assert!(!log.contains(private), "{private} is in the log");
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

// I1; RFC 6750, 2.2, 2.3, 3, 3.1
#[tokio::test]
async fn the_challenge_says_what_is_wrong_with_the_token() {
    let (_database, issuer, server) = set_up().await;
    let good = issuer.ehealth_token("alice", &ROLES);
    let claims = json!({ "user_id": "alice", "user_type": "SYSTEM", "realm_access": { "roles": ROLES }, "exp": 1_000 });
    let expired = format!("Bearer {}", issuer.token(&claims));
    // The claims of one token under the signature of another.
    let pieces: Vec<_> = good.split('.').collect();
    let other = issuer.ehealth_token("bob", &ROLES);
    let mixed = format!("Bearer {}.{}.{}", pieces[0], other.split('.').nth(1).unwrap(), pieces[2]);
    let anybody = server.anybody();
    for (header, error, code) in [
        (None, None, "login"),
        (Some("Basic YWxpY2U6c2VjcmV0"), None, "login"),
        (Some(good.as_str()), None, "login"),
        (Some("Bearer"), Some("invalid_token"), "login"),
        (Some("Bearer \u{e6}"), Some("invalid_token"), "login"),
        (Some("bearer a.b.c"), Some("invalid_token"), "login"),
        (Some(mixed.as_str()), Some("invalid_token"), "login"),
        (Some(expired.as_str()), Some("invalid_token"), "expired"),
    ] {
        let request = || match header {
            Some(header) => anybody.export("").header("authorization", header),
            None => anybody.export(""),
        };
        let response = request().send().await.unwrap();
        let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
        assert!(challenge.starts_with("Bearer "), "{challenge}");
        let found = challenge.split("error=\"").nth(1).map(|rest| rest.split('"').next().unwrap());
        assert_eq!(found, error, "{header:?}: {challenge}");
        let text = anybody.refused(request(), 401).await;
        assert!(text.starts_with(&format!("{code}: ")), "{header:?}: {text}");
    }
    // Only the header counts, and only one.
    anybody.refused(anybody.export(&format!("?access_token={good}")), 401).await;
    let twice = anybody.export("").bearer_auth(&good).bearer_auth(&good);
    anybody.refused(twice, 400).await;
    let response = anybody.request(Method::HEAD, "/Binary/x").send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(response.headers().contains_key("www-authenticate"));
}

// A34, I5, I6: every call
#[tokio::test]
async fn a_kind_of_user_that_is_not_let_in_can_do_nothing() {
    let (_database, issuer, server) = set_up().await;
    let job = server.with_token(&issuer.ehealth_token("alice", &ROLES)).kick_off("").await;
    let file = job.completed().await.urls("output").remove(0);
    for user_type in [json!("PATIENT"), json!("PRACTITIONER"), json!("SSL"), json!("system"), json!(null)] {
        let claims = json!({ "user_id": "alice", "user_type": user_type, "realm_access": { "roles": ROLES } });
        let caller = server.with_token(&issuer.token(&claims));
        let mut requests = calls(&caller, &job, &file);
        requests.extend([caller.export(""), caller.export_by_post("")]);
        for request in requests {
            let response = request.try_clone().unwrap().send().await.unwrap();
            let challenge = response.headers()["www-authenticate"].to_str().unwrap();
            assert!(challenge.contains("insufficient_scope"), "{challenge}");
            caller.refused(request, 403).await;
        }
    }
    assert_eq!(job.poll().await.status(), 200);
}

// B9, L24, A33, I21
#[tokio::test]
async fn lenient_handling_gives_no_more_than_the_token_does() {
    let (database, issuer, server) = set_up().await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &["$bulk-export", "Binary.read", "Task.search"]));
    for query in ["?_type=Device", "?_type=Task,Device", "?_type=Task&_type=Device", "?_type=Device,Nope"] {
        let text = alice.refused(alice.export(query).header("prefer", "handling=lenient"), 403).await;
        assert!(text.contains("Device") && !text.contains("Task"), "{query}: {text}");
    }
    let body = r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueCode":"Device"}]}"#;
    alice.refused(alice.export_by_post(body), 403).await;
    assert_eq!(database.count("export_job").await, 0);
    // What it was granted at the kick-off is what comes out, for good.
    let manifest = alice.kick_off("").await.completed().await;
    assert_eq!(manifest.resources().await.into_keys().collect::<Vec<_>>(), ["Task/t"]);
    // Nothing granted is nothing, not everything.
    let nothing = server.with_token(&issuer.ehealth_token("alice", &["$bulk-export", "Binary.read"]));
    let response = nothing.export("").send().await.unwrap();
    if response.status() == 202 {
        let manifest = nothing.kick_off("").await.completed().await;
        assert_eq!(manifest.json["output"], json!([]));
    } else {
        assert_eq!(response.status(), 403);
    }
}

// I5: a token whose roles have shrunk since the kick-off does not get what it has lost
#[tokio::test]
async fn a_file_needs_the_right_to_its_type_when_it_is_read() {
    let (database, issuer, server) = set_up().await;
    let job = server.with_token(&issuer.ehealth_token("alice", &ROLES)).kick_off("?_type=Patient").await;
    let file = job.completed().await.urls("output").remove(0);
    let fewer = server.with_token(&issuer.ehealth_token("alice", &["$bulk-export", "Binary.read", "Task.search"]));
    let response = fewer.get(&file).send().await.unwrap();
    assert_eq!(response.status(), 403, "it has lost Patient.search, and reads a file of Patients");

    // Deletions tell of resources too: of every type that was asked for.
    database.delete("Patient", "p").await;
    let alice = server.with_token(&issuer.ehealth_token("alice", &ROLES));
    let manifest = alice.kick_off("?_type=Patient,Task&_since=2020-01-01T00:00:00Z").await.completed().await;
    let deleted = manifest.urls("deleted").remove(0);
    assert_eq!(fewer.get(&deleted).send().await.unwrap().status(), 403);
    assert_eq!(alice.get(&deleted).send().await.unwrap().status(), 200);
}

// I1: valid but insufficient
#[tokio::test]
async fn a_missing_role_is_named_in_the_challenge() {
    let (_database, issuer, server) = set_up().await;
    let caller = server.with_token(&issuer.ehealth_token("alice", &[]));
    for request in [caller.export(""), caller.get("/Binary/x")] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 403);
        let challenge = response.headers().get("www-authenticate").map(|value| value.to_str().unwrap());
        assert!(challenge.is_some_and(|challenge| challenge.contains("insufficient_scope")), "{challenge:?}");
    }
}

// J1, A39: what the server can do is no secret, and a bad token does not hide it
#[tokio::test]
async fn the_description_of_the_server_needs_no_token() {
    let (_database, _issuer, server) = set_up().await;
    for caller in [server.anybody(), server.with_token("garbage"), server.with_token("")] {
        for path in ["/metadata", "/OperationDefinition/-s-export", "/OperationDefinition/-s-export-poll-status"] {
            assert_eq!(caller.get(path).send().await.unwrap().status(), 200, "{path}");
        }
    }
}

// C7: the issuer is away, comes, and goes away again
#[tokio::test]
async fn an_issuer_that_comes_late_is_noticed_and_its_keys_outlast_it() {
    let (_database, issuer, server) = set_up().await;
    issuer.is_away(true);
    let token = issuer.ehealth_token("alice", &ROLES);
    let alice = server.with_token(&token);
    for request in [
        alice.export(""),
        alice.export_by_post(""),
        alice.get("/$export-poll-status?_jobId=x"),
        alice.request(Method::DELETE, "/$export-poll-status?_jobId=x"),
        alice.get("/Binary/x"),
    ] {
        let response = request.try_clone().unwrap().send().await.unwrap();
        assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
        assert!(!response.headers().contains_key("www-authenticate"));
        let text = alice.refused(request, 503).await;
        assert!(text.starts_with("transient: ") && !text.contains(issuer.url()), "{text}");
    }
    // What needs no key is told at once.
    let anybody = server.anybody();
    anybody.refused(anybody.export(""), 401).await;
    let garbage = server.with_token("garbage");
    garbage.refused(garbage.export(""), 401).await;
    issuer.is_away(false);
    eventually("the issuer is noticed", || async { alice.export("").send().await.unwrap().status() == 202 }).await;
    issuer.is_away(true);
    alice.kick_off("").await.completed().await;
}

/// Starts a server that should refuse to; gives what it said.
async fn refuses_to_start(database: &Database, settings: &[(&str, &str)]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_fhir-bulk-export"));
    command.arg("serve").env("DATABASE_URL", database.url()).env("BULK_EXPORT__OPERATOR__LISTEN", "127.0.0.1:0");
    for (key, value) in settings {
        command.env(format!("BULK_EXPORT__{}", key.to_ascii_uppercase().replace('.', "__")), value);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let output = output.expect("the server started").unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

// DESIGN 6: a forgotten setting must not open everything to everybody
#[tokio::test]
async fn without_tokens_it_serves_the_own_machine_only() {
    let database = Database::create().await;
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let said = refuses_to_start(&database, &[("http.listen", address)]).await;
        for name in ["auth.mode", "http.listen", "auth.allow_anonymous_on_any_address"] {
            assert!(said.contains(name), "{address}: {said}");
        }
    }
    let said = refuses_to_start(&database, &[("http.listen", "127.0.0.1:0"), ("auth.mode", "token")]).await;
    assert!(said.contains("auth.issuers"), "{said}");
    let meant = [("http.listen", "0.0.0.0:0"), ("auth.allow_anonymous_on_any_address", "true")];
    let server = Server::start_with(&database, &meant).await;
    server.anybody().kick_off("").await.completed().await;
    let issuer = Issuer::start().await;
    let mut settings = trusting(&[&issuer]);
    settings.push(("http.listen", "0.0.0.0:0".to_owned()));
    let server = Server::start_with(&database, &settings).await;
    let anybody = server.anybody();
    anybody.refused(anybody.export(""), 401).await;
}

// Neither what is accepted nor what is refused, at the most talkative level
#[tokio::test]
async fn nothing_of_a_token_is_logged_either_way() {
    let database = Database::create().await;
    database.put(&[PATIENT]).await;
    let issuer = Issuer::start().await;
    let mut settings = trusting(&[&issuer]);
    settings.push(("log.filter", "debug".to_owned()));
    let server = Server::start_with(&database, &settings).await;
    let (user, sub, name) = ("https://patient.example/fhir/Practitioner/471147", "sub-471148", "Karla Kvist");
    let token = |extra: serde_json::Value| {
        let mut claims = json!({ "user_id": user, "sub": sub, "name": name, "jti": "jti-471149", "user_type": "SYSTEM",
            "realm_access": { "roles": ROLES } });
        claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        issuer.token(&claims)
    };
    let tokens = [
        token(json!({})),
        token(json!({ "user_id": null })),
        token(json!({ "exp": 1_000 })),
        token(json!({ "aud": "another" })),
        token(json!({ "iss": "https://stranger.example/471150" })),
        token(json!({ "user_type": "PATIENT" })),
        token(json!({ "realm_access": { "roles": [] } })),
        "garbage-471151".to_owned(),
    ];
    for token in &tokens {
        let caller = server.with_token(token);
        let mut job = format!("{}/$export-poll-status?_jobId=00000000-0000-4000-8000-000000000000", server.base);
        let response = caller.export("").send().await.unwrap();
        if let Some(location) = response.headers().get("content-location") {
            job = location.to_str().unwrap().to_owned();
            eventually("it completes", || async { caller.get(&job).send().await.unwrap().status() == 200 }).await;
            let manifest: serde_json::Value = caller.get(&job).send().await.unwrap().json().await.unwrap();
            let file = manifest["output"][0]["url"].as_str().unwrap();
            assert!(!caller.download(file).await.is_empty());
            caller.get(file).header("accept", "application/fhir+json").send().await.unwrap().bytes().await.unwrap();
        }
        for request in [caller.get(&job), caller.get("/Binary/x"), caller.request(Method::DELETE, &job)] {
            request.send().await.unwrap();
        }
    }
    let log = server.log();
    assert!(log.contains("DEBUG") && log.contains("/Binary/{id}") && log.contains("discarded by its owner"), "{log}");
    for token in &tokens {
        for piece in token.split('.') {
            assert!(!log.contains(piece), "a piece of a token is in the log: {piece}");
        }
    }
    for private in ["47114", "471150", "471151", name, "Bearer"] {
        let line = log.lines().find(|line| line.contains(private));
        assert!(line.is_none(), "{private} is in the log: {line:?}");
    }
}
