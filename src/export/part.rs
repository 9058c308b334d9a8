//! The parts of a job and the lease on one: whoever writes for a part holds its lease, and every write checks it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::announcement::announce_work;
use super::elements::ElementList;
use super::gate::Asked;
use super::lease::{Leased, lost_if_none};
use super::referenced::Wanted;
use super::run::run;
use super::trouble::Trouble;
use super::worker::Workers;
use super::{Error, coverage, job};
use crate::binary::ndjson::FileSize;
use crate::binary::{Kind, Place, Volume};
use crate::database::interval;
use crate::fhir::resource_type::ResourceType;
use crate::resource::associated::About;
use crate::resource::cohort::{self, Cohort};
use crate::resource::compartment::Compartments;
use crate::resource::read::{Slice, Window};
use crate::search::{Filters, Narrowed};

/// What a part puts out. Those of a later turn wait for those before (migration 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing: it finds what the filters look for elsewhere.
    Search,
    /// The resources.
    Output,
    /// The deletions since `_since`.
    Deleted,
    /// The Provenances of what the filters have let through.
    Associated,
    /// The resources to which those of the output refer.
    Referenced,
}

impl From<&str> for Stage {
    /// The column has a check constraint; besides these there is only `outcome`, which nobody works on.
    fn from(text: &str) -> Self {
        [Self::Search, Self::Deleted, Self::Associated, Self::Referenced]
            .into_iter()
            .find(|stage| stage.as_str() == text)
            .unwrap_or(Self::Output)
    }
}

impl Stage {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Output => "output",
            Self::Deleted => "deleted",
            Self::Associated => "associated",
            Self::Referenced => "referenced",
        }
    }

    /// Whether what it puts out is followed to what that refers to.
    pub(super) fn is_referring(self) -> bool {
        matches!(self, Self::Output | Self::Associated)
    }

    /// Of what its files are. What a search has to say is about resources that it could not read.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Output | Self::Associated | Self::Referenced => Kind::Output,
            Self::Deleted => Kind::Deleted,
            Self::Search => Kind::Outcome,
        }
    }
}

/// The rows that make a part.
pub(super) enum Rows {
    ByType(Vec<Slice>),
    ByPatient(Compartments),
}

/// Who completes a part has locked the job, which others want too: one that is frozen then is cut off after this long.
const HOLDS_MS: &str = "5000";
/// And the others wait no longer than this: what they have done is done again then.
const WAITS_MS: &str = "30000";

/// The right to work on a part until the lease runs out. `attempt` is the fencing token.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) job: Uuid,
    pub(super) ordinal: i32,
    pub(super) attempt: i32,
    pub(super) failures: i32,
    pub(super) stage: Stage,
    pub(super) resource_types: Vec<String>,
    pub(super) keys: Range<i64>,
    pub(super) window: Window,
    pub(super) cohort: Cohort,
    /// If only Provenances of what comes out do.
    pub(super) about: Option<About>,
    /// The references to note, if any are.
    pub(super) referenced: Option<Wanted>,
    pub(super) elements: ElementList,
    pub(super) filters: Filters,
    /// The types of which it is noted what comes out.
    pub(super) noted: BTreeSet<ResourceType>,
    /// Its keys are those of Patients, and their compartments come one after the other.
    pub(super) by_patient: bool,
    pub(super) file_size: FileSize,
    /// Resources read so far, whether or not they come out.
    pub(super) examined: AtomicI64,
    /// Its two sessions have its name.
    pub(super) is_named: AtomicBool,
}

/// What a session that works on a part is called in `pg_stat_activity`; at most 63 bytes.
fn session_name(job: Uuid, ordinal: i32, attempt: i32) -> String {
    format!("export {} {ordinal}.{attempt}", job.simple())
}

/// The names of all sessions that work on a part, as a pattern of LIKE.
pub(super) fn sessions_on(job: Uuid, ordinal: i32) -> String {
    format!("export {} {ordinal}.%", job.simple())
}

impl Lease {
    /// The rows that make the part.
    pub(super) async fn rows(&self, reader: &mut PgConnection) -> Result<Rows, Error> {
        if self.by_patient && self.stage == Stage::Output {
            cohort::by_index(reader).await?;
            return Ok(Rows::ByPatient(Compartments::of(
                self.job,
                self.cohort,
                self.types()?,
                self.keys.clone(),
                self.window,
                self.about.clone(),
            )));
        }
        Ok(Rows::ByType(self.slices(reader).await?))
    }

    /// The same, type by type.
    pub(super) async fn slices(&self, reader: &mut PgConnection) -> Result<Vec<Slice>, Error> {
        let access = self.cohort.access(reader).await?;
        let slice = |resource_type| Slice {
            resource_type,
            keys: self.keys.clone(),
            window: self.window,
            access,
            about: self.about.clone(),
            narrowed: self.narrowed(resource_type),
        };
        Ok(self.types()?.into_iter().map(slice).collect())
    }

