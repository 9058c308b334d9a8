//! SMART scopes: what a client gets of what it asks for, and what a token with them permits (rules I16 to I22).

use serde_json::json;

use crate::support::smart::{SmartClient, ask, form, refused, registering};
use crate::support::{Caller, Database, Issuer, Server};

async fn set_up(registered: &[&str]) -> (Database, SmartClient, Server) {
    let database = Database::create().await;
    database
        .put(&[
            r#"{"resourceType":"Patient","id":"p"}"#,
            r#"{"resourceType":"Task","id":"t"}"#,
            r#"{"resourceType":"Device","id":"d"}"#,
        ])
        .await;
    let client = SmartClient::new("lab");
    let server = Server::start_with(&database, &registering(&[client.registered_for(registered)])).await;
    (database, client, server)
}

// I16, I17, I18, I20, I22
#[tokio::test]
async fn what_is_granted_is_what_is_asked_for_and_registered() {
    let registered = [
        "system/Patient.rs",
        "system/Task.read",
        "system/Observation.rs?status=final",
        "system/Observation.rs?status=amended",
    ];
    let (_database, client, server) = set_up(&registered).await;
    for (asked, expected) in [
        ("system/Patient.rs", "system/Patient.rs"),
        ("system/Patient.read", "system/Patient.read"),
        ("system/Patient.cruds", "system/Patient.rs"),
        ("system/Patient.rs system/Device.rs openid fhirUser", "system/Patient.rs"),
        ("  system/Patient.rs   user/Task.rs ", "system/Patient.rs"),
        (
            "system/*.rs",
            "system/Observation.rs?status=final system/Observation.rs?status=amended system/Patient.rs system/Task.rs",
        ),
        (
            "system/*.read",
            "system/Observation.rs?status=final system/Observation.rs?status=amended system/Patient.read \
             system/Task.read",
        ),
        ("system/Observation.rs?status=final", "system/Observation.rs?status=final"),
        (
            "system/Observation.rs?category=laboratory&status=final",
            "system/Observation.rs?category=laboratory&status=final",
        ),
        (
            "system/Observation.rs?category=http://loinc.org|1234-5",
            "system/Observation.rs?category=http://loinc.org|1234-5&status=final \
             system/Observation.rs?category=http://loinc.org|1234-5&status=amended",
        ),
        ("system/Patient.r system/Patient.s", "system/Patient.rs"),
    ] {
        let answer = client.ask(&server, asked).await;
        assert_eq!(answer.status, 200, "{asked}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.json()["scope"], expected, "{asked}");
    }
    for nothing in [
        "system/Device.rs",
        "system/Patient.r",
        "system/Patient.s",
        "system/Patient.sr",
        "system/Patient.write",
        "system/*.cud",
        "user/*.rs",
        "patient/*.read",
        "patient/Patient.rs",
        "openid",
        "system/*.rs?status=final",
        "system/Patient.rs?nonsense=1",
        "system/Doctor.rs",
        "system/patient.rs",
        "system/Observation.rs?subject:Patient.organization.name=x",
        "system/*",
        "*",
        "system/%2A.rs",
    ] {
        refused(&client.ask(&server, nothing).await, 400, "invalid_scope");
    }
    // Neither the scopes nor anything else that was sent is repeated.
    let assertion = client.assertion(&server);
    let said = refused(&ask(&server, &form(&assertion, "system/Person-471147.rs")).await, 400, "invalid_scope");
    assert!(!said.contains("471147"), "{said}");
}

// I17, I20: a right of many conditions is one, and more than can be held is refused
#[tokio::test]
async fn many_conditions_are_granted_and_too_many_refused() {
    let conditions = |n: usize| (0..n).map(|n| format!("system/Patient.rs?_id=p{n}")).collect::<Vec<_>>();
    let most = conditions(100);
    let (database, client, server) = set_up(&most.iter().map(String::as_str).collect::<Vec<_>>()).await;
    database.put(&[r#"{"resourceType":"Patient","id":"p99"}"#]).await;
    for asked in ["system/*.rs", "system/Patient.rs", &most.join(" "), &most[50..].join(" ")] {
        let caller = client.caller(&server, asked).await;
        let found = caller.kick_off("").await.completed().await.resources().await;
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ["Patient/p99"], "{asked}");
    }
    let said = refused(&client.ask(&server, &conditions(101).join(" ")).await, 400, "invalid_scope");
    assert!(said.contains("100 scopes with conditions"), "{said}");
    let said = refused(&client.ask(&server, &"system/Patient.rs ".repeat(301)).await, 400, "invalid_scope");
    assert!(said.contains("300"), "{said}");
}

// I19, I21, B15
#[tokio::test]
async fn only_granted_types_come_out() {
    let (_database, client, server) = set_up(&["system/*.rs"]).await;
    let some = client.caller(&server, "system/Patient.rs system/Task.read system/Device.r").await;
    let all = some.kick_off("").await.completed().await.resources().await;
    assert_eq!(all.into_keys().collect::<Vec<_>>(), ["Patient/p", "Task/t"]);
    let text = some.refused(some.export("?_type=Patient,Device"), 403).await;
    assert!(text.contains("Device") && !text.contains("Patient"), "{text}");
}

/// The settings of a server that trusts an issuer whose tokens have scopes.
fn trusting(issuer: &Issuer) -> Vec<(&'static str, String)> {
    let table = format!("[{{ issuer = \"{}\", audience = [\"fhir\"], profile = \"smart\" }}]", issuer.url());
    vec![("auth.mode", "token".to_owned()), ("auth.issuers", table)]
}

// I18-I22: another issuer's tokens
#[tokio::test]
async fn an_issuer_may_speak_in_scopes() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Patient","id":"p"}"#, r#"{"resourceType":"Task","id":"t"}"#]).await;
    let issuer = Issuer::start().await;
    let server = Server::start_with(&database, &trusting(&issuer)).await;
    let with = |scope: &str| {
        let claims = json!({ "client_id": "lab", "sub": "service-account", "scope": scope });
        Caller::new(&server.base, Some(&issuer.token(&claims)))
    };
    let caller = with("openid system/Patient.read");
    let job = caller.kick_off("").await;
    assert_eq!(job.completed().await.resources().await.into_keys().collect::<Vec<_>>(), ["Patient/p"]);
    for nothing in ["", "openid", "user/*.rs", "patient/Patient.rs", "system/Patient.r", "$bulk-export Patient.search"]
    {
        let caller = with(nothing);
        for (request, scope) in
            [(caller.export(""), "system/Patient.rs"), (caller.get("/Binary/x"), "system/Patient.rs")]
        {
            let response = request.try_clone().unwrap().send().await.unwrap();
            let challenge = response.headers()["www-authenticate"].to_str().unwrap();
            assert!(challenge.contains("insufficient_scope"), "{nothing}: {challenge}");
            let text = caller.refused(request, 403).await;
            assert!(text.contains(scope), "{text}");
        }
    }
    // Roles of the other profile say nothing, and the owner is the client, however it is named.
    let roles = json!({ "client_id": "lab", "user_type": "SYSTEM",
        "realm_access": { "roles": ["$bulk-export", "Patient.search", "Binary.read"] } });
    let caller = server.with_token(&issuer.token(&roles));
    caller.refused(caller.export(""), 403).await;
    for (claims, status) in [
        (json!({ "azp": "lab", "scope": "system/*.rs" }), 200),
        (json!({ "sub": "lab", "scope": "system/Patient.rs" }), 200),
        (json!({ "client_id": "lab", "scope": "system/Task.rs" }), 403),
        (json!({ "client_id": "ward", "sub": "lab", "scope": "system/*.rs" }), 404),
    ] {
        let caller = server.with_token(&issuer.token(&claims));
        assert_eq!(caller.get(&job.url).send().await.unwrap().status(), status, "{claims}");
    }
    let nobody = server.with_token(&issuer.token(&json!({ "scope": "system/*.rs" })));
    nobody.refused(nobody.export(""), 401).await;
}

// L20: the same client at the server itself and at an issuer is two owners
#[tokio::test]
async fn a_client_and_its_namesake_at_an_issuer_are_two() {
    let database = Database::create().await;
    database.put(&[r#"{"resourceType":"Patient","id":"p"}"#]).await;
    let issuer = Issuer::start().await;
    let client = SmartClient::new("lab");
    let mut settings = trusting(&issuer);
    settings.extend(registering(&[client.registered_for(&["system/*.rs"])]));
    let server = Server::start_with(&database, &settings).await;
    let own = client.caller(&server, "system/*.rs").await;
    let job = own.kick_off("").await;
    let namesake = server.with_token(&issuer.token(&json!({ "client_id": "lab", "scope": "system/*.rs" })));
    namesake.refused(namesake.get(&job.url), 404).await;
    assert_ne!(own.get(&job.url).send().await.unwrap().status(), 404);
}
