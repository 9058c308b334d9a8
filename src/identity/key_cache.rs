//! The keys of one issuer or client, kept and renewed (rules A27, I3, I13).
//!
//! Keys are asked for when first needed, when their time is over, and when a token names one that
//! is not among them. Only one question is under way at a time; all who need the answer wait for
//! it. As anybody can send a token with an invented key name, questions are rare: [`Pace`].
//!
//! # Why
//!
//! When an issuer does not answer, its last keys stay in use: tokens live minutes, so nothing old
//! gets in by that, and an export in progress goes on. Yet not for ever: a key may have been
//! withdrawn because it was stolen.
//!
//! Not so for a client: its keys must not be kept longer than its `Cache-Control` says (rule I13),
//! and whoever cannot get a token now can get one later. What may not be kept at all serves those
//! who ask within a second: that is the limit to how often a client is asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::DecodingKey;
use tokio::sync::{Mutex, RwLock};
use tokio_util::task::TaskTracker;

use super::config::SigningAlgorithm;
use super::keys::{KeySet, NoKey};
use super::source::{Lifetime, Loaded, Source};
use super::{Error, configuration, token};

/// How often the owner of keys is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between two questions, as long as there are keys.
    pub(super) between: Duration,
    /// Between two questions while there are none, so that one who comes late is soon noticed.
    pub(super) without_keys: Duration,
    /// The least and the greatest time keys are good for, whatever their owner says.
    pub(super) lifetime: (Duration, Duration),
    /// How long when nothing is said.
    pub(super) unstated: Duration,
    /// How much longer keys are used when no newer ones can be had.
    pub(super) grace: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Pace {
    pub(super) const OF_ISSUERS: Self = Self {
        between: Duration::from_secs(30),
        without_keys: Duration::from_secs(5),
        lifetime: (Duration::from_secs(60), DAY),
        unstated: Duration::from_secs(10 * 60),
        grace: DAY,
    };

    pub(super) const OF_CLIENTS: Self = Self {
        without_keys: Duration::from_secs(1),
        lifetime: (Duration::from_secs(1), DAY),
        grace: Duration::ZERO,
        ..Self::OF_ISSUERS
    };
}

/// The keys of one owner.
pub(super) struct KeyCache {
    cache: Arc<Cache>,
    /// Whoever fetches holds it; within, when the last fetch ended.
    gate: Arc<Mutex<Option<Instant>>>,
    /// A fetch outlives a caller who goes away: else callers could use up the right to ask without
    /// ever asking.
    fetches: TaskTracker,
}

struct Cache {
    /// Whose keys they are: "issuer `https://…`".
    owner: String,
    source: Source,
    pace: Pace,
    held: RwLock<Option<Held>>,
}

struct Held {
    keys: KeySet,
    /// When to ask anew; never for what is not from the network.
    stale: Option<Instant>,
}

impl KeyCache {
    /// Reads a file at once, so that a wrong one stops the start; asks nothing of the network.
    pub(super) fn new(owner: String, source: Source, pace: Pace) -> Result<Self, Error> {
        let problem = |problem: &dyn std::fmt::Display| configuration(format!("{owner}: jwks: {problem}"));
        let held = match source.load_here() {
            None => None,
            Some(Err(error)) => return Err(problem(&error)),
            Some(Ok(loaded)) if loaded.keys.is_empty() => {
                return Err(problem(&"there is no usable signing key in it"));
            }
            Some(Ok(loaded)) => Some(Held::new(loaded, pace)),
        };
        let cache = Cache { owner, source, pace, held: RwLock::new(held) };
        Ok(Self { cache: Arc::new(cache), gate: Arc::new(Mutex::new(None)), fetches: TaskTracker::new() })
    }

