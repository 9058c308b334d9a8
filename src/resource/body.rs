//! The canonical bytes of a resource: what is stored and exported (DESIGN sections 2 and 9).
//!
//! A resource is taken apart without being interpreted: white space between tokens goes, `resourceType`, `id` and `meta`
//! come first, `meta.versionId` and `meta.lastUpdated` become the store's own; every other token stays byte for byte
//! (`1.00`, `1.0e3`, `\u00e9`, `\/`) and in its order. The Patients a resource belongs to and refers to are found here
//! too (rules H2 to H6), once, when it is written.

mod members;
mod patients;
#[cfg(test)]
mod properties;
mod references;
mod refused;
mod subset;

use std::borrow::Cow;
use std::fmt;

use serde::de::IgnoredAny;
use time::OffsetDateTime;

use self::members::Members;
pub(crate) use self::references::References;
pub use self::refused::Refused;
pub(crate) use self::subset::Subset;
use crate::fhir::instant;
use crate::fhir::reference::{self, PatientBases};
use crate::fhir::resource_type::ResourceType;
use crate::json::scan;

/// How deep objects and arrays may be nested.
const MAX_DEPTH: usize = 256;

/// A resource taken apart, ready to be given a version and a time.
///
/// Two equal resources differ at most in white space, in `meta.versionId` and `meta.lastUpdated`, and in where
/// `resourceType`, `id` and `meta` stood.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    resource_type: ResourceType,
    id: String,
    /// The members of `meta` but versionId and lastUpdated, minified, without braces.
    meta: String,
    /// The members of the resource but resourceType, id and meta, minified, without braces.
    rest: String,
    patients: Vec<String>,
    mentions: Vec<String>,
    targets: Option<Vec<String>>,
}

/// The id in a body: it stands where [`Resource::body`] has put it.
pub(crate) fn id_in(body: &str) -> &str {
    body.split('"').nth(7).unwrap_or_default()
}

/// Type and id in a body: `Patient/1`.
pub(crate) fn name_in(body: &str) -> String {
    format!("{}/{}", body.split('"').nth(3).unwrap_or_default(), id_in(body))
}

impl Resource {
    /// Takes the JSON text of one resource apart.
    pub fn parse(text: &[u8], bases: &PatientBases) -> Result<Self, Refused> {
        Self::parse_with_id(text, None, bases)
    }

    /// The same for an entry of a Bundle: a resource without an `id` takes the fallback.
    pub fn parse_with_id(text: &[u8], fallback_id: Option<&str>, bases: &PatientBases) -> Result<Self, Refused> {
        let minified = minified(text)?;
        let members = Members::of_resource(&minified)?;
        let resource_type = resource_type(members.get("resourceType"))?;
        let id = id(members.get("id"), fallback_id)?;
        let meta = meta(members.get("meta"))?;
        let rest = members.without(&["resourceType", "id", "meta"]);
        let found = patients::find(resource_type, &id, &meta, &rest, bases);
        let (patients, mentions, targets) = (found.compartment, found.mentions, found.targets);
        Ok(Self { resource_type, id, meta, rest, patients, mentions, targets })
    }

    /// The canonical JSON text of this resource as this version, last updated at this instant.
    pub fn body(&self, version_id: i64, last_updated: OffsetDateTime) -> String {
        let around = 128 + self.resource_type.as_str().len() + self.id.len();
        let mut body = String::with_capacity(around + self.meta.len() + self.rest.len());
        body.push_str("{\"resourceType\":\"");
        body.push_str(self.resource_type.as_str());
        body.push_str("\",\"id\":\"");
        body.push_str(&self.id);
        body.push_str("\",\"meta\":{\"versionId\":\"");
        body.push_str(&version_id.to_string());
        body.push_str("\",\"lastUpdated\":\"");
        instant::push(&mut body, last_updated);
        body.push('"');
        push_members(&mut body, &self.meta);
        body.push('}');
        push_members(&mut body, &self.rest);
        body.push('}');
        body
    }

