//! Grants reckoned with: what several permit together, and what both of two permit (rules I17, I20).

use std::collections::{BTreeMap, BTreeSet};

use super::{Extent, TypeGrant};
use crate::fhir::resource_type::ResourceType;
use crate::search::Query;

/// Of a type so many queries can be granted, as an export has no more; where they are more, nothing of the type is.
pub(super) const MAX_QUERIES: usize = 100;

impl TypeGrant {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Only(types) if types.is_empty())
    }

    /// What any of these permits.
    pub(super) fn any(grants: impl IntoIterator<Item = Self>) -> Self {
        let mut collected: BTreeMap<ResourceType, Vec<Extent>> = BTreeMap::new();
        for grant in grants {
            let Self::Only(types) = grant else { return Self::All };
            for (resource_type, extent) in types {
                collected.entry(resource_type).or_default().push(extent);
            }
        }
        let any =
            collected.into_iter().filter_map(|(resource_type, extents)| Some((resource_type, Extent::any(extents)?)));
        Self::Only(any.collect())
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
    /// Nothing, if it cannot be held.
    fn any(extents: Vec<Self>) -> Option<Self> {
        let mut all = Vec::new();
        for extent in extents {
            let Self::Matching(queries) = extent else { return Some(Self::Whole) };
            all.extend(queries);
        }
        (all.len() <= MAX_QUERIES).then(|| Self::Matching(widest(all)))
    }

    /// Nothing, if what both permit cannot be held.
    fn and(&self, other: &Self) -> Option<Self> {
        let (queries, others) = match (self, other) {
            (Self::Whole, extent) | (extent, Self::Whole) => return Some(extent.clone()),
            (Self::Matching(queries), Self::Matching(others)) => (queries, others),
        };
        // What is within the other side is in both as it is; only of the rest each meets each.
        let (within, rest) = parted(queries, others);
        let (others_within, others_rest) = parted(others, queries);
        if rest.len() * others_rest.len() > MAX_QUERIES {
            return None;
        }
        let met = rest.iter().flat_map(|query| others_rest.iter().filter_map(|other| joined(query, other)));
        let both = widest(within.into_iter().chain(others_within).cloned().chain(met).collect());
        (1..=MAX_QUERIES).contains(&both.len()).then_some(Self::Matching(both))
    }
}

/// The parameters of a query as they are written, all of which must hold.
pub(super) fn parameters(query: &Query) -> BTreeSet<String> {
    let text = String::from(query.clone());
    let (_, parameters) = text.split_once('?').unwrap_or_default();
    parameters.split('&').filter(|parameter| !parameter.is_empty()).map(str::to_owned).collect()
}

/// Whether each of these asks for all that one of those asks for, so that nothing matches it that does not match that one.
pub(super) fn are_within(queries: &[&Query], wider: &[Query]) -> bool {
    let wider: Vec<_> = wider.iter().map(parameters).collect();
    queries.iter().all(|query| is_within(&parameters(query), &wider))
}

fn is_within(asked: &BTreeSet<String>, wider: &[BTreeSet<String>]) -> bool {
    wider.iter().any(|wider| wider.is_subset(asked))
}

/// Those that are within the others, and the rest.
fn parted<'a>(queries: &'a [Query], others: &[Query]) -> (Vec<&'a Query>, Vec<&'a Query>) {
    let others: Vec<_> = others.iter().map(parameters).collect();
    queries.iter().partition(|query| is_within(&parameters(query), &others))
}

/// What matches both; none if that is more than one query can ask.
fn joined(query: &Query, other: &Query) -> Option<Query> {
    let all: Vec<_> = parameters(query).union(&parameters(other)).cloned().collect();
    Query::parse(&format!("{}?{}", query.resource_type(), all.join("&"))).ok()
}

/// Without those that ask for all that another asks for, and more.
fn widest(queries: Vec<Query>) -> Vec<Query> {
    let mut kept: Vec<(BTreeSet<String>, Query)> = Vec::new();
    for query in queries {
        let asked = parameters(&query);
        if kept.iter().any(|(wider, _)| wider.is_subset(&asked)) {
            continue;
        }
        kept.retain(|(other, _)| !asked.is_subset(other));
        kept.push((asked, query));
    }
    kept.into_iter().map(|(_, query)| query).collect()
}
