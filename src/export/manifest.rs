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
/// How files are organised where they are (rule E7).
const BY_PATIENT: &str = "Each block begins with a header that refers to a Patient. After it come that Patient, if it \
    is among what is exported, and all exported resources of its Patient compartment, each in the block of every \
    patient it belongs to. A block that goes on in another file has its header there again.";

/// A page as it is sent, and how much it tells of.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) json: Value,
    pub(crate) files: usize,
    pub(crate) resources: i64,
}

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
) -> Result<Option<Manifest>, sqlx::Error> {
    let Some(Page { files, has_next }) = binary::list_page(pool, job.id, page).await? else { return Ok(None) };
    let is_stu4 = terms.dialect == Dialect::Stu4;
    let by_patient = job.request.by_patient;
    let of = |kind: Kind| -> Value {
        // STU4 leaves the type out where the list says it (rules E10, K14); and organised files have several (rule E6).
        let typed = if kind == Kind::Output { !by_patient } else { !is_stu4 };
        let with_next = files.iter().zip(files.iter().skip(1).map(Some).chain([None]));
        let of_kind = with_next.filter(|(file, _)| file.kind == kind.as_str());
        of_kind.map(|(file, next)| item(file, next.filter(|_| file.continues), kind, typed, terms)).collect()
    };
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
    if by_patient {
        manifest.insert("outputOrganizedBy".into(), json!("Patient"));
        if is_stu4 {
            manifest.insert("outputOrganizedByDetail".into(), json!(BY_PATIENT));
        }
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
    let resources = files.iter().map(|file| file.resources).sum();
    Ok(Some(Manifest { json: Value::Object(manifest), files: files.len(), resources }))
}

/// A file in its list; `next` is the one in which its last block goes on.
fn item(file: &Listed, next: Option<&Listed>, kind: Kind, typed: bool, terms: Terms<'_>) -> Value {
    let location = |file: &Listed| json!(format!("{}/Binary/{}", terms.base, file.id));
    let mut item = Map::new();
    if typed {
        item.insert("type".into(), json!(file.resource_type));
    }
    item.insert("url".into(), location(file));
    item.insert("count".into(), json!(file.resources));
    if let Some(next) = next {
        item.insert("continuesInFile".into(), location(next));
    }
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
