//! References: `subject=Patient/1`, `subject=1`, `subject:Patient=1`, by URL, and what they refer to.

use super::expression::Path;
use super::uri::{Uri, unversioned};
use crate::fhir::reference::{PatientBases, is_id, target, without_version};
use crate::fhir::resource_type::ResourceType;
use crate::json::Value;

/// A reference that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReferenceOperand {
    /// To a resource that is here, of this type or of any.
    Here { resource_type: Option<ResourceType>, id: String },
    /// To this URL.
    Url(String),
}

impl ReferenceOperand {
    /// Reads a reference to one of these types.
    pub(super) fn parse(text: &str, targets: &[ResourceType]) -> Result<Self, String> {
        if text.contains(':') {
            return Ok(Self::Url(text.to_owned()));
        }
        match text.split_once('/') {
            None if is_id(text) => Ok(Self::Here { resource_type: None, id: text.to_owned() }),
            Some((name, id)) if is_id(id) => {
                let found = ResourceType::parse(name).filter(|found| targets.contains(found));
                let wrong = || format!("is to another type than {}", named(targets));
                Ok(Self::Here { resource_type: Some(found.ok_or_else(wrong)?), id: id.to_owned() })
            }
            _ => Err("is no reference, such as Patient/1, 1 or https://example.org/fhir/Patient/1".to_owned()),
        }
    }

    pub(super) fn is(&self, there: &Referred, bases: &PatientBases) -> bool {
        match (self, there) {
            (_, Referred::Literal(literal)) => self.is_to(literal, bases),
            (Self::Here { resource_type, id }, Referred::Resource(found, found_id)) => {
                resource_type.is_none_or(|asked| asked == *found) && id == found_id
            }
            (Self::Url(_), Referred::Resource(..)) => false,
            (Self::Url(asked), Referred::Canonical(url)) => url == asked || unversioned(url) == asked,
            (Self::Here { .. }, Referred::Canonical(url)) => self.is_to(unversioned(url), bases),
        }
    }

    fn is_to(&self, literal: &str, bases: &PatientBases) -> bool {
        match self {
            Self::Here { resource_type, id } => target(literal, bases).is_some_and(|(found, found_id)| {
                found_id == id && resource_type.is_none_or(|asked| asked.as_str() == found)
            }),
            // A relative one is to the same if that is here.
            Self::Url(asked) => {
                let unversioned = without_version(literal);
                let is_relative = !literal.contains(':');
                unversioned == without_version(asked)
                    || (is_relative && target(asked, bases).is_some_and(|here| Some(here) == target(literal, bases)))
            }
        }
    }
}

/// What an element refers to.
pub(super) enum Referred {
    /// By a Reference.
    Literal(String),
    /// By its canonical URL.
    Canonical(String),
    /// It is there itself, in a Bundle.
    Resource(ResourceType, String),
}

impl Referred {
    /// Reads it; none if it is to nothing that the way or the parameter is for.
    pub(super) fn read(value: Value<'_>, path: &Path, targets: &[ResourceType]) -> Result<Option<Self>, String> {
        match path.datatype.name {
            "Reference" => {
                let literal = literal(value)?.filter(|literal| is_to_one_of(literal, path, targets));
                Ok(literal.map(Self::Literal))
            }
            "Resource" => Ok(resource(value, targets)?.map(|(found, id)| Self::Resource(found, id))),
            datatype => Uri::read(value, datatype).map(|url| Some(Self::Canonical(url.written.into_owned()))),
        }
    }

    /// Type and id, if it is here. Of what has a canonical URL those are not told by it.
    pub(super) fn here(self, bases: &PatientBases) -> Option<(ResourceType, String)> {
        match self {
            Self::Literal(literal) => {
                let (name, id) = target(&literal, bases)?;
                Some((ResourceType::parse(name)?, id.to_owned()))
            }
            Self::Resource(found, id) => Some((found, id)),
            Self::Canonical(_) => None,
        }
    }
}

/// The identifier that is written in a Reference; none if what it says of its type is another one than the way is for.
pub(super) fn identifier<'a>(value: Value<'a>, path: &Path) -> Result<Option<Value<'a>>, String> {
    let says = |name| value.get(name).and_then(Value::text);
    let named = match literal(value)? {
        Some(literal) => target(&literal, &PatientBases::default()).map(|(name, _)| name.to_owned()),
        None => says("type").map(Into::into),
    };
    let is_meant = path.target.is_none_or(|only| named.is_none_or(|named| named == only.as_str()));
    Ok(value.get("identifier").filter(|_| is_meant))
}

/// The literal of a Reference; none if it is a logical one.
fn literal(value: Value<'_>) -> Result<Option<String>, String> {
    let wrong = || "a Reference there cannot be read".to_owned();
    if !value.is_object() {
        return Err(wrong());
    }
    value.get("reference").map(|literal| literal.text().map(Into::into).ok_or_else(wrong)).transpose()
}

/// Type and id of a resource in a Bundle.
fn resource(value: Value<'_>, targets: &[ResourceType]) -> Result<Option<(ResourceType, String)>, String> {
    let says = |name| value.get(name).and_then(Value::text);
    let name = says("resourceType").ok_or_else(|| "a resource there cannot be read".to_owned())?;
    let found = ResourceType::parse(&name).filter(|found| targets.contains(found));
    Ok(found.and_then(|found| Some((found, says("id")?.into_owned()))))
}

/// A way that is for references to one type leads to those only, wherever they point.
fn is_to_one_of(literal: &str, path: &Path, targets: &[ResourceType]) -> bool {
    // Of any server: which counts is another question.
    let name = target(literal, &PatientBases::default()).map(|(name, _)| name);
    match (path.target, name) {
        (Some(only), name) => name == Some(only.as_str()),
        (None, Some(name)) => targets.iter().any(|target| target.as_str() == name),
        (None, None) => true,
    }
}

/// For the client: `Group, Patient`.
pub(super) fn named(types: &[ResourceType]) -> String {
    types.iter().map(|named| named.as_str()).collect::<Vec<_>>().join(", ")
}
