//! The filters of an export, and what one makes of a resource.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::condition::Subject;
use super::narrowed::Narrowed;
use super::query::{Query, Search};
use super::truth::Truth;
use crate::fhir::reference::PatientBases;
use crate::fhir::resource_type::ResourceType;
use crate::json::Value;

/// What an export asks of its resources, besides. A type of which nothing is asked comes whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filters {
    /// `_typeFilter`: of a type that has such, a resource must match one of them (rule G9) …
    pub(crate) queries: Vec<Query>,
    /// … and `_typePostFetchFilterUrl`: one of these, too (rule G12).
    pub(crate) post_fetch: Vec<Query>,
}

/// What is asked of the resources of one type.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    resource_type: ResourceType,
    /// Of each of these, one must match.
    groups: Vec<Vec<Query>>,
    narrowed: Narrowed,
    /// All searches of the export: the number of one is its place.
    searches: Vec<Search>,
}

/// What the meaning of a query depends on, besides.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Now: the transaction time, so that every worker means the same.
    pub(crate) at: OffsetDateTime,
    /// Where absolute references to our resources point.
    pub(crate) bases: PatientBases,
}

/// Whether a search has found a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lookup {
    /// The number of the search.
    pub(crate) search: usize,
    pub(crate) resource_type: ResourceType,
    pub(crate) id: String,
}

/// What a filter makes of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    Admitted,
    LeftOut,
    /// It depends on these, which are not known yet.
    Depends(Vec<Lookup>),
    /// The resource has something where the filter looks that cannot be read: which parameter, and why.
    Unreadable(String),
}

impl Filters {
    /// Whether nothing is asked.
    pub(crate) fn is_empty(&self) -> bool {
        self.queries.is_empty() && self.post_fetch.is_empty()
    }

    /// The types of whose resources something is asked.
    pub(crate) fn types(&self) -> BTreeSet<ResourceType> {
        self.all().map(Query::resource_type).collect()
    }

    /// What has to be looked for before any resource can be judged, each once: the number of one is its place.
    pub(crate) fn searches(&self) -> Vec<Search> {
        let mut searches: Vec<Search> = Vec::new();
        for search in self.all().flat_map(Query::searches) {
            if !searches.contains(search) {
                searches.push(search.clone());
            }
        }
        searches
    }

    /// What is asked of resources of this type; nothing if they come whole.
    pub(crate) fn of(&self, resource_type: ResourceType) -> Option<Filter> {
        let of = |queries: &[Query]| -> Vec<Query> {
            queries.iter().filter(|query| query.resource_type() == resource_type).cloned().collect()
        };
        let (queries, post_fetch) = (of(&self.queries), of(&self.post_fetch));
        let narrowed = Narrowed::by(&queries);
        let groups: Vec<_> = [queries, post_fetch].into_iter().filter(|group| !group.is_empty()).collect();
        (!groups.is_empty()).then(|| Filter { resource_type, groups, narrowed, searches: self.searches() })
    }

    fn all(&self) -> impl Iterator<Item = &Query> {
        self.queries.iter().chain(&self.post_fetch)
    }
}

impl Filter {
    /// Judges a resource by its body. `found` says whether a search has found a resource, if that is known.
    pub(crate) fn judge(&self, body: &str, context: &Context, found: &dyn Fn(&Lookup) -> Option<bool>) -> Judgement {
        let Self { resource_type, searches, .. } = self;
        let subject = Subject { resource_type: *resource_type, body: Value(body), context, searches, found };
        let any = |queries: &Vec<Query>| Truth::any(queries.iter().map(|query| query.holds(&subject)));
        match Truth::all(self.groups.iter().map(any)) {
            Truth::Yes => Judgement::Admitted,
            Truth::No => Judgement::LeftOut,
            Truth::Depends(lookups) => Judgement::Depends(lookups),
            Truth::Unreadable(reason) => Judgement::Unreadable(reason),
        }
    }

    /// Where the resources are that it may admit, as far as `_typeFilter` tells.
    pub(crate) fn narrowed(&self) -> &Narrowed {
        &self.narrowed
    }
}
