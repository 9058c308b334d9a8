//! Whose an export is: only who started it may poll, cancel and download, with whatever token of theirs (rules A8,
//! A27-A35, D9, F15, I1-I7; DESIGN 6).

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::support::{Caller, Database, Issuer, Job, Server, trusting};

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
    assert!(!with(&["Binary.read"]).download(&file).await.is_empty());
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

// I3: a key the server has not seen yet
#[tokio::test]
async fn a_new_key_of_the_issuer_is_fetched() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    let server = Server::start_with(&database, &trusting(&[&issuer])).await;
    issuer.rotate();
    server.with_token(&issuer.ehealth_token("alice", &ROLES)).kick_off("").await;
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
