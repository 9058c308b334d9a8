//! Removes versions that were superseded long ago. Tombstones that are current stay: `_since` needs them.

use std::collections::BTreeMap;

use sqlx::{PgExecutor, PgPool};
use time::OffsetDateTime;

/// Rows removed at once.
const BATCH: u16 = 5_000;

/// Removes what was superseded at or before `bound`, a batch at a time; gives how many rows went. What it costs is in
/// proportion to that, not to the store.
pub(crate) async fn prune(pool: &PgPool, bound: OffsetDateTime) -> Result<u64, sqlx::Error> {
    let mut pruned = 0;
    loop {
        let superseded = superseded(pool, bound).await?;
        let found = superseded.values().map(Vec::len).sum::<usize>();
        for (resource_type, keys) in superseded {
            pruned += remove(pool, &resource_type, &keys).await?;
        }
        if found < usize::from(BATCH) {
            return Ok(pruned);
        }
    }
}

/// Keys by type. Looked up before they are deleted: joined to a DELETE, Postgres would expect so many of them that it
/// sorts the whole store.
async fn superseded(pool: &PgPool, bound: OffsetDateTime) -> Result<BTreeMap<String, Vec<i64>>, sqlx::Error> {
    let rows = sqlx::query!(
        "-- resource.prune.find
        select resource_type, key from resource
        where superseded_at <= $1 and superseded_at < 'infinity'
        limit $2",
        bound,
        i64::from(BATCH)
    )
    .fetch_all(pool)
    .await?;
    let mut keys: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in rows {
        keys.entry(row.resource_type).or_default().push(row.key);
    }
    Ok(keys)
}

/// Removes these versions of a type; gives how many there were.
pub(super) async fn remove(
    executor: impl PgExecutor<'_>,
    resource_type: &str,
    keys: &[i64],
) -> Result<u64, sqlx::Error> {
    let removed = sqlx::query!(
        "-- resource.prune.remove
        delete from resource where resource_type = $1 and key = any($2)",
        resource_type,
        keys
    )
    .execute(executor)
    .await?;
    Ok(removed.rows_affected())
}
