//! The parts of a job and the lease on one: whoever writes for a part holds its lease, and every write checks it.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::request::ExportRequest;
use super::{Error, backoff, job};
use crate::binary::ndjson::FileSize;
use crate::binary::{Kind, Place, Volume};
use crate::config;
use crate::database::interval;
use crate::fhir::resource_type::ResourceType;
use crate::resource::read::{Slice, Window};

/// Jobs that are looked at for a part in one turn.
const JOBS_IN_TURN: i64 = 20;

/// What a part puts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The resources.
    Output,
    /// The deletions since `_since`.
    Deleted,
}

impl Stage {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Deleted => "deleted",
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Output => Kind::Output,
            Self::Deleted => Kind::Deleted,
        }
    }
}

/// Which parts a worker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appetite {
    Any,
    /// Parts of at most so many bytes.
    Small(i64),
}

/// The right to work on a part until the lease runs out. `attempt` is the fencing token.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) job: Uuid,
    pub(super) ordinal: i32,
    attempt: i32,
    failures: i32,
    pub(super) stage: Stage,
    pub(super) slices: Vec<Slice>,
    pub(super) file_size: FileSize,
}

struct Claimed {
    attempt: i32,
    failures: i32,
    stage: String,
    resource_types: Vec<String>,
    key_from: i64,
    key_to: i64,
    ordinal: i32,
    taken_over: bool,
}

/// Leases a part: of the job that waited longest for its turn, the first that nobody works on.
pub(super) async fn claim(
    pool: &PgPool,
    worker: Uuid,
    config: &config::Export,
    appetite: Appetite,
) -> Result<Option<Lease>, Error> {
    let max_bytes = match appetite {
        Appetite::Any => i64::MAX,
        Appetite::Small(bytes) => bytes,
    };
    for job in jobs_in_turn(pool, max_bytes).await? {
        if let Some(lease) = claim_of(pool, &job, worker, config, max_bytes).await? {
            return Ok(Some(lease));
        }
    }
    Ok(None)
}

struct InTurn {
    id: Uuid,
    transaction_time: OffsetDateTime,
    request: sqlx::types::Json<ExportRequest>,
}

async fn jobs_in_turn(pool: &PgPool, max_bytes: i64) -> Result<Vec<InTurn>, sqlx::Error> {
    sqlx::query_as!(
        InTurn,
        r#"-- export.part.jobs_in_turn
        select id, transaction_time as "transaction_time!", request as "request: sqlx::types::Json<ExportRequest>"
        from export_job as job
        where state = 'running' and exists (
            select from export_part as part
            where part.job_id = job.id and part.state <> 'done' and part.estimated_bytes <= $1
                and part.not_before <= clock_timestamp()
                and (part.state = 'pending' or part.lease_until < clock_timestamp())
        )
        order by
            (select max(claimed_at) from export_part as part where part.job_id = job.id) nulls first,
            accepted_at
        limit $2"#,
        max_bytes,
        JOBS_IN_TURN
    )
    .fetch_all(pool)
    .await
}

async fn claim_of(
    pool: &PgPool,
    job: &InTurn,
    worker: Uuid,
    config: &config::Export,
    max_bytes: i64,
) -> Result<Option<Lease>, Error> {
    let claimed = sqlx::query_as!(
        Claimed,
        r#"-- export.part.claim
        with free as (
            select ordinal, state = 'running' as taken_over from export_part
            where job_id = $1 and state <> 'done' and estimated_bytes <= $2
                and not_before <= clock_timestamp()
                and (state = 'pending' or lease_until < clock_timestamp())
            -- The large ones first, so that none is left alone at the end.
            order by estimated_bytes desc, ordinal
            limit 1
            for update skip locked
        )
        update export_part as part
        set state = 'running', attempt = attempt + 1, failures = failures + free.taken_over::int,
            worker = $3, claimed_at = clock_timestamp(), lease_until = clock_timestamp() + $4, resources = 0
        from free
        where part.job_id = $1 and part.ordinal = free.ordinal
        returning part.ordinal, attempt, failures, stage, resource_types, key_from, key_to, taken_over as "taken_over!""#,
        job.id,
        max_bytes,
        worker,
        interval(config.lease)
    )
    .fetch_optional(pool)
    .await?;
    let Some(claimed) = claimed else { return Ok(None) };
    let lease = Lease::new(job, claimed, config);
    if lease.0 {
        end_sessions_of(pool, &lease.1).await?;
    }
    Ok(Some(lease.1))
}

