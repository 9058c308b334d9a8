//! Removes versions that were superseded long ago. Tombstones that are current stay: `_since` needs them.

use sqlx::PgPool;
use time::OffsetDateTime;

/// Rows removed in one transaction.
const BATCH: i64 = 5_000;

/// Removes what was superseded at or before `bound`, a batch at a time; gives how many rows went.
pub(crate) async fn prune(pool: &PgPool, bound: OffsetDateTime) -> Result<u64, sqlx::Error> {
    let mut pruned = 0;
    loop {
        let batch = sqlx::query!(
            "-- resource.prune
            delete from resource
            using (
                select resource_type, key from resource
                where superseded_at <= $1 and superseded_at < 'infinity'
                limit $2
            ) as old
            where resource.resource_type = old.resource_type and resource.key = old.key",
            bound,
            BATCH
        )
        .execute(pool)
        .await?
        .rows_affected();
        pruned += batch;
        if batch < BATCH.unsigned_abs() {
            return Ok(pruned);
        }
    }
}
