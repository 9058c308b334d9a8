//! Which exports hold data of a patient that is to be erased, as far as that can be told without their files: by what was
//! asked for.

use std::collections::BTreeSet;

use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::level::Level;
use super::request::ExportRequest;
use crate::fhir::resource_type::ResourceType;

/// What there is in the store of a patient.
#[derive(Debug)]
pub(crate) struct Traces<'a> {
    pub(crate) patient: &'a str,
    /// The types of the resources that mention the patient.
    pub(crate) types: BTreeSet<ResourceType>,
    /// Whether none of these mentions anybody else: else also exports of others hold it.
    pub(crate) are_alone: bool,
}

/// An export, and what else tells whether it holds anything of the patient.
struct Candidate {
    id: Uuid,
    request: Json<ExportRequest>,
    is_planned: bool,
    /// The patient is among those it was limited to when it was planned.
    is_of_patient: bool,
    /// The patient is among what was found for its filters, or referred to.
    was_found: bool,
    /// It has files of which it was not recorded whose data they hold.
    is_unrecorded: bool,
}

/// The exports that have not ended, and hold something of a patient or may yet. `recorded` are those of whose files that is
/// known.
pub(crate) async fn unfinished(
    connection: &mut PgConnection,
    traces: &Traces<'_>,
    recorded: &BTreeSet<Uuid>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let candidates = candidates(connection, traces.patient, true).await?;
    let holds = |export: &Candidate| {
        recorded.contains(&export.id) || export.was_found || export.may_read(traces, export.is_planned)
    };
    Ok(candidates.into_iter().filter(holds).map(|export| export.id).collect())
}

/// The exports that have ended and are not removed yet, and are about the patient, or hold what is or may be.
pub(crate) async fn finished(
    executor: impl PgExecutor<'_>,
    traces: &Traces<'_>,
    recorded: &BTreeSet<Uuid>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let candidates = candidates(executor, traces.patient, false).await?;
    let holds = |export: &Candidate| {
        recorded.contains(&export.id)
            || export.was_found
            || export.is_of_patient
            || export.is_about(traces.patient)
            || export.has_unrecorded_provenances(traces)
            // When all else is gone already, nothing tells what it may have read.
            || export.is_unrecorded && (traces.types.is_empty() || export.may_read(traces, true))
    };
    Ok(candidates.into_iter().filter(holds).map(|export| export.id).collect())
}

impl Candidate {
    fn may_read(&self, traces: &Traces<'_>, is_planned: bool) -> bool {
        if !traces.are_alone || self.request.reads_of_anybody(&traces.types) {
            return self.request.reads_any(&traces.types);
        }
        // Whose members they are is known only when it is planned.
        let is_limited_to_others = self.request.is_frozen() && is_planned && !self.is_of_patient;
        !is_limited_to_others && self.request.may_hold(traces.patient, &traces.types)
    }

    /// Of the Provenances in exports of everybody it is not recorded to whom belongs what they are about; nor, in the block
    /// of one patient, that it is another's, too.
    fn has_unrecorded_provenances(&self, traces: &Traces<'_>) -> bool {
        traces.types.contains(&ResourceType::PROVENANCE)
            && self.request.types.contains(&ResourceType::PROVENANCE)
            && (!self.request.is_frozen() || self.request.by_patient)
    }

    fn is_about(&self, patient: &str) -> bool {
        self.request.patients.contains(patient) || matches!(&self.request.level, Level::Patient(id) if id == patient)
    }
}

async fn candidates(
    executor: impl PgExecutor<'_>,
    patient: &str,
    is_unfinished: bool,
) -> Result<Vec<Candidate>, sqlx::Error> {
    sqlx::query_as!(
        Candidate,
        r#"-- export.holding.candidates
        select id, request as "request: Json<ExportRequest>", state <> 'accepted' as "is_planned!",
            exists (select from export_patient where job_id = job.id and patient_id = $1) as "is_of_patient!",
            exists (
                select from export_found
                where job_id = job.id and resource_type = 'Patient' and resource_id = $1
            ) or exists (
                select from export_reference
                where job_id = job.id and resource_type = 'Patient' and resource_id = $1
            ) as "was_found!",
            exists (
                select from binary_file
                where job_id = job.id and not exists (select from disclosed_file where file_id = binary_file.id)
            ) as "is_unrecorded!"
        from export_job as job
        where (state in ('accepted', 'running')) = $2"#,
        patient,
        is_unfinished
    )
    .fetch_all(executor)
    .await
}
