//! An entry of the ledger as a FHIR R4 AuditEvent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::event::{Event, Kind};
use crate::fhir::instant;

const TYPES: &str = "http://terminology.hl7.org/CodeSystem/audit-event-type";
const INTERACTIONS: &str = "http://hl7.org/fhir/restful-interaction";
const DICOM: &str = "http://dicom.nema.org/resources/ontology/DCM";
const ENTITY_TYPES: &str = "http://terminology.hl7.org/CodeSystem/audit-entity-type";
const ROLES: &str = "http://terminology.hl7.org/CodeSystem/object-role";
const SOURCE_TYPES: &str = "http://terminology.hl7.org/CodeSystem/security-source-type";

/// The AuditEvent, whose id is the number of the entry. The patient is named if it was asked for: whose else's data a file
/// holds is nothing to tell here.
pub(crate) fn audit_event(event: &Event, patient: Option<&str>) -> Value {
    let (class, subtype, action) = codes(event.kind);
    let entities = [job(event), query(event), file(event), patient.map(patient_entity)];
    let mut resource = json!({
        "resourceType": "AuditEvent",
        "id": event.number.to_string(),
        "type": class,
        "subtype": [subtype],
        "action": action,
        "recorded": instant::format(event.at),
        "outcome": outcome(event),
        "outcomeDesc": outcome_text(event),
        "agent": [agent(event)],
        "source": {
            "observer": { "display": env!("CARGO_PKG_NAME") },
            "type": [coding(SOURCE_TYPES, "4", "Application Server")],
        },
    });
    let entities: Vec<Value> = entities.into_iter().flatten().collect();
    if !entities.is_empty() {
        resource["entity"] = Value::Array(entities);
    }
    resource
}

fn coding(system: &str, code: &str, display: &str) -> Value {
    json!({ "system": system, "code": code, "display": display })
}

/// Type, subtype and action.
fn codes(kind: Kind) -> (Value, Value, &'static str) {
    let restful = || coding(TYPES, "rest", "RESTful Operation");
    let export = || coding(DICOM, "110106", "Export");
    let interaction = |code: &str| json!({ "system": INTERACTIONS, "code": code, "display": code });
    match kind {
        Kind::KickOff => (restful(), interaction("operation"), "E"),
        Kind::Manifest => (restful(), interaction("operation"), "R"),
        Kind::Download | Kind::Sent => (export(), interaction("read"), "R"),
        Kind::Delete => (restful(), interaction("delete"), "D"),
        Kind::Denied => (coding(DICOM, "110113", "Security Alert"), coding(DICOM, "110122", "Login"), "E"),
        Kind::Erase => (restful(), interaction("delete"), "D"),
        Kind::Begin | Kind::Unrecorded => {
            let used = coding(DICOM, "110101", "Audit Log Used");
            (coding(DICOM, "110100", "Application Activity"), used, "E")
        }
    }
}

/// 0: success, 4: the other side did something wrong, 8: we did.
fn outcome(event: &Event) -> &'static str {
    let was_cut = event.detail.get("whole").is_some_and(|whole| whole == false);
    match event.outcome {
        Some(400..500) => "4",
        Some(500..) => "8",
        _ if was_cut => "4",
        _ => "0",
    }
}

fn outcome_text(event: &Event) -> String {
    match event.outcome {
        Some(status) => format!("{}: {status}", event.kind.as_str()),
        None => event.kind.as_str().to_owned(),
    }
}

fn agent(event: &Event) -> Value {
    let mut agent = json!({ "requestor": event.subject.is_some() || event.address.is_some() });
    if let Some(subject) = &event.subject {
        let mut identifier = json!({ "value": subject });
        if let Some(issuer) = event.issuer.as_deref().filter(|issuer| !issuer.is_empty()) {
            identifier["system"] = json!(issuer);
        }
        agent["who"] = json!({ "identifier": identifier });
    }
    if let Some(client) = &event.client {
        agent["altId"] = json!(client);
    }
    if let Some(address) = &event.address {
        agent["network"] = json!({ "address": address, "type": "2" });
    }
    agent
}

/// The export, and what else is said.
fn job(event: &Event) -> Option<Value> {
    let mut entity = json!({
        "type": coding(ENTITY_TYPES, "2", "System Object"),
        "role": coding(ROLES, "20", "Job"),
    });
    if let Some(job) = event.job {
        let identifier = json!({ "system": "urn:ietf:rfc:3986", "value": format!("urn:uuid:{job}") });
        entity["what"] = json!({ "identifier": identifier });
    }
    // An erased patient is named as the others are: if it was asked for.
    let is_said = |name: &str| name != "request" && name != "patient";
    let said = event.detail.as_object().into_iter().flatten().filter(|(name, _)| is_said(name));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let details: Vec<Value> = said.map(|(name, value)| json!({ "type": name, "valueString": text(value) })).collect();
    if event.job.is_none() && details.is_empty() {
        return None;
    }
    if !details.is_empty() {
        entity["detail"] = Value::Array(details);
    }
    Some(entity)
}

/// What was asked for.
fn query(event: &Event) -> Option<Value> {
    let request = event.detail.get("request")?;
    Some(json!({
        "type": coding(ENTITY_TYPES, "2", "System Object"),
        "role": coding(ROLES, "24", "Query"),
        "query": STANDARD.encode(request.to_string()),
    }))
}

fn file(event: &Event) -> Option<Value> {
    let file = event.file.as_ref()?;
    Some(json!({
        "what": { "reference": format!("Binary/{file}") },
        "type": coding(ENTITY_TYPES, "2", "System Object"),
        "role": coding(ROLES, "3", "Report"),
    }))
}

fn patient_entity(patient: &str) -> Value {
    json!({
        "what": { "reference": format!("Patient/{patient}") },
        "type": coding(ENTITY_TYPES, "1", "Person"),
        "role": coding(ROLES, "1", "Patient"),
    })
}
