//! The schema, brought up to date while others work with it (migrations/README.md).

use std::time::Duration;

use sqlx::PgPool;
use sqlx::migrate::MigrateError;

use super::{Error, code};

/// A change of the schema waits no longer than this for a lock: who else wants it stands in line behind it. With every
/// attempt a little longer, up to the second, for exports that never let go of what it wants all at once.
const LOCK_PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// Who is frozen in the middle of a change of the schema keeps everybody from working: it is cut off after this long.
const FROZEN: &str = "10s";
/// A change of the schema is short: one that takes longer waits for an answer that will not come.
const MIGRATING: Duration = Duration::from_secs(120);
/// Between two attempts at a change of the schema: time for those who stood in line.
const MIGRATE_AGAIN: Duration = Duration::from_secs(3);
/// So many attempts, a quarter of an hour and more.
const MIGRATE_ATTEMPTS: u32 = 100;

/// Brings the schema up to date, while others work on: several that try at once wait for each other, and a change that
/// does not get its locks at once gives way and is tried again. A schema of a newer version is left as it is: the version
/// before it works with it (migrations/README.md).
///
/// # Errors
/// When a migration fails.
pub async fn migrate(pool: &PgPool) -> Result<(), Error> {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.set_ignore_missing(true);
    let mut connection = pool.acquire().await?;
    let set = "-- database.migrate
        select set_config('lock_timeout', $1, false), set_config('idle_in_transaction_session_timeout', $2, false)";
    let mut attempts = 1;
    let result = loop {
        let patience = (LOCK_PATIENCE.0 + attempts * LOCK_PATIENCE.0 / 10).min(LOCK_PATIENCE.1);
        sqlx::query(set).bind(format!("{}ms", patience.as_millis())).bind(FROZEN).execute(&mut *connection).await?;
        let attempt = tokio::time::timeout(MIGRATING, migrator.run(&mut *connection));
        match attempt.await.unwrap_or(Err(MigrateError::Execute(sqlx::Error::PoolTimedOut))) {
            Err(error) if attempts < MIGRATE_ATTEMPTS && is_locked_out(&error) => {
                tracing::info!("the schema cannot be changed at the moment: others work with it; trying again");
                attempts += 1;
                tokio::time::sleep(MIGRATE_AGAIN).await;
            }
            result => break result,
        }
    };
    // With its settings it is of no use to others.
    drop(connection.detach());
    Ok(result?)
}

fn is_locked_out(error: &MigrateError) -> bool {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            code(error).as_deref() == Some("55P03")
        }
        _ => false,
    }
}
