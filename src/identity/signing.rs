//! The keys with which the server signs its own access tokens: in Postgres, the same for all replicas, a new one each day.
//!
//! Whoever signs asks Postgres which key's turn it is, and makes the next one an hour before its turn. Whoever verifies or
//! publishes keeps the public halves for a minute.

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
/// … but for a token that names one which is not among them, so often at most.
const BETWEEN: Duration = Duration::from_secs(1);
/// An access token's type (RFC 9068).
const ACCESS_TOKEN: &str = "at+jwt";

/// The server's own keys.
pub(super) struct SigningKeys {
    pool: PgPool,
    published: Mutex<Published>,
}

#[derive(Default)]
struct Published {
    keys: KeySet,
    /// The same as a JSON Web Key Set.
    jwks: String,
    asked: Option<Instant>,
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
        Self { pool, published: Mutex::default() }
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
        let mut published = self.fresh(KEPT).await?;
        let mut found = published.keys.find(Some(id), SigningAlgorithm::ES384);
        if found.is_err() {
            drop(published);
            published = self.fresh(BETWEEN).await?;
            found = published.keys.find(Some(id), SigningAlgorithm::ES384);
        }
        found.map_err(|_| token::invalid("its signer has no such key"))
    }

    /// The public keys, as a JSON Web Key Set.
    pub(super) async fn jwks(&self) -> Result<String, Error> {
        Ok(self.fresh(KEPT).await?.jwks.clone())
    }

    /// The public keys, as they were so long ago at most.
    async fn fresh(&self, age: Duration) -> Result<tokio::sync::MutexGuard<'_, Published>, Error> {
        let mut published = self.published.lock().await;
        if published.asked.is_none_or(|asked| asked.elapsed() >= age) {
            let keys = sqlx::query_scalar!(
                "-- identity.signing.fresh
                select jwk from signing_key where signs_until > now() - interval '10 minutes' order by signs_from"
            )
            .fetch_all(&self.pool)
            .await?;
            let jwks = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
            let keys = KeySet::of_issuer(jwks.as_bytes()).map_err(|error| {
                tracing::error!(%error, "the server's own keys cannot be read");
                Error::Unavailable { what: "the server's own keys".to_owned() }
            })?;
            *published = Published { keys, jwks, asked: Some(Instant::now()) };
        }
        Ok(published)
    }
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
