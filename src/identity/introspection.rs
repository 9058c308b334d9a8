//! Opaque tokens: their issuer says what they are good for (RFC 7662, rule I23).
//!
//! Answers are remembered, so that an issuer is not asked at every poll: good ones for a minute at most, and bad ones for
//! some seconds. As anybody can send garbage, only so many questions are under way at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Client;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};
use url::Url;
use url::form_urlencoded::byte_serialize;

use super::config::IssuerConfig;
use super::fetch::{self, FetchError};
use super::{Error, config, token};
use crate::secret::Secret;

/// How long a good answer is remembered, unless the token ends sooner …
const GOOD: Duration = Duration::from_secs(60);
/// … and a bad one.
const BAD: Duration = Duration::from_secs(10);
/// Of each, so many are remembered.
const MAX_REMEMBERED: usize = 10_000;
/// Questions under way at once, and how long one waits for its turn.
const AT_ONCE: usize = 16;
const TURN: Duration = Duration::from_secs(5);

/// How an issuer is asked about tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IntrospectionConfig {
    /// Its introspection endpoint.
    pub(super) url: String,
    /// Who asks.
    pub(super) client_id: String,
    pub(super) client_secret: Secret,
}

/// The claims of a token that is good.
pub(super) type Claims = Map<String, Value>;

type Fingerprint = [u8; 32];

/// Asks one issuer.
pub(super) struct Introspection {
    config: IntrospectionConfig,
    url: Url,
    client: Client,
    issuer: String,
    audience: Vec<String>,
    leeway: Duration,
    turns: Semaphore,
    good: Mutex<Memory<Claims>>,
    bad: Mutex<Memory<()>>,
}

/// Why there is no answer; for the log.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("not the JSON expected")]
    Json,
}

impl IntrospectionConfig {
    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> Result<Url, &'static str> {
        if self.client_id.is_empty() || self.client_secret.expose().is_empty() {
            return Err("client_id and client_secret are needed");
        }
        config::safe_url(&self.url)
    }

    /// For HTTP's Basic authentication, both encoded as in a form (RFC 6749, section 2.3.1).
    fn credentials(&self) -> (String, String) {
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect();
        (encoded(&self.client_id), encoded(self.client_secret.expose()))
    }
}

impl Introspection {
    pub(super) fn new(
        config: &IntrospectionConfig,
        url: Url,
        issuer: &IssuerConfig,
        leeway: Duration,
    ) -> Result<Self, Error> {
        Ok(Self {
            config: config.clone(),
            url,
            client: fetch::client()?,
            issuer: issuer.issuer.clone(),
            audience: issuer.audience.clone(),
            leeway,
            turns: Semaphore::new(AT_ONCE),
            good: Mutex::default(),
            bad: Mutex::default(),
        })
    }

    /// What the issuer says of a token; none if it is not good.
    pub(super) async fn claims(&self, token: &str) -> Result<Option<Claims>, Error> {
        let fingerprint = Sha256::digest(token).into();
        if let Some(known) = self.remembered(&fingerprint) {
            return Ok(known);
        }
        let _turn = self.turn().await?;
        // It may have been asked about while this one waited.
        if let Some(known) = self.remembered(&fingerprint) {
            return Ok(known);
        }
        let claims = self.ask(token).await.map_err(|error| {
            tracing::warn!(issuer = %self.issuer, %error, "the issuer cannot be asked about a token");
            self.unavailable()
        })?;
        let claims = claims.and_then(|claims| Some((self.remaining(&claims)?, claims)));
        match &claims {
            Some((remaining, claims)) => locked(&self.good).put(fingerprint, (*remaining).min(GOOD), claims.clone()),
            None => locked(&self.bad).put(fingerprint, BAD, ()),
        }
        Ok(claims.map(|(_, claims)| claims))
    }