    /// The key a token was signed with, by its header.
    pub(super) async fn key(&self, id: Option<&str>, algorithm: SigningAlgorithm) -> Result<DecodingKey, Error> {
        // What was good at any time since then will do.
        let asked = Instant::now();
        if self.cache.is_stale(asked).await {
            self.refresh(asked, false).await;
        }
        let mut found = self.cache.find(id, algorithm, asked).await?;
        if matches!(found, Err(NoKey::Unknown)) {
            self.refresh(asked, true).await;
            found = self.cache.find(id, algorithm, asked).await?;
        }
        found.map_err(|missing| {
            token::invalid(match missing {
                NoKey::Unknown => "its signer has no such key",
                NoKey::Misfit => "its key is not for its algorithm",
                NoKey::Ambiguous => "it does not say which key signed it",
            })
        })
    }

    /// Asks for the keys, unless that was done just now by somebody else.
    async fn refresh(&self, asked: Instant, even_if_fresh: bool) {
        let mut gate = Arc::clone(&self.gate).lock_owned().await;
        if !even_if_fresh && !self.cache.is_stale(asked).await {
            return;
        }
        let pause = self.cache.pause(asked).await;
        if gate.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        let cache = Arc::clone(&self.cache);
        let fetch = self.fetches.spawn(async move {
            cache.refresh().await;
            *gate = Some(Instant::now());
        });
        // A fetch that panicked has left the cache as it was.
        let _ = fetch.await;
    }
}

impl Cache {
    async fn is_stale(&self, asked: Instant) -> bool {
        self.held.read().await.as_ref().is_none_or(|held| held.is_spent(asked, Duration::ZERO))
    }

    async fn pause(&self, asked: Instant) -> Duration {
        match &*self.held.read().await {
            Some(held) if !held.is_spent(asked, self.pace.grace) => self.pace.between,
            _ => self.pace.without_keys,
        }
    }

    async fn find(
        &self,
        id: Option<&str>,
        algorithm: SigningAlgorithm,
        asked: Instant,
    ) -> Result<Result<DecodingKey, NoKey>, Error> {
        let held = self.held.read().await;
        let held = held.as_ref().filter(|held| !held.is_spent(asked, self.pace.grace));
        let unavailable = || Error::Unavailable { what: format!("the signing keys of {}", self.owner) };
        Ok(held.ok_or_else(unavailable)?.keys.find(id, algorithm))
    }

    async fn refresh(&self) {
        match self.source.load().await {
            Ok(loaded) => {
                if loaded.keys.is_empty() {
                    tracing::warn!(owner = %self.owner, "there is no usable signing key");
                }
                *self.held.write().await = Some(Held::new(loaded, self.pace));
            }
            Err(error) => {
                let mut held = self.held.write().await;
                held.take_if(|held| held.is_spent(Instant::now(), self.pace.grace));
                let (owner, has_keys) = (&self.owner, held.is_some());
                tracing::warn!(%owner, %error, has_keys, "keys cannot be had");
            }
        }
    }
}

impl Held {
    fn new(loaded: Loaded, pace: Pace) -> Self {
        let (least, greatest) = pace.lifetime;
        let lifetime = match loaded.lifetime {
            Lifetime::Unbounded => None,
            Lifetime::Stated(lifetime) => Some(lifetime.clamp(least, greatest)),
            Lifetime::Unstated => Some(pace.unstated),
        };
        Self { keys: loaded.keys, stale: lifetime.map(|lifetime| Instant::now() + lifetime) }
    }

