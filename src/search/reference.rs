//! References: `subject=Patient/1`, `subject=1`, `subject:Patient=1`, by URL, and what they refer to.

use super::expression::Path;
use super::uri::{Uri, unversioned};
use crate::fhir::reference::{PatientBases, is_id, target, without_version};
use crate::fhir::resource_type::ResourceType;
use crate::json::{Object, Value};

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

    pub(super) fn is(&self, there: &Referred<'_>, bases: &PatientBases) -> bool {
        match (self, there) {
            (_, Referred::Literal(literal)) => self.is_to(literal, bases),
            (Self::Here { resource_type, id }, Referred::Resource { resource_type: found, resource, .. }) => {
                let is_it = resource.get("id").and_then(Value::text).is_some_and(|found| found == id.as_str());
                is_it && resource_type.is_none_or(|asked| asked == *found)
            }
            (Self::Url(asked), Referred::Canonical(url)) => url == asked || unversioned(url) == asked,
            (Self::Here { .. }, Referred::Canonical(url)) => self.is_to(unversioned(url), bases),
            // What is contained has no name by which to ask for it.
            (Self::Url(_), Referred::Resource { .. }) | (_, Referred::Contained { .. }) => false,
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
pub(super) enum Referred<'a> {
    /// By a Reference.
    Literal(String),
    /// By a Reference to what the resource contains.
    Contained { resource_type: ResourceType, resource: Value<'a> },
    /// By its canonical URL.
    Canonical(String),
    /// It is there itself, in a Bundle.
    Resource { resource_type: ResourceType, resource: Value<'a> },
}

impl<'a> Referred<'a> {
    /// Reads an element of a resource; none if it is to nothing that the way or the parameter is for.
    pub(super) fn read(
        element: Value<'a>,
        path: &Path,
        targets: &[ResourceType],
        of: &Object<'a>,
    ) -> Result<Option<Self>, String> {
        let is_meant = |found: &ResourceType| match path.target {
            Some(only) => only == *found,
            None => targets.contains(found),
        };
        match path.datatype.name {
            "Reference" => Ok(literal(element)?.and_then(|literal| match literal.strip_prefix('#') {
                Some(id) => {
                    let resource = contained(of, id)?;
                    let resource_type = type_of(resource).filter(is_meant)?;
                    Some(Self::Contained { resource_type, resource })
                }
                None => is_to_one_of(&literal, path, targets).then_some(Self::Literal(literal)),
            })),
            "Resource" if element.get("resourceType").is_none() => Err("a resource there cannot be read".to_owned()),
            "Resource" => {
                let found = type_of(element).filter(is_meant);
                Ok(found.map(|resource_type| Self::Resource { resource_type, resource: element }))
            }
            datatype => Uri::read(element, datatype).map(|url| Some(Self::Canonical(url.written.into_owned()))),
        }
    }

    /// Type and id, if it is here. Of what has a canonical URL those are not told by it.
    pub(super) fn here(self, bases: &PatientBases) -> Option<(ResourceType, String)> {
        match self {
            Self::Literal(literal) => {
                let (name, id) = target(&literal, bases)?;
                Some((ResourceType::parse(name)?, id.to_owned()))
            }
            Self::Resource { resource_type, resource } => {
                Some((resource_type, resource.get("id").and_then(Value::text)?.into_owned()))
            }
            Self::Canonical(_) | Self::Contained { .. } => None,
        }
    }
}

/// The resource of this id among those contained.
fn contained<'a>(of: &Object<'a>, id: &str) -> Option<Value<'a>> {
    let is_it = |resource: &Value<'a>| resource.get("id").and_then(Value::text).is_some_and(|found| found == id);
    of.get("contained").into_iter().flat_map(Value::items).find(is_it)
}

fn type_of(resource: Value<'_>) -> Option<ResourceType> {
    ResourceType::parse(&resource.get("resourceType")?.text()?)
}

/// Whether a parameter that leads to some types only leads to what is referred to there.
pub(super) fn is_meant<'a>(element: Value<'a>, path: &Path, targets: &[ResourceType], of: &Object<'a>) -> bool {
    match (path.datatype.name, path.target) {
        ("Reference", None) => true,
        ("Reference", Some(_)) if element.get("reference").is_none() => is_of_type(element, path),
        // What cannot be read is something.
        ("Reference" | "Resource", _) => !matches!(Referred::read(element, path, targets, of), Ok(None)),
        _ => true,
    }
}

/// Whether what a Reference says of its type is what the way is for, if it says anything.
fn is_of_type(element: Value<'_>, path: &Path) -> bool {
    let named = element.get("type").and_then(Value::text);
    path.target.is_none_or(|only| named.is_none_or(|named| named == only.as_str()))
}

/// The identifier that is written in a Reference; none if it is to another type than the way is for.
pub(super) fn identifier<'a>(
    element: Value<'a>,
    path: &Path,
    targets: &[ResourceType],
    of: &Object<'a>,
) -> Result<Option<Value<'a>>, String> {
    literal(element)?;
    Ok(element.get("identifier").filter(|_| is_meant(element, path, targets, of)))
}

/// The literal of a Reference; none if it is a logical one.
fn literal(value: Value<'_>) -> Result<Option<String>, String> {
    let wrong = || "a Reference there cannot be read".to_owned();
    if !value.is_object() {
        return Err(wrong());
    }
    value.get("reference").map(|literal| literal.text().map(Into::into).ok_or_else(wrong)).transpose()
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