    /// Where the resources are that may come out, or by which a search may find anything.
    fn narrowed(&self, resource_type: ResourceType) -> Narrowed {
        match self.stage {
            Stage::Search => self.filters.searched(resource_type),
            _ => self.filters.of(resource_type).map(|filter| filter.narrowed().clone()).unwrap_or_default(),
        }
    }

    /// What is asked of the resources of a type.
    pub(super) fn asked(&self, resource_type: ResourceType) -> Arc<Asked> {
        Arc::new(Asked {
            filter: self.filters.of(resource_type),
            subset: self.elements.subset(resource_type),
            noted: self.noted.contains(&resource_type).then_some(resource_type),
        })
    }

    /// A type that this version does not know may have been planned by a newer one: it is not left out. Nor does it come
    /// whole if a filter of it is not understood.
    fn types(&self) -> Result<Vec<ResourceType>, Error> {
        if self.filters.are_beyond_us() {
            return Err(Error::UnknownFilter);
        }
        let unknown = |name: &String| Error::UnknownType(name.clone());
        self.resource_types.iter().map(|name| ResourceType::parse(name).ok_or_else(|| unknown(name))).collect()
    }

    /// Where its files belong.
    pub(super) async fn place(&self, connection: &mut PgConnection) -> Result<Place, sqlx::Error> {
        let volume = Volume::of(connection, self.job).await?;
        Ok(Place { job: self.job, part: self.ordinal, kind: self.stage.kind(), volume })
    }

    /// Names its two sessions after this lease, so that whoever takes the part over can end them.
    pub(super) async fn name_sessions(&self, sessions: [&mut PgConnection; 2]) -> Result<(), sqlx::Error> {
        for session in sessions {
            sqlx::query!(
                "-- export.part.name_session
                select set_config('application_name', $1, false)",
                session_name(self.job, self.ordinal, self.attempt)
            )
            .fetch_one(session)
            .await?;
        }
        self.is_named.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Marks the part done, in the transaction that wrote its files; with the last part the job is completed.
    /// The job's row is locked first: two last parts cannot miss each other, and a cancel wins or loses cleanly.
    pub(super) async fn complete(
        &self,
        transaction: &mut PgConnection,
        resources: i64,
        retention: Duration,
    ) -> Result<(), Error> {
        sqlx::query!(
            "-- export.part.patience
            select set_config('idle_in_transaction_session_timeout', $1, true) as holds,
                set_config('lock_timeout', $2, true) as waits",
            HOLDS_MS,
            WAITS_MS
        )
        .fetch_one(&mut *transaction)
        .await?;
        self.lock_job(transaction).await?;
        let done = sqlx::query!(
            "-- export.part.complete
            update export_part
            set state = 'done', resources = $4, examined = $5, lease_until = null, worker = null
            where job_id = $1 and ordinal = $2 and attempt = $3 and state = 'running'",
            self.job,
            self.ordinal,
            self.attempt,
            resources,
            self.examined.load(Ordering::Relaxed)
        )
        .execute(&mut *transaction)
        .await?;
        lost_if_none(done.rows_affected())?;
        complete_job_if_done(transaction, self.job, retention).await
    }

    async fn lock_job(&self, transaction: &mut PgConnection) -> Result<(), Error> {
        let running = sqlx::query_scalar!(
            "-- export.part.lock_job
            select id from export_job where id = $1 and state = 'running' for no key update",
            self.job
        )
        .fetch_optional(transaction)
        .await?;
        if running.is_none() { Err(Error::LeaseLost) } else { Ok(()) }
    }
}

impl Leased for Lease {
    fn job(&self) -> Uuid {
        self.job
    }

    fn failures(&self) -> i32 {
        self.failures
    }

    /// Says how far the part is, too; and asks Postgres whether the part's two sessions are still there: a connection that
    /// died without a word looks to us like a statement that takes long.
    async fn renew(&self, workers: &Workers) -> Result<(), Error> {
        let is_named = self.is_named.load(Ordering::Relaxed);
        let sessions = sqlx::query_scalar!(
            r#"-- export.part.renew
            update export_part set lease_until = clock_timestamp() + $4, examined = $5
            where job_id = $1 and ordinal = $2 and attempt = $3 and state = 'running'
                and exists (select from export_job where id = $1 and state = 'running')
            returning (
                select count(*) from pg_stat_activity
                where application_name = $6 and datname = current_database()
            ) as "sessions!""#,
            self.job,
            self.ordinal,
            self.attempt,
            interval(workers.config.lease),
            self.examined.load(Ordering::Relaxed),
            session_name(self.job, self.ordinal, self.attempt)
        )
        .fetch_optional(&workers.pool)
        .await?
        .ok_or(Error::LeaseLost)?;
        if is_named && sessions < 2 { Err(Error::SessionLost) } else { Ok(()) }
    }

    async fn work(&self, workers: &Workers, stop: &CancellationToken) -> Result<(), Error> {
        run(workers, self, stop).await
    }

