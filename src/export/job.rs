//! The jobs, for those who watch and end them: `export_job` as callers and operators see it.

use std::time::Duration;

use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::announcement::{self, announce_end};
use super::request::ExportRequest;
use crate::database::interval;
use crate::identity::Owner;
use crate::ledger::Requester;
use crate::ledger::event::{Entry, Kind};

/// How a DELETE is answered that did something.
const DELETED: u16 = 202;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Accepted,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing more comes of it.
    pub(crate) fn is_final(self) -> bool {
        !matches!(self, Self::Accepted | Self::Running)
    }
}

impl From<String> for State {
    /// The column has a check constraint; only these five get in.
    fn from(text: String) -> Self {
        [Self::Accepted, Self::Running, Self::Completed, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == text)
            .unwrap_or(Self::Failed)
    }
}

/// A job as its owner or an operator sees it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: Uuid,
    pub(crate) state: State,
    pub(crate) request: Json<ExportRequest>,
    pub(crate) transaction_time: Option<OffsetDateTime>,
    pub(crate) accepted_at: OffsetDateTime,
    pub(crate) started_at: Option<OffsetDateTime>,
    pub(crate) finished_at: Option<OffsetDateTime>,
    pub(crate) expires_at: Option<OffsetDateTime>,
    pub(crate) failure: Option<String>,
    /// Pages of the manifest that were closed while it ran.
    pub(crate) pages: i32,
    /// Seconds since it was accepted, by the database's clock.
    pub(crate) age: f64,
}

/// Where it is polled.
pub(crate) fn poll_url(base: &str, id: Uuid) -> String {
    format!("{base}/$export-poll-status?_jobId={id}")
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Resources that were read so far, whether or not they come out.
    pub(crate) examined: i64,
    /// Resources expected in all: exact for parts that are done, a guess for the others.
    pub(crate) expected: i64,
}

impl Progress {
    /// 0 to 99: all is done only when the job says so.
    pub(crate) fn percent(self) -> i64 {
        (self.examined.saturating_mul(100) / self.expected.max(1)).clamp(0, 99)
    }
}

/// The owner's job, until it expires.
pub(crate) async fn find_for(pool: &PgPool, id: Uuid, owner: &Owner) -> Result<Option<Job>, sqlx::Error> {
    sqlx::query_as!(
        Job,
        r#"-- export.job.find_for
        select id, state, request as "request: Json<ExportRequest>", transaction_time, accepted_at, started_at,
            finished_at, expires_at, failure, pages,
            extract(epoch from clock_timestamp() - accepted_at)::float8 as "age!"
        from export_job
        where id = $1 and owner_issuer = $2 and owner_subject = $3
            and (expires_at is null or expires_at > clock_timestamp())"#,
        id,
        owner.issuer,
        owner.subject
    )
    .fetch_optional(pool)
    .await
}

/// Any job, for operators.
pub(crate) async fn find(pool: &PgPool, id: Uuid) -> Result<Option<Job>, sqlx::Error> {
    sqlx::query_as!(
        Job,
        r#"-- export.job.find
        select id, state, request as "request: Json<ExportRequest>", transaction_time, accepted_at, started_at,
            finished_at, expires_at, failure, pages,
            extract(epoch from clock_timestamp() - accepted_at)::float8 as "age!"
        from export_job
        where id = $1"#,
        id
    )
    .fetch_optional(pool)
    .await
}

/// All jobs, the newest first, for operators.
pub(crate) async fn list(pool: &PgPool) -> Result<Vec<Job>, sqlx::Error> {
    sqlx::query_as!(
        Job,
        r#"-- export.job.list
        select id, state, request as "request: Json<ExportRequest>", transaction_time, accepted_at, started_at,
            finished_at, expires_at, failure, pages,
            extract(epoch from clock_timestamp() - accepted_at)::float8 as "age!"
        from export_job
        order by accepted_at desc
        limit 1000"#
    )
    .fetch_all(pool)
    .await
}

/// Ends a job that is not finished, for its owner or an operator; false if it is, or is not there.
pub(crate) async fn cancel(
    pool: &PgPool,
    id: Uuid,
    retention: Duration,
    by: Option<&Requester>,
) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let cancelled = sqlx::query!(
        "-- export.job.cancel
        update export_job
        set state = 'cancelled', finished_at = clock_timestamp(), expires_at = clock_timestamp() + $2, lease_until = null
        where id = $1 and state in ('accepted', 'running')",
        id,
        interval(retention)
    )
    .execute(&mut *transaction)
    .await?;
    let is_cancelled = cancelled.rows_affected() == 1;
    if let Some(by) = by.filter(|_| is_cancelled) {
        note_delete(&mut transaction, id, by).await?;
    }
    announce_end(&mut transaction, id).await?;
    transaction.commit().await?;
    Ok(is_cancelled)
}

