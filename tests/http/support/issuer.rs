//! An issuer of tokens on a free port of 127.0.0.1: discovery, keys, and tokens as the eHealth Infrastructure's.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::{Value, json};

struct Key {
    id: String,
    encoding: EncodingKey,
}

impl Key {
    fn new() -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let id = uuid::Uuid::new_v4().to_string();
        Self { id, encoding: EncodingKey::from_ec_der(&pair.serialize_der()) }
    }

    fn jwk(&self) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.encoding, Algorithm::ES256).unwrap()).unwrap();
        jwk["kid"] = json!(self.id);
        jwk
    }
}

pub struct Issuer {
    url: String,
    key: Arc<Mutex<Key>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Issuer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let key = Arc::new(Mutex::new(Key::new()));
        let discovery = json!({ "issuer": url, "jwks_uri": format!("{url}/certs") }).to_string();
        let served = Arc::clone(&key);
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(move || async move { discovery }))
            .route("/certs", get(move || async move { json!({ "keys": [served.lock().unwrap().jwk()] }).to_string() }));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, key, serving }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Signs with a new key from now on, and publishes it.
    pub fn rotate(&self) {
        *self.key.lock().unwrap() = Key::new();
    }

    /// A token of these claims; issuer, audience and end are added where they are not given.
    pub fn token(&self, claims: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut all = json!({ "iss": self.url, "aud": "fhir", "exp": now + 300, "jti": uuid::Uuid::new_v4() });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let key = self.key.lock().unwrap();
        let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::ES256) };
        encode(&header, &all, &key.encoding).unwrap()
    }

    /// A token of a system user with these roles (rule A32).
    pub fn ehealth_token(&self, user_id: &str, roles: &[&str]) -> String {
        self.token(&json!({ "user_id": user_id, "user_type": "SYSTEM", "realm_access": { "roles": roles } }))
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The settings of a server that takes the tokens of these issuers.
pub fn trusting(issuers: &[&Issuer]) -> Vec<(&'static str, String)> {
    let tables: Vec<_> =
        issuers.iter().map(|issuer| format!("{{ issuer = \"{}\", audience = [\"fhir\"] }}", issuer.url)).collect();
    vec![("auth.mode", "token".to_owned()), ("auth.issuers", format!("[{}]", tables.join(", ")))]
}
