//! Removes what is past its time: files of jobs that expired, failed or were cancelled, the expired jobs themselves,
//! and versions older than the history that is kept. In small transactions; any replica may do it, and several do
//! no harm.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::binary::volume::remove_files;
use crate::config::Retention;
use crate::export::job;
use crate::resource::prune::prune;

/// Sweeps now and then, and when it is told that something is of no use any more, until it is stopped.
pub(crate) async fn run(pool: PgPool, retention: Retention, useless: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            result = sweep(&pool, &retention) => {
                if let Err(error) = result {
                    tracing::warn!(%error, "the reaper cannot reach the database");
                }
            }
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(retention.sweep) => {}
            () = useless.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn sweep(pool: &PgPool, retention: &Retention) -> Result<(), sqlx::Error> {
    for id in job::without_use_of_files(pool).await? {
        let files = remove_files(pool, id).await?;
        let removed = files.all && job::remove_expired(pool, id).await?;
        if files.bytes > 0 || removed {
            tracing::info!(job.id = %id, files.bytes, removed, "reaped");
        }
    }
    let bound = job::history_bound(pool, retention.history).await?;
    let versions = prune(pool, bound).await?;
    if versions > 0 {
        tracing::info!(versions, "pruned superseded versions");
    }
    Ok(())
}
