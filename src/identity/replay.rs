//! A client assertion is good once, whichever replica it comes to (rule I11).

use sha2::{Digest, Sha256};
use sqlx::PgPool;
use time::OffsetDateTime;

/// Uses up an assertion of this client, which ends then; false if that was done before.
pub(super) async fn spend(
    pool: &PgPool,
    client: &str,
    jti: &str,
    expires: OffsetDateTime,
) -> Result<bool, sqlx::Error> {
    let jti: [u8; 32] = Sha256::digest(jti).into();
    let spent = sqlx::query!(
        "-- identity.replay.spend
        insert into spent_assertion (client_id, jti, expires_at) values ($1, $2, $3) on conflict do nothing",
        client,
        jti.as_slice(),
        expires,
    )
    .execute(pool)
    .await?;
    Ok(spent.rows_affected() == 1)
}

/// Forgets those that are refused for their age, also by a replica whose clock is slow.
pub(super) async fn forget(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- identity.replay.forget
        delete from spent_assertion where expires_at < now() - interval '1 hour'"
    )
    .execute(pool)
    .await?;
    Ok(())
}