/// Ends the database sessions of the worker whose lease ran out: it may be frozen in the middle of a transaction.
async fn end_sessions_of(pool: &PgPool, lease: &Lease) -> Result<(), sqlx::Error> {
    let ended = end_sessions_named(pool, &session_name(lease.job, lease.ordinal, lease.attempt - 1)).await?;
    tracing::warn!(job.id = %lease.job, part = lease.ordinal, sessions = ended, "took over a part whose worker was lost");
    Ok(())
}

/// Ends the database sessions of all workers on a job that is over.
pub(crate) async fn end_sessions(pool: &PgPool, job: Uuid) -> Result<(), sqlx::Error> {
    let ended = end_sessions_named(pool, &format!("export {} %", job.simple())).await?;
    if ended > 0 {
        tracing::warn!(job.id = %job, sessions = ended, "ended workers on an export that is over");
    }
    Ok(())
}

/// Gives how many there were. `%` stands for anything.
async fn end_sessions_named(pool: &PgPool, name: &str) -> Result<usize, sqlx::Error> {
    let ended = sqlx::query!(
        r#"-- export.part.end_sessions
        select pg_terminate_backend(pid) as ended from pg_stat_activity
        where application_name like $1 and pid <> pg_backend_pid() and datname = current_database()"#,
        name
    )
    .fetch_all(pool)
    .await?;
    Ok(ended.len())
}

/// What a session that works on a part is called in `pg_stat_activity`; at most 63 bytes.
fn session_name(job: Uuid, ordinal: i32, attempt: i32) -> String {
    format!("export {} {ordinal}.{attempt}", job.simple())
}

impl Lease {
    fn new(job: &InTurn, claimed: Claimed, config: &config::Export) -> (bool, Self) {
        let window = Window { at: job.transaction_time, since: job.request.since, until: job.request.until };
        let slices = claimed
            .resource_types
            .iter()
            .filter_map(|name| ResourceType::parse(name))
            .map(|resource_type| Slice { resource_type, keys: claimed.key_from..claimed.key_to, window })
            .collect();
        let stage = if claimed.stage == Stage::Deleted.as_str() { Stage::Deleted } else { Stage::Output };
        let lease = Self {
            job: job.id,
            ordinal: claimed.ordinal,
            attempt: claimed.attempt,
            failures: claimed.failures,
            stage,
            slices,
            file_size: job.request.file_size(config.file_target),
        };
        (claimed.taken_over, lease)
    }

    /// Where its files belong.
    pub(super) async fn place(&self, connection: &mut PgConnection) -> Result<Place, sqlx::Error> {
        let volume = Volume::of(connection, self.job).await?;
        Ok(Place { job: self.job, part: self.ordinal, kind: self.stage.kind(), volume })
    }

