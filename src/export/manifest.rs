//! The manifest, or a page of it: built from the ledger at every poll, never stored (rules E, K11-K14).

use serde_json::{Map, Value, json};
use sqlx::PgPool;

use super::job::{Job, poll_url};
use super::remark;
use crate::binary::{self, Kind, Listed, Page, hexadecimal};
use crate::config::Dialect;
use crate::fhir::instant;

const MANIFEST_TYPE: &str = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/BulkDataManifest";
const OUTPUT_FORMAT: &str = "application/fhir+ndjson";

/// What a manifest says of the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) dialect: Dialect,
    /// The public base URL.
    pub(crate) base: &'a str,
    /// Whether files need a token (rule E4).
    pub(crate) secured: bool,
}

/// A page of the manifest, of which the first may be all there is; none if there is no such page, or the job has just
/// expired.
pub(crate) async fn manifest(
    pool: &PgPool,
    job: &Job,
    page: i32,
    terms: Terms<'_>,
) -> Result<Option<Value>, sqlx::Error> {
    let Some(Page { files, has_next }) = binary::list_page(pool, job.id, page).await? else { return Ok(None) };
    let of = |kind: Kind| -> Value {
        files.iter().filter(|file| file.kind == kind.as_str()).map(|file| item(file, kind, terms)).collect()
    };
    let is_stu4 = terms.dialect == Dialect::Stu4;
    let mut manifest = Map::new();
    if is_stu4 {
        manifest.insert("manifestType".into(), json!(MANIFEST_TYPE));
    }
    // In the order eHealth clients have seen it (rule A20).
    manifest.insert("transactionTime".into(), json!(job.transaction_time.map(instant::format)));
    if !is_stu4 {
        manifest.insert("request".into(), json!(job.request.url));
    }
    manifest.insert("requiresAccessToken".into(), json!(terms.secured));
    if is_stu4 {
        manifest.insert("outputFormat".into(), json!(OUTPUT_FORMAT));
    }
    manifest.insert("output".into(), of(Kind::Output));
    if job.request.since.is_some() {
        manifest.insert("deleted".into(), of(Kind::Deleted));
    }
    let outcomes = if is_stu4 { "outcome" } else { "error" };
    manifest.insert(outcomes.into(), of(Kind::Outcome));
    if has_next {
        let url = format!("{}&page={}", poll_url(terms.base, job.id), page + 1);
        manifest.insert("link".into(), json!([{ "relation": "next", "url": url }]));
    }
    Ok(Some(Value::Object(manifest)))
}

/// A file in its list.
fn item(file: &Listed, kind: Kind, terms: Terms<'_>) -> Value {
    let mut item = Map::new();
    // STU4 leaves it out where the list says it (rules E10, K14).
    if terms.dialect != Dialect::Stu4 || kind == Kind::Output {
        item.insert("type".into(), json!(file.resource_type));
    }
    item.insert("url".into(), json!(format!("{}/Binary/{}", terms.base, file.id)));
    item.insert("count".into(), json!(file.resources));
    match terms.dialect {
        // Its clients know nothing more (rule A20).
        Dialect::Ehealth => {}
        Dialect::Stu3 => {
            item.insert("extension".into(), stu3_extension(file, terms.base));
        }
        Dialect::Stu4 => {
            item.insert("fileSize".into(), json!(file.bytes));
            if kind == Kind::Outcome {
                let counts = json!([{ "code": remark::SEVERITY, "count": file.resources }]);
                item.insert("countSeverity".into(), counts);
            }
            item.insert("extension".into(), stu4_extension(file, terms.base));
        }
    }
    Value::Object(item)
}

/// Up to STU3 an object, of which the guide says nothing more than that (rule E12).
fn stu3_extension(file: &Listed, base: &str) -> Value {
    json!({
        url(base, "file-size"): file.bytes,
        url(base, "file-sha256"): hexadecimal(&file.sha256),
        url(base, "file-lines"): file.resources,
    })
}

/// From STU4 on FHIR extensions (rule E12); the size has a field of its own.
fn stu4_extension(file: &Listed, base: &str) -> Value {
    json!([
        { "url": url(base, "file-sha256"), "valueString": hexadecimal(&file.sha256) },
        { "url": url(base, "file-lines"), "valueUnsignedInt": file.resources },
    ])
}

/// The name of an extension of ours (docs/operating.md).
fn url(base: &str, name: &str) -> String {
    format!("{base}/StructureDefinition/{name}")
}
