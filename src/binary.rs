//! The files of an export: how they are written, who may read them, and how they are sent.

mod codec;
pub(crate) mod download;
mod gzip;
pub(crate) mod ndjson;
pub(crate) mod store;
pub(crate) mod volume;

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::identity::Owner;
pub(crate) use volume::Volume;

/// Which list of the manifest a file stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Output,
    Deleted,
    Outcome,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Deleted => "deleted",
            Self::Outcome => "outcome",
        }
    }
}

/// The part of the ledger a file belongs to, and where its chunks lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) job: Uuid,
    pub(crate) part: i32,
    pub(crate) kind: Kind,
    pub(crate) volume: Volume,
}

/// A finished file and what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Binary {
    pub(crate) id: String,
    pub(crate) job: Uuid,
    pub(crate) volume: Volume,
    pub(crate) resource_type: String,
    /// Length as NDJSON.
    pub(crate) bytes: i64,
    /// Length of the chunks as they lie.
    pub(crate) deflated_bytes: i64,
    pub(crate) crc32: i64,
    pub(crate) sha256: Vec<u8>,
    pub(crate) created_at: OffsetDateTime,
    /// Who may read it: issuer and subject of who started the export.
    pub(crate) subject: String,
    /// Resources of one type, and nothing else.
    pub(crate) is_of_one_type: bool,
    /// What was asked for, as it is stored with the job.
    pub(crate) request: Json<Value>,
    /// The client's own name for the export.
    pub(crate) export_id: Option<String>,
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwritten {
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Deflate(#[from] codec::DeflateError),
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The file, if it is this owner's, and its job is completed and not expired, or runs and a client was told of the file
/// (rule C11). A foreign file and one that never was look the same (rule F15).
pub(crate) async fn find_for(pool: &PgPool, id: &str, owner: &Owner) -> Result<Option<Binary>, sqlx::Error> {
    // No id has anything else; and a NUL, which no text in Postgres may hold, would be its error.
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(None);
    }
    sqlx::query_as!(
        Binary,
        r#"-- binary.find_for
        select file.id, file.job_id as job, coalesce(number, 0) as "volume!: Volume", resource_type, bytes, deflated_bytes, crc32, sha256, created_at,
            owner_subject as subject, request ->> 'export_id' as export_id,
            kind = 'output' as "is_of_one_type!", request as "request: Json<Value>"
        from binary_file as file
            join export_job as job on job.id = file.job_id
            left join binary_volume as volume on volume.job_id = file.job_id
        where file.id = $1 and owner_issuer = $2 and owner_subject = $3
            and (state = 'completed' and expires_at > clock_timestamp() or state = 'running' and page is not null)"#,
        id,
        owner.issuer,
        owner.subject
    )
    .fetch_optional(pool)
    .await
}

/// A file as the manifest lists it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) resource_type: String,
    /// Its lines.
    pub(crate) resources: i64,
    /// Length as NDJSON.
    pub(crate) bytes: i64,
    pub(crate) sha256: Vec<u8>,
    /// The block in which it ends goes on in the next one.
    pub(crate) continues: bool,
}

/// A hash as it is written for others.
pub(crate) fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files of a job, in the order of the manifest.
pub(crate) async fn list(pool: &PgPool, job: Uuid) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as!(
        Listed,
        "-- binary.list
        select id, kind, resource_type, resources, bytes, sha256, continues from binary_file
        where job_id = $1 order by part, ordinal",
        job
    )
    .fetch_all(pool)
    .await
}

/// A page of the manifest.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) files: Vec<Listed>,
    /// Whether there are files for the page after it.
    pub(crate) has_next: bool,
}

/// The files on a page of the manifest, in its order. While the job runs there are the pages that are closed; once it
/// is completed, one more of the files that are on none of these, if there are such or it is the first. There is none
/// if the job has ended otherwise, or has expired and its files are going. One statement, so that it sees one moment.
pub(crate) async fn list_page(pool: &PgPool, job: Uuid, page: i32) -> Result<Option<Page>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"-- binary.list_page
        select file.id as "id?", kind as "kind?", resource_type as "resource_type?", resources as "resources?",
            bytes as "bytes?", sha256 as "sha256?", continues as "continues?",
            exists (
                select from binary_file as later where later.job_id = job.id and coalesce(later.page, pages + 1) = $2 + 1
            ) as "has_next!"
        from export_job as job
            left join binary_file as file on file.job_id = job.id and coalesce(file.page, pages + 1) = $2
        where job.id = $1
            and (state = 'running' and $2 <= pages or state = 'completed' and expires_at > clock_timestamp())
            and (file.id is not null or $2 = 1)
        order by part, ordinal"#,
        job,
        page
    )
    .fetch_all(pool)
    .await?;
    let Some(has_next) = rows.first().map(|row| row.has_next) else { return Ok(None) };
    // Without files there is one row, of the job alone.
    let files = rows.into_iter().filter_map(|row| {
        Some(Listed {
            id: row.id?,
            kind: row.kind?,
            resource_type: row.resource_type?,
            resources: row.resources?,
            bytes: row.bytes?,
            sha256: row.sha256?,
            continues: row.continues?,
        })
    });
    Ok(Some(Page { files: files.collect(), has_next }))
}

/// How many resources the files of each part hold, by part and kind.
pub(crate) async fn resources_by_part(
    connection: &mut PgConnection,
    job: Uuid,
) -> Result<BTreeMap<(i32, String), i64>, sqlx::Error> {
    let counts = sqlx::query!(
        r#"-- binary.resources_by_part
        select part, kind, sum(resources)::bigint as "resources!" from binary_file where job_id = $1 group by part, kind"#,
        job
    )
    .fetch_all(connection)
    .await?;
    Ok(counts.into_iter().map(|count| ((count.part, count.kind), count.resources)).collect())
}
