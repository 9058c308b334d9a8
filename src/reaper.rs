//! Removes what is past its time: files of jobs that expired, failed or were cancelled, the expired jobs themselves,
//! sessions of workers that have lost their lease, versions older than the history that is kept, and what of tokens is over.
//! In small transactions; any replica may do it, and several do no harm.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::binary::volume::remove_files;
use crate::config::Retention;
use crate::export::claim::end_sessions_of_the_past;
use crate::export::job;
use crate::identity;
use crate::resource::prune::prune;

/// No step of a sweep takes longer than this unless its connection died without a word.
const NO_ANSWER: Duration = Duration::from_secs(600);

/// What the reaper needs.
pub(crate) struct Reaper {
    pub(crate) pool: PgPool,
    pub(crate) retention: Retention,
}

impl Reaper {
    /// Sweeps now and then, until it is stopped; files also when it is told that some are of no use any more.
    pub(crate) async fn run(self, useless: Arc<Notify>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.retention.sweep);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let everything = tokio::select! {
                _ = ticks.tick() => true,
                () = useless.notified() => false,
                () = stop.cancelled() => return,
            };
            tokio::select! {
                () = self.sweep(everything) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn sweep(&self, everything: bool) {
        step("end sessions of workers that have lost their lease", end_sessions(&self.pool)).await;
        sweep_files(&self.pool).await;
        if everything {
            step("remove superseded versions", sweep_history(&self.pool, &self.retention)).await;
            step("remove assertions and keys that are over", identity::forget(&self.pool)).await;
        }
    }
}

/// What goes wrong in one step is logged, and keeps no other from being done.
async fn step(what: &str, step: impl Future<Output = Result<(), sqlx::Error>>) {
    match tokio::time::timeout(NO_ANSWER, step).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot {what}"),
        Err(_) => tracing::warn!("cannot {what}: the database does not answer"),
    }
}

async fn end_sessions(pool: &PgPool) -> Result<(), sqlx::Error> {
    let sessions = end_sessions_of_the_past(pool).await?;
    if sessions > 0 {
        tracing::warn!(sessions, "ended sessions of workers that have lost their lease");
    }
    Ok(())
}

async fn sweep_files(pool: &PgPool) {
    let mut found = Vec::new();
    let look = async {
        found = job::without_use_of_files(pool).await?;
        Ok(())
    };
    step("look for exports to remove", look).await;
    for id in found {
        step(&format!("remove export {id}"), remove(pool, id)).await;
    }
}

async fn remove(pool: &PgPool, id: Uuid) -> Result<(), sqlx::Error> {
    let files = remove_files(pool, id).await?;
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