    /// Its type.
    pub fn resource_type(&self) -> ResourceType {
        self.resource_type
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The members of `meta` but versionId and lastUpdated, minified, without braces; may be empty.
    pub fn meta(&self) -> &str {
        &self.meta
    }

    /// The members of the resource but resourceType, id and meta, minified, without braces; may be empty.
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// The ids of the Patients in whose compartment it is, sorted, each once.
    pub fn patients(&self) -> &[String] {
        &self.patients
    }

    /// The ids of all Patients it refers to anywhere, and those in [`Self::patients`], sorted, each once.
    pub fn mentions(&self) -> &[String] {
        &self.mentions
    }

    /// Of a Provenance what it is about, as `Type/id`, sorted, each once (rule H10).
    pub fn targets(&self) -> Option<&[String]> {
        self.targets.as_deref()
    }
}

impl fmt::Debug for Resource {
    /// Only the type: a resource must not get into a log by accident.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource").field("resource_type", &self.resource_type).finish_non_exhaustive()
    }
}

fn push_members(body: &mut String, members: &str) {
    if !members.is_empty() {
        body.push(',');
        body.push_str(members);
    }
}

/// The text, known to be JSON of bearable depth, without white space between its tokens.
fn minified(text: &[u8]) -> Result<Cow<'_, str>, Refused> {
    let text = std::str::from_utf8(text).map_err(|_| Refused::NotUtf8)?;
    // Ignored values are checked without recursion, and the errors of such a check name a place, never content.
    serde_json::from_str::<IgnoredAny>(text).map_err(|e| Refused::NotJson(e.to_string()))?;
    scan::minify(text, MAX_DEPTH).ok_or(Refused::TooDeep)
}

fn resource_type(value: Option<&str>) -> Result<ResourceType, Refused> {
    let name = string("resourceType", value.ok_or(Refused::NoType)?)?;
    let resource_type = name.as_deref().and_then(ResourceType::parse).ok_or(Refused::UnknownType)?;
    if resource_type.is_exportable() { Ok(resource_type) } else { Err(Refused::Binary) }
}

fn id(value: Option<&str>, fallback: Option<&str>) -> Result<String, Refused> {
    let id = match value {
        Some(value) => string("id", value)?.ok_or(Refused::BadId)?,
        None => Cow::Borrowed(fallback.ok_or(Refused::NoId)?),
    };
    if reference::is_id(&id) { Ok(id.into_owned()) } else { Err(Refused::BadId) }
}

fn meta(value: Option<&str>) -> Result<String, Refused> {
    let Some(value) = value else {
        return Ok(String::new());
    };
    Ok(Members::of_meta(value)?.without(&["versionId", "lastUpdated"]))
}

