//! Planning: takes the transaction time, then cuts the work into parts. Both transactions are short, whatever the
//! size of the store.

use std::collections::BTreeSet;
use std::ops::Range;

use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Error;
use super::announcement::announce_work;
use super::chosen::Chosen;
use super::lease::{Leased, lost_if_none};
use super::part::Stage;
use super::remark::remark;
use super::request::ExportRequest;
use super::trouble::Trouble;
use super::worker::Workers;
use crate::binary::store::Files;
use crate::binary::{Kind, Place, Volume};
use crate::config;
use crate::database::{ABLE, interval};
use crate::fhir::outcome::IssueType;
use crate::fhir::reference::PatientBases;
use crate::fhir::resource_type::ResourceType;
use crate::resource::clock;
use crate::resource::cohort::{self, Access};
use crate::resource::compartment::Compartments;
pub(crate) use crate::resource::index::are_complete as can_organize;
use crate::resource::read::Window;
use crate::resource::sample::{ALL_KEYS, Sample, filled, sizes};

/// Bytes of a page of Postgres, unless it was built otherwise: for estimates.
const PAGE: i64 = 8192;

/// A job that is to be planned, leased to this worker.
pub(super) struct Planning {
    pub(super) job: Uuid,
    request: Json<ExportRequest>,
    transaction_time: Option<OffsetDateTime>,
    history_floor: Option<OffsetDateTime>,
    attempt: i32,
    failures: i32,
}

/// A part that is to be stored.
#[derive(Debug, PartialEq, Eq)]
struct Planned {
    stage: Stage,
    types: Vec<ResourceType>,
    keys: Range<i64>,
    resources: i64,
    bytes: i64,
}

/// Leases the oldest job that waits to be planned, while fewer than the allowed number run.
pub(super) async fn claim(pool: &PgPool, config: &config::Export) -> Result<Option<Planning>, Error> {
    let planning = sqlx::query_as!(
        Planning,
        r#"-- export.plan.claim
        update export_job
        set attempt = attempt + 1,
            -- A lease that ran out is an attempt that came to nothing.
            -- (Nobody could renew it while Postgres was away.)
            failures = failures + (coalesce(lease_until - $1::interval > pg_postmaster_start_time(), false))::int,
            fault = case when lease_until is null then fault else 'its worker was lost' end,
            fault_since = case when lease_until is null then fault_since else coalesce(fault_since, clock_timestamp()) end,
            lease_until = clock_timestamp() + $1
        where id = (
            select id from export_job as waiting
            where state = 'accepted' and requires <= $3 and not_before <= clock_timestamp()
                and (lease_until is null or lease_until < clock_timestamp())
                -- Those that are being planned are about to run.
                and (
                    select count(*) from export_job
                    where state = 'running' or (state = 'accepted' and lease_until > clock_timestamp())
                ) < $2
            order by
                -- Owners in turn: who has the fewest jobs under way, then who waited longest since one was started.
                (
                    select count(*) from export_job as other
                    where other.owner_issuer = waiting.owner_issuer and other.owner_subject = waiting.owner_subject
                        and (other.state = 'running' or other.lease_until > clock_timestamp())
                ),
                (
                    select max(other.started_at) from export_job as other
                    where other.owner_issuer = waiting.owner_issuer and other.owner_subject = waiting.owner_subject
                ) nulls first,
                accepted_at
            limit 1
            for no key update skip locked
        )
        returning id as job, request as "request: Json<ExportRequest>", transaction_time, history_floor,
            attempt, failures"#,
        interval(config.lease),
        i64::from(config.max_running),
        ABLE
    )
    .fetch_optional(pool)
    .await?;
    Ok(planning)
}

impl Leased for Planning {
    fn job(&self) -> Uuid {
        self.job
    }

    fn failures(&self) -> i32 {
        self.failures
    }

    async fn renew(&self, workers: &Workers) -> Result<(), Error> {
        let renewed = sqlx::query!(
            "-- export.plan.renew
            update export_job set lease_until = clock_timestamp() + $3
            where id = $1 and attempt = $2 and state = 'accepted'",
            self.job,
            self.attempt,
            interval(workers.config.lease)
        )
        .execute(&workers.pool)
        .await?;
        lost_if_none(renewed.rows_affected())
    }

    async fn work(&self, workers: &Workers, stop: &CancellationToken) -> Result<(), Error> {
        tokio::select! {
            result = self.plan(workers) => result,
            () = stop.cancelled() => Err(Error::Stopped),
        }
    }

