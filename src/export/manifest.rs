//! The manifest: built from the ledger at every poll, never stored (rules E).

use serde_json::{Map, Value, json};
use sqlx::PgPool;

use super::job::Job;
use crate::binary::{self, Kind, Listed};
use crate::fhir::instant;

/// The manifest of a completed job; none if it has just expired. `base` is the public base URL, `secured` whether files
/// need a token (rule E4).
pub(crate) async fn manifest(
    pool: &PgPool,
    job: &Job,
    base: &str,
    secured: bool,
) -> Result<Option<Value>, sqlx::Error> {
    let Some(files) = binary::list_whole(pool, job.id).await? else { return Ok(None) };
    let of = |kind: Kind| -> Value {
        files.iter().filter(|file| file.kind == kind.as_str()).map(|file| item(file, base)).collect()
    };
    let mut manifest = Map::new();
    // In the order eHealth clients have seen it (rule A20).
    manifest.insert("transactionTime".into(), json!(job.transaction_time.map(instant::format)));
    manifest.insert("request".into(), json!(job.request.url));
    manifest.insert("requiresAccessToken".into(), json!(secured));
    manifest.insert("output".into(), of(Kind::Output));
    if job.request.since.is_some() {
        manifest.insert("deleted".into(), of(Kind::Deleted));
    }
    manifest.insert("error".into(), of(Kind::Outcome));
    Ok(Some(Value::Object(manifest)))
}

fn item(file: &Listed, base: &str) -> Value {
    json!({
        "type": file.resource_type,
        "url": format!("{base}/Binary/{}", file.id),
        "count": file.resources,
    })
}
