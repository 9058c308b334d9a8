//! Clients of SMART Backend Services, which sign assertions and ask for tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::answer::{Answer, send};
use super::{Caller, Server};

pub const BY_ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A registered client, or one that would like to be.
pub struct SmartClient {
    pub id: String,
    pub algorithm: Algorithm,
    pub encoding: EncodingKey,
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl SmartClient {
    /// One that signs with ES384.
    pub fn new(id: &str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let encoding = EncodingKey::from_ec_der(&pair.serialize_der());
        Self { id: id.to_owned(), algorithm: Algorithm::ES384, encoding }
    }

    /// One that signs with RS384.
    pub fn rs384(id: &str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        // PKCS #8 wraps PKCS #1, which the signer wants, in 26 bytes.
        let encoding = EncodingKey::from_rsa_der(&pair.serialize_der()[26..]);
        Self { id: id.to_owned(), algorithm: Algorithm::RS384, encoding }
    }

    /// Its public key.
    pub fn jwk(&self) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.encoding, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = json!("its-key");
        jwk
    }

    pub fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    /// Its line in the configuration, with the keys in place.
    pub fn registered_for(&self, scopes: &[&str]) -> String {
        self.registered_at(&self.jwks(), scopes)
    }

    /// Its line in the configuration, with the keys in a file or at a URL.
    pub fn registered_at(&self, jwks: &str, scopes: &[&str]) -> String {
        format!("{{ id = \"{}\", jwks = '{jwks}', scopes = {scopes:?} }}", self.id)
    }

    pub fn header(&self) -> Header {
        Header { kid: Some("its-key".to_owned()), ..Header::new(self.algorithm) }
    }

    /// The claims of a good assertion, as Inferno makes them (rule I15).
    pub fn claims(&self, server: &Server) -> Value {
        let (id, token_url) = (&self.id, server.public_token_url());
        json!({ "iss": id, "sub": id, "aud": token_url, "exp": now() + 300, "jti": uuid::Uuid::new_v4() })
    }

    pub fn sign(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.encoding).unwrap()
    }

    pub fn assertion(&self, server: &Server) -> String {
        self.sign(&self.header(), &self.claims(server))
    }

    /// Asks for these scopes.
    pub async fn ask(&self, server: &Server, scope: &str) -> Answer {
        ask(server, &form(&self.assertion(server), scope)).await
    }

    /// A token for these scopes.
    pub async fn token(&self, server: &Server, scope: &str) -> String {
        let answer = self.ask(server, scope).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// A caller at this server with a token for these scopes.
    pub async fn caller(&self, server: &Server, scope: &str) -> Caller {
        Caller::new(&server.address(), Some(&self.token(server, scope).await))
    }
}

/// The settings of a server at which clients are registered; each a line of [`SmartClient::registered_for`].
pub fn registering(clients: &[String]) -> Vec<(&'static str, String)> {
    vec![("auth.mode", "token".to_owned()), ("auth.clients", format!("[{}]", clients.join(", ")))]
}

/// The parameters of a good request.
pub fn form<'a>(assertion: &'a str, scope: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("grant_type", "client_credentials"),
        ("client_assertion_type", BY_ASSERTION),
        ("client_assertion", assertion),
        ("scope", scope),
    ]
}

/// Sends a form to the token endpoint.
pub async fn ask(server: &Server, form: &[(&str, &str)]) -> Answer {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    ask_with(server, "application/x-www-form-urlencoded", body).await
}

/// Sends anything to the token endpoint.
pub async fn ask_with(server: &Server, content_type: &str, body: String) -> Answer {
    let request = server.anybody().request(reqwest::Method::POST, &server.token_url());
    send(request.header("content-type", content_type).body(body)).await
}

/// Expects an error of OAuth's (RFC 6749, section 5.2); gives its description.
pub fn refused(answer: &Answer, status: u16, error: &str) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, status, "{text}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{text}");
    assert_eq!((answer.header("cache-control"), answer.header("pragma")), (Some("no-store"), Some("no-cache")));
    assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    assert_eq!(answer.header("retry-after").is_some(), status == 503);
    let json = answer.json();
    assert_eq!(json["error"], error, "{text}");
    assert_eq!(json.as_object().unwrap().len(), 2, "{text}");
    json["error_description"].as_str().unwrap().to_owned()
}
