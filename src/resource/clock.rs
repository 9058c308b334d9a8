//! How versions are dated, and the transaction time of an export. Only the database's clock counts.
//!
//! A writer takes the writers' lock shared and **after that, in a later statement**, reads the clock (`now()` would be
//! from before the wait). The planner of an export takes the same lock exclusively while it takes its transaction
//! time T, and T is remembered. So every committed version is dated at or before T, and every later one after it:
//! nothing is on both sides and nothing on neither, also when the clock steps back.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::database::code;

/// The advisory lock between writers (shared) and planners (exclusive).
const WRITERS_LOCK: i64 = 0x0066_6869_7200_0001;
/// A waiting planner holds up new writers: it gives way after this long and asks again …
const PLANNER_WAITS: Duration = Duration::from_millis(100);
/// … for twice as long each time, up to this: so that it comes to its turn also in a crowd of writers that take long.
const PLANNER_WAITS_AT_MOST: Duration = Duration::from_secs(5);
/// A planner that has the lock holds up all writers: one that is frozen then is cut off after this long.
const PLANNER_HOLDS_MS: &str = "2000";

/// Takes the writers' lock until the end of the transaction, and gives the date for the versions it writes. A version
/// that replaces one of the same or a later date is dated a millisecond after that.
pub(super) async fn date_versions(transaction: &mut PgConnection) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query!(
        r#"-- resource.clock.write
        select pg_advisory_xact_lock_shared($1) as "nothing: ()""#,
        WRITERS_LOCK
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query_scalar!(
        r#"-- resource.clock.date
        select greatest(date_trunc('milliseconds', clock_timestamp()), highest + interval '1 millisecond') as "at!"
        from transaction_time"#
    )
    .fetch_one(transaction)
    .await
}

/// The present, for questions whose answer is not kept. A version may be dated a little later than the clock.
pub(crate) async fn present(connection: &mut PgConnection) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- resource.clock.present
        select clock_timestamp() + interval '1 second' as "at!""#
    )
    .fetch_one(connection)
    .await
}

/// A transaction time, and how much history there was then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) at: OffsetDateTime,
    /// Versions superseded at or before this may be pruned already.
    pub(crate) pruned_until: OffsetDateTime,
}

/// Takes a transaction time, which holds from when the given transaction is committed. Waits for the writers under way,
/// and for who is about to have pruned; new writers wait for it, at first a tenth of a second at most.
pub(crate) async fn take_transaction_time(
    pool: &PgPool,
) -> Result<(sqlx::Transaction<'static, sqlx::Postgres>, Taken), sqlx::Error> {
    let mut patience = PLANNER_WAITS;
    loop {
        let mut transaction = pool.begin().await?;
        sqlx::query!(
            "-- resource.clock.patience
            select set_config('lock_timeout', $1, true) as waits,
                set_config('idle_in_transaction_session_timeout', $2, true) as holds",
            patience.as_millis().to_string(),
            PLANNER_HOLDS_MS
        )
        .fetch_one(&mut *transaction)
        .await?;
        match take(&mut transaction).await {
            Ok(taken) => return Ok((transaction, taken)),
            // lock_not_available
            Err(error) if code(&error).as_deref() == Some("55P03") => {
                transaction.rollback().await?;
                tokio::time::sleep(patience / 5).await;
                patience = (patience * 2).min(PLANNER_WAITS_AT_MOST);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits for the writers under way, and keeps all others, and planners, waiting until the end of the transaction.
pub(crate) async fn keep_writers_out(transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"-- resource.clock.plan
        select pg_advisory_xact_lock($1) as "nothing: ()""#,
        WRITERS_LOCK
    )
    .execute(transaction)
    .await?;
    Ok(())
}

async fn take(transaction: &mut PgConnection) -> Result<Taken, sqlx::Error> {
    keep_writers_out(transaction).await?;
    sqlx::query_as!(
        Taken,
        r#"-- resource.clock.transaction_time
        update transaction_time set highest = greatest(
            date_trunc('milliseconds', clock_timestamp()), highest, (select max(last_updated) from resource)
        )
        returning highest as at, pruned_until"#
    )
    .fetch_one(transaction)
    .await
}
