//! Who works on what next: jobs in turn, of each the largest part that nobody works on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Error;
use super::part::{Lease, Stage, sessions_on};
use super::request::ExportRequest;
use crate::config;
use crate::database::{ABLE, interval};
use crate::resource::cohort::Cohort;

/// Jobs that are looked at for a part in one turn.
const JOBS_IN_TURN: i64 = 20;

/// Which parts a worker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appetite {
    Any,
    /// Parts of at most so many bytes.
    Small(i64),
}

impl Appetite {
    fn max_bytes(self) -> i64 {
        match self {
            Self::Any => i64::MAX,
            Self::Small(bytes) => bytes,
        }
    }
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
    let max_bytes = appetite.max_bytes();
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
    history_floor: Option<OffsetDateTime>,
    request: sqlx::types::Json<ExportRequest>,
}

async fn jobs_in_turn(pool: &PgPool, max_bytes: i64) -> Result<Vec<InTurn>, sqlx::Error> {
    sqlx::query_as!(
        InTurn,
        r#"-- export.claim.jobs_in_turn
        select id, transaction_time as "transaction_time!", history_floor,
            request as "request: sqlx::types::Json<ExportRequest>"
        from export_job as job
        where state = 'running' and requires <= $3 and exists (
            select from export_part as part
            where part.job_id = job.id and part.state <> 'done' and part.estimated_bytes <= $1
                and part.not_before <= clock_timestamp()
                and (part.state = 'pending' or part.lease_until < clock_timestamp())
                and part.turn = (select turn from export_turn as due where due.job_id = job.id)
        )
        order by
            -- Owners in turn, also over jobs that are done: else many small ones would come before one that is large.
            (
                select max((select max(claimed_at) from export_part as part where part.job_id = other.id))
                from export_job as other
                where other.owner_issuer = job.owner_issuer and other.owner_subject = job.owner_subject
            ) nulls first,
            (select max(claimed_at) from export_part as part where part.job_id = job.id) nulls first,
            accepted_at
        limit $2"#,
        max_bytes,
        JOBS_IN_TURN,
        ABLE
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
        r#"-- export.claim.part
        with free as (
            select ordinal, state = 'running' as taken_over from export_part
            where job_id = $1 and state <> 'done' and estimated_bytes <= $2
                and not_before <= clock_timestamp()
                and (state = 'pending' or lease_until < clock_timestamp())
                and turn = (select turn from export_turn as due where due.job_id = $1)
            -- The large ones first, so that none is left alone at the end.
            order by estimated_bytes desc, ordinal
            limit 1
            -- Weaker than `for update`: files that its lost worker has written refer to the part, and would make it
            -- skipped for as long as that worker's session lasts.
            for no key update skip locked
        )
        update export_part as part
        set state = 'running', attempt = attempt + 1,
            -- Nobody could renew a lease while Postgres was away: that is no lost worker.
            failures = failures + (free.taken_over and lease_until - $4::interval > pg_postmaster_start_time())::int,
            fault = case when free.taken_over then 'its worker was lost' else fault end,
            fault_since = case when free.taken_over then coalesce(fault_since, clock_timestamp()) else fault_since end,
            worker = $3, claimed_at = clock_timestamp(), lease_until = clock_timestamp() + $4,
            resources = 0, examined = null
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
    if claimed.taken_over {
        end_sessions_on(pool, job.id, claimed.ordinal).await;
    }
    Ok(Some(lease_of(job, claimed, config)))
}

fn lease_of(job: &InTurn, claimed: Claimed, config: &config::Export) -> Lease {
    let stage = Stage::from(claimed.stage.as_str());
    let window = job.request.window(job.transaction_time, job.history_floor);
    let (cohort, window) = match stage {
        Stage::Search => (Cohort::Everything, window.whenever()),
        Stage::Referenced => (Cohort::Referenced(job.id), job.request.context_window(job.transaction_time)),
        Stage::Output | Stage::Associated | Stage::Deleted => (job.request.cohort(job.id), window),
    };
    Lease {
        job: job.id,
        ordinal: claimed.ordinal,
        attempt: claimed.attempt,
        failures: claimed.failures,
        stage,
        resource_types: claimed.resource_types,
        keys: claimed.key_from..claimed.key_to,
        cohort,
        window,
        about: if stage == Stage::Search { None } else { job.request.about(job.id) },
        referenced: if stage.is_referring() { job.request.wanted_references() } else { None },
        noted: if stage == Stage::Output { job.request.noted() } else { BTreeSet::new() },
        elements: job.request.elements.clone(),
        filters: job.request.filters.clone(),
        by_patient: job.request.by_patient,
        file_size: job.request.file_size(config.file_target),
        examined: AtomicI64::new(0),
        is_named: AtomicBool::new(false),
    }
}

/// Ends the database sessions of the workers whose leases ran out: they may be frozen in the middle of a transaction.
/// Where that fails the reaper does it; the part is safe already.
async fn end_sessions_on(pool: &PgPool, job: Uuid, part: i32) {
    match end_sessions_named(pool, &sessions_on(job, part)).await {
        Ok(sessions) => tracing::warn!(job.id = %job, part, sessions, "took over a part whose worker was lost"),
        Err(error) => tracing::warn!(job.id = %job, part, %error, "cannot end the sessions of a lost worker"),
    }
}

/// Gives how many there were. Those that wait in a pool for their next work do no harm.
async fn end_sessions_named(pool: &PgPool, name: &str) -> Result<usize, sqlx::Error> {
    let ended = sqlx::query!(
        r#"-- export.claim.end_sessions
        select pg_terminate_backend(pid) as ended from pg_stat_activity
        where application_name like $1 and state <> 'idle' and pid <> pg_backend_pid() and datname = current_database()"#,
        name
    )
    .fetch_all(pool)
    .await?;
    Ok(ended.len())
}

/// Ends the database sessions of workers that have not noticed that their lease is lost or their job is over: they may be
/// frozen, and hold on to what they have written or locked, which nobody wants any more. Gives how many there were.
pub(crate) async fn end_sessions_of_the_past(pool: &PgPool) -> Result<usize, sqlx::Error> {
    let ended = sqlx::query!(
        r#"-- export.claim.end_sessions_of_the_past
        select pg_terminate_backend(pid) as ended
        from pg_stat_activity as session
        where application_name like 'export %' and datname = current_database()
            -- Who is not frozen notices within a second, or waits in a pool.
            and session.state <> 'idle' and state_change < clock_timestamp() - interval '5 seconds'
            and not exists (
                select from export_part as part join export_job as job on job.id = part.job_id
                where application_name = 'export ' || replace(job_id::text, '-', '') || ' ' || ordinal || '.' || part.attempt
                    and part.state = 'running' and part.lease_until > clock_timestamp() - interval '5 seconds'
                    and (job.finished_at is null or job.finished_at > clock_timestamp() - interval '5 seconds')
            )"#
    )
    .fetch_all(pool)
    .await?;
    Ok(ended.len())
}

/// How long until a lease runs out, or until a part or a job may be tried again; none if nothing is under way. A worker
/// that has nothing to do looks again then.
///
/// What could be had now, and was not, is somebody else's at this very moment: who that is may die, so it counts as due in a
/// second.
pub(super) async fn next_due(pool: &PgPool, appetite: Appetite) -> Result<Option<Duration>, Error> {
    let seconds = sqlx::query_scalar!(
        r#"-- export.claim.next_due
        select extract(
            epoch from min(case when due > clock_timestamp() then due - clock_timestamp() else interval '1 second' end)
        )::float8 as seconds
        from (
            select greatest(lease_until, not_before) as due from export_job where state = 'accepted'
            union all
            select case part.state when 'running' then part.lease_until else part.not_before end
            from export_job as job
            join export_turn as due on due.job_id = job.id
            join export_part as part on part.job_id = job.id and part.turn = due.turn
            where job.state = 'running' and part.state <> 'done' and part.estimated_bytes <= $1
        ) as unfinished"#,
        appetite.max_bytes()
    )
    .fetch_one(pool)
    .await?;
    Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
}