    /// Whether they were no good any more at that time, or this much later.
    fn is_spent(&self, at: Instant, grace: Duration) -> bool {
        self.stale.is_some_and(|stale| at > stale + grace)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::IssuerConfig;
    use super::super::config::SigningAlgorithm::ES256;
    use super::super::testing::{self, Key, Server};
    use super::*;

    fn issuer(server: &Server, pace: Pace) -> KeyCache {
        cache(&testing::config(&server.url, None), pace).unwrap()
    }

    fn cache(config: &IssuerConfig, pace: Pace) -> Result<KeyCache, Error> {
        let source = Source::new(config.check().unwrap(), KeySet::of_issuer).unwrap();
        KeyCache::new(config.issuer.clone(), source, pace)
    }

    /// Never waits, and finds keys old at once.
    fn hasty() -> Pace {
        Pace {
            between: Duration::ZERO,
            without_keys: Duration::ZERO,
            lifetime: (Duration::ZERO, Duration::ZERO),
            unstated: Duration::ZERO,
            ..Pace::OF_ISSUERS
        }
    }

    fn fetches(server: &Server) -> usize {
        server.fetches.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn keys_are_fetched_once_for_all() {
        let server = Server::start(&[&Key::es256("one")]).await;
        server.answer.lock().unwrap().delay = Duration::from_millis(100);
        let issuer = issuer(&server, Pace::OF_ISSUERS);
        assert_eq!(fetches(&server), 0);
        let asking = (0..20).map(|_| issuer.key(Some("one"), ES256));
        for key in futures_util::future::join_all(asking).await {
            assert!(key.is_ok());
        }
        assert!(issuer.key(Some("one"), ES256).await.is_ok());
        assert_eq!(fetches(&server), 1);
    }

    #[tokio::test]
    async fn an_unknown_kid_is_asked_for_but_not_often() {
        let (old, new) = (Key::es256("old"), Key::es256("new"));
        let server = Server::start(&[&old]).await;
        let pace = Pace { between: Duration::from_millis(300), ..Pace::OF_ISSUERS };
        let issuer = issuer(&server, pace);
        assert!(issuer.key(Some("old"), ES256).await.is_ok());
        server.serve(&[&old, &new]);
        for _ in 0..10 {
            assert!(matches!(issuer.key(Some("new"), ES256).await, Err(Error::InvalidToken { .. })));
        }
        assert_eq!(fetches(&server), 1);
        tokio::time::sleep(pace.between).await;
        let asking = (0..10).map(|_| issuer.key(Some("new"), ES256));
        assert!(futures_util::future::join_all(asking).await.iter().all(Result::is_ok));
        assert_eq!(fetches(&server), 2);
    }

    #[tokio::test]
    async fn stale_keys_are_replaced() {
        let (old, new) = (Key::es256("old"), Key::es256("new"));
        let server = Server::start(&[&old]).await;
        let issuer = issuer(&server, hasty());
        assert!(issuer.key(Some("old"), ES256).await.is_ok());
        server.serve(&[&new]);
        assert!(issuer.key(Some("new"), ES256).await.is_ok());
        assert!(matches!(issuer.key(Some("old"), ES256).await, Err(Error::InvalidToken { .. })));
    }

    #[tokio::test]
    async fn the_last_good_keys_stay_for_a_while() {
        let server = Server::start(&[&Key::es256("one")]).await;
        for (grace, stay) in [(Duration::from_secs(60), true), (Duration::ZERO, false)] {
            let issuer = issuer(&server, Pace { grace, ..hasty() });
            server.answer.lock().unwrap().status = 200;
            assert!(issuer.key(Some("one"), ES256).await.is_ok());
            server.answer.lock().unwrap().status = 500;
            assert_eq!(issuer.key(Some("one"), ES256).await.is_ok(), stay);
        }
    }

    #[tokio::test]
    async fn without_keys_tokens_cannot_be_judged() {
        let server = Server::start(&[&Key::es256("one")]).await;
        server.answer.lock().unwrap().status = 500;
        let pace = Pace { without_keys: Duration::from_millis(300), ..Pace::OF_ISSUERS };
        let issuer = issuer(&server, pace);
        for _ in 0..5 {
            let verdict = issuer.key(Some("one"), ES256).await;
            assert!(matches!(verdict, Err(Error::Unavailable { .. })));
        }
        assert_eq!(server.discoveries.load(Ordering::Relaxed), 1);
        server.answer.lock().unwrap().status = 200;
        tokio::time::sleep(pace.without_keys).await;
        assert!(issuer.key(Some("one"), ES256).await.is_ok());
    }

    #[tokio::test]
    async fn a_fetch_outlives_its_caller() {
        let server = Server::start(&[&Key::es256("one")]).await;
        server.answer.lock().unwrap().delay = Duration::from_millis(100);
        let issuer = issuer(&server, Pace::OF_ISSUERS);
        let impatient = Duration::from_millis(10);
        let asked = tokio::time::timeout(impatient, issuer.key(Some("one"), ES256)).await;
        assert!(asked.is_err());
        assert!(issuer.key(Some("one"), ES256).await.is_ok());
        assert_eq!(fetches(&server), 1);
    }

    #[tokio::test]
    async fn a_file_is_read_at_start_and_for_an_unknown_kid() {
        let (old, new) = (Key::es256("old"), Key::es256("new"));
        let file = testing::file(&[&old]);
        let issuer = cache(&testing::config("https://a.example", Some(&file)), hasty());
        let issuer = issuer.unwrap();
        std::fs::write(file.path(), testing::jwks(&[&new])).unwrap();
        assert!(issuer.key(Some("old"), ES256).await.is_ok());
        assert!(issuer.key(Some("new"), ES256).await.is_ok());
        assert!(issuer.key(Some("old"), ES256).await.is_err());
        std::fs::write(file.path(), "broken").unwrap();
        assert!(issuer.key(Some("old"), ES256).await.is_err());
        assert!(issuer.key(Some("new"), ES256).await.is_ok());
    }

    #[test]
    fn a_wrong_file_stops_the_start() {
        let empty = testing::file(&[]);
        let gone =
            IssuerConfig { jwks: Some("/nowhere/keys.json".into()), ..testing::config("https://a.example", None) };
        for config in [testing::config("https://a.example", Some(&empty)), gone] {
            let verdict = cache(&config, Pace::OF_ISSUERS).map(|_| ());
            assert!(matches!(verdict, Err(Error::Configuration { .. })), "{verdict:?}");
        }
    }

    // I13
    #[tokio::test]
    async fn a_clients_keys_are_kept_as_long_as_it_says_and_no_longer() {
        let (old, new) = (Key::es256("old"), Key::es256("new"));
        let server = Server::start(&[&old]).await;
        server.answer.lock().unwrap().cache_control = Some("no-store");
        let client = issuer(&server, Pace::OF_CLIENTS);
        let asking = (0..10).map(|_| client.key(Some("old"), ES256));
        assert!(futures_util::future::join_all(asking).await.iter().all(Result::is_ok));
        assert_eq!(fetches(&server), 1, "whoever asks at once is served by one answer");
        server.serve(&[&new]);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(client.key(Some("old"), ES256).await.is_err(), "a key that is withdrawn is not known any more");
        assert_eq!(fetches(&server), 2);
        server.answer.lock().unwrap().status = 500;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(matches!(client.key(Some("new"), ES256).await, Err(Error::Unavailable { .. })), "no grace");
    }

    #[test]
    fn lifetimes_are_bounded() {
        let lifetime = |lifetime| {
            let held = Held::new(Loaded { keys: KeySet::default(), lifetime }, Pace::OF_ISSUERS);
            let left = held.stale?.saturating_duration_since(Instant::now()).as_secs_f64();
            Some(left.round() as u64)
        };
        let stated = |seconds| Lifetime::Stated(Duration::from_secs(seconds));
        assert_eq!(lifetime(Lifetime::Unbounded), None);
        assert_eq!(lifetime(Lifetime::Unstated), Some(600));
        assert_eq!(lifetime(stated(0)), Some(60));
        assert_eq!(lifetime(stated(300)), Some(300));
        assert_eq!(lifetime(stated(u64::MAX)), Some(86_400));
    }
}
