//! The compartments of patients, one after the other: the rows of files that are organised by patient (rules F9, G10).

use std::ops::Range;

use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::associated::{About, Owner};
use super::cohort::{self, Access, Cohort, of_patient, push_keys_of_patient, push_targets};
use super::read::{PIECE, Window, push_conditions};
use super::sample::ALL_KEYS;
use crate::fhir::resource_type::ResourceType;

/// The key of a patient of whom there is no Patient, though resources refer to one. No row has it.
const NO_PATIENT: i64 = ALL_KEYS.start;

/// The compartments of some patients.
#[derive(Debug, Clone)]
pub(crate) struct Compartments {
    job: Uuid,
    cohort: Cohort,
    /// In the order in which they come: the Patient is the first.
    types: Vec<ResourceType>,
    /// Of the Patients, deleted ones too: what belongs to one may still be there.
    keys: Range<i64>,
    window: Window,
    /// If only Provenances of what comes out do.
    about: Option<About>,
}

impl Compartments {
    /// Those of the cohort whose Patient has a key in the range. (A whole system is never organised.)
    pub(crate) fn of(
        job: Uuid,
        cohort: Cohort,
        mut types: Vec<ResourceType>,
        keys: Range<i64>,
        window: Window,
        about: Option<About>,
    ) -> Self {
        types.sort_by_key(|resource_type| *resource_type != ResourceType::PATIENT);
        Self { job, cohort, types, keys, window, about }
    }

    /// The type of a row is given by its place here.
    pub(crate) fn types(&self) -> &[ResourceType] {
        &self.types
    }

    /// Selects the resources, patient after patient, type after type, the Patient itself first: key and id of the
    /// patient, place of the type, the body, or, where that is long, null and a row for each of its pieces: length of
    /// the whole, where the piece begins, its bytes; and the Patients it mentions as one text, of a piece its share of them.
    ///
    /// It is a lookup in the index on `patients` for each patient and type, so nothing is sorted but the patients.
    /// Postgres does not promise that what it looks up comes in their order: the reader checks it. A materialized list
    /// is read by one process, which keeps Postgres from mixing what several find.
    pub(crate) fn bodies(&self) -> QueryBuilder<Postgres> {
        let mut query =
            QueryBuilder::new("-- resource.compartment.bodies\nwith patient as materialized (select * from (");
        self.push_patients(&mut query);
        query.push(") as patient order by patient.key, patient.id collate \"C\") ");
        query.push("select patient.key, patient.id, place, case when octet_length(body) <= ").push_bind(PIECE);
        query.push(" then body end, piece.length, piece.start, piece.bytes, ");
        query.push("array_to_string(case when piece.share is null then mentions else ");
        query.push("mentions[piece.number * piece.share + 1 : (piece.number + 1) * piece.share] end, ' ') ");
        query.push("from patient cross join lateral (");
        for (place, resource_type) in (0_i32..).zip(&self.types) {
            query.push(if place == 0 { "" } else { " union all " });
            self.push_rows_of_patient(&mut query, place, *resource_type);
        }
        query.push(") as resource left join lateral (select octet_length(whole.bytes) as length, start - 1 as start, ");
        query.push("substring(whole.bytes from start for ").push_bind(PIECE).push(") as bytes, ");
        query.push("(start - 1) / ").push_bind(PIECE).push(" as number, ");
        // So many that all pieces together have them all.
        query.push("cardinality(mentions) / ((octet_length(whole.bytes) - 1) / ").push_bind(PIECE);
        query.push(" + 1) + 1 as share from ");
        // It is taken out of its storage once; `offset 0` keeps Postgres from doing that again for every piece.
        query.push("(select convert_to(body, 'UTF8') as bytes where octet_length(body) > ").push_bind(PIECE);
        query.push(" offset 0) as whole, generate_series(1, octet_length(whole.bytes), ").push_bind(PIECE);
        query.push(") as start) as piece on true");
        query
    }

