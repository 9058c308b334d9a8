//! The keys with which the server signs its own access tokens: in Postgres, the same for all replicas, a new one each day.
//!
//! Whoever signs asks Postgres which key's turn it is, and makes the next one an hour before its turn. Whoever verifies or
//! publishes keeps the public halves for a minute, and for some more while Postgres cannot be asked.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::config::SigningAlgorithm;
use super::keys::KeySet;
use super::{Error, token};

/// The advisory lock of who makes a key.
const MAKING: i64 = 0x0066_6869_7200_0006;
/// For so long the public keys are not asked for again …
const KEPT: Duration = Duration::from_secs(60);
/// … but for a token that names one which is not among them, so often at most, whether there is an answer or not.
const BETWEEN: Duration = Duration::from_secs(1);
/// So old they may be while there is no answer.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);
/// An access token's type (RFC 9068).
const ACCESS_TOKEN: &str = "at+jwt";

/// The server's own keys.
pub(super) struct SigningKeys {
    pool: PgPool,
    published: std::sync::Mutex<Option<Arc<Published>>>,
    /// Whoever asks holds it, and the others wait for that answer; within, when there was none.
    asking: Mutex<Option<Instant>>,
}

struct Published {
    keys: KeySet,
    /// The same as a JSON Web Key Set.
    jwks: String,
    asked: Instant,
}

/// A key whose turn it is, or will be. No `Debug`: it is secret.
struct Signer {
    kid: String,
    private_key: Vec<u8>,
    ends_soon: bool,
}

/// Why a token cannot be signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSigned {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("a key cannot be made")]
    NoKey,
    #[error("the key does not sign: {0}")]
    Key(#[from] jsonwebtoken::errors::Error),
}

impl SigningKeys {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, published: std::sync::Mutex::default(), asking: Mutex::default() }
    }

    /// An access token of these claims.
    pub(super) async fn sign(&self, claims: &impl Serialize) -> Result<String, NotSigned> {
        let signer = self.signer().await?;
        let header =
            Header { typ: Some(ACCESS_TOKEN.to_owned()), kid: Some(signer.kid), ..Header::new(Algorithm::ES384) };
        Ok(jsonwebtoken::encode(&header, claims, &EncodingKey::from_ec_der(&signer.private_key))?)
    }

    /// The key whose turn it is.
    async fn signer(&self) -> Result<Signer, NotSigned> {
        let mut signers = self.signers().await?;
        if signers.last().is_none_or(|last| last.ends_soon) {
            make(&self.pool).await?;
            signers = self.signers().await?;
        }
        signers.into_iter().next().ok_or(NotSigned::NoKey)
    }

    async fn signers(&self) -> Result<Vec<Signer>, sqlx::Error> {
        sqlx::query_as!(
            Signer,
            r#"-- identity.signing.signers
            select kid, private_key, signs_until < now() + interval '1 hour' as "ends_soon!"
            from signing_key where signs_until > now() order by signs_from"#
        )
        .fetch_all(&self.pool)
        .await
    }

    /// The key with which a token was signed.
    pub(super) async fn key(&self, id: Option<&str>) -> Result<DecodingKey, Error> {
        let id = id.ok_or(token::invalid("it does not say which key signed it"))?;
        let find = |published: &Published| published.keys.find(Some(id), SigningAlgorithm::ES384);
        let mut found = find(&*self.published().await?);
        if found.is_err() {
            found = find(&*self.fresh(BETWEEN).await?);
        }
        found.map_err(|_| token::invalid("its signer has no such key"))
    }

    /// The public keys, as a JSON Web Key Set.
    pub(super) async fn jwks(&self) -> Result<String, Error> {
        Ok(self.published().await?.jwks.clone())
    }

    /// The public keys: older ones, if newer ones cannot be had.
    async fn published(&self) -> Result<Arc<Published>, Error> {
        let fresh = self.fresh(KEPT).await;
        fresh.or_else(|error| self.held(MAX_AGE).ok_or(error))
    }

    /// The public keys, as they were so long ago at most.
    async fn fresh(&self, age: Duration) -> Result<Arc<Published>, Error> {
        if let Some(held) = self.held(age) {
            return Ok(held);
        }
        let mut failed = self.asking.lock().await;
        if let Some(held) = self.held(age) {
            return Ok(held);
        }
        if failed.is_some_and(|failed| failed.elapsed() < BETWEEN) {
            return Err(unavailable());
        }
        let asked = self.ask().await;
        *failed = asked.is_err().then(Instant::now);
        let published = Arc::new(asked?);
        *self.locked() = Some(Arc::clone(&published));
        Ok(published)
    }

    fn held(&self, age: Duration) -> Option<Arc<Published>> {
        self.locked().clone().filter(|published| published.asked.elapsed() < age)
    }

    async fn ask(&self) -> Result<Published, Error> {
        let asked = Instant::now();
        let keys = sqlx::query_scalar!(
            "-- identity.signing.ask
            select jwk from signing_key where signs_until > now() - interval '10 minutes' order by signs_from"
        )
        .fetch_all(&self.pool)
        .await?;
        let jwks = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
        let keys = KeySet::of_issuer(jwks.as_bytes()).map_err(|error| {
            tracing::error!(%error, "the server's own keys cannot be read");
            unavailable()
        })?;
        Ok(Published { keys, jwks, asked })
    }

    /// Whoever panicked has left it as it was.
    fn locked(&self) -> std::sync::MutexGuard<'_, Option<Arc<Published>>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable() -> Error {
    Error::Unavailable { what: "the server's own keys".to_owned() }
}

