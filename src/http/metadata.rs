//! What the server says of itself: CapabilityStatement, OperationDefinitions and SMART configuration (rules J1-J5, J7-J9,
//! A39).

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::App;
use super::error::ApiError;
use super::response::{fhir_json, fhir_response};
use super::token;
use crate::config::Dialect;
use crate::fhir::resource_type::ResourceType;
use crate::search::parameter;

const BULK_DATA: &str = "http://hl7.org/fhir/uv/bulkdata";
const EXPORT: &str = "-s-export";
const PATIENT_EXPORT: &str = "Patient-it-export";
const GROUP_EXPORT: &str = "Group-i-export";
const POLL_STATUS: &str = "-s-export-poll-status";

/// `[base]/metadata`; open to everybody, as FHIR wants it.
pub(super) async fn capability_statement(State(app): State<Arc<App>>) -> impl IntoResponse {
    // It has thousands of search parameters, and nothing of it changes while the server runs.
    let text = app.statement.get_or_init(|| statement(&app).to_string().into()).clone();
    ([(CONTENT_TYPE, fhir_json())], text)
}

/// `[base]/OperationDefinition/<id>`
pub(super) async fn operation_definition(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let definition = match id.as_str() {
        EXPORT => export_definition(&app.base, app.config.wire.dialect()),
        PATIENT_EXPORT => patient_export_definition(&app),
        GROUP_EXPORT => group_export_definition(&app),
        POLL_STATUS => poll_status_definition(&app.base),
        _ => {
            return Err(ApiError::not_found(format!(
                "There is no such OperationDefinition; there are {EXPORT}, {PATIENT_EXPORT}, {GROUP_EXPORT} and \
                 {POLL_STATUS}."
            )));
        }
    };
    Ok(fhir_response(StatusCode::OK, &definition))
}

/// `[base]/.well-known/smart-configuration`: how clients get a token here (rules J8, J9).
pub(super) async fn smart_configuration(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let backend = app.authenticator.backend().ok_or_else(token::not_here)?;
    let configuration = json!({
        "token_endpoint": backend.token_url(),
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
        "scopes_supported": ["system/*.rs", "system/*.read"],
        // Of an authorization endpoint, which is not here: yet all must say it.
        "code_challenge_methods_supported": ["S256"],
        "capabilities": ["client-confidential-asymmetric", "permission-v1", "permission-v2"],
    });
    Ok(([(CONTENT_TYPE, "application/json")], configuration.to_string()).into_response())
}

fn statement(app: &App) -> Value {
    let base = &app.base;
    let new_members = if app.config.group.new_members_full_history {
        "Who has joined a Group since then comes with everything."
    } else {
        "What is older of a patient who has joined a Group since then is had by an export without _since, with patient."
    };
    let mut rest = json!({
        "mode": "server",
        "documentation": format!("Bulk export of the whole system, of all patients, of one or some, and of the members of \
            a Group. Every export is the exact state of the data at its transactionTime; a client that passes it as the \
            next _since misses and repeats nothing. _since does not tell that a resource has left a filter or a \
            patient, nor that a patient has left a Group, without being deleted. {new_members}"),
        "resource": resources(base),
        "operation": [
            { "name": "export", "definition": format!("{BULK_DATA}/OperationDefinition/export") },
            { "name": "export", "definition": format!("{base}/OperationDefinition/{EXPORT}") },
            { "name": "export-poll-status", "definition": format!("{base}/OperationDefinition/{POLL_STATUS}") },
        ],
    });
    if app.authenticator.requires_token() {
        rest["security"] = security(app);
    }
    json!({
        "resourceType": "CapabilityStatement",
        "id": "fhir-bulk-export",
        "url": format!("{base}/metadata"),
        "name": "FhirBulkExport",
        "title": "fhir-bulk-export",
        "status": "active",
        "date": "2026-11-24",
        "kind": "instance",
        "instantiates": [format!("{BULK_DATA}/CapabilityStatement/bulk-data")],
        "software": { "name": "fhir-bulk-export" },
        "implementation": { "description": "FHIR Bulk Data export", "url": base },
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [rest],
    })
}

/// Whose tokens are wanted, and what for (rule J7).
fn security(app: &App) -> Value {
    let mut security = json!({
        "cors": !app.config.http.cors_origins.is_empty(),
        "service": [{ "text": "OAuth 2.0 bearer tokens of the configured issuers" }],
        "description": "Send Authorization: Bearer <token>. By the issuer, starting an export takes the role $bulk-export \
            and <Type>.search for each type, and reading a file Binary.read; or both take a scope such as \
            system/Patient.rs or system/*.read. Only who started an export can read its files.",
    });
    if let Some(backend) = app.authenticator.backend() {
        let smart = json!({ "coding": [{
            "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
            "code": "SMART-on-FHIR",
        }] });
        security["service"] = json!([smart, security["service"][0]]);
        security["extension"] = json!([{
            "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
            "extension": [{ "url": "token", "valueUri": backend.token_url() }],
        }]);
    }
    security
}

