//! Where the resources are that a filter may admit, as SQL: by the indexes on ids and patients, so that the rest of a type is
//! not read. The filter judges what is found all the same.

use std::ops::Range;

use sqlx::{Postgres, QueryBuilder};

use super::read::{Window, partition};
use crate::fhir::resource_type::ResourceType;
use crate::search::Narrowed;

/// Goes on from other conditions on the rows of this type.
pub(super) fn push(
    query: &mut QueryBuilder<Postgres>,
    narrowed: &Narrowed,
    resource_type: ResourceType,
    keys: &Range<i64>,
    window: Window,
) {
    let Narrowed { ids, patients, from, before } = narrowed;
    if let Some(ids) = ids {
        push_ids(query, ids.iter().cloned().collect(), resource_type, keys, window);
    }
    if let Some(patients) = patients {
        query.push(" and patients && ").push_bind(patients.iter().cloned().collect::<Vec<String>>());
    }
    if let Some(from) = from {
        query.push(" and last_updated >= ").push_bind(*from);
    }
    if let Some(before) = before {
        query.push(" and last_updated < ").push_bind(*before);
    }
}

/// They are looked up first, the current versions by one index and past ones by another: no index has all of them. A type
/// without an index on the ids of past versions has one on when they were superseded.
fn push_ids(
    query: &mut QueryBuilder<Postgres>,
    ids: Vec<String>,
    resource_type: ResourceType,
    keys: &Range<i64>,
    window: Window,
) {
    query.push(" and key = any(array(select key from resource where resource_type = ");
    query.push_bind(resource_type.as_str()).push(" and id = any(").push_bind(ids.clone());
    query.push(format_args!(
        ") and superseded_at = 'infinity' union all select key from {} where id = any(",
        partition(resource_type)
    ));
    query.push_bind(ids).push(") and superseded_at < 'infinity' and superseded_at > ").push_bind(window.oldest());
    query.push(" and key >= ").push_bind(keys.start).push(" and key < ").push_bind(keys.end).push("))");
}
