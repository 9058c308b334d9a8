//! Keys, tokens and an issuer for the tests of this module. Keys are made anew each time; none is
//! in the repository.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio_util::task::TaskTracker;

use super::IssuerConfig;

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims a test server accepts.
pub(super) fn claims(issuer: &str) -> Value {
    json!({
        "iss": issuer,
        "sub": "11111111-2222-3333-4444-555555555555",
        "aud": "fhir",
        "exp": now() + 300,
        "user_type": "SYSTEM",
        "realm_access": { "roles": ["$bulk-export", "Patient.search", "Binary.read"] },
    })
}

pub(super) fn config(issuer: &str, file: Option<&NamedTempFile>) -> IssuerConfig {
    let config = json!({
        "issuer": issuer,
        "jwks": file.map(|file| file.path()),
        "audience": ["fhir", "other-name"],
    });
    serde_json::from_value(config).unwrap()
}

pub(super) fn jwks(keys: &[&Key]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

pub(super) fn file(keys: &[&Key]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(jwks(keys).as_bytes()).unwrap();
    file
}

/// A key pair of an issuer.
pub(super) struct Key {
    id: String,
    algorithm: Algorithm,
    encoding: EncodingKey,
    pair: KeyPair,
}

impl Key {
    pub(super) fn es256(id: &str) -> Self {
        Self::elliptic(id, Algorithm::ES256, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub(super) fn es384(id: &str) -> Self {
        Self::elliptic(id, Algorithm::ES384, &rcgen::PKCS_ECDSA_P384_SHA384)
    }

    fn elliptic(id: &str, algorithm: Algorithm, curve: &'static rcgen::SignatureAlgorithm) -> Self {
        let pair = KeyPair::generate_for(curve).unwrap();
        let encoding = EncodingKey::from_ec_der(&pair.serialize_der());
        Self { id: id.to_owned(), algorithm, encoding, pair }
    }

    pub(super) fn rs256(id: &str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        // PKCS #8 wraps PKCS #1, which the signer wants, in 26 bytes.
        let encoding = EncodingKey::from_rsa_der(&pair.serialize_der()[26..]);
        Self { id: id.to_owned(), algorithm: Algorithm::RS256, encoding, pair }
    }

    /// The public half, without `alg`, so that every algorithm of its kind fits.
    pub(super) fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.encoding, self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk.as_object_mut().unwrap().remove("alg");
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    pub(super) fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    pub(super) fn header(&self, algorithm: Algorithm) -> Header {
        Header { kid: Some(self.id.clone()), ..Header::new(algorithm) }
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(self.algorithm), claims)
    }

    pub(super) fn token_with(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.encoding).unwrap()
    }
}

/// What a [`Server`] says.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) delay: Duration,
    pub(super) cache_control: Option<&'static str>,
    pub(super) jwks: String,
    /// Instead of the truth, in the discovery document.
    pub(super) issuer: Option<String>,
    pub(super) jwks_uri: Option<String>,
}

/// An issuer on loopback, which counts the questions.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) answer: Arc<Mutex<Answer>>,
    pub(super) discoveries: Arc<AtomicUsize>,
    pub(super) fetches: Arc<AtomicUsize>,
}

impl Server {
    pub(super) async fn start(keys: &[&Key]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Answer {
            status: 200,
            delay: Duration::ZERO,
            cache_control: None,
            jwks: jwks(keys),
            issuer: None,
            jwks_uri: None,
        };
        let server =
            Self { url, answer: Arc::new(Mutex::new(answer)), discoveries: Arc::default(), fetches: Arc::default() };
        let router = server.router();
        TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
        server
    }

    pub(super) fn serve(&self, keys: &[&Key]) {
        self.answer.lock().unwrap().jwks = jwks(keys);
    }

    fn router(&self) -> Router {
        let url = self.url.clone();
        let (answer, count) = (Arc::clone(&self.answer), Arc::clone(&self.discoveries));
        let discovery = move || {
            count.fetch_add(1, Ordering::Relaxed);
            let url = url.clone();
            reply(Arc::clone(&answer), move |answer| {
                let jwks_uri = answer.jwks_uri.clone().unwrap_or(format!("{url}/jwks"));
                let issuer = answer.issuer.clone().unwrap_or(url);
                json!({ "issuer": issuer, "jwks_uri": jwks_uri }).to_string()
            })
        };
        let (answer, count) = (Arc::clone(&self.answer), Arc::clone(&self.fetches));
        let jwks = move || {
            count.fetch_add(1, Ordering::Relaxed);
            reply(Arc::clone(&answer), |answer| answer.jwks.clone())
        };
        Router::new().route("/.well-known/openid-configuration", get(discovery)).route("/jwks", get(jwks))
    }
}

async fn reply(answer: Arc<Mutex<Answer>>, body: impl FnOnce(&Answer) -> String) -> Response {
    let delay = answer.lock().unwrap().delay;
    tokio::time::sleep(delay).await;
    let answer = answer.lock().unwrap();
    let status = StatusCode::from_u16(answer.status).unwrap();
    let mut response = (status, body(&answer)).into_response();
    if let Some(value) = answer.cache_control {
        response.headers_mut().insert(header::CACHE_CONTROL, value.parse().unwrap());
    }
    response
}
