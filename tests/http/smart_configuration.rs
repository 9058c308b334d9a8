//! How a client finds out where to get a token (rules J7 to J9).

use serde_json::{Value, json};

use crate::support::smart::{SmartClient, registering};
use crate::support::{Database, Issuer, Server, trusting};

// J8, J9
#[tokio::test]
async fn the_smart_configuration_says_where_tokens_are_had() {
    let database = Database::create().await;
    let client = SmartClient::new("lab");
    let server = Server::start_with(&database, &registering(&[client.registered_for(&["system/*.rs"])])).await;
    let anybody = server.anybody();
    for caller in [server.anybody(), server.with_token("garbage")] {
        for accept in ["application/json", "application/fhir+json", "text/html", "application/fhir+xml"] {
            let request = caller.get("/.well-known/smart-configuration").header("accept", accept);
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 200, "{accept}");
            assert_eq!(response.headers()["content-type"], "application/json");
            let configuration: Value = response.json().await.unwrap();
            assert_eq!(
                configuration,
                json!({
                    "token_endpoint": server.public_token_url(),
                    "grant_types_supported": ["client_credentials"],
                    "token_endpoint_auth_methods_supported": ["private_key_jwt"],
                    "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
                    "scopes_supported": ["system/*.rs", "system/*.read"],
                    "code_challenge_methods_supported": ["S256"],
                    "capabilities": ["client-confidential-asymmetric", "permission-v1", "permission-v2"],
                })
            );
        }
    }
    // J7
    let statement: Value = anybody.get("/metadata").send().await.unwrap().json().await.unwrap();
    let security = &statement["rest"][0]["security"];
    assert_eq!(security["service"][0]["coding"][0]["code"], "SMART-on-FHIR");
    let uris = &security["extension"][0];
    assert_eq!(uris["url"], "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris");
    assert_eq!(uris["extension"][0], json!({ "url": "token", "valueUri": server.public_token_url() }));
}

// J8: behind a proxy, as clients see it
#[tokio::test]
async fn tokens_are_had_next_to_the_public_base() {
    let database = Database::create().await;
    let client = SmartClient::new("lab");
    let mut settings = registering(&[client.registered_for(&["system/*.rs"])]);
    settings.push(("http.public_base_url", "https://bulk.example/tenant/fhir/".to_owned()));
    let server = Server::start_with(&database, &settings).await;
    let url = format!("{}/.well-known/smart-configuration", server.address());
    let configuration: Value = server.anybody().get(&url).send().await.unwrap().json().await.unwrap();
    assert_eq!(configuration["token_endpoint"], "https://bulk.example/tenant/auth/token");
    assert_eq!(client.ask(&server, "system/*.rs").await.status, 200);
}

#[tokio::test]
async fn without_clients_there_is_none() {
    let database = Database::create().await;
    let issuer = Issuer::start().await;
    for server in [Server::start(&database).await, Server::start_with(&database, &trusting(&[&issuer])).await] {
        let anybody = server.anybody();
        anybody.refused(anybody.get("/.well-known/smart-configuration"), 404).await;
        let statement: Value = anybody.get("/metadata").send().await.unwrap().json().await.unwrap();
        assert!(!statement["rest"][0]["security"].to_string().contains("SMART"));
    }
}
