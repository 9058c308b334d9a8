//! What a good token permits: to export, to read files, and which types (rules A31-A34, B15, I5-I7, I21).

use serde_json::json;

use crate::support::secured::{ROLES, calls, set_up};

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
    // The rights of the token of the call count, not those of the kick-off; polling needs that to the types alone.
    let no_files = with(&["$bulk-export", "Patient.search"]);
    let text = no_files.refused(no_files.get(&file), 403).await;
    assert!(text.contains("Binary.read"), "{text}");
    assert_eq!(with(&["Patient.search"]).get(&job.url).send().await.unwrap().status(), 200);
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