/// Every type that an export may contain, and Binary, as which the files are read. There is no other read, nor a search.
fn resources(base: &str) -> Vec<Value> {
    let binary = json!({
        "type": "Binary",
        "interaction": [{ "code": "read" }, { "code": "vread" }],
        // If-None-Match and If-Modified-Since.
        "conditionalRead": "full-support",
        "documentation": "The files of an export: NDJSON, or this resource for Accept: application/fhir+json.",
    });
    let with_operations = |resource_type: ResourceType| {
        let mut exported = exported(resource_type);
        match resource_type.as_str() {
            "OperationDefinition" => exported["interaction"] = json!([{ "code": "read" }]),
            "Patient" => exported["operation"] = exports(base, "patient-export", PATIENT_EXPORT),
            "Group" => exported["operation"] = exports(base, "group-export", GROUP_EXPORT),
            _ => {}
        }
        exported
    };
    ResourceType::exportable().map(with_operations).chain([binary]).collect()
}

/// A type, with the search parameters that its filters may have (rule J5).
fn exported(resource_type: ResourceType) -> Value {
    let parameters = parameter::of(resource_type).values();
    json!({
        "type": resource_type.as_str(),
        "documentation": "Exported by the operation export, whose _typeFilter takes the search parameters.",
        "searchParam": parameters
            .map(|parameter| json!({ "name": parameter.code(), "type": parameter.kind().as_str() }))
            .collect::<Vec<_>>(),
    })
}

/// The operations of a type at which exports start; `standard` is the HL7 guide's definition of that, and its name there,
/// by which one conformance suite looks for it, another by `export`; `own` is ours.
fn exports(base: &str, standard: &str, own: &str) -> Value {
    json!([
        { "name": "export", "definition": format!("{BULK_DATA}/OperationDefinition/{standard}") },
        { "name": standard, "definition": format!("{BULK_DATA}/OperationDefinition/{standard}") },
        { "name": "export", "definition": format!("{base}/OperationDefinition/{own}") },
    ])
}

/// A definition of an export; up to STU3 a kick-off may be a GET, so that it does not affect state (rule K27).
fn kick_off(base: &str, dialect: Dialect, id: &str, title: &str, description: &str) -> Value {
    let mut definition = operation(base, id, "export", title, description);
    definition["affectsState"] = json!(dialect == Dialect::Stu4);
    definition
}

fn export_definition(base: &str, dialect: Dialect) -> Value {
    let mut definition = kick_off(
        base,
        dialect,
        EXPORT,
        "FHIR Bulk Data System Level Export",
        "Starts an export of all resources the caller may have. Needs the header Prefer: respond-async; answers 202 \
         with the poll URL in Content-Location. With Prefer: respond-async, separate-export-status polls answer 200 and \
         say in X-Export-Status how the export stands. Sent again with the same Idempotency-Key, it starts nothing new.",
    );
    definition["base"] = json!("http://ehealth.sundhed.dk/fhir/OperationDefinition/-s-export");
    definition["parameter"] = Value::Array(export_parameters());
    definition
}

/// What is said of resources that come because others refer to them (rules B18, G4, H8); nothing if none do.
fn referenced(types: &BTreeSet<ResourceType>) -> String {
    if types.is_empty() {
        return String::new();
    }
    let types = types.iter().map(|listed| listed.as_str()).collect::<Vec<_>>().join(", ");
    format!(
        " Besides come the resources of {types} to which what comes out refers, as of the transaction time and whether \
         or not they changed after _since; with _type, of those types that it names. A change of theirs alone, or a \
         deletion, is not told by _since."
    )
}

fn patient_export_definition(app: &App) -> Value {
    let mut definition = kick_off(
        &app.base,
        app.config.wire.dialect(),
        PATIENT_EXPORT,
        "FHIR Bulk Data Patient Level Export",
        &format!(
            "As at system level, of what is in the Patient compartment: of all patients, of the one in the URL, or of \
             those given as patient. A Provenance is there with what it is about.{}",
            referenced(&app.config.include.referenced)
        ),
    );
    definition["system"] = json!(false);
    definition["type"] = json!(true);
    definition["instance"] = json!(true);
    definition["resource"] = json!(["Patient"]);
    definition["parameter"] = patient_parameters();
    definition
}

fn group_export_definition(app: &App) -> Value {
    let mut definition = kick_off(
        &app.base,
        app.config.wire.dialect(),
        GROUP_EXPORT,
        "FHIR Bulk Data Group Level Export",
        &format!(
            "As at patient level, of the patients who are members at the transaction time: active ones, in their \
             period, also those of Groups that are members.{}",
            referenced(&app.config.include.referenced)
        ),
    );
    definition["system"] = json!(false);
    definition["instance"] = json!(true);
    definition["resource"] = json!(["Group"]);
    definition["parameter"] = patient_parameters();
    definition
}