    /// Names the session after this lease, so that whoever takes the part over can end it.
    pub(super) async fn name_session(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "-- export.part.name_session
            select set_config('application_name', $1, false)",
            session_name(self.job, self.ordinal, self.attempt)
        )
        .fetch_one(connection)
        .await?;
        Ok(())
    }

    /// Keeps the lease and says how far the part is.
    pub(super) async fn renew(&self, pool: &PgPool, lease: Duration, resources: i64) -> Result<(), Error> {
        let renewed = sqlx::query!(
            "-- export.part.renew
            update export_part set lease_until = clock_timestamp() + $4, resources = $5
            where job_id = $1 and ordinal = $2 and attempt = $3 and state = 'running'
                and exists (select from export_job where id = $1 and state = 'running')",
            self.job,
            self.ordinal,
            self.attempt,
            interval(lease),
            resources
        )
        .execute(pool)
        .await?;
        lost_if_none(renewed.rows_affected())
    }

    /// Marks the part done, in the transaction that wrote its files; with the last part the job is completed.
    /// The job's row is locked first: two last parts cannot miss each other, and a cancel wins or loses cleanly.
    pub(super) async fn complete(
        &self,
        transaction: &mut PgConnection,
        resources: i64,
        retention: Duration,
    ) -> Result<(), Error> {
        let running = sqlx::query_scalar!(
            "-- export.part.lock_job
            select id from export_job where id = $1 and state = 'running' for no key update",
            self.job
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if running.is_none() {
            return Err(Error::LeaseLost);
        }
        let done = sqlx::query!(
            "-- export.part.complete
            update export_part set state = 'done', resources = $4, lease_until = null, worker = null
            where job_id = $1 and ordinal = $2 and attempt = $3 and state = 'running'",
            self.job,
            self.ordinal,
            self.attempt,
            resources
        )
        .execute(&mut *transaction)
        .await?;
        lost_if_none(done.rows_affected())?;
        complete_job_if_done(transaction, self.job, retention).await
    }

    /// Gives the part back after an attempt that failed; after too many the job fails and says why.
    pub(super) async fn fail(
        &self,
        pool: &PgPool,
        cause: &Error,
        config: &config::Export,
        retention: Duration,
    ) -> Result<(), Error> {
        let failures = self.failures + 1;
        tracing::warn!(job.id = %self.job, part = self.ordinal, failures, %cause, "a part failed");
        if failures >= i32::from(config.attempts) {
            return self.give_up(pool, &cause.to_string(), retention).await;
        }
        sqlx::query!(
            "-- export.part.fail
            update export_part
            set state = 'pending', failures = $4, lease_until = null, worker = null, resources = 0,
                not_before = clock_timestamp() + $5
            where job_id = $1 and ordinal = $2 and attempt = $3 and state = 'running'",
            self.job,
            self.ordinal,
            self.attempt,
            failures,
            interval(backoff(failures))
        )
        .execute(pool)
        .await?;
        Ok(())
    }

    /// Whether so many attempts came to nothing that another is not worth it.
    pub(super) fn is_hopeless(&self, attempts: u16) -> bool {
        self.failures >= i32::from(attempts)
    }

    /// Fails the job.
    pub(super) async fn give_up(&self, pool: &PgPool, cause: &str, retention: Duration) -> Result<(), Error> {
        let types: Vec<_> = self.slices.iter().map(|slice| slice.resource_type.as_str()).collect();
        let reason = format!(
            "The export failed: part {} ({}) came to nothing {} times, at last: {cause}.",
            self.ordinal,
            types.join(", "),
            self.failures.max(1),
        );
        tracing::error!(job.id = %self.job, reason, "export failed");
        let mut connection = pool.acquire().await?;
        job::fail(&mut connection, self.job, &reason, retention).await?;
        Ok(())
    }

    /// Gives the part back unharmed, so that another replica can start on it at once.
    pub(super) async fn release(&self, pool: &PgPool) -> Result<(), Error> {
        sqlx::query!(
            "-- export.part.release
            update export_part set state = 'pending', lease_until = null, worker = null, resources = 0
            where job_id = $1 and ordinal = $2 and attempt = $3 and state = 'running'",
            self.job,
            self.ordinal,
            self.attempt
        )
        .execute(pool)
        .await?;
        let mut connection = pool.acquire().await?;
        job::announce_work(&mut connection).await?;
        Ok(())
    }
}

fn lost_if_none(rows: u64) -> Result<(), Error> {
    if rows == 0 { Err(Error::LeaseLost) } else { Ok(()) }
}

/// Completes the job when no part is left; its row is locked by this transaction.
pub(super) async fn complete_job_if_done(
    transaction: &mut PgConnection,
    job: Uuid,
    retention: Duration,
) -> Result<(), Error> {
    sqlx::query!(
        "-- export.part.complete_job
        update export_job
        set state = 'completed', finished_at = clock_timestamp(), expires_at = clock_timestamp() + $2
        where id = $1 and state = 'running'
            and not exists (select from export_part where job_id = $1 and state <> 'done')",
        job,
        interval(retention)
    )
    .execute(transaction)
    .await?;
    Ok(())
}

/// How far the job is: what its parts have written, and what they expect.
pub(crate) async fn progress(pool: &PgPool, job: Uuid) -> Result<job::Progress, sqlx::Error> {
    sqlx::query_as!(
        job::Progress,
        r#"-- export.part.progress
        select
            coalesce(sum(resources), 0)::bigint as "written!",
            coalesce(sum(case state when 'done' then resources else greatest(estimated_resources, resources) end), 0)
                ::bigint as "expected!"
        from export_part where job_id = $1 and stage <> 'outcome'"#,
        job
    )
    .fetch_one(pool)
    .await
}

/// Parts by state, for operators.
pub(crate) async fn counts(pool: &PgPool, job: Uuid) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let counts = sqlx::query!(
        r#"-- export.part.counts
        select state, count(*) as "count!" from export_part where job_id = $1 group by state order by state"#,
        job
    )
    .fetch_all(pool)
    .await?;
    Ok(counts.into_iter().map(|row| (row.state, row.count)).collect())
}
