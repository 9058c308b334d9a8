//! What of a filter can be told by the store's indexes, so that it need not read what cannot come out: a condition that
//! every resource fulfils that the filter admits. The filter itself is asked all the same.

use std::collections::BTreeSet;
use std::fmt;

use time::{Duration, OffsetDateTime};

use super::condition::{Condition, Operands};
use super::date::DateOperand;
use super::expression::Path;
use super::parameter::Parameter;
use super::prefix::Prefix;
use super::query::Query;
use super::reference::ReferenceOperand;
use crate::fhir::compartment;
use crate::fhir::resource_type::ResourceType;

/// Where the resources are that a filter may admit; nothing given: anywhere.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Narrowed {
    /// They have one of these ids.
    pub(crate) ids: Option<BTreeSet<String>>,
    /// They are in the compartment of one of these Patients.
    pub(crate) patients: Option<BTreeSet<String>>,
    /// They were last updated at or after this instant …
    pub(crate) from: Option<OffsetDateTime>,
    /// … and before this one.
    pub(crate) before: Option<OffsetDateTime>,
}

/// Whose it is, is not shown.
impl fmt::Debug for Narrowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Narrowed")
    }
}

impl Narrowed {
    /// What one of these queries may match; without any, anything.
    pub(super) fn by(queries: &[Query]) -> Self {
        queries.iter().map(Self::of).reduce(Self::or).unwrap_or_default()
    }

    fn of(query: &Query) -> Self {
        let all = |one: Self, condition| one.and(Self::of_condition(query.resource_type(), condition));
        query.conditions.iter().fold(Self::default(), all)
    }

    fn of_condition(resource_type: ResourceType, condition: &Condition) -> Self {
        let Condition::Is { parameter, operands } = condition else { return Self::default() };
        match (parameter.code(), operands) {
            ("_id", Operands::Token(ids)) => {
                let ids = ids.iter().map(|id| id.code_only().map(str::to_owned)).collect();
                Self { ids, ..Self::default() }
            }
            ("_lastUpdated", Operands::Date(dates)) => {
                dates.iter().map(Self::of_date).reduce(Self::or).unwrap_or_default()
            }
            (_, Operands::Reference(references)) => {
                Self { patients: patients(resource_type, parameter, references), ..Self::default() }
            }
            _ => Self::default(),
        }
    }

    /// A resource was last updated in a millisecond, so it may be as much less precise.
    fn of_date(DateOperand { prefix, span }: &DateOperand) -> Self {
        let earlier = |instant: OffsetDateTime| instant.checked_sub(Duration::MILLISECOND);
        let (first, next) = (span.first.and_then(earlier), span.next.and_then(earlier));
        let (from, before) = match prefix {
            Prefix::Eq => (first, span.next),
            Prefix::Gt | Prefix::Sa => (next, None),
            Prefix::Ge => (first, None),
            Prefix::Lt | Prefix::Eb => (None, span.first),
            Prefix::Le => (None, span.next),
            Prefix::Ne | Prefix::Ap => (None, None),
        };
        Self { from, before, ..Self::default() }
    }

    /// What is in both. To belong to a patient of each of two lists is more than to belong to one of either: that is
    /// left to the filter.
    pub(super) fn and(self, other: Self) -> Self {
        let latest = |one: Option<OffsetDateTime>, other| one.max(other);
        Self {
            ids: match (self.ids, other.ids) {
                (Some(one), Some(other)) => Some(&one & &other),
                (one, other) => one.or(other),
            },
            patients: self.patients.or(other.patients),
            from: latest(self.from, other.from),
            before: match (self.before, other.before) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
        }
    }

    /// What is in either.
    fn or(self, other: Self) -> Self {
        let both =
            |one: Option<BTreeSet<_>>, other: Option<BTreeSet<_>>| one.zip(other).map(|(one, other)| &one | &other);
        Self {
            ids: both(self.ids, other.ids),
            patients: both(self.patients, other.patients),
            from: self.from.zip(other.from).map(|(one, other)| one.min(other)),
            before: self.before.zip(other.before).map(|(one, other)| one.max(other)),
        }
    }
}

/// The Patients to whose compartments it belongs what has these references.
fn patients(
    resource_type: ResourceType,
    parameter: &Parameter,
    references: &[ReferenceOperand],
) -> Option<BTreeSet<String>> {
    if !parameter.expression.paths().iter().all(|path| is_of_compartment(resource_type, path)) {
        return None;
    }
    let is_to_patients = parameter.referable().eq([ResourceType::PATIENT]);
    let patient = |reference: &ReferenceOperand| match reference {
        ReferenceOperand::Here { resource_type: Some(ResourceType::PATIENT), id } => Some(id.clone()),
        ReferenceOperand::Here { resource_type: None, id } if is_to_patients => Some(id.clone()),
        _ => None,
    };
    references.iter().map(patient).collect()
}

/// Whether a reference to a Patient there puts a resource of this type into the Patient's compartment.
fn is_of_compartment(resource_type: ResourceType, path: &Path) -> bool {
    let mut place = compartment::paths(resource_type);
    for member in path.members() {
        place = place.and_then(|place| place.member(member));
    }
    place.is_some_and(compartment::Path::is_reference)
}
