//! SMART Backend Services: registered clients get tokens here, and come back with them (rules I8 to I17).
//!
//! A token is good for what it says *and* its client is still registered for: whoever is taken out of the configuration, or
//! has less there, has less at each replica that was started with that.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use url::Url;
use uuid::Uuid;

use super::assertion::{Judge, Signed};
use super::client::{self, Client};
use super::config::{ClientConfig, SigningAlgorithm};
use super::signing::{NotSigned, SigningKeys};
use super::token::{self, Acceptance, Kind, Unverified};
use super::{Error, Owner, Principal, configuration, replay, scope};

/// Of an access token (rule I16).
const LIFETIME: Duration = Duration::from_secs(300);
/// Scopes are in every token, and that in a header of every request.
const MAX_SCOPES: usize = 8 * 1024;

/// Makes tokens and knows them again.
pub(crate) struct Backend {
    endpoints: Endpoints,
    clients: HashMap<String, Client>,
    acceptance: Acceptance,
    signing: SigningKeys,
    pool: PgPool,
    leeway: Duration,
}

/// Where it is, as clients see it: next to the FHIR base.
struct Endpoints {
    /// The FHIR base, which tokens are meant for.
    base: String,
    issuer: String,
    token: String,
}

/// What a client asks for, having proved who it is.
pub(crate) struct Wish<'a> {
    pub(crate) assertion: &'a str,
    /// Its id, if it says it besides.
    pub(crate) client_id: Option<&'a str>,
    pub(crate) scope: &'a str,
}

/// A token, and what it is good for. No `Debug`: whoever has it can use it.
#[derive(Serialize)]
pub(crate) struct AccessToken {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    scope: String,
}

/// That a client gets none, for the answer and the log.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Whoever has signed the assertion, if that is known.
    pub(crate) client: Option<String>,
    pub(crate) denied: Denied,
}

/// Why a client gets none. No text holds any part of what it sent.
#[derive(Debug)]
pub(crate) enum Denied {
    /// It is not who it says, as far as it can show.
    Client(&'static str),
    /// It may not have that.
    Scope(String),
    /// Not its fault.
    Trouble(NotSigned),
}

#[derive(Serialize)]
struct Issued<'a> {
    iss: &'a str,
    sub: &'a str,
    client_id: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    jti: Uuid,
    scope: &'a str,
}

#[derive(Deserialize)]
struct Returned {
    client_id: String,
    scope: String,
}

impl Backend {
    pub(super) fn new(clients: Vec<ClientConfig>, base: &str, pool: PgPool, leeway: Duration) -> Result<Self, Error> {
        let endpoints = Endpoints::next_to(base)?;
        let algorithms = [SigningAlgorithm::ES384];
        let acceptance = Acceptance::new(&endpoints.issuer, &[&endpoints.base], &algorithms, leeway);
        let signing = SigningKeys::new(pool.clone());
        Ok(Self { clients: client::registered(clients)?, endpoints, acceptance, signing, pool, leeway })
    }

    /// A token for a client that proves who it is, for what it may have of what it asks for.
    pub(crate) async fn grant(&self, wish: &Wish<'_>) -> Result<AccessToken, Refusal> {
        let judge = Judge { clients: &self.clients, token_url: &self.endpoints.token, leeway: self.leeway };
        let signed = judge.signed(wish.assertion).await.map_err(|denied| Refusal { client: None, denied })?;
        let client = &signed.client.id;
        let token = self.grant_to(&judge, &signed, wish).await;
        let token = token.map_err(|denied| Refusal { client: Some(client.clone()), denied })?;
        tracing::info!(client, "issued an access token");
        Ok(token)
    }

    async fn grant_to(&self, judge: &Judge<'_>, signed: &Signed<'_>, wish: &Wish<'_>) -> Result<AccessToken, Denied> {
        let client = signed.client;
        let assertion = judge.check(signed)?;
        if wish.client_id.is_some_and(|id| id != client.id) {
            return Err(Denied::Client("client_id is not that of the assertion"));
        }
        let is_new = replay::spend(&self.pool, &client.id, &assertion.jti, assertion.expires).await;
        if !is_new.map_err(NotSigned::from)? {
            return Err(Denied::Client("an assertion with this jti was used before"));
        }
        scope::refuse_too_long(wish.scope).map_err(Denied::Scope)?;
        let granted = client.may_have(wish.scope);
        if granted.is_nothing() {
            return Err(Denied::Scope(
                "the client may have nothing of this; scopes are written as system/Patient.rs or system/*.read"
                    .to_owned(),
            ));
        }
        let scope = scope::written(&granted, wish.scope);
        if scope.len() > MAX_SCOPES || scope::refuse_too_long(&scope).is_err() {
            return Err(Denied::Scope("the scopes granted are too many for a token; ask for fewer".to_owned()));
        }
        let access_token = self.issue(&client.id, &scope).await?;
        Ok(AccessToken { access_token, token_type: "bearer", expires_in: LIFETIME.as_secs(), scope })
    }

    async fn issue(&self, client_id: &str, scope: &str) -> Result<String, NotSigned> {
        let now = token::now();
        let claims = Issued {
            iss: &self.endpoints.issuer,
            sub: client_id,
            client_id,
            aud: &self.endpoints.base,
            iat: now.unix_timestamp(),
            exp: (now + LIFETIME).unix_timestamp(),
            jti: Uuid::new_v4(),
            scope,
        };
        self.signing.sign(&claims).await
    }

    /// Who comes with a token of ours, and what the client may still have.
    pub(super) async fn authenticate(&self, token: &Unverified<'_>) -> Result<Principal, Error> {
        if token.kind != Kind::AccessToken {
            return Err(token::invalid("its type is not that of an access token"));
        }
        let algorithm = self.acceptance.algorithm(token)?;
        let key = self.signing.key(token.key_id.as_deref()).await?;
        let claims: Returned = self.acceptance.verify(token, algorithm, &key)?;
        let client = self.clients.get(&claims.client_id).ok_or(token::invalid("its client is not registered"))?;
        let owner = Owner { issuer: self.endpoints.issuer.clone(), subject: client.id.clone() };
        Ok(Principal::granted(owner, client.may_have(&claims.scope)))
    }

    /// The `iss` of its tokens.
    pub(super) fn issuer(&self) -> &str {
        &self.endpoints.issuer
    }

    /// Where clients ask for tokens.
    pub(crate) fn token_url(&self) -> &str {
        &self.endpoints.token
    }

    /// The public keys, as a JSON Web Key Set.
    pub(crate) async fn jwks(&self) -> Result<String, Error> {
        self.signing.jwks().await
    }
}

impl Endpoints {
    fn next_to(base: &str) -> Result<Self, Error> {
        let issuer =
            Url::parse(base).and_then(|url| url.join("auth")).map_err(|_| configuration("the base is no URL"))?;
        Ok(Self { base: base.to_owned(), token: format!("{issuer}/token"), issuer: issuer.into() })
    }
}

impl From<NotSigned> for Denied {
    fn from(error: NotSigned) -> Self {
        Self::Trouble(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_had_next_to_the_base() {
        for (base, token) in [
            ("https://h.example/fhir", "https://h.example/auth/token"),
            ("https://h.example/tenant/fhir", "https://h.example/tenant/auth/token"),
            ("http://127.0.0.1:8080/fhir", "http://127.0.0.1:8080/auth/token"),
            ("https://h.example", "https://h.example/auth/token"),
        ] {
            assert_eq!(Endpoints::next_to(base).unwrap().token, token);
        }
    }
}
