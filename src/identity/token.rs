//! Verification of one bearer token (RFC 6750, RFC 7519, RFC 8725; rules A28, A29, I2).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::Error;
use super::config::SigningAlgorithm;

/// Far more than any token needs; bounds the work an unknown caller can cause.
const MAX_LENGTH: usize = 16 * 1024;
/// Of a token that says nothing by itself.
const MAX_OPAQUE: usize = 4 * 1024;

/// The token of an `Authorization` header. Another scheme is no token: the challenge then names the
/// right one.
pub(super) fn bearer(authorization: Option<&str>) -> Result<&str, Error> {
    let header = authorization.ok_or(Error::NoToken)?.trim();
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Error::NoToken);
    }
    match token.trim_start() {
        "" => Err(invalid("it is empty")),
        token => Ok(token),
    }
}

/// What a token says of itself. Good only for choosing the key to verify it with.
pub(super) struct Unverified<'a> {
    raw: &'a str,
    pub(super) algorithm: jsonwebtoken::Algorithm,
    pub(super) kind: Kind,
    pub(super) key_id: Option<String>,
    /// Where its signer's keys are, it says.
    pub(super) key_url: Option<String>,
    pub(super) issuer: String,
}

/// What a token is for, by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `JWT` (RFC 7519), or nothing.
    Any,
    /// `at+jwt` (RFC 9068).
    AccessToken,
}

#[derive(Deserialize)]
struct IssuerClaim {
    iss: String,
}

impl<'a> Unverified<'a> {
    pub(super) fn read(raw: &'a str) -> Result<Self, Error> {
        if raw.len() > MAX_LENGTH {
            return Err(invalid("it is too long"));
        }
        // An `alg` this library does not know, `none` among them, fails here.
        let header = jsonwebtoken::decode_header(raw).map_err(|_| invalid("its header cannot be read"))?;
        if header.crit.is_some() {
            // RFC 7515, section 4.1.11: no extension is understood here.
            return Err(invalid("its header demands an extension"));
        }
        let kind = kind(header.typ.as_deref()).ok_or(invalid("its type is not that of an access token"))?;
        let claims: IssuerClaim =
            jsonwebtoken::dangerous::insecure_decode_claims(raw).map_err(|_| invalid("its claims cannot be read"))?;
        Ok(Self { raw, algorithm: header.alg, kind, key_id: header.kid, key_url: header.jku, issuer: claims.iss })
    }

    /// All claims, if this key has signed them; nothing else is checked.
    pub(super) fn signed_by(&self, algorithm: SigningAlgorithm, key: &DecodingKey) -> Option<Map<String, Value>> {
        let mut validation = Validation::new(algorithm.jwa());
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        jsonwebtoken::decode(self.raw, key, &validation).ok().map(|token| token.claims)
    }
}

/// With or without the media type's first half.
fn kind(typ: Option<&str>) -> Option<Kind> {
    let typ = typ.unwrap_or("jwt").to_ascii_lowercase();
    match typ.strip_prefix("application/").unwrap_or(&typ) {
        "jwt" => Some(Kind::Any),
        "at+jwt" => Some(Kind::AccessToken),
        _ => None,
    }
}

/// Whether a token is a JWT, good or bad. Only what is none may say nothing by itself.
pub(super) fn is_jwt(raw: &str) -> bool {
    let mut pieces = raw.split('.');
    let header = pieces.next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    pieces.count() >= 2 && header.is_some_and(|header| serde_json::from_slice::<Map<String, Value>>(&header).is_ok())
}

/// Whether others may be asked about it: what is none by its letters (RFC 6750, section 2.1) is nobody's.
pub(super) fn may_be_opaque(raw: &str) -> bool {
    let letters = raw.trim_end_matches('=');
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    (1..=MAX_OPAQUE).contains(&letters.len()) && letters.bytes().all(is_letter)
}

/// What tokens of one issuer must satisfy.
pub(super) struct Acceptance {
    algorithms: Vec<SigningAlgorithm>,
    validation: Validation,
}

