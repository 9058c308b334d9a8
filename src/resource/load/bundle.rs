//! A JSON text as changes: one resource, or the entries of a Bundle.
//!
//! Document and message Bundles are resources in their own right and stay whole; the other kinds are unpacked. An
//! entry keeps its id; without one it takes the id of a PUT's URL or the uuid of its `urn:uuid:` full URL. References
//! to such a full URL become references to the resource.

use std::borrow::Cow;
use std::collections::HashMap;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Rules;
use crate::fhir::reference::is_id;
use crate::fhir::resource_type::ResourceType;
use crate::resource::body::Resource;
use crate::resource::write::Change;

const URN: &str = "urn:uuid:";

/// What a JSON text asks for.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) changes: Vec<Change>,
    /// Why something was not taken, once for each.
    pub(super) refused: Vec<String>,
    /// All or none.
    pub(super) atomic: bool,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "resourceType")]
    resource_type: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    bundle_type: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Bundle<'a> {
    #[serde(borrow, default)]
    entry: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, rename = "fullUrl")]
    full_url: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Identity<'a> {
    #[serde(borrow, rename = "resourceType")]
    resource_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
}

/// Reads the text.
pub(super) fn changes(text: &[u8], rules: &Rules) -> Changes {
    // Most resources are no Bundles: a look at the text saves reading it twice.
    let Some(bundle_type) = memmem::find(text, b"Bundle").and_then(|_| bundle_type(text)) else {
        return single(text, rules);
    };
    if matches!(bundle_type.as_str(), "document" | "message") {
        return single(text, rules);
    }
    let bundle = match serde_json::from_slice::<Bundle<'_>>(text) {
        Ok(bundle) => bundle,
        Err(error) => return refused(format!("not a Bundle as FHIR has it (line {})", error.line())),
    };
    let mut changes = unpack(&bundle, rules);
    changes.atomic = bundle_type == "transaction";
    changes
}

fn bundle_type(text: &[u8]) -> Option<String> {
    let kind: Kind<'_> = serde_json::from_slice(text).ok()?;
    (kind.resource_type.as_deref() == Some("Bundle"))
        .then(|| kind.bundle_type.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default())
}

fn single(text: &[u8], rules: &Rules) -> Changes {
    match resource(text, None, rules) {
        Ok(resource) => Changes { changes: vec![Change::Put(resource)], ..Changes::default() },
        Err(reason) => refused(reason),
    }
}

/// Whatever it came in: a worker may have to hold a whole one.
fn resource(text: &[u8], fallback_id: Option<&str>, rules: &Rules) -> Result<Resource, String> {
    if text.len() > rules.max_resource {
        return Err(format!("longer than store.max_resource, {} bytes", rules.max_resource));
    }
    Resource::parse_with_id(text, fallback_id, &rules.bases).map_err(|refused| refused.to_string())
}

fn refused(reason: String) -> Changes {
    Changes { refused: vec![reason], ..Changes::default() }
}

fn unpack(bundle: &Bundle<'_>, rules: &Rules) -> Changes {
    let references = references(bundle);
    let mut unpacked = Changes::default();
    for (index, entry) in bundle.entry.iter().enumerate() {
        match change(entry, &references, rules) {
            Ok(change) => unpacked.changes.push(change),
            Err(reason) => unpacked.refused.push(format!("entry[{index}]: {reason}")),
        }
    }
    unpacked
}

/// The `Type/id` that each `urn:uuid:` full URL of the Bundle stands for.
fn references(bundle: &Bundle<'_>) -> HashMap<String, String> {
    bundle
        .entry
        .iter()
        .filter_map(|entry| {
            let urn = entry.full_url.as_deref().filter(|url| url.starts_with(URN))?;
            let identity: Identity<'_> = serde_json::from_str(entry.resource?.get()).ok()?;
            let resource_type = ResourceType::parse(identity.resource_type.as_deref()?)?;
            let id = identity.id.as_deref().or_else(|| fallback_id(entry)).filter(|id| is_id(id))?;
            Some((urn.to_owned(), format!("{resource_type}/{id}")))
        })
        .collect()
}

