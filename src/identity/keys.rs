//! A JSON Web Key Set (RFC 7517), reduced to the keys that can verify a signature here.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::config::{OF_CLIENTS, SigningAlgorithm};

/// The public signing keys of an issuer or a client.
#[derive(Default)]
pub(super) struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    kind: Kind,
    /// The only algorithm the key may be used with, if it says so.
    only: Option<SigningAlgorithm>,
    key: DecodingKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
}

/// Why a set has no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// Perhaps it is newer than the set.
    Unknown,
    /// The key named is not for the token's algorithm.
    Misfit,
    /// The token names no key and more than one fits.
    Ambiguous,
}

/// Why a set cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadKeys {
    #[error("not the JSON expected: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it holds a private or symmetric key, which is for nobody but its owner: make a new one")]
    Secret,
}

/// What only private and symmetric keys have (RFC 7518, section 6).
const SECRETS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Keys that cannot be used (unknown kinds, encryption keys, secrets) are left out, as RFC
    /// 7517, section 5, asks.
    pub(super) fn of_issuer(json: &[u8]) -> Result<Self, BadKeys> {
        let document: Document = serde_json::from_slice(json)?;
        Ok(Self(document.keys.into_iter().filter_map(Key::read).collect()))
    }

    /// Only keys that can sign a client's assertion: with a name, and for RS384 or ES384 (rules I9, I12). A secret that
    /// is published is one no more, so such a set is refused.
    pub(super) fn of_client(json: &[u8]) -> Result<Self, BadKeys> {
        let document: Document = serde_json::from_slice(json)?;
        if document.keys.iter().any(|key| SECRETS.iter().any(|member| key.get(member).is_some())) {
            return Err(BadKeys::Secret);
        }
        let signs = |key: &Key| key.id.is_some() && OF_CLIENTS.iter().any(|algorithm| key.fits(*algorithm));
        Ok(Self(document.keys.into_iter().filter_map(Key::read).filter(signs).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key a token was signed with, if its header tells the truth.
    pub(super) fn find(&self, id: Option<&str>, algorithm: SigningAlgorithm) -> Result<DecodingKey, NoKey> {
        let named = |key: &&Key| id.is_none() || key.id.as_deref() == id;
        let mut fitting = self.0.iter().filter(named).filter(|key| key.fits(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key.key.clone()),
            (Some(_), Some(_)) => Err(NoKey::Ambiguous),
            (None, _) if id.is_some() && self.0.iter().any(|key| named(&key)) => Err(NoKey::Misfit),
            (None, _) => Err(NoKey::Unknown),
        }
    }
}

impl Key {
    fn read(json: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(json).ok()?;
        let kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Kind::Rsa,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Kind::P256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => Kind::P384,
            _ => return None,
        };
        if !is_for_signatures(&jwk) {
            return None;
        }
        let only = match jwk.common.key_algorithm {
            None => None,
            Some(algorithm) => Some(SigningAlgorithm::from_jwa(Algorithm::try_from(algorithm).ok()?)?),
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, kind, only, key })
    }

    fn fits(&self, algorithm: SigningAlgorithm) -> bool {
        let kind = match algorithm {
            SigningAlgorithm::RS256 | SigningAlgorithm::RS384 | SigningAlgorithm::RS512 | SigningAlgorithm::PS256 => {
                Kind::Rsa
            }
            SigningAlgorithm::ES256 => Kind::P256,
            SigningAlgorithm::ES384 => Kind::P384,
        };
        self.kind == kind && self.only.is_none_or(|only| only == algorithm)
    }
}

