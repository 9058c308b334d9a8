//! The compartments of patients, one after the other: the rows of files that are organised by patient (rules F9, G10).

use std::ops::Range;

use sqlx::{Postgres, QueryBuilder};

use super::associated::{About, Owner};
use super::cohort::{Access, Cohort, push_keys_of_patient, push_targets};
use super::read::{PIECE, Window, push_conditions};
use super::sample::ALL_KEYS;
use crate::fhir::resource_type::ResourceType;

/// The key of a patient of whom there is no Patient, though resources refer to one. No row has it.
const NO_PATIENT: i64 = ALL_KEYS.start;

/// The compartments of some patients.
#[derive(Debug, Clone)]
pub(crate) struct Compartments {
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
        cohort: Cohort,
        mut types: Vec<ResourceType>,
        keys: Range<i64>,
        window: Window,
        about: Option<About>,
    ) -> Self {
        types.sort_by_key(|resource_type| *resource_type != ResourceType::PATIENT);
        Self { cohort, types, keys, window, about }
    }

    /// The type of a row is given by its place here.
    pub(crate) fn types(&self) -> &[ResourceType] {
        &self.types
    }

    /// Selects the resources, patient after patient, type after type, the Patient itself first: key and id of the
    /// patient, place of the type, the body, or, where that is long, null and a row for each of its pieces: length of
    /// the whole, where the piece begins, its bytes.
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
        query.push(" then body end, piece.length, piece.start, piece.bytes from patient cross join lateral (");
        for (place, resource_type) in (0_i32..).zip(&self.types) {
            query.push(if place == 0 { "" } else { " union all " });
            self.push_rows_of_patient(&mut query, place, *resource_type);
        }
        query.push(") as resource left join lateral (select octet_length(whole.bytes) as length, start - 1 as start, ");
        query.push("substring(whole.bytes from start for ").push_bind(PIECE).push(") as bytes from ");
        // It is taken out of its storage once; `offset 0` keeps Postgres from doing that again for every piece.
        query.push("(select convert_to(body, 'UTF8') as bytes where octet_length(body) > ").push_bind(PIECE);
        query.push(" offset 0) as whole, generate_series(1, octet_length(whole.bytes), ").push_bind(PIECE);
        query.push(") as start) as piece on true");
        query
    }

    /// One type of the patient of the row under way: all that the index has, whatever else is asked, so that Postgres
    /// has no choice to get wrong.
    fn push_rows_of_patient(&self, query: &mut QueryBuilder<Postgres>, place: i32, resource_type: ResourceType) {
        query.push("(select ").push_bind(place).push(" as place, body from ");
        if resource_type == ResourceType::PROVENANCE {
            query.push("(select distinct found.key as of from (");
            push_keys_of_patient(query, resource_type, self.window.at);
            query.push(
                ") as found offset 0) as found cross join lateral (select * from resource where resource_type = ",
            );
            query.push_bind(resource_type.as_str()).push(" and key = found.of offset 0) as resource where true");
        } else {
            query.push("(select * from resource where resource_type = ").push_bind(resource_type.as_str());
            query.push(" and patients @> array[patient.id collate \"default\"] offset 0) as resource where true");
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

    /// Key and id of every patient of the part, each once, and whether it comes with its whole history (rule H9).
    fn push_patients(&self, query: &mut QueryBuilder<Postgres>) {
        match self.cohort {
            Cohort::Frozen(job) => self.push_named(query, &self.keys, |query| {
                query.push("select patient_id as id, is_new from export_patient where job_id = ").push_bind(job);
            }),
            // What has changed tells them faster than all there are.
            _ if self.window.since.is_some() => self.push_named(query, &self.keys, |query| self.push_owners(query)),
            _ => {
                query.push("select key, id, false as is_new from resource where resource_type = ");
                query.push_bind(ResourceType::PATIENT.as_str());
                self.push_holds(query);
                query.push(" and key >= ").push_bind(self.keys.start);
                query.push(" and key < ").push_bind(self.keys.end);
                if self.keys.contains(&NO_PATIENT) {
                    query.push(" union all ");
                    self.push_named(query, &(NO_PATIENT..NO_PATIENT + 1), |query| self.push_owners(query));
                }
            }
        }
    }

    /// Those of some ids whose Patient has a key in the range, with that key.
    fn push_named(
        &self,
        query: &mut QueryBuilder<Postgres>,
        keys: &Range<i64>,
        push_ids: impl FnOnce(&mut QueryBuilder<Postgres>),
    ) {
        query.push("select key, id, is_new from (select named.id, named.is_new, coalesce((select key from ");
        query.push("(select * from resource where resource_type = ").push_bind(ResourceType::PATIENT.as_str());
        query.push(" and patients @> array[named.id collate \"default\"] offset 0) as resource where id = named.id");
        self.push_holds(query);
        query.push("), ").push_bind(NO_PATIENT).push(") as key from (");
        push_ids(query);
        query.push(") as named offset 0) as named where key >= ").push_bind(keys.start);
        query.push(" and key < ").push_bind(keys.end);
    }

    /// The version that holds at the transaction time, also one that says that it was deleted.
    fn push_holds(&self, query: &mut QueryBuilder<Postgres>) {
        query.push(" and last_updated <= ").push_bind(self.window.at);
        query.push(" and superseded_at > ").push_bind(self.window.at);
    }

    /// The ids of the patients to whom anything belongs that is exported; none of them is new.
    fn push_owners(&self, query: &mut QueryBuilder<Postgres>) {
        query.push("select distinct id, false as is_new from (");
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
