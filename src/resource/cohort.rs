//! Whose resources an export reads: everybody's, those of any patient, those of the patients frozen for it in
//! `export_patient`, or those in `export_reference`, to which these refer; and the SQL that picks them (rules H1 to H3,
//! H8 to H10).

use std::collections::BTreeSet;
use std::ops::Range;

use sqlx::{PgConnection, Postgres, QueryBuilder};
use time::OffsetDateTime;
use uuid::Uuid;

use super::index;
use super::read::partition;
use super::sample::{ALL_KEYS, to_f64};
use crate::fhir::compartment;
use crate::fhir::resource_type::ResourceType;

/// Up to so many patients are looked up one by one …
const FEW: i64 = 100;
/// … and so is a larger set that is at most this share of all: past it, it costs less to read a type from end to end.
const SHARE: i64 = 10;
/// A patient has about so many. Provenances are looked up by what belongs to a patient: as many look-ups for each.
const RESOURCES_OF_A_PATIENT: i64 = 100;
const BYTES_OF_A_RESOURCE: i64 = 1_000;
/// What a Provenance is about; older versions have it in their body only. The same text as in its index.
pub(super) const TARGETS: &str = "coalesce(resource.targets, provenance_targets(resource.body))";

/// Whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cohort {
    Everything,
    /// What is in the compartment of any Patient.
    AnyPatient,
    /// What is in the compartment of a Patient frozen for this job.
    Frozen(Uuid),
    /// What the resources that this job has put out refer to.
    Referenced(Uuid),
}

/// How to get at it. What comes out is the same, whichever way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Everything,
    AnyPatient,
    /// Every row is asked whether it belongs to one of the patients.
    Scan(Frozen),
    /// Every one of the patients is asked for its rows.
    ByPatient(Frozen),
    /// Every reference is looked up.
    Referenced(Uuid),
}

/// The patients frozen for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frozen {
    job: Uuid,
    count: i64,
    /// How many Patients there are in all, about.
    of: i64,
    /// Whether some of them come with their whole history, whatever `_since` says.
    has_new: bool,
    /// Whether Provenances are better looked up than all read.
    has_few_provenances: bool,
}

/// Freezes these Patients for a job; the new ones among them come with their whole history.
pub(crate) async fn freeze(
    connection: &mut PgConnection,
    job: Uuid,
    patients: &BTreeSet<String>,
    new: &BTreeSet<String>,
) -> Result<(), sqlx::Error> {
    let ids: Vec<&str> = patients.iter().map(String::as_str).collect();
    let is_new: Vec<bool> = patients.iter().map(|id| new.contains(id)).collect();
    sqlx::query!(
        "-- resource.cohort.freeze
        insert into export_patient (job_id, patient_id, is_new)
        select $1, patient.id, patient.is_new from unnest($2::text[], $3::bool[]) as patient (id, is_new)",
        job,
        &ids as &[&str],
        &is_new
    )
    .execute(&mut *connection)
    .await?;
    if ids.len() > usize::try_from(FEW).unwrap_or_default() {
        analyze(connection).await?;
    }
    Ok(())
}

/// Whether they are joined well hangs on what Postgres believes of their number.
pub(super) async fn analyze(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("-- resource.cohort.analyze\nanalyze export_patient").execute(connection).await?;
    Ok(())
}

/// From here on the session reads by indexes. Else a type of few rows would be read from end to end for every patient,
/// which is cheap only as long as none of them is a Group of many members. The pool takes it back.
pub(crate) async fn by_index(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("-- resource.cohort.by_index\nselect set_config('enable_seqscan', 'off', false)")
        .fetch_one(connection)
        .await?;
    Ok(())
}