    /// An attempt counts unless the fault may go away by itself. The next one waits as long as there has been trouble.
    /// Trouble is new where the part has waited for its turn meanwhile, or ran for longer than any wait and met another
    /// fault than before.
    async fn give_back(&self, transaction: &mut PgConnection, error: &Error) -> Result<Trouble, Error> {
        self.lock_job(transaction).await?;
        sqlx::query_as!(
            Trouble,
            r#"-- export.part.fail
            with trouble as (
                select ordinal, case
                    when claimed_at > not_before + interval '90 seconds' then clock_timestamp()
                    when claimed_at < clock_timestamp() - interval '90 seconds' and fault is distinct from $5
                        then clock_timestamp()
                    else coalesce(fault_since, clock_timestamp())
                end as since
                from export_part
                where job_id = $1 and ordinal = $2 and attempt = $3 and state = 'running'
            )
            update export_part as part
            set state = 'pending', lease_until = null, worker = null, examined = null,
                failures = failures + $4::int, fault = $5, fault_since = since,
                not_before = clock_timestamp() + (0.75 + random() / 2)
                    * least(greatest(clock_timestamp() - since, interval '0.5 seconds'), interval '1 minute')
            from trouble
            where part.job_id = $1 and part.ordinal = trouble.ordinal and attempt = $3
            returning failures, extract(epoch from clock_timestamp() - since)::float8 as "seconds!""#,
            self.job,
            self.ordinal,
            self.attempt,
            i32::from(!error.is_transient()),
            error.cause()
        )
        .fetch_optional(transaction)
        .await?
        .ok_or(Error::LeaseLost)
    }

    async fn put_back(&self, transaction: &mut PgConnection) -> Result<(), Error> {
        self.lock_job(transaction).await?;
        let released = sqlx::query!(
            "-- export.part.release
            update export_part set state = 'pending', lease_until = null, worker = null, examined = null
            where job_id = $1 and ordinal = $2 and attempt = $3 and state = 'running'",
            self.job,
            self.ordinal,
            self.attempt
        )
        .execute(transaction)
        .await?;
        lost_if_none(released.rows_affected())
    }

    fn told(&self) -> String {
        format!("part {} ({})", self.ordinal, self.resource_types.join(", "))
    }
}

/// Completes the job when no part is left, and fails it if its parts are not the whole; wakes the workers when those are
/// left that have waited for the others. The job's row is locked by this transaction.
pub(super) async fn complete_job_if_done(
    transaction: &mut PgConnection,
    job: Uuid,
    retention: Duration,
) -> Result<(), Error> {
    let begins = sqlx::query_scalar!(
        r#"-- export.part.turn_begins
        select not exists (
            select from export_part as part where part.job_id = $1 and part.turn = due.turn and part.state = 'done'
        ) as "begins!"
        from export_turn as due where due.job_id = $1"#,
        job
    )
    .fetch_optional(&mut *transaction)
    .await?;
    match begins {
        Some(true) => return Ok(announce_work(transaction).await?),
        Some(false) => return Ok(()),
        None => {}
    }
    if let Some(gap) = coverage::gap(transaction, job).await? {
        let reason =
            format!("The export failed: it would not have been whole ({gap}). This is a defect of the server.");
        tracing::error!(job.id = %job, reason, "export failed");
        return Ok(job::fail(transaction, job, &reason, retention).await?);
    }
    Ok(job::complete(transaction, job, retention).await?)
}

/// How far the job is: what its parts have read, and what they expect. Of a part done by a version without filters all
/// that was read has come out.
pub(crate) async fn progress(pool: &PgPool, job: Uuid) -> Result<job::Progress, sqlx::Error> {
    sqlx::query_as!(
        job::Progress,
        r#"-- export.part.progress
        select
            coalesce(sum(read.resources), 0)::bigint as "examined!",
            coalesce(sum(greatest(read.resources, case when state <> 'done' then estimated_resources end)), 0)
                ::bigint as "expected!"
        from export_part cross join lateral (select coalesce(examined, resources) as resources) as read
        where job_id = $1 and stage <> 'outcome'"#,
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

/// Why work on a job comes to nothing at the moment, for operators.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The part; none: planning.
    pub(crate) part: Option<i32>,
    pub(crate) failures: i32,
    pub(crate) fault: String,
    pub(crate) since: OffsetDateTime,
}

/// What stands in the way of what is not done yet.
pub(crate) async fn faults(pool: &PgPool, job: Uuid) -> Result<Vec<Fault>, sqlx::Error> {
    sqlx::query_as!(
        Fault,
        r#"-- export.part.faults
        select null::int as part, failures as "failures!", fault as "fault!", fault_since as "since!"
        from export_job where id = $1 and fault is not null
        union all
        select ordinal, failures, fault, fault_since from export_part
        where job_id = $1 and state <> 'done' and fault is not null
        order by part nulls first"#,
        job
    )
    .fetch_all(pool)
    .await
}