    fn remembered(&self, fingerprint: &Fingerprint) -> Option<Option<Claims>> {
        let good = locked(&self.good).get(fingerprint);
        good.map(Some).or_else(|| locked(&self.bad).get(fingerprint).map(|()| None))
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, Error> {
        match tokio::time::timeout(TURN, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(self.unavailable()),
        }
    }

    fn unavailable(&self) -> Error {
        Error::Unavailable { what: format!("introspection at issuer `{}`", self.issuer) }
    }

    /// What is said of an active token.
    async fn ask(&self, token: &str) -> Result<Option<Claims>, NoAnswer> {
        let (id, secret) = self.config.credentials();
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let request = self
            .client
            .post(self.url.clone())
            .basic_auth(id, Some(secret))
            .header(ACCEPT, "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let (_, body) = fetch::answer(request).await?;
        // The error would quote what the issuer says of a person.
        let claims: Claims = serde_json::from_slice(&body).map_err(|_| NoAnswer::Json)?;
        match claims.get("active") {
            Some(Value::Bool(active)) => Ok(active.then_some(claims)),
            _ => Err(NoAnswer::Json),
        }
    }

    /// How long the token is good, if what is said of it is all there and it is for this server, now.
    fn remaining(&self, claims: &Claims) -> Option<Duration> {
        let is_text = |name| claims.get(name).is_some_and(Value::is_string);
        let is_ours = claims.get("iss").is_none_or(|issuer| *issuer == self.issuer.as_str());
        let is_for_us = claims.get("aud").is_none_or(|audience| self.names_us(audience));
        if !(is_text("scope") && is_text("client_id") && is_ours && is_for_us) {
            return None;
        }
        let seconds = |name| claims.get(name).and_then(Value::as_f64);
        let now = token::now().unix_timestamp() as f64;
        let leeway = self.leeway.as_secs_f64();
        if claims.contains_key("nbf") && seconds("nbf").is_none_or(|begins| begins > now + leeway) {
            return None;
        }
        Duration::try_from_secs_f64(seconds("exp")? + leeway - now).ok().filter(|remaining| !remaining.is_zero())
    }

    fn names_us(&self, audience: &Value) -> bool {
        let is_us = |name: &Value| self.audience.iter().any(|ours| name == ours.as_str());
        audience.as_array().map_or_else(|| is_us(audience), |names| names.iter().any(is_us))
    }
}

/// What is known of tokens, for a while: of so many at most, and no more are added while all of these are.
struct Memory<T>(HashMap<Fingerprint, (Instant, T)>);

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone> Memory<T> {
    fn get(&self, fingerprint: &Fingerprint) -> Option<T> {
        let (until, known) = self.0.get(fingerprint)?;
        (Instant::now() < *until).then(|| known.clone())
    }

    fn put(&mut self, fingerprint: Fingerprint, time: Duration, known: T) {
        let now = Instant::now();
        if self.0.len() >= MAX_REMEMBERED {
            self.0.retain(|_, (until, _)| now < *until);
        }
        if self.0.len() < MAX_REMEMBERED {
            self.0.insert(fingerprint, (now + time, known));
        }
    }
}

/// Whoever panicked has left the memory as it was.
fn locked<T>(memory: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_forgets() {
        let mut memory = Memory::default();
        let fingerprint = |n: usize| Sha256::digest(n.to_string()).into();
        for n in 0..MAX_REMEMBERED + 10 {
            memory.put(fingerprint(n), Duration::from_secs(60), n);
        }
        assert_eq!(memory.0.len(), MAX_REMEMBERED);
        assert_eq!(memory.get(&fingerprint(1)), Some(1));
        assert_eq!(memory.get(&fingerprint(MAX_REMEMBERED)), None);
        let mut memory = Memory::default();
        memory.put(fingerprint(1), Duration::ZERO, 1);
        assert_eq!(memory.get(&fingerprint(1)), None);
    }

    #[test]
    fn credentials_are_encoded_and_secret() {
        let config = IntrospectionConfig {
            url: "https://id.example/introspect".to_owned(),
            client_id: "a:b".to_owned(),
            client_secret: "p%s w".into(),
        };
        assert_eq!(config.credentials(), ("a%3Ab".to_owned(), "p%25s+w".to_owned()));
        assert!(!format!("{config:?}").contains("p%s"));
        for url in ["http://id.example/introspect", "introspect", "https://a:b@id.example/"] {
            assert!(IntrospectionConfig { url: url.to_owned(), ..config.clone() }.check().is_err(), "{url}");
        }
    }
}
