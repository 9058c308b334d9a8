//! How a client proves who it is: a JWT that it has signed (`private_key_jwt`; rules I9, I10, I12, I15).

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::backend::Denied;
use super::client::Client;
use super::config::{OF_CLIENTS, SigningAlgorithm};
use super::token::{self, Kind, Unverified};

/// How far ahead an assertion may end.
const MAX_LIFETIME: Duration = Duration::from_secs(300);
/// Of the name of an assertion.
const MAX_JTI: usize = 1024;

/// One and the same for whoever has no key: no answer says which clients there are. How long it takes may: for a client with
/// a JWKS URL, keys that are not known may have to be fetched.
const NOT_PROVEN: Denied =
    Denied::Client("the client is not known, or its assertion is not signed with a key registered for it");

/// An assertion that a client has signed. All else of it is still to be judged.
pub(super) struct Signed<'a> {
    pub(super) client: &'a Client,
    claims: Map<String, Value>,
}

/// A good assertion. It is still to be seen whether it was used before.
pub(super) struct Assertion {
    pub(super) jti: String,
    /// When it is too old, whatever the clocks.
    pub(super) expires: OffsetDateTime,
}

/// What assertions are judged by.
pub(super) struct Judge<'a> {
    pub(super) clients: &'a HashMap<String, Client>,
    /// Whom they must be meant for.
    pub(super) token_url: &'a str,
    pub(super) leeway: Duration,
}

impl<'a> Judge<'a> {
    /// Who has signed it.
    pub(super) async fn signed(&self, text: &str) -> Result<Signed<'a>, Denied> {
        let token = Unverified::read(text).map_err(|_| Denied::Client("the assertion cannot be read"))?;
        if token.kind == Kind::AccessToken {
            return Err(Denied::Client("the assertion's typ is not JWT"));
        }
        let algorithm = SigningAlgorithm::from_jwa(token.algorithm)
            .filter(|algorithm| OF_CLIENTS.contains(algorithm))
            .ok_or(Denied::Client("the assertion's alg is neither RS384 nor ES384"))?;
        if token.key_id.is_none() {
            return Err(Denied::Client("the assertion's header has no kid"));
        }
        let client = self.clients.get(&token.issuer).ok_or(NOT_PROVEN)?;
        if token.key_url.is_some() && token.key_url != client.jwks_url {
            return Err(NOT_PROVEN);
        }
        let key = client.keys.key(token.key_id.as_deref(), algorithm).await.map_err(|_| NOT_PROVEN)?;
        let claims = token.signed_by(algorithm, &key).ok_or(NOT_PROVEN)?;
        Ok(Signed { client, claims })
    }

    /// Who has signed this may know what is wrong with it.
    pub(super) fn check(&self, Signed { client, claims }: &Signed<'_>) -> Result<Assertion, Denied> {
        let text = |name| claims.get(name).and_then(Value::as_str);
        if text("iss") != Some(&client.id) || text("sub") != Some(&client.id) {
            return Err(Denied::Client("the assertion's iss and sub must both be the client's id"));
        }
        if !claims.get("aud").is_some_and(|audience| names(audience, self.token_url)) {
            return Err(Denied::Client("the assertion's aud must be the URL of the token endpoint"));
        }
        let now = token::now();
        let expires = claims
            .get("exp")
            .and_then(Value::as_i64)
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .ok_or(Denied::Client("the assertion has no exp in whole seconds"))?;
        // This first: to the last moment there is nothing can be added.
        if expires > now + MAX_LIFETIME + self.leeway {
            return Err(Denied::Client("the assertion's exp is more than 5 minutes ahead"));
        }
        if now >= expires + self.leeway {
            return Err(Denied::Client("the assertion has expired"));
        }
        if let Some(begins) = claims.get("nbf")
            && begins.as_f64().is_none_or(|begins| begins > (now + self.leeway).unix_timestamp() as f64)
        {
            return Err(Denied::Client("the assertion is not valid yet"));
        }
        let jti = text("jti").filter(|jti| (1..=MAX_JTI).contains(&jti.len()));
        let jti = jti.ok_or(Denied::Client("the assertion needs a jti of 1 to 1024 bytes"))?;
        Ok(Assertion { jti: jti.to_owned(), expires: expires + self.leeway })
    }
}

/// An audience is one name or a list of them (RFC 7519, section 4.1.3).
fn names(audience: &Value, name: &str) -> bool {
    match audience {
        Value::String(one) => one == name,
        Value::Array(several) => several.iter().any(|one| one == name),
        _ => false,
    }
}
