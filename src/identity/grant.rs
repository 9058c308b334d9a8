//! Grants reckoned with: what two permit together, and what both permit (rules I17, I20).

use std::collections::BTreeSet;

use super::{Extent, TypeGrant};
use crate::search::Query;

/// What two lists of queries have in common is at most so many; of a type of which it is more, nothing is granted.
const MAX_QUERIES: usize = 400;

impl TypeGrant {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Only(types) if types.is_empty())
    }

    /// What either permits.
    pub(super) fn or(self, other: Self) -> Self {
        let (Self::Only(mut types), Self::Only(others)) = (self, other) else { return Self::All };
        for (resource_type, extent) in others {
            let joined = match types.remove(&resource_type) {
                Some(own) => own.or(extent),
                None => extent,
            };
            types.insert(resource_type, joined);
        }
        Self::Only(types)
    }

    /// What both permit.
    pub(super) fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::All, grant) | (grant, Self::All) => grant.clone(),
            (Self::Only(types), Self::Only(others)) => Self::Only(
                types
                    .iter()
                    .filter_map(|(resource_type, extent)| {
                        Some((*resource_type, extent.and(others.get(resource_type)?)?))
                    })
                    .collect(),
            ),
        }
    }
}

impl Extent {
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Matching(queries), Self::Matching(others)) => {
                Self::Matching(widest(queries.into_iter().chain(others)))
            }
            _ => Self::Whole,
        }
    }

    /// Nothing, if what both permit cannot be said.
    fn and(&self, other: &Self) -> Option<Self> {
        let (queries, others) = match (self, other) {
            (Self::Whole, extent) | (extent, Self::Whole) => return Some(extent.clone()),
            (Self::Matching(queries), Self::Matching(others)) => (queries, others),
        };
        if queries.len() * others.len() > MAX_QUERIES {
            return None;
        }
        let both = widest(queries.iter().flat_map(|query| others.iter().filter_map(|other| joined(query, other))));
        (!both.is_empty()).then_some(Self::Matching(both))
    }
}

/// The parameters of a query as they are written, all of which must hold.
pub(super) fn parameters(query: &Query) -> Vec<String> {
    let text = String::from(query.clone());
    let (_, parameters) = text.split_once('?').unwrap_or_default();
    parameters.split('&').map(str::to_owned).collect()
}

/// What matches both; none if that is more than one query can ask.
fn joined(query: &Query, other: &Query) -> Option<Query> {
    let mut all = parameters(query);
    let further: Vec<_> = parameters(other).into_iter().filter(|parameter| !all.contains(parameter)).collect();
    if further.is_empty() {
        return Some(query.clone());
    }
    all.extend(further);
    Query::parse(&format!("{}?{}", query.resource_type(), all.join("&"))).ok()
}

/// Without those that ask for all that another asks for, and more.
fn widest(queries: impl Iterator<Item = Query>) -> Vec<Query> {
    let mut kept: Vec<(BTreeSet<String>, Query)> = Vec::new();
    for query in queries {
        let asked = BTreeSet::from_iter(parameters(&query));
        if kept.iter().any(|(wider, _)| wider.is_subset(&asked)) {
            continue;
        }
        kept.retain(|(other, _)| !asked.is_subset(other));
        kept.push((asked, query));
    }
    kept.into_iter().map(|(_, query)| query).collect()
}