/// The id of an entry whose resource has none.
fn fallback_id<'a>(entry: &'a Entry<'_>) -> Option<&'a str> {
    let put = entry.request.as_ref().filter(|request| request.method == "PUT");
    put.and_then(|request| Some(type_and_id(&request.url)?.1)).or_else(|| entry.full_url.as_deref()?.strip_prefix(URN))
}

fn type_and_id(url: &str) -> Option<(ResourceType, &str)> {
    let (name, id) = url.split_once('/')?;
    Some((ResourceType::parse(name)?, id)).filter(|(_, id)| is_id(id))
}

fn change(entry: &Entry<'_>, references: &HashMap<String, String>, rules: &Rules) -> Result<Change, String> {
    let method = entry.request.as_ref().map_or("PUT", |request| &request.method);
    match (method, entry.resource) {
        ("DELETE", _) => delete(entry),
        ("PUT" | "POST", Some(text)) => {
            let text = with_references(text.get(), references);
            let resource = resource(text.as_bytes(), fallback_id(entry), rules)?;
            agrees(entry, &resource)?;
            Ok(Change::Put(resource))
        }
        ("PUT" | "POST", None) => Err("it has no resource".to_owned()),
        _ => Err("only PUT, POST and DELETE can be loaded".to_owned()),
    }
}

fn delete(entry: &Entry<'_>) -> Result<Change, String> {
    entry
        .request
        .as_ref()
        .and_then(|request| type_and_id(&request.url))
        .map(|(resource_type, id)| Change::Delete(resource_type, id.to_owned()))
        .ok_or_else(|| "a DELETE needs a request.url of the form Type/id".to_owned())
}

/// A PUT names the resource twice: in its URL and in the resource.
fn agrees(entry: &Entry<'_>, resource: &Resource) -> Result<(), String> {
    let put = entry.request.as_ref().filter(|request| request.method == "PUT");
    match put.and_then(|request| type_and_id(&request.url)) {
        Some(named) if named != (resource.resource_type(), resource.id()) => {
            Err("request.url names another resource than the entry holds".to_owned())
        }
        _ => Ok(()),
    }
}

