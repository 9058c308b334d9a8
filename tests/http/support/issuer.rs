//! An issuer of tokens on a free port of 127.0.0.1: discovery, keys, and tokens as the eHealth Infrastructure's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::{Value, json};

struct Key {
    id: String,
    algorithm: Algorithm,
    encoding: EncodingKey,
}

impl Key {
    fn new(algorithm: Algorithm) -> Self {
        let encoding = match algorithm {
            Algorithm::RS256 => {
                let pair = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
                // PKCS #8 wraps PKCS #1, which the signer wants, in 26 bytes.
                EncodingKey::from_rsa_der(&pair.serialize_der()[26..])
            }
            _ => {
                let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
                EncodingKey::from_ec_der(&pair.serialize_der())
            }
        };
        Self { id: uuid::Uuid::new_v4().to_string(), algorithm, encoding }
    }

    fn header(&self) -> Header {
        Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) }
    }

    fn jwk(&self) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.encoding, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = json!(self.id);
        jwk
    }
}

pub struct Issuer {
    url: String,
    key: Arc<Mutex<Key>>,
    is_away: Arc<AtomicBool>,
    serving: tokio::task::JoinHandle<()>,
}

impl Issuer {
    /// One that signs with ES256.
    pub async fn start() -> Self {
        Self::start_with(Algorithm::ES256).await
    }

    /// One that signs with RS256, as Keycloak does (rule A28).
    pub async fn start_rs256() -> Self {
        Self::start_with(Algorithm::RS256).await
    }

    async fn start_with(algorithm: Algorithm) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let key = Arc::new(Mutex::new(Key::new(algorithm)));
        let is_away = Arc::new(AtomicBool::new(false));
        let discovery = json!({ "issuer": url, "jwks_uri": format!("{url}/certs") }).to_string();
        let (served, away) = (Arc::clone(&key), Arc::clone(&is_away));
        let certs = move || async move {
            match away.load(Ordering::SeqCst) {
                true => Err(StatusCode::BAD_GATEWAY),
                false => Ok(jwks(&served)),
            }
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(move || async move { discovery }))
            .route("/certs", get(certs));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, key, is_away, serving }
    }

    /// Its keys cannot be had from now on, or can be again.
    pub fn is_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    /// Its public keys, as it publishes them.
    pub fn jwks(&self) -> String {
        jwks(&self.key)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Signs with a new key from now on, and publishes it.
    pub fn rotate(&self) {
        let mut key = self.key.lock().unwrap();
        *key = Key::new(key.algorithm);
    }

    /// A token of these claims; issuer, audience and end are added where they are not given.
    pub fn token(&self, claims: &Value) -> String {
        let key = self.key.lock().unwrap();
        encode(&key.header(), &self.claims(claims), &key.encoding).unwrap()
    }

    /// The same, of a header that was tampered with, and signed again by the issuer.
    pub fn token_with(&self, claims: &Value, tamper: impl FnOnce(&mut Header)) -> String {
        let key = self.key.lock().unwrap();
        let mut header = key.header();
        tamper(&mut header);
        encode(&header, &self.claims(claims), &key.encoding).unwrap()
    }

    /// The same, signed by somebody else; also of a header that was tampered with, who learns of that key.
    pub fn forged(&self, claims: &Value, tamper: impl FnOnce(&mut Header, Jwk)) -> String {
        let (key, stranger) = (self.key.lock().unwrap(), Key::new(Algorithm::ES256));
        let mut header = Header { alg: stranger.algorithm, ..key.header() };
        tamper(&mut header, serde_json::from_value(stranger.jwk()).unwrap());
        encode(&header, &self.claims(claims), &stranger.encoding).unwrap()
    }

    /// The same, signed with what everybody knows of the key, as if that were a secret (RFC 8725, section 2.1).
    pub fn signed_with_the_public_key(&self, claims: &Value, secret: impl FnOnce(&Value) -> Vec<u8>) -> String {
        let key = self.key.lock().unwrap();
        let header = Header { alg: Algorithm::HS256, ..key.header() };
        encode(&header, &self.claims(claims), &EncodingKey::from_secret(&secret(&key.jwk()))).unwrap()
    }

    /// The same, which says that it needs no signature.
    pub fn unsigned(&self, claims: &Value, algorithm: &str) -> String {
        let header = json!({ "alg": algorithm, "typ": "JWT", "kid": self.key.lock().unwrap().id });
        let [header, claims] = [header, self.claims(claims)].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        format!("{header}.{claims}.")
    }

    fn claims(&self, claims: &Value) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut all = json!({ "iss": self.url, "aud": "fhir", "exp": now + 300, "jti": uuid::Uuid::new_v4() });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        all
    }

    /// A token of a system user with these roles (rule A32).
    pub fn ehealth_token(&self, user_id: &str, roles: &[&str]) -> String {
        self.token(&json!({ "user_id": user_id, "user_type": "SYSTEM", "realm_access": { "roles": roles } }))
    }
}

fn jwks(key: &Mutex<Key>) -> String {
    json!({ "keys": [key.lock().unwrap().jwk()] }).to_string()
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