fn patient_parameters() -> Value {
    let mut parameters = export_parameters();
    parameters.push(parameter(
        "organizeOutputBy",
        "string",
        "1",
        "Patient: files hold patient after patient, each a Parameters resource that refers to the Patient, the \
        Patient, and what is in its compartment. Absent: a file holds one type.",
    ));
    parameters.push(parameter(
        "patient",
        "Reference",
        "*",
        "Only these Patients; in a URL also a list, Patient/1,Patient/2.",
    ));
    Value::Array(parameters)
}

fn export_parameters() -> Vec<Value> {
    vec![
        parameter(
            "_outputFormat",
            "string",
            "1",
            "application/fhir+ndjson (the default), application/ndjson or ndjson.",
        ),
        parameter("_type", "string", "*", "Comma-separated resource types; absent: all the caller may have."),
        parameter(
            "_since",
            "instant",
            "1",
            "Only resources whose meta.lastUpdated is later; deletions come in `deleted`.",
        ),
        parameter(
            "_until",
            "instant",
            "1",
            "Only resources whose meta.lastUpdated is earlier. Not a look into the past: \
            a resource changed again since is left out, but for the earlier versions that _includeHistory gives.",
        ),
        parameter(
            "_includeHistory",
            "boolean",
            "1",
            "true: all versions that are kept, not only the current ones; with _since and _until those dated between. \
            Deletions are no versions: with _since they come in `deleted`, to be applied last, for the versions of what \
            is deleted by then are in `output`. Of a patient those that were in the Patient compartment themselves.",
        ),
        parameter(
            "_elements",
            "string",
            "*",
            "Comma-separated elements at the root of a resource, `element` or `Type.element`; mandatory ones come \
            besides. What is cut has the tag SUBSETTED.",
        ),
        parameter(
            "_typeFilter",
            "string",
            "*",
            "[type]?[parameters], a FHIR search as in the CapabilityStatement: of a type that has such, only resources \
            that match one of them come; other types come whole. Several in one value are separated by a comma. Result \
            parameters are refused. Deletions are told whether or not what was deleted would have matched.",
        ),
        parameter(
            "_typePostFetchFilterUrl",
            "string",
            "*",
            "As _typeFilter; with both, a resource must match one of either.",
        ),
        parameter(
            "_exportId",
            "string",
            "1",
            "The client's own name for the export; stands in meta.extension of the files.",
        ),
        parameter(
            "_minimumFileSize",
            "positiveInt",
            "1",
            "Bytes of NDJSON that a file should have. A type of which there is less has a smaller file.",
        ),
        parameter(
            "_maximumFileSize",
            "positiveInt",
            "1",
            "Bytes of NDJSON that a file may have, a MiB at least. A resource that is longer by itself is alone in its \
            file, and an outcome says so.",
        ),
        parameter(
            "includeAssociatedData",
            "code",
            "*",
            "RelevantProvenanceResources: of Provenances only those that are about what comes out; \
            LatestProvenanceResources: of each resource the one recorded last. Absent: all of what is exported from.",
        ),
        parameter(
            "allowPartialManifests",
            "boolean",
            "1",
            "true: while the export runs, polls tell which files are ready; they can be read at once. What is ready \
            later is in the manifest to which `link` leads. Absent or false: one manifest, when all is complete.",
        ),
    ]
}

fn poll_status_definition(base: &str) -> Value {
    let mut definition = operation(
        base,
        POLL_STATUS,
        "export-poll-status",
        "Status of a FHIR Bulk Data Export",
        "202 with X-Progress while the export runs, 200 with the manifest when it is complete. With Prefer: wait=N it \
         answers as soon as the export has ended, after N seconds at most. Of an export with \
         allowPartialManifests=true the 202 has a manifest, too, of the files that are ready. DELETE cancels it.",
    );
    definition["base"] = json!("http://ehealth.sundhed.dk/fhir/OperationDefinition/-s-export-poll-status");
    definition["parameter"] = json!([
        parameter("_jobId", "string", "1", "The export."),
        parameter("page", "positiveInt", "1", "Which of several manifests; stands in the `link` of the one before it."),
    ]);
    definition
}

fn operation(base: &str, id: &str, code: &str, title: &str, description: &str) -> Value {
    let name: String = code
        .split('-')
        .map(|word| word.get(..1).unwrap_or_default().to_uppercase() + word.get(1..).unwrap_or_default())
        .collect();
    json!({
        "resourceType": "OperationDefinition",
        "id": id,
        "url": format!("{base}/OperationDefinition/{id}"),
        "name": name,
        "title": title,
        "status": "active",
        "kind": "operation",
        "description": description,
        "affectsState": false,
        "code": code,
        "system": true,
        "type": false,
        "instance": false,
    })
}

fn parameter(name: &str, value_type: &str, max: &str, documentation: &str) -> Value {
    json!({ "name": name, "use": "in", "min": 0, "max": max, "documentation": documentation, "type": value_type })
}