    /// An attempt counts unless the fault may go away by itself. The next one waits as long as there has been trouble.
    /// Planning takes moments: one that ends long after it was allowed has waited for its turn, and its trouble is new.
    async fn give_back(&self, transaction: &mut PgConnection, error: &Error) -> Result<Trouble, Error> {
        sqlx::query_as!(
            Trouble,
            r#"-- export.plan.fail
            with trouble as (
                select id, case
                    when not_before < clock_timestamp() - interval '5 minutes' then clock_timestamp()
                    else coalesce(fault_since, clock_timestamp())
                end as since
                from export_job
                where id = $1 and attempt = $2 and state = 'accepted'
            )
            update export_job as job
            set lease_until = null, failures = failures + $3::int, fault = $4, fault_since = since,
                not_before = clock_timestamp() + (0.75 + random() / 2)
                    * least(greatest(clock_timestamp() - since, interval '0.5 seconds'), interval '1 minute')
            from trouble
            where job.id = trouble.id and attempt = $2 and state = 'accepted'
            returning failures, extract(epoch from clock_timestamp() - since)::float8 as "seconds!""#,
            self.job,
            self.attempt,
            i32::from(!error.is_transient()),
            error.cause()
        )
        .fetch_optional(transaction)
        .await?
        .ok_or(Error::LeaseLost)
    }

    async fn put_back(&self, transaction: &mut PgConnection) -> Result<(), Error> {
        let released = sqlx::query!(
            "-- export.plan.release
            update export_job set lease_until = null where id = $1 and attempt = $2 and state = 'accepted'",
            self.job,
            self.attempt
        )
        .execute(transaction)
        .await?;
        lost_if_none(released.rows_affected())
    }

    fn told(&self) -> String {
        "planning it".to_owned()
    }
}

