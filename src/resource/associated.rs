//! Provenance that comes for the sake of what comes out (`includeAssociatedData`, rule G7).

use serde::{Deserialize, Serialize};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::cohort::{Access, TARGETS, push_targets};
use super::read::{Window, partition};
use crate::fhir::resource_type::ResourceType;

/// Of each resource that comes out, but for Provenances themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Associated {
    /// The one that was recorded last.
    Latest,
    /// All there are.
    Relevant,
}

/// What the Provenances of an export are about.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) associated: Associated,
    /// The types that come out.
    pub(crate) types: Vec<ResourceType>,
    pub(crate) filtered: Filtered,
}

/// Of these types the resources come out that are noted in `export_found`.
#[derive(Debug, Clone)]
pub(crate) struct Filtered {
    pub(crate) job: Uuid,
    pub(crate) types: Vec<ResourceType>,
}

/// In `export_found` the number of what comes out itself.
pub(crate) const COMES_OUT: i32 = -1;

/// To whom something has to belong to come out.
#[derive(Clone, Copy)]
pub(super) enum Owner {
    Cohort(Access),
    /// `patient`, in whose block it is.
    Patient,
}

impl About {
    /// Those of an export of these types.
    pub(crate) fn of(
        associated: Associated,
        types: impl IntoIterator<Item = ResourceType>,
        filtered: Filtered,
    ) -> Self {
        let types = types.into_iter().filter(|listed| *listed != ResourceType::PROVENANCE).collect();
        Self { associated, types, filtered }
    }

    /// Adds that the Provenance under way is about something that comes out, whenever it was changed itself.
    pub(super) fn push(&self, query: &mut QueryBuilder<Postgres>, window: Window, owner: Owner) {
        query.push(" and exists (select from ");
        push_targets(query, window.at);
        query.push(" where not version.deleted and version.resource_type = any(");
        query.push_bind(self.types.iter().map(|listed| listed.as_str()).collect::<Vec<_>>()).push(") and ");
        owner.push_has(query);
        if let Some(since) = window.since {
            query.push(" and (version.last_updated > ").push_bind(since);
            owner.push_or_is_new(query);
            query.push(")");
        }
        if let Some(until) = window.until {
            query.push(" and version.last_updated < ").push_bind(until);
        }
        self.filtered.push_comes_out(query);
        if self.associated == Associated::Latest {
            push_is_latest(query, window);
        }
        query.push(")");
    }
}

impl Filtered {
    fn push_comes_out(&self, query: &mut QueryBuilder<Postgres>) {
        if self.types.is_empty() {
            return;
        }
        query.push(" and (version.resource_type <> all(");
        query.push_bind(self.types.iter().map(|listed| listed.as_str()).collect::<Vec<_>>());
        query.push(") or exists (select from export_found as found where found.job_id = ").push_bind(self.job);
        query.push(" and found.search = ").push_bind(COMES_OUT);
        query.push(" and found.resource_type = version.resource_type and found.resource_id = version.id offset 0))");
    }
}

impl Owner {
    fn push_has(self, query: &mut QueryBuilder<Postgres>) {
        match self {
            Self::Cohort(access) => access.push_has(query, "version.patients"),
            Self::Patient => {
                query.push("version.patients @> array[patient.id collate \"default\"]");
            }
        }
    }

    fn push_or_is_new(self, query: &mut QueryBuilder<Postgres>) {
        match self {
            Self::Cohort(access) => access.push_or_has_new(query, "version.patients"),
            Self::Patient => {
                query.push(" or patient.is_new");
            }
        }
    }
}

/// That no other is there at the transaction time, about the same, that was recorded later. (`offset 0`, and the partition
/// itself: it is looked up by what it is about, whatever Postgres thinks.)
fn push_is_latest(query: &mut QueryBuilder<Postgres>, window: Window) {
    query.push(format_args!(
        " and not exists (select from (select * from {} as resource where {TARGETS} @> array[target.named] offset 0) as later ",
        partition(ResourceType::PROVENANCE)
    ));
    query.push("where not later.deleted and later.last_updated <= ").push_bind(window.at);
    query.push(" and later.superseded_at > ").push_bind(window.at);
    query.push(" and (provenance_recorded(later.body), later.last_updated, later.key) ");
    query.push("> (provenance_recorded(resource.body), resource.last_updated, resource.key))");
}