fn is_for_signatures(jwk: &Jwk) -> bool {
    let usage = jwk.common.public_key_use.as_ref();
    let operations = jwk.common.key_operations.as_ref();
    usage.is_none_or(|usage| *usage == PublicKeyUse::Signature)
        && operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::Key as TestKey;
    use super::SigningAlgorithm::{ES256, ES384, PS256, RS256};
    use super::*;

    fn set(keys: &[Value]) -> KeySet {
        KeySet::of_issuer(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn with(key: &TestKey, field: &str, value: Value) -> Value {
        let mut jwk = key.jwk();
        jwk[field] = value;
        jwk
    }

    #[test]
    fn a_key_must_fit_the_algorithm() {
        let (p256, p384) = (TestKey::es256("a"), TestKey::es384("b"));
        let rsa = TestKey::rs256("c");
        let keys = set(&[p256.jwk(), p384.jwk(), with(&rsa, "alg", json!("RS256"))]);
        let verdict = |id: &str, algorithm| keys.find(Some(id), algorithm).err();
        assert_eq!(verdict("a", ES256), None);
        assert_eq!(verdict("b", ES384), None);
        assert_eq!(verdict("c", RS256), None);
        assert_eq!(verdict("a", ES384), Some(NoKey::Misfit));
        assert_eq!(verdict("b", ES256), Some(NoKey::Misfit));
        assert_eq!(verdict("c", ES256), Some(NoKey::Misfit));
        assert_eq!(verdict("c", PS256), Some(NoKey::Misfit), "the key says RS256");
        assert_eq!(verdict("d", ES256), Some(NoKey::Unknown));
    }

    #[test]
    fn without_a_kid_exactly_one_key_must_fit() {
        let (one, two) = (TestKey::es256("a"), TestKey::es256("b"));
        let p384 = TestKey::es384("c");
        assert!(set(&[one.jwk(), p384.jwk()]).find(None, ES256).is_ok());
        assert_eq!(set(&[one.jwk(), two.jwk()]).find(None, ES256).err(), Some(NoKey::Ambiguous));
        assert_eq!(set(&[p384.jwk()]).find(None, ES256).err(), Some(NoKey::Unknown));
    }

    #[test]
    fn unusable_keys_are_left_out() {
        let key = TestKey::es256("a");
        let unusable = [
            json!({ "kty": "oct", "kid": "a", "k": "c2VjcmV0" }),
            json!({ "kty": "OKP", "kid": "a", "crv": "Ed25519", "x": "AAAA" }),
            json!({ "kty": "AKP", "kid": "a" }),
            json!("no object"),
            with(&key, "use", json!("enc")),
            with(&key, "key_ops", json!(["encrypt"])),
            with(&key, "alg", json!("ECDH-ES")),
            with(&key, "alg", json!("HS256")),
            with(&key, "x", json!("***")),
        ];
        for jwk in &unusable {
            assert!(set(std::slice::from_ref(jwk)).is_empty(), "{jwk}");
        }
        assert!(set(&[unusable[0].clone(), key.jwk()]).find(Some("a"), ES256).is_ok());
        assert!(KeySet::of_issuer(b"{}").is_err());
    }

    fn of_client(keys: &[Value]) -> Result<KeySet, BadKeys> {
        KeySet::of_client(json!({ "keys": keys }).to_string().as_bytes())
    }

    // I9, I12
    #[test]
    fn a_client_signs_with_what_it_can_sign_with() {
        let (p256, p384, rsa) = (TestKey::es256("a"), TestKey::es384("b"), TestKey::rs256("c"));
        let mut unnamed = p384.jwk();
        unnamed.as_object_mut().unwrap().remove("kid");
        for unusable in [p256.jwk(), with(&rsa, "alg", json!("RS256")), unnamed] {
            assert!(of_client(&[unusable]).unwrap().is_empty());
        }
        let keys = of_client(&[p384.jwk(), rsa.jwk(), p256.jwk()]).unwrap();
        assert!(keys.find(Some("b"), ES384).is_ok() && keys.find(Some("c"), SigningAlgorithm::RS384).is_ok());
        let twice = of_client(&[p384.jwk(), TestKey::es384("b").jwk()]).unwrap();
        assert_eq!(twice.find(Some("b"), ES384).err(), Some(NoKey::Ambiguous));
    }

    #[test]
    fn a_client_that_publishes_a_secret_is_refused() {
        let key = TestKey::es384("a");
        for secret in [json!({ "kty": "oct", "kid": "a", "k": "c2VjcmV0" }), with(&key, "d", json!("AAAA"))] {
            assert!(matches!(of_client(&[key.jwk(), secret]), Err(BadKeys::Secret)));
        }
    }
}
