//! Removes what is past its time: files of jobs that expired, failed or were cancelled, the expired jobs themselves,
//! and versions older than the history that is kept. In small transactions; any replica may do it, and several do
//! no harm.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::binary::volume::remove_files;
use crate::config::Retention;
use crate::export::job;
use crate::export::part::end_sessions;
use crate::resource::prune::prune;

/// Removes now and then, until it is stopped; files also when it is told that some are of no use any more.
pub(crate) async fn run(pool: PgPool, retention: Retention, useless: Arc<Notify>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(retention.sweep);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let history_too = tokio::select! {
            _ = ticks.tick() => true,
            () = useless.notified() => false,
            () = stop.cancelled() => return,
        };
        tokio::select! {
            () = sweep(&pool, &retention, history_too) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn sweep(pool: &PgPool, retention: &Retention, history_too: bool) {
    if let Err(error) = sweep_files(pool).await {
        tracing::warn!(%error, "cannot look for exports to remove");
    }
    if history_too && let Err(error) = sweep_history(pool, retention).await {
        tracing::warn!(%error, "cannot remove superseded versions");
    }
}

async fn sweep_files(pool: &PgPool) -> Result<(), sqlx::Error> {
    for id in job::without_use_of_files(pool).await? {
        // One that cannot go keeps no other from going.
        if let Err(error) = remove(pool, id).await {
            tracing::warn!(job.id = %id, %error, "cannot remove an export");
        }
    }
    Ok(())
}

async fn remove(pool: &PgPool, id: Uuid) -> Result<(), sqlx::Error> {
    let files = remove_files(pool, id).await?;
    if !files.all {
        // A worker that is frozen holds on to what it has written, which nobody wants any more.
        end_sessions(pool, id).await?;
    }
    let removed = files.all && job::remove_expired(pool, id).await?;
    if files.bytes > 0 || removed {
        tracing::info!(job.id = %id, files.bytes, removed, "reaped");
    }
    Ok(())
}

async fn sweep_history(pool: &PgPool, retention: &Retention) -> Result<(), sqlx::Error> {
    let bound = job::history_bound(pool, retention.history).await?;
    let versions = prune(pool, bound).await?;
    if versions > 0 {
        tracing::info!(versions, "pruned superseded versions");
    }
    Ok(())
}