impl Cohort {
    /// The cheapest way to it: in proportion to what comes out.
    pub(crate) async fn access(self, connection: &mut PgConnection) -> Result<Access, sqlx::Error> {
        let job = match self {
            Self::Everything => return Ok(Access::Everything),
            Self::AnyPatient => return Ok(Access::AnyPatient),
            Self::Referenced(job) => return Ok(Access::Referenced(job)),
            Self::Frozen(job) => job,
        };
        let size = sqlx::query!(
            r#"-- resource.cohort.size
            select count(*) as "count!", coalesce(bool_or(is_new), false) as "has_new!",
                (select reltuples from pg_class where oid = $2::text::regclass)::bigint as "patients!",
                (select reltuples from pg_class where oid = $3::text::regclass)::bigint as "provenances!"
            from export_patient where job_id = $1"#,
            job,
            partition(ResourceType::PATIENT),
            partition(ResourceType::PROVENANCE)
        )
        .fetch_one(&mut *connection)
        .await?;
        let is_few = |share: i64, of: i64| size.count <= FEW || size.count.saturating_mul(share) <= of;
        let frozen = Frozen {
            job,
            count: size.count,
            of: size.patients,
            has_new: size.has_new,
            has_few_provenances: is_few(RESOURCES_OF_A_PATIENT, size.provenances),
        };
        let by_patient = size.count == 0 || (is_few(SHARE, size.patients) && index::are_complete(connection).await?);
        if !by_patient {
            return Ok(Access::Scan(frozen));
        }
        by_index(connection).await?;
        Ok(Access::ByPatient(frozen))
    }
}

impl Access {
    /// The way to the rows of this type.
    pub(crate) fn of(self, resource_type: ResourceType) -> Self {
        match self {
            Self::ByPatient(frozen) if resource_type == ResourceType::PROVENANCE && !frozen.has_few_provenances => {
                Self::Scan(frozen)
            }
            other => other,
        }
    }

    /// Itself if it looks rows up; else everything is read anyway, and another condition picks.
    pub(super) fn or_everything(self) -> Self {
        if matches!(self, Self::ByPatient(_)) { self } else { Self::Everything }
    }

    /// Whether it is that of some patients.
    pub(super) fn is_of_some(self) -> bool {
        matches!(self, Self::Scan(_) | Self::ByPatient(_))
    }

    /// Whether nobody is asked for.
    pub(crate) fn is_empty(self) -> bool {
        matches!(self, Self::ByPatient(Frozen { count: 0, .. }))
    }

    /// How many resources and bytes a few patients have, about: to take a sample would take as long as to read them all.
    pub(crate) fn guess(self) -> Option<(i64, i64)> {
        match self {
            Self::ByPatient(frozen) if frozen.count <= FEW => {
                let resources = frozen.count * RESOURCES_OF_A_PATIENT;
                Some((resources, resources * BYTES_OF_A_RESOURCE))
            }
            _ => None,
        }
    }

    /// In how many ranges of keys a type may be cut: a patient's rows lie anywhere, so each range looks at them all.
    pub(crate) fn most_ranges(self) -> i64 {
        match self {
            Self::ByPatient(frozen) => (frozen.count / 1_000).clamp(4, 64),
            _ => i64::MAX,
        }
    }

    /// ` from … where …` of the rows of a type, as `resource`, up to a condition to which more can be added.
    pub(super) fn push_rows(
        self,
        query: &mut QueryBuilder<Postgres>,
        resource_type: ResourceType,
        at: OffsetDateTime,
        keys: &Range<i64>,
    ) {
        match self {
            Self::Everything | Self::AnyPatient | Self::Scan(_) => {
                query.push(" from resource");
                self.push_belonging(query, resource_type, at);
            }
            Self::ByPatient(frozen) => frozen.push_rows_by_patient(query, resource_type, at, keys, None),
            Self::Referenced(job) => push_rows_by_reference(query, resource_type, job, at),
        }
        query.push(" and key >= ").push_bind(keys.start).push(" and key < ").push_bind(keys.end);
    }

    /// The same for a sample; gives how many rows one in it stands for. `share` of the pages, or some of the patients.
    pub(super) fn push_sample(
        self,
        query: &mut QueryBuilder<Postgres>,
        resource_type: ResourceType,
        at: OffsetDateTime,
        share: f64,
    ) -> f64 {
        if let Self::ByPatient(frozen) = self {
            let sampled = (frozen.count / 10).clamp(FEW / 5, FEW);
            frozen.push_rows_by_patient(query, resource_type, at, &ALL_KEYS, Some(sampled));
            return to_f64(frozen.count.max(sampled)) / to_f64(sampled);
        }
        query.push(" from resource tablesample system (").push_bind(share * 100.0).push(")");
        match self {
            // It is a large part of the whole: to look which rows are its own would take longer than it is worth.
            Self::Scan(frozen) => {
                query.push(" where true");
                to_f64(frozen.count.min(frozen.of).max(1)) / to_f64(frozen.of.max(1)) / share
            }
            _ => {
                self.push_belonging(query, resource_type, at);
                1.0 / share
            }
        }
    }