    /// One type of the patient of the row under way: all that the index has, whatever else is asked, so that Postgres
    /// has no choice to get wrong.
    fn push_rows_of_patient(&self, query: &mut QueryBuilder<Postgres>, place: i32, resource_type: ResourceType) {
        query.push("(select ").push_bind(place).push(" as place, body, mentions from ");
        if resource_type == ResourceType::PROVENANCE {
            query.push("(select distinct found.key as of from (");
            push_keys_of_patient(query, resource_type, self.window.at);
            query.push(
                ") as found offset 0) as found cross join lateral (select * from resource where resource_type = ",
            );
            query.push_bind(resource_type.as_str()).push(" and key = found.of offset 0) as resource where true");
        } else {
            query.push(format_args!("(select * {} offset 0) as resource where true", of_patient(resource_type)));
        }
        match &self.about {
            Some(about) if resource_type == ResourceType::PROVENANCE => {
                push_conditions(query, resource_type, self.window.whenever(), Access::Everything, false);
                about.push(query, self.window, Owner::Patient);
            }
            _ => {
                let window = Window { since: None, ..self.window };
                push_conditions(query, resource_type, window, Access::Everything, false);
                if let Some(since) = self.window.since {
                    query.push(" and (patient.is_new or last_updated > ").push_bind(since).push(")");
                }
            }
        }
        // Others may be in the compartment, too, by a link.
        query.push(if resource_type == ResourceType::PATIENT { " order by id <> patient.id)" } else { ")" });
    }

    /// Keeps for the parts whose compartments there are, with the keys of their Patients: those of all that have changed
    /// where that is asked, and otherwise of those that are frozen already. Needs the indexes.
    pub(crate) async fn freeze(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.cohort == Cohort::AnyPatient && self.are_frozen() {
            let mut query = QueryBuilder::new("-- resource.compartment.owners\n");
            query
                .push("insert into export_patient (job_id, patient_id) select ")
                .push_bind(self.job)
                .push(", id from (");
            self.push_owners(&mut query);
            query.push(") as owner");
            query.build().persistent(false).execute(&mut *connection).await?;
            cohort::analyze(connection).await?;
        }
        let mut query = QueryBuilder::new("-- resource.compartment.keys\n");
        query.push("update export_patient as frozen set patient_key = coalesce((select resource.key from ");
        query.push("(select frozen.patient_id as id) as patient cross join lateral ");
        query.push(format_args!("(select * {} offset 0) as resource ", of_patient(ResourceType::PATIENT)));
        query.push("where resource.id = patient.id");
        self.push_holds(&mut query);
        query.push("), ").push_bind(NO_PATIENT).push(") where job_id = ").push_bind(self.job);
        query.build().persistent(false).execute(connection).await?;
        Ok(())
    }

    /// Whether the patients are kept with the job: a few, or those of whom something has changed.
    fn are_frozen(&self) -> bool {
        matches!(self.cohort, Cohort::Frozen(_)) || self.window.since.is_some()
    }

    /// Key and id of every patient of the part, each once, and whether it comes with its whole history (rule H9).
    fn push_patients(&self, query: &mut QueryBuilder<Postgres>) {
        let has_strangers = self.keys.contains(&NO_PATIENT);
        if self.are_frozen() {
            query.push("select patient_key as key, patient_id as id, is_new from export_patient where job_id = ");
            query.push_bind(self.job).push(" and patient_key < ").push_bind(self.keys.end);
            query.push(" and patient_key >= ").push_bind(self.keys.start);
            query.push(if has_strangers { "" } else { " and patient_key > 0" });
            return;
        }
        query.push("select key, id, false as is_new from resource where resource_type = ");
        query.push_bind(ResourceType::PATIENT.as_str());
        self.push_holds(query);
        query.push(" and key >= ").push_bind(self.keys.start);
        query.push(" and key < ").push_bind(self.keys.end);
        if has_strangers {
            query.push(" union all select ").push_bind(NO_PATIENT).push(", id, false from (");
            self.push_owners(query);
            query.push(") as owner where not exists (select from resource where resource_type = ");
            query.push_bind(ResourceType::PATIENT.as_str()).push(" and resource.id = owner.id");
            self.push_holds(query);
            query.push(")");
        }
    }

    /// The version that holds at the transaction time, also one that says that it was deleted.
    fn push_holds(&self, query: &mut QueryBuilder<Postgres>) {
        query.push(" and last_updated <= ").push_bind(self.window.at);
        query.push(" and superseded_at > ").push_bind(self.window.at);
    }

    /// The ids of the patients to whom anything belongs that is exported.
    fn push_owners(&self, query: &mut QueryBuilder<Postgres>) {
        query.push("select distinct id from (");
        for (number, resource_type) in self.types.iter().enumerate() {
            query.push(if number == 0 { "" } else { " union all " });
            query.push("select unnest(patients) as id from resource where true");
            push_conditions(query, *resource_type, self.window, Access::Everything, false);
            if *resource_type == ResourceType::PROVENANCE {
                query.push(
                    " union all select unnest(about.patients) from resource cross join lateral (select version.patients from ",
                );
                push_targets(query, self.window.at);
                query.push(") as about where true");
                push_conditions(query, *resource_type, self.window, Access::Everything, false);
            }
        }
        query.push(") as owner");
    }
}