/// Replaces the value of every `"reference": "urn:uuid:…"` that the Bundle has a resource for.
fn with_references<'a>(text: &'a str, references: &HashMap<String, String>) -> Cow<'a, str> {
    let mut result = String::new();
    let mut copied = 0;
    for start in memmem::find_iter(text.as_bytes(), b"\"urn:uuid:") {
        let is_reference = text.get(..start).is_some_and(|before| {
            let name = before.trim_ascii_end().strip_suffix(':').map(str::trim_ascii_end);
            name.is_some_and(|name| name.ends_with("\"reference\""))
        });
        let value = text.get(start + 1..).and_then(|rest| rest.split_once('"')).map(|(value, _)| value);
        let target = value.filter(|_| is_reference).and_then(|value| references.get_key_value(value));
        if let Some((urn, target)) = target {
            result.push_str(text.get(copied..=start).unwrap_or_default());
            result.push_str(target);
            copied = start + 1 + urn.len();
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    result.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::reference::PatientBases;

    fn within(text: &str, max_resource: usize) -> Changes {
        let rules = Rules { bases: PatientBases::default(), max_resource, max_document: usize::MAX };
        changes(text.as_bytes(), &rules)
    }

    fn read(text: &str) -> Changes {
        within(text, 1 << 20)
    }

    #[test]
    fn entries_take_the_id_of_their_urn_and_references_follow() {
        let changes = read(
            r#"{"resourceType":"Bundle","type":"transaction","entry":[
            {"fullUrl":"urn:uuid:11111111-1111-1111-1111-111111111111","resource":{"resourceType":"Patient"},
             "request":{"method":"POST","url":"Patient"}},
            {"fullUrl":"urn:uuid:22222222-2222-2222-2222-222222222222",
             "resource":{"resourceType":"Observation","id":"o","subject":{"reference" : "urn:uuid:11111111-1111-1111-1111-111111111111"},
             "valueString":"urn:uuid:11111111-1111-1111-1111-111111111111"},"request":{"method":"POST","url":"Observation"}}]}"#,
        );
        assert!(changes.atomic && changes.refused.is_empty(), "{changes:?}");
        let [Change::Put(patient), Change::Put(observation)] = &changes.changes[..] else { panic!("{changes:?}") };
        assert_eq!(patient.id(), "11111111-1111-1111-1111-111111111111");
        assert_eq!(observation.patients(), ["11111111-1111-1111-1111-111111111111"]);
        let body = observation.body(1, time::OffsetDateTime::UNIX_EPOCH);
        assert!(body.contains(r#""reference":"Patient/11111111-1111-1111-1111-111111111111""#), "{body}");
        assert!(body.contains(r#""valueString":"urn:uuid:1111"#), "{body}");
    }

    #[test]
    fn a_document_stays_whole_and_a_collection_is_unpacked() {
        let entry = r#""entry":[{"resource":{"resourceType":"Patient","id":"p"}}]"#;
        let document = read(&format!(r#"{{"resourceType":"Bundle","id":"b","type":"document",{entry}}}"#));
        assert_eq!(document.changes[0].resource_type().as_str(), "Bundle");
        let collection = read(&format!(r#"{{"resourceType":"Bundle","type":"collection",{entry}}}"#));
        assert_eq!(collection.changes[0].resource_type().as_str(), "Patient");
    }

    #[test]
    fn what_cannot_be_loaded_is_refused_by_entry() {
        let changes = read(
            r#"{"resourceType":"Bundle","type":"batch","entry":[
            {"resource":{"resourceType":"Patient"}},
            {"request":{"method":"DELETE","url":"Patient?identifier=1"}},
            {"request":{"method":"GET","url":"Patient/1"}},
            {"resource":{"resourceType":"Patient","id":"a"},"request":{"method":"PUT","url":"Patient/b"}},
            {"request":{"method":"DELETE","url":"Patient/c"}}]}"#,
        );
        assert_eq!(changes.refused.len(), 4, "{:?}", changes.refused);
        assert!(matches!(&changes.changes[..], [Change::Delete(_, id)] if id == "c"));
    }

    #[test]
    fn a_resource_is_limited_whatever_it_comes_in() {
        let large = format!(r#"{{"resourceType":"Basic","id":"l","x":"{}"}}"#, "x".repeat(100));
        let small = r#"{"resourceType":"Basic","id":"s"}"#;
        let bundle = |entries: &str| format!(r#"{{"resourceType":"Bundle","type":"collection","entry":[{entries}]}}"#);
        let entry = |resource: &str| format!(r#"{{"resource":{resource}}}"#);
        for text in [large.clone(), bundle(&entry(&large)), bundle(&format!("{},{}", entry(small), entry(&large)))] {
            let changes = within(&text, 100);
            assert_eq!((changes.refused.len(), changes.refused[0].contains("store.max_resource")), (1, true));
        }
        let many = vec![entry(small); 20].join(",");
        assert_eq!(within(&bundle(&many), 100).changes.len(), 20, "a Bundle may be longer than a resource");
    }

    #[test]
    fn only_a_resource_that_can_be_there_takes_the_place_of_its_urn() {
        let urn = "urn:uuid:11111111-1111-1111-1111-111111111111";
        for identity in [r#""resourceType":"Patient","id":"\",\"x\":\"""#, r#""resourceType":"\",\"x\":\"","id":"a""#] {
            let changes = read(&format!(
                r#"{{"resourceType":"Bundle","type":"collection","entry":[{{"fullUrl":"{urn}","resource":{{{identity}}}}},
                {{"resource":{{"resourceType":"Basic","id":"b","subject":{{"reference":"{urn}"}}}}}}]}}"#
            ));
            let [Change::Put(basic)] = &changes.changes[..] else { panic!("{changes:?}") };
            assert!(basic.rest().contains(urn) && changes.refused.len() == 1, "{}", basic.rest());
        }
    }

    #[test]
    fn a_million_levels_do_no_harm_to_a_bundle() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        for text in [
            format!(r#"{{"resourceType":"Bundle","type":{deep},"entry":[]}}"#),
            format!(r#"{{"resourceType":"Bundle","type":"batch","entry":{deep}}}"#),
            format!(r#"{{"resourceType":"Bundle","type":"batch","x":{deep},"entry":[{{"resource":{{"x":{deep}}}}}]}}"#),
        ] {
            assert_eq!(read(&text).changes.len(), 0);
        }
    }
}