    /// Which rows of the table belong to whom it is about.
    fn push_belonging(self, query: &mut QueryBuilder<Postgres>, resource_type: ResourceType, at: OffsetDateTime) {
        match self {
            Self::Everything => {
                query.push(" where true");
            }
            // Nearly all have one patient: for them it is a join, which costs less than to look up every row.
            Self::Scan(frozen) | Self::ByPatient(frozen) if resource_type != ResourceType::PROVENANCE => {
                query.push(" left join export_patient as member on member.job_id = ").push_bind(frozen.job);
                query.push(" and member.patient_id = patients[1] where (member.patient_id is not null");
                query.push(" or (cardinality(patients) > 1 and ");
                self.push_has_member(query, "patients", Which::All);
                query.push("))");
            }
            Self::AnyPatient | Self::Scan(_) | Self::ByPatient(_) | Self::Referenced(_) => {
                query.push(" where ");
                self.push_is_of(query, resource_type, at, Which::All);
            }
        }
    }

    /// Adds that the row is later than `_since`, or belongs to a patient who is new since then.
    pub(super) fn push_since(
        self,
        query: &mut QueryBuilder<Postgres>,
        resource_type: ResourceType,
        at: OffsetDateTime,
        since: OffsetDateTime,
    ) {
        query.push(" and (last_updated > ").push_bind(since);
        if self.has_new() {
            query.push(" or ");
            self.push_is_of(query, resource_type, at, Which::New);
        }
        query.push(")");
    }

    fn has_new(self) -> bool {
        matches!(self, Self::Scan(Frozen { has_new: true, .. }) | Self::ByPatient(Frozen { has_new: true, .. }))
    }

    /// Whether one of them is among these patients.
    pub(super) fn push_has(self, query: &mut QueryBuilder<Postgres>, patients: &str) {
        self.push_has_member(query, patients, Which::All);
    }

    /// Or a new one is, if there are such.
    pub(super) fn push_or_has_new(self, query: &mut QueryBuilder<Postgres>, patients: &str) {
        if self.has_new() {
            query.push(" or ");
            self.push_has_member(query, patients, Which::New);
        }
    }

    /// Whether the row belongs to one of them; a Provenance does by what it is about, too.
    fn push_is_of(
        self,
        query: &mut QueryBuilder<Postgres>,
        resource_type: ResourceType,
        at: OffsetDateTime,
        which: Which,
    ) {
        query.push("(");
        self.push_has_member(query, "resource.patients", which);
        if resource_type == ResourceType::PROVENANCE {
            self.push_target_has_member(query, at, which);
        }
        query.push(")");
    }

    fn push_has_member(self, query: &mut QueryBuilder<Postgres>, patients: &str, which: Which) {
        match self {
            Self::Everything => query.push("true"),
            Self::AnyPatient => query.push(format_args!("{patients} <> '{{}}'")),
            Self::Scan(frozen) | Self::ByPatient(frozen) => {
                query.push(format_args!("exists (select from unnest({patients}) as patient (id) cross join lateral "));
                // `offset 0` keeps Postgres from making a join of it, for which it would have to guess the set's size.
                query.push("(select from export_patient where job_id = ").push_bind(frozen.job);
                query.push(" and patient_id = patient.id");
                query.push(if which == Which::New { " and is_new" } else { "" }).push(" offset 0) as member)")
            }
            Self::Referenced(job) => push_is_referenced(query, job),
        };
    }

    /// Or whether something it is about belonged to one of them at this instant, or did when it was deleted.
    fn push_target_has_member(self, query: &mut QueryBuilder<Postgres>, at: OffsetDateTime, which: Which) {
        query.push(" or exists (select from ");
        push_targets(query, at);
        query.push(" where ");
        self.push_has_member(query, "version.patients", which);
        query.push(")");
    }
}

/// `version`: what the Provenance under way is about, as it was at this instant, deletions too.
pub(super) fn push_targets(query: &mut QueryBuilder<Postgres>, at: OffsetDateTime) {
    query.push(format_args!("unnest({TARGETS}) as target (named) cross join lateral (select version.* from "));
    query.push("(select * from resource where resource_type = split_part(target.named, '/', 1) ");
    query.push("and id = split_part(target.named, '/', 2) and superseded_at = 'infinity' offset 0) as now ");
    // Past versions have an index of their own.
    query.push("cross join lateral (select now.* where now.last_updated <= ").push_bind(at);
    query.push(" union all select past.* from resource as past where now.last_updated > ").push_bind(at);
    query.push(" and past.resource_type = now.resource_type and past.id = now.id and past.last_updated <= ");
    query.push_bind(at).push(" and past.superseded_at > ").push_bind(at);
    query.push(" and past.superseded_at < 'infinity') as version offset 0) as version");
}

