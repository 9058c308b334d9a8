//! Opaque tokens: their issuer says what they are good for (RFC 7662, rule I23).
//!
//! Answers are remembered, so that an issuer is not asked at every poll: good ones for a minute at most, and bad ones for
//! some seconds. As anybody can send garbage, questions are bounded in number and rate ([`Turns`]), and those about tokens that
//! were good before do not wait behind others.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Client;
use reqwest::header::ACCEPT;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use url::Url;
use url::form_urlencoded::byte_serialize;

use super::config::IssuerConfig;
use super::fetch::{self, FetchError};
use super::turns::{Pace, Turns};
use super::{Error, Principal, config, token};
use crate::secret::Secret;

/// How long a good answer is remembered, unless the token ends sooner …
const GOOD: Duration = Duration::from_secs(60);
/// … a bad one …
const BAD: Duration = Duration::from_secs(10);
/// … and that there was none.
const AWAY: Duration = Duration::from_secs(1);
/// How long it is known of a token that it was good.
const WAS_GOOD: Duration = Duration::from_secs(60 * 60);
/// Of each, so many are remembered.
const MAX_REMEMBERED: usize = 10_000;
/// Questions about tokens of which nothing is known, perhaps garbage …
const UNKNOWN: Pace = Pace { at_once: 12, every: Duration::from_millis(50), burst: 40 };
/// … and about those that were good.
const KNOWN: Pace = Pace { at_once: 4, every: Duration::from_millis(10), burst: 100 };
/// Of an answer.
const MAX_SIZE: u64 = 64 * 1024;
/// Between two lines in the log that the issuer cannot be asked.
const SAID_EVERY: Duration = Duration::from_secs(10);

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
    unknown: Turns,
    known: Turns,
    good: Mutex<Memory<Principal>>,
    was_good: Mutex<Memory<()>>,
    refused: Mutex<Memory<Refused>>,
    failures: Mutex<Failures>,
}

/// Why nobody is let in by a token.
#[derive(Clone, Copy)]
enum Refused {
    Invalid(&'static str),
    NotAllowed,
    /// Nothing was said of it.
    NoAnswer,
}

/// What is not in the log yet.
#[derive(Default)]
struct Failures {
    said: Option<Instant>,
    unsaid: u64,
}

/// Why there is no answer; for the log.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("not the JSON expected")]
    Json,
    #[error("there are too many questions")]
    TooMany,
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
            unknown: Turns::new(UNKNOWN),
            known: Turns::new(KNOWN),
            good: Mutex::default(),
            was_good: Mutex::default(),
            refused: Mutex::default(),
            failures: Mutex::default(),
        })
    }

    /// Who comes with a token, by what its issuer says of it, which is read so.
    pub(super) async fn principal(
        &self,
        token: &str,
        read: impl FnOnce(Claims) -> Result<Principal, Error>,
    ) -> Result<Principal, Error> {
        let fingerprint = Sha256::digest(token).into();
        if let Some(remembered) = self.remembered(&fingerprint) {
            return remembered;
        }
        let turns = if locked(&self.was_good).get(&fingerprint).is_some() { &self.known } else { &self.unknown };
        let _turn = turns.turn().await.ok_or_else(|| self.too_many())?;
        // It may have been asked about while this one waited.
        if let Some(remembered) = self.remembered(&fingerprint) {
            return remembered;
        }
        if !turns.may_ask() {
            return Err(self.too_many());
        }
        match self.judged(token, read).await {
            Ok((remaining, principal)) => {
                locked(&self.good).put(fingerprint, remaining.min(GOOD), principal.clone());
                locked(&self.was_good).put(fingerprint, WAS_GOOD, ());
                Ok(principal)
            }
            Err(refused) => {
                let time = if matches!(refused, Refused::NoAnswer) { AWAY } else { BAD };
                locked(&self.refused).put(fingerprint, time, refused);
                Err(self.error(refused))
            }
        }
    }

    fn remembered(&self, fingerprint: &Fingerprint) -> Option<Result<Principal, Error>> {
        let good = locked(&self.good).get(fingerprint);
        good.map(Ok).or_else(|| Some(Err(self.error(locked(&self.refused).get(fingerprint)?))))
    }

    /// The caller, and for how long that holds.
    async fn judged(
        &self,
        token: &str,
        read: impl FnOnce(Claims) -> Result<Principal, Error>,
    ) -> Result<(Duration, Principal), Refused> {
        let claims = self.ask(token).await.map_err(|error| {
            self.note(&error);
            Refused::NoAnswer
        })?;
        let good = claims.and_then(|claims| Some((self.remaining(&claims)?, claims)));
        let (remaining, claims) = good.ok_or(Refused::Invalid("its issuer does not vouch for it"))?;
        let principal = read(claims).map_err(|error| match error {
            Error::NotAllowed => Refused::NotAllowed,
            Error::InvalidToken { reason } => Refused::Invalid(reason),
            _ => Refused::Invalid("its claims cannot be read"),
        })?;
        Ok((remaining, principal))
    }

    fn error(&self, refused: Refused) -> Error {
        match refused {
            Refused::Invalid(reason) => token::invalid(reason),
            Refused::NotAllowed => Error::NotAllowed,
            Refused::NoAnswer => self.unavailable(),
        }
    }

    fn too_many(&self) -> Error {
        self.note(&NoAnswer::TooMany);
        self.unavailable()
    }

    /// For the log, where many failures are one line: callers decide how many there are.
    fn note(&self, error: &NoAnswer) {
        let mut failures = locked(&self.failures);
        failures.unsaid += 1;
        if failures.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            let questions = std::mem::take(&mut failures.unsaid);
            failures.said = Some(Instant::now());
            tracing::warn!(issuer = %self.issuer, questions, %error, "the issuer cannot be asked about tokens");
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
        let (_, body) = fetch::answer(request, MAX_SIZE).await?;
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