impl Planning {
    async fn plan(&self, workers: &Workers) -> Result<(), Error> {
        if self.request.filters.are_beyond_us() {
            return Err(Error::UnknownFilter);
        }
        let Workers { pool, config, retention, .. } = workers;
        let window = match self.transaction_time {
            Some(at) => self.request.window(at, self.history_floor),
            None => self.take_transaction_time(pool).await?,
        };
        let mut transaction = pool.begin().await?;
        // A Group may have a million members. The lease bounds it.
        sqlx::query!("-- export.plan.patience\nselect set_config('statement_timeout', '0', true)")
            .fetch_one(&mut *transaction)
            .await?;
        let part_size = self.request.part_size(config.file_target);
        let remarks = self.freeze_patients(&mut transaction, window, &workers.patient_bases).await?;
        let access = self.request.cohort(self.job).access(&mut transaction).await?;
        let types = if access.is_empty() { Vec::new() } else { self.request.types.iter().copied().collect() };
        let filled = filled(&mut transaction, &types).await?;
        let mut parts = if self.request.by_patient {
            parts_by_patient(&mut transaction, &filled, window, access, part_size).await?
        } else {
            let later = self.request.associated_later();
            let (later, now): (Vec<_>, Vec<_>) =
                filled.iter().copied().partition(|(resource_type, _)| later.contains(resource_type));
            let later = parts_by_type(&mut transaction, &later, window, access, part_size).await?;
            let now = parts_by_type(&mut transaction, &now, window, access, part_size).await?;
            now.into_iter().chain(of_stage(Stage::Associated, later)).collect()
        };
        let told: Vec<_> = filled.iter().copied().filter(|(of, _)| self.request.is_told_of_deletions(*of)).collect();
        parts.extend(deletions(&told, window));
        // How much will come of what is referred to is not known: it is not counted.
        let bytes = parts.iter().map(|part| part.bytes).sum();
        if !parts.is_empty() {
            parts.extend(self.referenced_parts(&mut transaction).await?);
        }
        let planned: BTreeSet<&'static str> =
            parts.iter().flat_map(|part| &part.types).map(|listed| listed.as_str()).collect();
        self.start(&mut transaction, &planned.into_iter().collect::<Vec<_>>()).await?;
        if !parts.is_empty() {
            parts.extend(self.search_parts(&mut transaction, window, part_size).await?);
        }
        Volume::take(&mut transaction, self.job, bytes).await?;
        store(&mut transaction, self.job, &parts).await?;
        if !remarks.is_empty() {
            let ordinal = i32::try_from(parts.len()).unwrap_or(i32::MAX);
            self.store_outcome(&mut transaction, ordinal, &remarks).await?;
        }
        super::part::complete_job_if_done(&mut transaction, self.job, *retention).await?;
        announce_work(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Freezes whom the export is about, if it is limited to some; gives what is to be said of it, and of the request.
    async fn freeze_patients(
        &self,
        transaction: &mut PgConnection,
        window: Window,
        bases: &PatientBases,
    ) -> Result<Vec<String>, Error> {
        let mut remarks = self.request.remarks.clone();
        if let Some(chosen) = Chosen::at(transaction, &self.request, window.at, bases).await? {
            remarks.extend([chosen.unknown(), chosen.outside()].into_iter().flatten());
            cohort::freeze(transaction, self.job, &chosen.patients, &chosen.new).await?;
        }
        if self.request.by_patient {
            // Without them every patient would cost a look at all there is.
            if !can_organize(transaction).await? {
                return Err(Error::IndexesMissing);
            }
            let cohort = self.request.cohort(self.job);
            let types: Vec<ResourceType> = self.request.types.iter().copied().collect();
            Compartments::of(self.job, cohort, types, ALL_KEYS, window, None).freeze(transaction).await?;
        }
        Ok(remarks)
    }

    /// One for each type of which resources come that others refer to. That is no more than there is of the type.
    async fn referenced_parts(
        &self,
        transaction: &mut PgConnection,
    ) -> Result<impl Iterator<Item = Planned>, sqlx::Error> {
        let types: Vec<ResourceType> = self.request.referenced.iter().copied().collect();
        let filled = filled(transaction, &types).await?;
        Ok(filled.into_iter().map(|(resource_type, pages)| Planned {
            stage: Stage::Referenced,
            types: vec![resource_type],
            keys: ALL_KEYS,
            resources: 0,
            bytes: pages.saturating_mul(PAGE),
        }))
    }

    /// For what the filters look for elsewhere: all there is of the types in which they do, whosever it is. A type of which
    /// there is nothing has its part, too: so it follows from the request which there are.
    async fn search_parts(
        &self,
        transaction: &mut PgConnection,
        window: Window,
        part_size: u64,
    ) -> Result<impl Iterator<Item = Planned>, Error> {
        let types: Vec<ResourceType> = self.request.searched().into_iter().collect();
        let sizes = sizes(transaction, &types).await?;
        let parts = parts_by_type(transaction, &sizes, window.whenever(), Access::Everything, part_size).await?;
        Ok(of_stage(Stage::Search, parts))
    }

    /// The transaction time is kept with the job as it is taken, so that whoever plans again takes no other; with it
    /// the history that is there then, so that it stays.
    async fn take_transaction_time(&self, pool: &PgPool) -> Result<Window, Error> {
        let (mut transaction, clock::Taken { at, pruned_until }) = clock::take_transaction_time(pool).await?;
        let floor = self.request.history.then_some(pruned_until);
        let kept = sqlx::query!(
            "-- export.plan.transaction_time
            update export_job set transaction_time = $3, history_floor = $4
            where id = $1 and attempt = $2 and state = 'accepted'",
            self.job,
            self.attempt,
            at,
            floor
        )
        .execute(&mut *transaction)
        .await?;
        lost_if_none(kept.rows_affected())?;
        transaction.commit().await?;
        Ok(self.request.window(at, floor))
    }

    async fn start(&self, transaction: &mut PgConnection, planned_types: &[&str]) -> Result<(), Error> {
        let started = sqlx::query!(
            "-- export.plan.start
            update export_job
            set state = 'running', started_at = clock_timestamp(), lease_until = null, planned_types = $3,
                fault = null, fault_since = null
            where id = $1 and attempt = $2 and state = 'accepted'",
            self.job,
            self.attempt,
            planned_types as &[&str]
        )
        .execute(transaction)
        .await?;
        lost_if_none(started.rows_affected())
    }

    /// What was left out, mostly under `handling=lenient`, as a file of OperationOutcomes: a part that is done as it is
    /// made.
    async fn store_outcome(
        &self,
        transaction: &mut PgConnection,
        ordinal: i32,
        remarks: &[String],
    ) -> Result<(), Error> {
        let lines: Vec<_> = remarks.iter().map(|text| remark(IssueType::NotSupported, text.clone())).collect();
        let resources = i64::try_from(lines.len()).unwrap_or(i64::MAX);
        sqlx::query!(
            "-- export.plan.outcome
            insert into export_part (job_id, ordinal, stage, resource_types, key_from, key_to,
                estimated_resources, estimated_bytes, state, resources)
            values ($1, $2, 'outcome', array['OperationOutcome'], 0, 0, $3, 0, 'done', $3)",
            self.job,
            ordinal,
            resources
        )
        .execute(&mut *transaction)
        .await?;
        let volume = Volume::of(&mut *transaction, self.job).await?;
        let mut files = Files::new(Place { job: self.job, part: ordinal, kind: Kind::Outcome, volume });
        Ok(files.write_outcomes(transaction, &lines).await?)
    }
}

/// Cuts the work: large types into ranges of about a file each, small types together; of a few patients all.
async fn parts_by_type(
    connection: &mut PgConnection,
    filled: &[(ResourceType, i64)],
    window: Window,
    access: Access,
    part_size: u64,
) -> Result<Vec<Planned>, Error> {
    let types: Vec<ResourceType> = filled.iter().map(|(resource_type, _)| *resource_type).collect();
    if let Some((resources, bytes)) = access.guess()
        && !types.is_empty()
    {
        return Ok(of_ranges(&types, vec![ALL_KEYS], resources, bytes));
    }
    let target = i64::try_from(part_size).unwrap_or(i64::MAX);
    let mut parts: Vec<Planned> = Vec::new();
    for (resource_type, pages) in filled {
        let sample = Sample::take(connection, *resource_type, *pages, window, access).await?;
        let (resources, bytes) = (sample.resources(), sample.bytes());
        if let Some(last) = parts.last_mut()
            && last.keys == ALL_KEYS
            && last.bytes + bytes <= target
        {
            last.types.push(*resource_type);
            last.resources += resources;
            last.bytes += bytes;
            continue;
        }
        let ranges = sample.cut((bytes / target + 1).min(access.of(*resource_type).most_ranges()));
        parts.extend(of_ranges(&[*resource_type], ranges, resources, bytes));
    }
    Ok(parts)
}

/// Cuts the work into ranges of Patients, of about a file each: every part has all types. What belongs to several
/// patients is not counted for each: an estimate.
async fn parts_by_patient(
    connection: &mut PgConnection,
    filled: &[(ResourceType, i64)],
    window: Window,
    access: Access,
    part_size: u64,
) -> Result<Vec<Planned>, Error> {
    if filled.is_empty() {
        return Ok(Vec::new());
    }
    let (mut resources, mut bytes) = (0, 0);
    for (resource_type, pages) in filled {
        let sample = Sample::take(connection, *resource_type, *pages, window, access).await?;
        resources += sample.resources();
        bytes += sample.bytes();
    }
    // All of them, whichever have changed, and also where it is others that are asked for.
    let window = Window { since: None, until: None, ..window };
    let pages = self::filled(connection, &[ResourceType::PATIENT]).await?.first().map_or(0, |(_, pages)| *pages);
    let patients = Sample::take(connection, ResourceType::PATIENT, pages, window, access).await?;
    let target = i64::try_from(part_size).unwrap_or(i64::MAX);
    let types: Vec<ResourceType> = filled.iter().map(|(resource_type, _)| *resource_type).collect();
    Ok(of_ranges(&types, patients.cut(bytes / target + 1), resources, bytes))
}

fn of_stage(stage: Stage, parts: Vec<Planned>) -> impl Iterator<Item = Planned> {
    parts.into_iter().map(move |part| Planned { stage, ..part })
}

/// Parts of the same types that share the work evenly.
fn of_ranges(types: &[ResourceType], ranges: Vec<Range<i64>>, resources: i64, bytes: i64) -> Vec<Planned> {
    let count = i64::try_from(ranges.len()).unwrap_or(i64::MAX).max(1);
    let part = |keys| Planned {
        stage: Stage::Output,
        types: types.to_vec(),
        keys,
        resources: resources / count,
        bytes: bytes / count,
    };
    ranges.into_iter().map(part).collect()
}

/// Where it is asked what has changed, one part for the deletions.
fn deletions(filled: &[(ResourceType, i64)], window: Window) -> Option<Planned> {
    let is_asked = window.since.is_some() && !filled.is_empty();
    is_asked.then(|| Planned {
        stage: Stage::Deleted,
        types: filled.iter().map(|(resource_type, _)| *resource_type).collect(),
        keys: ALL_KEYS,
        resources: 0,
        bytes: 0,
    })
}

async fn store(transaction: &mut PgConnection, job: Uuid, parts: &[Planned]) -> Result<(), Error> {
    let types = |part: &Planned| part.types.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(",");
    sqlx::query!(
        "-- export.plan.store
        insert into export_part (job_id, ordinal, stage, resource_types, key_from, key_to,
            estimated_resources, estimated_bytes)
        select $1, (ordinal - 1)::int, stage, string_to_array(types, ','), key_from, key_to, resources, bytes
        from unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
            with ordinality as part (stage, types, key_from, key_to, resources, bytes, ordinal)",
        job,
        &parts.iter().map(|part| part.stage.as_str().to_owned()).collect::<Vec<_>>(),
        &parts.iter().map(types).collect::<Vec<_>>(),
        &parts.iter().map(|part| part.keys.start).collect::<Vec<_>>(),
        &parts.iter().map(|part| part.keys.end).collect::<Vec<_>>(),
        &parts.iter().map(|part| part.resources).collect::<Vec<_>>(),
        &parts.iter().map(|part| part.bytes).collect::<Vec<_>>()
    )
    .execute(transaction)
    .await?;
    Ok(())
}