impl Acceptance {
    pub(super) fn new(
        issuer: &str,
        audience: &[impl ToString],
        algorithms: &[SigningAlgorithm],
        leeway: Duration,
    ) -> Self {
        let mut validation = Validation::default();
        validation.algorithms.clear();
        validation.leeway = leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[issuer]);
        validation.set_audience(audience);
        Self { algorithms: algorithms.to_vec(), validation }
    }

    /// The token's algorithm, if this issuer may use it.
    pub(super) fn algorithm(&self, token: &Unverified<'_>) -> Result<SigningAlgorithm, Error> {
        SigningAlgorithm::from_jwa(token.algorithm)
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or(invalid("its signature algorithm is not allowed"))
    }

    /// The claims of a token that this key has signed, that is meant for this server and whose time
    /// it is.
    pub(super) fn verify<C: DeserializeOwned>(
        &self,
        token: &Unverified<'_>,
        algorithm: SigningAlgorithm,
        key: &DecodingKey,
    ) -> Result<C, Error> {
        let mut validation = self.validation.clone();
        validation.algorithms = vec![algorithm.jwa()];
        jsonwebtoken::decode(token.raw, key, &validation)
            .map(|token| token.claims)
            .map_err(|error| rejection(error.kind()))
    }
}

/// Keeps the library's texts out: some quote the token.
fn rejection(kind: &ErrorKind) -> Error {
    match kind {
        ErrorKind::ExpiredSignature => Error::Expired,
        ErrorKind::ImmatureSignature => invalid("it is not valid yet"),
        ErrorKind::InvalidSignature => invalid("its signature is wrong"),
        ErrorKind::InvalidAudience => invalid("it is not meant for this server"),
        ErrorKind::InvalidIssuer => invalid("its issuer is not trusted here"),
        ErrorKind::MissingRequiredClaim(_) => invalid("it lacks a required claim"),
        _ => invalid("it cannot be read"),
    }
}

/// The time by which tokens are judged: that of this machine, as the library takes it that verifies them.
#[expect(clippy::disallowed_methods, reason = "others' clocks, which Postgres knows nothing of, date tokens")]
pub(super) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

