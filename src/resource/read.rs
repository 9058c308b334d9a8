//! The rows of an export: the state of one type in a range of keys, at one instant. The one place whose SQL is put
//! together from pieces; every value is bound.

use std::ops::Range;

use sqlx::{AssertSqlSafe, PgPool, Postgres, QueryBuilder};
use time::OffsetDateTime;

use crate::fhir::resource_type::ResourceType;

/// What an export asks of every type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// The transaction time: the instant whose state is read.
    pub(crate) at: OffsetDateTime,
    /// Only what changed after this instant (rule G2).
    pub(crate) since: Option<OffsetDateTime>,
    /// Only what changed before this instant (rule G3).
    pub(crate) until: Option<OffsetDateTime>,
}

/// Part of the store.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub(crate) resource_type: ResourceType,
    pub(crate) keys: Range<i64>,
    pub(crate) window: Window,
}

impl Slice {
    /// Selects the bodies of the resources in this slice, as the first column. In no particular order: an order
    /// would cost a sort, and no client may rely on one.
    pub(crate) fn bodies(&self) -> QueryBuilder<Postgres> {
        self.select("-- resource.read.bodies\nselect body", false)
    }

    /// Selects the ids of the resources in this slice that were deleted in the window, as the first column.
    pub(crate) fn deletions(&self) -> QueryBuilder<Postgres> {
        self.select("-- resource.read.deletions\nselect id", true)
    }

    fn select(&self, columns: &'static str, deleted: bool) -> QueryBuilder<Postgres> {
        let mut query = QueryBuilder::new(columns);
        query.push(" from resource where ");
        push_conditions(&mut query, self.resource_type, self.window, deleted);
        query.push(" and key >= ").push_bind(self.keys.start);
        query.push(" and key < ").push_bind(self.keys.end);
        query
    }
}

/// The state at an instant, as one predicate.
pub(super) fn push_conditions(
    query: &mut QueryBuilder<Postgres>,
    resource_type: ResourceType,
    window: Window,
    deleted: bool,
) {
    query.push("resource_type = ").push_bind(resource_type.as_str());
    query.push(" and last_updated <= ").push_bind(window.at);
    query.push(" and superseded_at > ").push_bind(window.at);
    query.push(if deleted { " and deleted" } else { " and not deleted" });
    if let Some(since) = window.since {
        query.push(" and last_updated > ").push_bind(since);
    }
    if let Some(until) = window.until {
        query.push(" and last_updated < ").push_bind(until);
    }
}

/// The partition of a type; made of an R4 type name, so it needs no quotes.
pub(super) fn partition(resource_type: ResourceType) -> String {
    format!("resource_{}", resource_type.as_str().to_ascii_lowercase())
}

/// Renews the statistics of a type, which decide between scanning a key range and scanning everything.
pub(super) async fn analyze(pool: &PgPool, resource_type: ResourceType) -> Result<(), sqlx::Error> {
    let statement = format!("analyze {}", partition(resource_type));
    sqlx::query(AssertSqlSafe(statement)).execute(pool).await?;
    Ok(())
}
