//! References: `subject=Patient/1`, `subject=1`, `subject:Patient=1`, by URL, and what they refer to.

use super::expression::Path;
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

    /// Compares it with a Reference, with a canonical URL, or with a resource in a Bundle.
    pub(super) fn matches(
        &self,
        value: Value<'_>,
        path: &Path,
        targets: &[ResourceType],
        bases: &PatientBases,
    ) -> Result<bool, String> {
        match path.datatype.name {
            "Reference" => {
                let Some(literal) = literal(value)? else { return Ok(false) };
                Ok(is_to_one_of(&literal, path, targets) && self.is_to(&literal, bases))
            }
            "Resource" => Ok(match (self, resource(value, targets)?) {
                (Self::Here { resource_type, id }, Some((found, found_id))) => {
                    resource_type.is_none_or(|asked| asked == found) && *id == found_id
                }
                _ => false,
            }),
            datatype => {
                let url = value.text().ok_or_else(|| format!("a {datatype} there cannot be read"))?;
                let unversioned = url.split_once('|').map_or(&*url, |(url, _)| url);
                Ok(match self {
                    Self::Url(asked) => url == asked.as_str() || unversioned == asked,
                    Self::Here { .. } => self.is_to(unversioned, bases),
                })
            }
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

/// What is referred to, if it is of one of these types, and here.
pub(super) fn referred(
    value: Value<'_>,
    path: &Path,
    targets: &[ResourceType],
    bases: &PatientBases,
) -> Result<Option<(ResourceType, String)>, String> {
    match path.datatype.name {
        "Reference" => {
            let Some(literal) = literal(value)? else { return Ok(None) };
            let here = target(&literal, bases).filter(|_| is_to_one_of(&literal, path, targets));
            Ok(here.and_then(|(name, id)| Some((ResourceType::parse(name)?, id.to_owned()))))
        }
        "Resource" => resource(value, targets),
        // Canonical URLs are of what is not told by its id.
        _ => Ok(None),
    }
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