pub(super) fn invalid(reason: &'static str) -> Error {
    Error::InvalidToken { reason }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use serde_json::json;

    use super::super::testing::{self, Key, claims, now};
    use super::super::{Authenticator, MAX_LEEWAY};
    use super::*;

    const ISSUER: &str = "https://id.example";

    /// A server that trusts one issuer with these keys.
    fn server(keys: &[&Key]) -> Authenticator {
        let file = testing::file(keys);
        Authenticator::token(vec![testing::config(ISSUER, Some(&file))], MAX_LEEWAY).unwrap()
    }

    async fn judge(server: &Authenticator, token: &str) -> Result<(), Error> {
        server.authenticate(Some(&format!("Bearer {token}"))).await.map(|_| ())
    }

    fn with(field: &str, value: Value) -> Value {
        let mut claims = claims(ISSUER);
        claims[field] = value;
        claims
    }

    fn without(field: &str) -> Value {
        let mut claims = claims(ISSUER);
        claims.as_object_mut().unwrap().remove(field);
        claims
    }

    fn assert_invalid(verdict: Result<(), Error>, case: &str) {
        assert!(matches!(verdict, Err(Error::InvalidToken { .. })), "{case}: {verdict:?}");
    }

    #[tokio::test]
    async fn good_claims() {
        let key = Key::es256("one");
        let server = server(&[&key]);
        for good in [
            claims(ISSUER),
            with("aud", json!(["account", "fhir"])),
            with("aud", json!("other-name")),
            with("nbf", json!(0)),
            with("nbf", json!(now() + 30)),
            with("exp", json!(now() - 30)),
            with("exp", json!(now() as f64 + 0.5)),
        ] {
            let verdict = judge(&server, &key.token(&good)).await;
            assert!(verdict.is_ok(), "{verdict:?}: {good}");
        }
    }

    #[tokio::test]
    async fn bad_claims() {
        let key = Key::es256("one");
        let server = server(&[&key]);
        let expired = judge(&server, &key.token(&with("exp", json!(now() - 90)))).await;
        assert!(matches!(expired, Err(Error::Expired)), "{expired:?}");
        for bad in [
            without("exp"),
            without("iss"),
            without("aud"),
            with("exp", json!("tomorrow")),
            with("nbf", json!(now() + 90)),
            with("nbf", json!("tomorrow")),
            with("iss", json!("https://id.example/")),
            with("iss", json!("https://ID.example")),
            with("iss", json!([ISSUER])),
            with("aud", json!("account")),
            with("aud", json!([])),
            with("aud", json!(["FHIR"])),
            with("sub", json!(7)),
        ] {
            assert_invalid(judge(&server, &key.token(&bad)).await, &bad.to_string());
        }
    }

    #[tokio::test]
    async fn every_algorithm_verifies() {
        let (p256, p384, rsa) = (Key::es256("a"), Key::es384("b"), Key::rs256("c"));
        let server = server(&[&p256, &p384, &rsa]);
        for (key, algorithm) in [
            (&p256, Algorithm::ES256),
            (&p384, Algorithm::ES384),
            (&rsa, Algorithm::RS256),
            (&rsa, Algorithm::RS384),
            (&rsa, Algorithm::RS512),
            (&rsa, Algorithm::PS256),
        ] {
            let token = key.token_with(&key.header(algorithm), &claims(ISSUER));
            assert!(judge(&server, &token).await.is_ok(), "{algorithm:?}");
        }
        let token = rsa.token_with(&rsa.header(Algorithm::PS512), &claims(ISSUER));
        assert_invalid(judge(&server, &token).await, "PS512 is not allowed");
    }

    #[tokio::test]
    async fn bad_headers() {
        let (key, stranger) = (Key::es256("one"), Key::es256("two"));
        let server = server(&[&key]);
        let forged = stranger
            .token_with(&Header { kid: Some("one".into()), ..stranger.header(Algorithm::ES256) }, &claims(ISSUER));
        assert_invalid(judge(&server, &forged).await, "another's signature");
        assert_invalid(judge(&server, &stranger.token(&claims(ISSUER))).await, "unknown kid");
        for (typ, good) in [
            (None, true),
            (Some("jwt"), true),
            (Some("at+JWT"), true),
            (Some("application/at+jwt"), true),
            (Some("logout+jwt"), false),
            (Some(""), false),
        ] {
            let header = Header { typ: typ.map(str::to_owned), ..key.header(Algorithm::ES256) };
            let verdict = judge(&server, &key.token_with(&header, &claims(ISSUER))).await;
            assert_eq!(verdict.is_ok(), good, "{typ:?}");
        }
        let header = Header { kid: None, ..key.header(Algorithm::ES256) };
        assert!(judge(&server, &key.token_with(&header, &claims(ISSUER))).await.is_ok());
        let header = Header { crit: Some(vec!["b64".into()]), ..key.header(Algorithm::ES256) };
        assert_invalid(judge(&server, &key.token_with(&header, &claims(ISSUER))).await, "crit");
    }

    /// The classic attacks of RFC 8725, section 2.1.
    #[tokio::test]
    async fn algorithm_confusion() {
        let rsa = Key::rs256("one");
        let server = server(&[&rsa]);
        let jwk = rsa.jwk();
        let modulus = jwk["n"].as_str().unwrap();
        for secret in [
            URL_SAFE_NO_PAD.decode(modulus).unwrap(),
            modulus.as_bytes().to_vec(),
            rsa.public_pem().into_bytes(),
            jwk.to_string().into_bytes(),
        ] {
            let header = Header { kid: Some("one".into()), ..Header::new(Algorithm::HS256) };
            let secret = EncodingKey::from_secret(&secret);
            let token = jsonwebtoken::encode(&header, &claims(ISSUER), &secret).unwrap();
            assert_invalid(judge(&server, &token).await, "HS256 with the public key");
        }
        let body = URL_SAFE_NO_PAD.encode(claims(ISSUER).to_string());
        for algorithm in ["none", "None", "NONE", "", "ES256", "EdDSA"] {
            let header = json!({ "alg": algorithm, "typ": "JWT", "kid": "one" });
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            let (_, signature) =
                rsa.token(&claims(ISSUER)).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
            for signature in ["", signature.as_str()] {
                let token = format!("{header}.{body}.{signature}");
                assert_invalid(judge(&server, &token).await, algorithm);
            }
        }
    }

    #[tokio::test]
    async fn malformed_headers() {
        let server = server(&[&Key::es256("one")]);
        for header in [None, Some(""), Some("Basic YTpi"), Some("x.y.z"), Some("Bearerx.y.z")] {
            let verdict = server.authenticate(header).await;
            assert!(matches!(verdict, Err(Error::NoToken)), "{header:?}");
        }
        let long = format!("Bearer {}", "a".repeat(MAX_LENGTH + 1));
        for header in ["Bearer", "Bearer ", "bearer  x", "Bearer a.b.c", "BEARER a b", &long] {
            let verdict = server.authenticate(Some(header)).await;
            assert!(matches!(verdict, Err(Error::InvalidToken { .. })), "{verdict:?}");
        }
    }
}