/// The decoded JSON string; nothing inside if its escapes make no text (half a surrogate pair).
fn string<'a>(member: &'static str, value: &'a str) -> Result<Option<Cow<'a, str>>, Refused> {
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    let raw = quoted.ok_or(Refused::WrongKind { member, expected: "a string" })?;
    Ok(scan::decode(raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn parse(text: &str) -> Result<Resource, Refused> {
        Resource::parse(text.as_bytes(), &PatientBases::default())
    }

    fn body(text: &str) -> String {
        parse(text).unwrap().body(3, datetime!(2026-01-01 02:00 +2))
    }

    #[test]
    fn the_head_comes_first_and_everything_else_stays_as_it_was() {
        let text = r#" { "a" : [ 1.00 , 1.0e3, -0, true ,null ] , "meta" : { "tag" : [ ] ,
            "lastUpdated" : "x", "versionId":"9" , "profile":["p q"]}, "i\u0064" : "\u0078-1", "é" : "\u00e9\/ \" {",
            "\u0062":{ } , "resourceType":"Observation" } "#;
        assert_eq!(
            body(text),
            concat!(
                r#"{"resourceType":"Observation","id":"x-1","meta":{"versionId":"3","#,
                r#""lastUpdated":"2026-01-01T00:00:00.000Z","tag":[],"profile":["p q"]},"#,
                r#""a":[1.00,1.0e3,-0,true,null],"é":"\u00e9\/ \" {","\u0062":{}}"#
            )
        );
    }

    #[test]
    fn a_resource_of_only_a_head_has_no_loose_commas() {
        let expected = concat!(
            r#"{"resourceType":"Basic","id":"1","meta":{"versionId":"3","#,
            r#""lastUpdated":"2026-01-01T00:00:00.000Z"}}"#
        );
        for meta in ["", r#","meta":{}"#, r#","meta":{"versionId":7,"lastUpdated":null}"#] {
            assert_eq!(body(&format!(r#"{{"resourceType":"Basic","id":"1"{meta}}}"#)), expected);
        }
    }

    #[test]
    fn a_missing_id_is_taken_from_the_entry_but_a_given_one_is_kept() {
        let bases = PatientBases::default();
        let with = |text: &str, id| Resource::parse_with_id(text.as_bytes(), id, &bases);
        let (without, own) = (r#"{"resourceType":"Basic"}"#, r#"{"resourceType":"Basic","id":"o"}"#);
        assert_eq!(with(without, Some("f")).unwrap().id(), "f");
        assert_eq!(with(own, Some("f")).unwrap().id(), "o");
        assert_eq!(with(without, Some("no id")), Err(Refused::BadId));
        assert_eq!(with(without, None), Err(Refused::NoId));
    }

    #[test]
    fn what_is_no_resource_is_refused_for_its_reason() {
        let id = Refused::WrongKind { member: "id", expected: "a string" };
        let meta = Refused::WrongKind { member: "meta", expected: "an object" };
        let kind = Refused::WrongKind { member: "resourceType", expected: "a string" };
        let top = Refused::Duplicate { place: "of the resource", position: 3 };
        let in_meta = Refused::Duplicate { place: "of `meta`", position: 2 };
        for (text, reason) in [
            ("[]", Refused::NotAnObject),
            ("null", Refused::NotAnObject),
            (r#""{}""#, Refused::NotAnObject),
            ("{}", Refused::NoType),
            (r#"{"id":"1"}"#, Refused::NoType),
            (r#"{"resourceType":"patient","id":"1"}"#, Refused::UnknownType),
            (r#"{"resourceType":"\ud800","id":"1"}"#, Refused::UnknownType),
            (r#"{"resourceType":"Binary","id":"1"}"#, Refused::Binary),
            (r#"{"resourceType":null,"id":"1"}"#, kind),
            (r#"{"resourceType":"Basic"}"#, Refused::NoId),
            (r#"{"resourceType":"Basic","id":1}"#, id),
            (r#"{"resourceType":"Basic","id":""}"#, Refused::BadId),
            (r#"{"resourceType":"Basic","id":"\ud800"}"#, Refused::BadId),
            (r#"{"resourceType":"Basic","id":"1","meta":[]}"#, meta),
            (r#"{"resourceType":"Basic","id":"1","i\u0064":"1"}"#, top),
            (r#"{"resourceType":"Basic","id":"1","meta":{"a":1,"a":1}}"#, in_meta),
        ] {
            assert_eq!(parse(text), Err(reason), "{text}");
        }
    }

    #[test]
    fn broken_json_is_refused_without_repeating_it() {
        for text in ["", "{", "{} {}", "{\"secret\":}", "{\"secret\":01}", "{\"secret\" 1}", "\u{feff}{}"] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains("valid JSON: ") && message.contains(" at line 1 column "));
            assert!(!message.contains("secret"), "{message}");
        }
        let latin1 = Resource::parse(b"{\"a\":\"\xe9\"}", &PatientBases::default());
        assert_eq!(latin1, Err(Refused::NotUtf8));
    }

    #[test]
    fn nesting_is_limited_and_a_million_levels_do_no_harm() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            parse(&format!(r#"{{"resourceType":"Basic","id":"1","x":{open}"\\"{close}}}"#))
        };
        assert!(nested(MAX_DEPTH - 1).is_ok());
        assert_eq!(nested(MAX_DEPTH), Err(Refused::TooDeep));
        assert_eq!(nested(1_000_000), Err(Refused::TooDeep));
    }

    #[test]
    fn debug_shows_no_content() {
        let resource = parse(r#"{"resourceType":"Patient","id":"secret"}"#).unwrap();
        assert_eq!(format!("{resource:?}"), "Resource { resource_type: Patient, .. }");
    }
}