/// Which of the patients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    New,
}

impl Frozen {
    /// Each patient's rows by an index: all of them, whatever else is asked, so that Postgres has no choice to get wrong.
    /// `most` patients, if given. Those of several patients are found with each, and come once.
    fn push_rows_by_patient(
        self,
        query: &mut QueryBuilder<Postgres>,
        resource_type: ResourceType,
        at: OffsetDateTime,
        keys: &Range<i64>,
        most: Option<i64>,
    ) {
        query.push(" from (select distinct found.key as of from ");
        query.push("(select patient_id as id from export_patient where job_id = ").push_bind(self.job);
        if let Some(most) = most {
            query.push(" order by md5(patient_id) limit ").push_bind(most);
        }
        query.push(") as patient cross join lateral (");
        push_keys_of_patient(query, resource_type, at);
        query
            .push(") as found where found.key >= ")
            .push_bind(keys.start)
            .push(" and found.key < ")
            .push_bind(keys.end);
        query.push(" offset 0) as found cross join lateral (select * from resource where resource_type = ");
        query.push_bind(resource_type.as_str()).push(" and key = found.of offset 0) as resource where true");
    }
}

/// `from … where …` of what belongs to `patient.id`, of all versions, as `resource`. Of the partition itself: of its parent
/// Postgres may choose to read a type of few rows from end to end by the primary key, for every patient, and one of them
/// may be a Group of a million members.
pub(super) fn of_patient(resource_type: ResourceType) -> String {
    format!("from {} as resource where patients @> array[patient.id collate \"default\"]", partition(resource_type))
}

/// Selects the keys of what belongs to `patient.id`, of all versions. A Provenance does by what it is about, too, if that
/// belonged to the patient at this instant, or did when it was deleted; it may be found more than once.
pub(super) fn push_keys_of_patient(
    query: &mut QueryBuilder<Postgres>,
    resource_type: ResourceType,
    at: OffsetDateTime,
) {
    // `offset 0`: every patient is looked up, whatever Postgres thinks.
    query.push(format_args!("(select key {} offset 0)", of_patient(resource_type)));
    if resource_type != ResourceType::PROVENANCE {
        return;
    }
    query.push(" union all (select about.key from (");
    for (number, owned) in compartment::types().enumerate() {
        query.push(if number == 0 { "" } else { " union all " });
        query.push(format_args!(
            "select '{owned}/' || id as named from (select * {} offset 0) as owned",
            of_patient(owned)
        ));
        query.push(" where last_updated <= ").push_bind(at).push(" and superseded_at > ").push_bind(at);
    }
    query.push(" offset 0) as owned cross join lateral ");
    let provenance = partition(ResourceType::PROVENANCE);
    query.push(format_args!(
        "(select key from {provenance} as resource where {TARGETS} @> array[owned.named] offset 0)"
    ));
    query.push(" as about)");
}

/// The rows that are referred to: those that are current by the index on their ids, and of those superseded after this
/// instant, for which there is no such index, all that are referred to.
fn push_rows_by_reference(
    query: &mut QueryBuilder<Postgres>,
    resource_type: ResourceType,
    job: Uuid,
    at: OffsetDateTime,
) {
    query.push(" from (select current.* from (select distinct resource_id from export_reference where job_id = ");
    query.push_bind(job).push(" and resource_type = ").push_bind(resource_type.as_str());
    query.push(") as referenced cross join lateral (select * from resource where resource_type = ");
    query.push_bind(resource_type.as_str());
    query.push(" and id = referenced.resource_id and superseded_at = 'infinity' offset 0) as current ");
    query.push("union all select * from resource where resource_type = ").push_bind(resource_type.as_str());
    query.push(" and superseded_at > ").push_bind(at).push(" and superseded_at < 'infinity' and ");
    push_is_referenced(query, job);
    query.push(") as resource where true");
}

fn push_is_referenced(query: &mut QueryBuilder<Postgres>, job: Uuid) -> &mut QueryBuilder<Postgres> {
    query.push("exists (select from export_reference as referenced where referenced.job_id = ").push_bind(job);
    query.push(
        " and referenced.resource_type = resource.resource_type and referenced.resource_id = resource.id offset 0)",
    )
}
