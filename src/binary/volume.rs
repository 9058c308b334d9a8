//! Where chunks lie, and how they go: a large export has a volume of its own, which is emptied at once; the small ones
//! share one, where their rows are deleted.
//!
//! # Why
//!
//! Deleting a row writes to the page it is on, and vacuum does so once more: after a checkpoint that is as much WAL as
//! the export itself. Truncating a partition writes next to nothing, takes moments, and gives the space back to the file
//! system (docs/performance.md has the figures).

use sqlx::{AssertSqlSafe, PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use crate::database::code;

/// An export of more NDJSON than this is worth a volume of its own, if one is free.
const LARGE: i64 = 64 << 20;
/// The advisory lock of whoever empties a volume. Deleting a file looks for its chunks in all volumes, so two that each
/// have locked one would wait for each other.
const EMPTYING_LOCK: i64 = 0x0066_6869_7200_0003;
/// Chunks removed in one transaction.
const REMOVED_AT_ONCE: i64 = 64;
/// How long to wait for a worker that is still at it, before the next sweep tries again: it notices within a second.
const PATIENCE: &str = "3s";

/// The number of a volume: a partition of `binary_chunk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct Volume(i16);

/// What of a job's files went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Bytes of chunks.
    pub(crate) bytes: i64,
    /// Whether nothing is left.
    pub(crate) all: bool,
}

impl Volume {
    const SHARED: Self = Self(0);

    /// Gives a job that will put out about so many bytes of NDJSON a volume of its own, if it is worth it and there is
    /// one; in the transaction that starts the job.
    pub(crate) async fn take(transaction: &mut PgConnection, job: Uuid, bytes: i64) -> Result<(), sqlx::Error> {
        if bytes < LARGE {
            return Ok(());
        }
        sqlx::query!(
            "-- binary.volume.take
            update binary_volume set job_id = $1
            where number = (
                select number from binary_volume where job_id is null order by number limit 1 for update skip locked
            )",
            job
        )
        .execute(transaction)
        .await?;
        Ok(())
    }

    /// Where the chunks of a job lie.
    pub(crate) async fn of(executor: impl PgExecutor<'_>, job: Uuid) -> Result<Self, sqlx::Error> {
        let own = sqlx::query_scalar!(
            r#"-- binary.volume.of
            select number as "number: Self" from binary_volume where job_id = $1"#,
            job
        )
        .fetch_optional(executor)
        .await?;
        Ok(own.unwrap_or(Self::SHARED))
    }
}

/// What becomes of a file that is being downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Stays,
    /// The download breaks off.
    Goes,
}

/// Removes the files of a job.
pub(crate) async fn remove_files(pool: &PgPool, job: Uuid, held: Held) -> Result<Removed, sqlx::Error> {
    match Volume::of(pool, job).await? {
        Volume::SHARED => delete(pool, job, held).await,
        own => match empty(pool, job, own, held).await {
            // lock_not_available
            Err(error) if code(&error).as_deref() == Some("55P03") => Ok(Removed { bytes: 0, all: false }),
            result => result,
        },
    }
}

/// Takes deleted chunks out of the shared volume; until then they lie in it, though nobody sees them.
pub(crate) async fn vacuum(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("-- binary.volume.vacuum\nvacuum binary_chunk_0").execute(pool).await?;
    Ok(())
}

/// Empties a job's own volume and gives it back; not while a file stays that is held.
async fn empty(pool: &PgPool, job: Uuid, volume: Volume, held: Held) -> Result<Removed, sqlx::Error> {
    let nothing = Removed { bytes: 0, all: false };
    let mut transaction = pool.begin().await?;
    sqlx::query!("-- binary.volume.patience\nselect set_config('lock_timeout', $1, true)", PATIENCE)
        .fetch_one(&mut *transaction)
        .await?;
    let alone = sqlx::query_scalar!(
        r#"-- binary.volume.lock
        select pg_try_advisory_xact_lock($1) as "alone!""#,
        EMPTYING_LOCK
    )
    .fetch_one(&mut *transaction)
    .await?;
    // Another replica may have emptied it since it was looked up, and it may be another job's by now.
    let still_its_own = alone && give_back(&mut transaction, job, volume).await?;
    if !still_its_own || is_held(&mut transaction, job).await? && held == Held::Stays {
        return Ok(nothing);
    }
    let truncate = format!("-- binary.volume.empty\ntruncate binary_chunk_{}", volume.0);
    sqlx::query(AssertSqlSafe(truncate)).execute(&mut *transaction).await?;
    let bytes = sqlx::query_scalar!(
        r#"-- binary.volume.remove_files
        with removed as (delete from binary_file where job_id = $1 returning deflated_bytes)
        select coalesce(sum(deflated_bytes), 0)::bigint as "bytes!" from removed"#,
        job
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Removed { bytes, all: true })
}

/// Lets others take the volume when this transaction is committed; false if it is not the job's.
async fn give_back(transaction: &mut PgConnection, job: Uuid, volume: Volume) -> Result<bool, sqlx::Error> {
    let given_back = sqlx::query!(
        "-- binary.volume.give_back
        update binary_volume set job_id = null where number = $1 and job_id = $2",
        volume as Volume,
        job
    )
    .execute(transaction)
    .await?;
    Ok(given_back.rows_affected() == 1)
}

/// Whether a file of the job is being downloaded. None can be held any more until this transaction ends.
async fn is_held(transaction: &mut PgConnection, job: Uuid) -> Result<bool, sqlx::Error> {
    let held = sqlx::query_scalar!(
        r#"-- binary.volume.held
        with file as (select held_until from binary_file where job_id = $1 for update)
        select exists (select from file where held_until > clock_timestamp()) as "held!""#,
        job
    )
    .fetch_one(transaction)
    .await?;
    Ok(held)
}

/// Deletes the rows of a job's files, a few at a time.
async fn delete(pool: &PgPool, job: Uuid, held: Held) -> Result<Removed, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        "-- binary.volume.removable
        select id from binary_file
        where job_id = $1 and ($2 or held_until is null or held_until <= clock_timestamp())",
        job,
        held == Held::Goes
    )
    .fetch_all(pool)
    .await?;
    let mut bytes = 0;
    for id in &ids {
        bytes += delete_chunks(pool, id).await?;
        sqlx::query!("-- binary.volume.remove\ndelete from binary_file where id = $1", id).execute(pool).await?;
    }
    let left = sqlx::query_scalar!(
        r#"-- binary.volume.left
        select exists (select from binary_file where job_id = $1) as "left!""#,
        job
    )
    .fetch_one(pool)
    .await?;
    Ok(Removed { bytes, all: !left })
}

async fn delete_chunks(pool: &PgPool, id: &str) -> Result<i64, sqlx::Error> {
    let mut bytes = 0;
    loop {
        let removed = sqlx::query!(
            r#"-- binary.volume.remove_chunks
            with removed as (
                delete from binary_chunk
                where volume = $3 and binary_id = $1 and ordinal in (
                    select ordinal from binary_chunk where volume = $3 and binary_id = $1 order by ordinal desc limit $2
                )
                returning octet_length(data) as bytes
            )
            select count(*) as "chunks!", coalesce(sum(bytes), 0)::bigint as "bytes!" from removed"#,
            id,
            REMOVED_AT_ONCE,
            Volume::SHARED as Volume
        )
        .fetch_one(pool)
        .await?;
        bytes += removed.bytes;
        if removed.chunks < REMOVED_AT_ONCE {
            return Ok(bytes);
        }
    }
}
