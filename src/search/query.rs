//! One query, `[type]?[parameters]`: read and checked once, when it is asked.

use std::fmt;

use serde::Serialize;

use super::condition::{Condition, Subject};
use super::filter::Context;
use super::parameter::Parameter;
use super::read;
use super::reference::Referred;
use super::truth::Truth;
use crate::fhir::resource_type::ResourceType;
use crate::json::{Object, Value};

/// A query that can be carried out as it stands. It is stored as the text that it was.
#[derive(Clone, Serialize)]
#[serde(into = "String")]
pub(crate) struct Query {
    text: String,
    resource_type: ResourceType,
    pub(super) conditions: Vec<Condition>,
}

/// A search that must be done before a query can be evaluated, for a chain (`subject.identifier=…`) or
/// `_has:Observation:patient:code=…`: over all resources of a type, at the transaction time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Search {
    pub(super) query: Query,
    pub(super) finds: Finds,
}

/// What a search finds by a resource that matches.
#[derive(Debug, Clone, Copy)]
pub(super) enum Finds {
    Itself,
    /// Resources of a type, to which it refers by this parameter.
    Referred {
        by: &'static Parameter,
        resource_type: ResourceType,
    },
}

impl PartialEq for Finds {
    fn eq(&self, other: &Self) -> bool {
        let key = |finds: &Self| match finds {
            Self::Itself => None,
            Self::Referred { by, resource_type } => Some((by.code(), *resource_type)),
        };
        key(self) == key(other)
    }
}

impl Eq for Finds {}

/// Why a query is refused, in words for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It asks for something that there is not, or that cannot be done.
    Unsupported(String),
    /// It asks for more than anybody needs.
    TooMuch(String),
}

/// The queries in one value of a parameter, which commas part; a comma within a query has no type and no question mark
/// after it (rules G9, L6).
pub(crate) fn listed(value: &str) -> Vec<&str> {
    let mut queries = Vec::new();
    let mut start = 0;
    for (comma, _) in value.match_indices(',').filter(|(comma, _)| begins_query(&value[comma + 1..])) {
        queries.push(value[start..comma].trim());
        start = comma + 1;
    }
    queries.push(value[start..].trim());
    queries
}

/// Whether it begins with a type and a question mark.
fn begins_query(text: &str) -> bool {
    let text = text.trim_start_matches(' ');
    let name = text.bytes().take_while(u8::is_ascii_alphabetic).count();
    text.as_bytes().get(name) == Some(&b'?') && ResourceType::parse(&text[..name]).is_some()
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it or not supported, and what would be.
    pub(crate) fn parse(text: &str) -> Result<Self, Wrong> {
        let (resource_type, conditions) = read::query(text)?;
        Ok(Self { text: text.to_owned(), resource_type, conditions })
    }

    /// One of a single condition.
    pub(super) fn of(resource_type: ResourceType, name: &str, value: &str, condition: Condition) -> Self {
        Self { text: format!("{resource_type}?{name}={value}"), resource_type, conditions: vec![condition] }
    }

    pub(crate) fn resource_type(&self) -> ResourceType {
        self.resource_type
    }

    /// What has to be looked for first.
    pub(crate) fn searches(&self) -> impl Iterator<Item = &Search> {
        self.conditions.iter().flat_map(|condition| match condition {
            Condition::RefersToFound { searches, .. } => searches.as_slice(),
            Condition::IsFound { search } => std::slice::from_ref(search),
            _ => &[],
        })
    }

    /// How many values it asks for.
    pub(super) fn values(&self) -> usize {
        self.conditions.iter().map(Condition::values).sum()
    }

    /// Whether all its conditions hold.
    pub(super) fn holds(&self, subject: &Subject<'_>) -> Truth {
        Truth::all(self.conditions.iter().map(|condition| condition.holds(subject)))
    }
}

impl Search {
    /// The type whose resources it reads.
    pub(crate) fn resource_type(&self) -> ResourceType {
        self.query.resource_type
    }

    /// What it finds by a resource of its type: type and id of each.
    ///
    /// # Errors
    /// As [`Judgement::Unreadable`](super::Judgement).
    pub(crate) fn finds(&self, body: &str, context: &Context) -> Result<Vec<(ResourceType, String)>, String> {
        let (resource_type, resource) = (self.resource_type(), Object::of(body));
        // A search depends on no other: chains have one step.
        let subject = Subject { resource_type, resource: &resource, context, searches: &[], found: &|_| None };
        match self.query.holds(&subject) {
            Truth::Yes => self.finds.by(resource_type, &resource, context),
            Truth::No | Truth::Depends(_) => Ok(Vec::new()),
            Truth::Unreadable(reason) => Err(reason),
        }
    }
}

impl Finds {
    fn by(
        self,
        resource_type: ResourceType,
        resource: &Object<'_>,
        context: &Context,
    ) -> Result<Vec<(ResourceType, String)>, String> {
        match self {
            Self::Itself => {
                let id = resource.get("id").and_then(Value::text);
                Ok(id.map(|id| (resource_type, id.into_owned())).into_iter().collect())
            }
            Self::Referred { by, resource_type } => {
                let mut found = Vec::new();
                for (element, path) in by.elements(resource) {
                    let referred = Referred::read(element, path, &[resource_type], resource);
                    let referred = referred.map_err(|reason| format!("{}: {reason}", by.code()))?;
                    found.extend(referred.and_then(|referred| referred.here(&context.bases)));
                }
                Ok(found)
            }
        }
    }
}

impl PartialEq for Query {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Query {}

/// What is asked for may be a person's: it is not shown.
impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?…", self.resource_type)
    }
}

impl From<Query> for String {
    fn from(query: Query) -> Self {
        query.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // G9, K8, L6
    #[test]
    fn a_comma_parts_queries_only_before_a_type_and_a_question_mark() {
        assert_eq!(listed("Patient?identifier=a,b"), ["Patient?identifier=a,b"]);
        let both = "Patient?identifier=a,b,Practitioner?active=true";
        assert_eq!(listed(both), ["Patient?identifier=a,b", "Practitioner?active=true"]);
        let camel = "Observation?code=x, EpisodeOfCare?status=active";
        assert_eq!(listed(camel), ["Observation?code=x", "EpisodeOfCare?status=active"]);
        assert_eq!(listed("Patient?name=a,Nope?x=1"), ["Patient?name=a,Nope?x=1"]);
        assert_eq!(listed(""), [""]);
        let commas = ",".repeat(1_000_000);
        assert_eq!(listed(&commas), [commas.as_str()]);
    }

    #[test]
    fn what_is_asked_for_is_not_shown() {
        let query = Query::parse("Patient?identifier=010203-0405").unwrap();
        assert_eq!(format!("{query:?}"), "Patient?…");
    }
}