/// Makes the next key, unless somebody else just did.
async fn make(pool: &PgPool) -> Result<(), NotSigned> {
    let private_key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| NotSigned::NoKey)?;
    let kid = Uuid::new_v4().to_string();
    let mut jwk = Jwk::from_encoding_key(&EncodingKey::from_ec_der(private_key.as_ref()), Algorithm::ES384)?;
    jwk.common.key_id = Some(kid.clone());
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    let jwk = serde_json::to_string(&jwk).map_err(jsonwebtoken::errors::Error::from)?;

    let mut transaction = pool.begin().await?;
    sqlx::query_scalar!(
        r#"-- identity.signing.make: alone
        select pg_advisory_xact_lock($1) as "nothing: ()""#,
        MAKING
    )
    .fetch_one(&mut *transaction)
    .await?;
    let made = sqlx::query!(
        "-- identity.signing.make
        insert into signing_key (kid, jwk, private_key, signs_from, signs_until)
        select $1, $2, $3, turn, turn + interval '24 hours'
        from (select coalesce(max(signs_until), now()) as turn from signing_key where signs_until > now()) last
        where turn < now() + interval '1 hour'",
        kid,
        jwk,
        private_key.as_ref(),
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    if made.rows_affected() > 0 {
        tracing::info!(kid, "made a key for signing access tokens");
    }
    Ok(())
}

/// Removes the keys of which no token can be good any more.
pub(super) async fn forget(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- identity.signing.forget
        delete from signing_key where signs_until < now() - interval '10 minutes'"
    )
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_share_one_question_and_its_failure() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let questions = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&questions);
        TaskTracker::new().spawn(async move {
            // Nothing is ever said to whoever comes.
            let mut silent = Vec::new();
            while let Ok(connection) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                silent.push(connection);
            }
        });
        let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port);
        let timeout = Duration::from_millis(300);
        let pool = PgPoolOptions::new().acquire_timeout(timeout).connect_lazy_with(options);
        let keys = SigningKeys::new(pool);
        for found in futures_util::future::join_all((0..20).map(|_| keys.key(Some("a")))).await {
            assert!(matches!(found, Err(Error::Database(_) | Error::Unavailable { .. })));
        }
        // One more for each second that this took.
        assert!(questions.load(Ordering::Relaxed) < 10, "{questions:?}");
    }
}
