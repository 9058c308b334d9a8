//! Work under a lease. The work is a task of its own: a renewal never waits for it, and a panic in it ends nothing but
//! this attempt.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::worker::Workers;
use super::{Error, NOTICE};

/// The right to plan a job or to do a part, until it runs out. Every write checks that it is still ours.
pub(super) trait Leased: Send + Sync + 'static {
    /// Whose it is.
    fn job(&self) -> Uuid;

    /// Attempts that came to nothing so far.
    fn failures(&self) -> i32;

    /// Keeps it for another `export.lease`.
    fn renew(&self, workers: &Workers) -> impl Future<Output = Result<(), Error>> + Send;

    /// Does what is to be done; ends at once when it is stopped, and nothing of it is left.
    fn work(&self, workers: &Workers, stop: &CancellationToken) -> impl Future<Output = Result<(), Error>> + Send;

    /// Gives it back after an attempt that failed, or fails the job.
    fn fail(&self, workers: &Workers, error: &Error) -> impl Future<Output = Result<(), Error>> + Send;

    /// Fails the job, whose workers were lost too often.
    fn give_up(&self, workers: &Workers) -> impl Future<Output = Result<(), Error>> + Send;

    /// Gives it back unharmed, so that another replica can start on it at once.
    fn release(&self, workers: &Workers) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Does the work, and renews its lease until it is done.
///
/// # Errors
/// What the work says; or why the lease was lost.
pub(super) async fn work<L: Leased>(
    leased: &Arc<L>,
    workers: &Arc<Workers>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let _stop_with_us = stop.clone().drop_guard();
    let mut task = {
        let (leased, workers, stop) = (Arc::clone(leased), Arc::clone(workers), stop.clone());
        tokio::spawn(async move { leased.work(&workers, &stop).await })
    };
    tokio::select! {
        result = &mut task => result?,
        lost = renew_until_lost(&**leased, workers) => {
            stop.cancel();
            tracing::info!(job.id = %leased.job(), %lost, "stopped work that is no longer ours");
            // It may have been committed a moment before.
            match task.await? {
                Err(Error::Stopped) => Err(lost),
                result => result,
            }
        }
    }
}

/// Renews a little more often than every second, or every third of the lease if that is shorter. A database that is
/// away for less than the lease does no harm.
async fn renew_until_lost(leased: &impl Leased, workers: &Workers) -> Error {
    let lease = workers.config.lease;
    let every = (lease / 3).min(NOTICE);
    let mut renewed = Instant::now();
    loop {
        sleep(every).await;
        let asked = Instant::now();
        match answered(lease / 3, leased.renew(workers)).await {
            Ok(()) => renewed = asked,
            Err(error @ (Error::LeaseLost | Error::SessionLost)) => return error,
            Err(error) if renewed.elapsed() >= lease => return error,
            Err(error) => tracing::warn!(%error, "cannot renew a lease"),
        }
    }
}

/// Waits for an answer of the database no longer than this: a connection that died without a word answers never.
pub(super) async fn answered<T>(
    patience: Duration,
    statement: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(patience, statement).await.unwrap_or(Err(Error::NoAnswer))
}

/// An update that was guarded by a lease and touched nothing: the lease is another's by now, or the job is over.
pub(super) fn lost_if_none(rows: u64) -> Result<(), Error> {
    if rows == 0 { Err(Error::LeaseLost) } else { Ok(()) }
}
