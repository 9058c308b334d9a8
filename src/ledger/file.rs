//! Which files hold whose data: noted as each is stored, and still known when it is gone.

use futures_util::TryStreamExt;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::patients::{PatientSet, contains};

/// A file as it is stored.
pub(crate) struct DisclosedFile<'a> {
    pub(crate) id: &'a str,
    pub(crate) job: Uuid,
    pub(crate) kind: &'static str,
    pub(crate) resource_type: &'a str,
    pub(crate) resources: i64,
    pub(crate) bytes: i64,
    pub(crate) patients: &'a PatientSet,
}

/// Notes whose data is in a file, in the transaction that stores it.
pub(crate) async fn note(transaction: &mut PgConnection, file: &DisclosedFile<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- ledger.file.note
        insert into disclosed_file (file_id, job_id, kind, resource_type, resources, bytes, patients, patient_ids)
        values ($1, $2, $3, $4, $5, $6, $7, $8)",
        file.id,
        file.job,
        file.kind,
        file.resource_type,
        file.resources,
        file.bytes,
        file.patients.count,
        file.patients.encoded
    )
    .execute(transaction)
    .await?;
    Ok(())
}

/// A file that holds data of the patient asked for.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) id: String,
    pub(crate) job: Uuid,
    pub(crate) kind: String,
    pub(crate) resource_type: String,
    pub(crate) resources: i64,
    pub(crate) bytes: i64,
    /// Whether it has not been removed yet.
    pub(crate) is_there: bool,
}

/// All files that hold data of this patient, of exports with which something happened since an instant. The sets are looked
/// at one after the other.
pub(crate) async fn holding(
    pool: &PgPool,
    patient: &str,
    since: Option<OffsetDateTime>,
) -> Result<Vec<Holding>, sqlx::Error> {
    let mut files = sqlx::query!(
        r#"-- ledger.file.holding
        select file_id, job_id, kind, resource_type, resources, bytes, patient_ids,
            exists (select from binary_file where binary_file.id = file_id) as "is_there!"
        from disclosed_file
        where patients > 0
            and ($1::timestamptz is null or job_id in (select job_id from disclosure where at >= $1))"#,
        since
    )
    .fetch(pool);
    let mut holding = Vec::new();
    while let Some(file) = files.try_next().await? {
        if contains(&file.patient_ids, patient).map_err(|error| sqlx::Error::Decode(error.into()))? {
            holding.push(Holding {
                id: file.file_id,
                job: file.job_id,
                kind: file.kind,
                resource_type: file.resource_type,
                resources: file.resources,
                bytes: file.bytes,
                is_there: file.is_there,
            });
        }
    }
    Ok(holding)
}