/// Lets a finished job expire now: the owner needs it no more (rule D3).
pub(crate) async fn discard(pool: &PgPool, id: Uuid, by: &Requester) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query!(
        "-- export.job.discard
        update export_job set expires_at = clock_timestamp() where id = $1 and expires_at is not null",
        id
    )
    .execute(&mut *transaction)
    .await?;
    note_delete(&mut transaction, id, by).await?;
    transaction.commit().await
}

async fn note_delete(transaction: &mut PgConnection, id: Uuid, by: &Requester) -> Result<(), sqlx::Error> {
    Entry::about_job(Kind::Delete, by, id, DELETED).write(transaction).await?;
    Ok(())
}

/// Completes a job that is running.
pub(super) async fn complete(connection: &mut PgConnection, id: Uuid, retention: Duration) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- export.job.complete
        update export_job
        set state = 'completed', finished_at = clock_timestamp(), expires_at = clock_timestamp() + $2
        where id = $1 and state = 'running'",
        id,
        interval(retention)
    )
    .execute(&mut *connection)
    .await?;
    announce_end(connection, id).await
}

/// Fails a job that is not finished.
pub(super) async fn fail(
    connection: &mut PgConnection,
    id: Uuid,
    reason: &str,
    retention: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- export.job.fail
        update export_job
        set state = 'failed', failure = $2, finished_at = clock_timestamp(), expires_at = clock_timestamp() + $3,
            lease_until = null
        where id = $1 and state in ('accepted', 'running')",
        id,
        reason,
        interval(retention)
    )
    .execute(&mut *connection)
    .await?;
    announce_end(connection, id).await
}

/// Fails the jobs that were accepted longer ago than `deadline`, and tells which.
pub(crate) async fn fail_overdue(
    pool: &PgPool,
    deadline: Duration,
    retention: Duration,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let reason = format!(
        "The export did not end within {} (export.deadline)",
        humantime_serde::re::humantime::format_duration(deadline)
    );
    let failed = sqlx::query!(
        r#"-- export.job.fail_overdue
        update export_job as job
        set state = 'failed', finished_at = clock_timestamp(), expires_at = clock_timestamp() + $2, lease_until = null,
            failure = $3 || coalesce('; at last: ' || coalesce(fault, (
                select part.fault from export_part as part
                where job_id = job.id and part.state <> 'done' and part.fault is not null
                order by fault_since desc limit 1
            )), '') || '.'
        where id in (
            select id from export_job
            where state in ('accepted', 'running') and accepted_at < clock_timestamp() - $1::interval
            -- One that somebody holds on to keeps no other from ending.
            for no key update skip locked
        )
        -- In the same statement: who is frozen after it holds nothing.
        returning id, pg_notify($4, id::text) as "announced: ()""#,
        interval(deadline),
        interval(retention),
        reason,
        announcement::CHANNEL
    )
    .fetch_all(pool)
    .await?;
    Ok(failed.into_iter().map(|job| job.id).collect())
}

/// Versions superseded at or before this instant are of no use: they are older than the history that is kept, and no
/// unfinished job reads the store as of an earlier time, or the history before. A job that gets its transaction time
/// later gets a later one; one of history may get an earlier floor meanwhile, and then no version that it needs can be
/// removed (migration 11).
pub(crate) async fn history_bound(pool: &PgPool, history: Duration) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- export.job.history_bound
        select least(clock_timestamp() - $1::interval, min(coalesce(history_floor, transaction_time))) as "bound!"
        from export_job where state in ('accepted', 'running')"#,
        interval(history)
    )
    .fetch_one(pool)
    .await
}

/// Jobs whose files are of no use any more: expired, or ended without a manifest.
pub(crate) async fn without_use_of_files(pool: &PgPool) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "-- export.job.without_use_of_files
        select id from export_job where expires_at <= clock_timestamp() or state in ('failed', 'cancelled')
        -- One that takes long, or cannot go, is not always the first.
        order by random()"
    )
    .fetch_all(pool)
    .await
}

/// Removes an expired job whose files are gone.
pub(crate) async fn remove_expired(pool: &PgPool, id: Uuid) -> Result<bool, sqlx::Error> {
    let removed = sqlx::query!(
        "-- export.job.remove_expired
        delete from export_job where id = $1 and expires_at <= clock_timestamp()",
        id
    )
    .execute(pool)
    .await?;
    Ok(removed.rows_affected() == 1)
}
