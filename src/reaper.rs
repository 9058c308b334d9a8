//! Removes what is past its time: files of jobs that expired, failed or were cancelled, the expired jobs themselves,
//! and versions older than the history that is kept. In small transactions; any replica may do it, and several do
//! no harm.

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::binary::store::remove_files;
use crate::config::Retention;
use crate::export::job;
use crate::resource::prune::prune;

/// Sweeps now and then until it is stopped.
pub(crate) async fn run(pool: PgPool, retention: Retention, stop: CancellationToken) {
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
            () = stop.cancelled() => return,
        }
    }
}

async fn sweep(pool: &PgPool, retention: &Retention) -> Result<(), sqlx::Error> {
    for id in job::without_use_of_files(pool).await? {
        let (bytes, all_gone) = remove_files(pool, id).await?;
        let removed = all_gone && job::remove_expired(pool, id).await?;
        if bytes > 0 || removed {
            tracing::info!(job.id = %id, bytes, removed, "reaped");
        }
    }
    let bound = job::history_bound(pool, retention.history).await?;
    let versions = prune(pool, bound).await?;
    if versions > 0 {
        tracing::info!(versions, "pruned superseded versions");
    }
    Ok(())
}
