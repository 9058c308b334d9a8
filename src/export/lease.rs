//! Work under a lease. The work is a task of its own: a renewal never waits for it, and a panic in it ends nothing but
//! this attempt.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::announcement::announce_work;
use super::trouble::Trouble;
use super::worker::Workers;
use super::{Error, NOTICE, job};

/// A short statement that was not answered for so long never will be: its connection is dead.
pub(super) const NO_ANSWER: Duration = Duration::from_secs(45);

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

    /// Gives it back in this transaction after an attempt that failed. Locks the job first, as all do who write both.
    fn give_back(
        &self,
        transaction: &mut PgConnection,
        error: &Error,
    ) -> impl Future<Output = Result<Trouble, Error>> + Send;

    /// Gives it back in this transaction as if it had never been taken. Locks the job first, too.
    fn put_back(&self, transaction: &mut PgConnection) -> impl Future<Output = Result<(), Error>> + Send;

    /// What it is, for the owner, when it has come to nothing: `part 3 (Patient)`.
    fn told(&self) -> String;
}

/// Gives it back after an attempt that failed. The job fails and says why when too many attempts came to nothing, or when
/// a fault that should go away by itself has stayed.
pub(super) async fn fail(leased: &impl Leased, workers: &Workers, error: &Error) -> Result<(), Error> {
    tracing::warn!(job.id = %leased.job(), what = leased.told(), %error, "an attempt failed");
    let mut transaction = workers.pool.begin().await?;
    let trouble = leased.give_back(&mut transaction, error).await?;
    if error.is_final() || trouble.is_too_much(&workers.config) {
        fail_job(&mut transaction, leased, &trouble.told(&error.cause()), workers.retention).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Fails the job, whose workers were lost too often.
pub(super) async fn give_up(leased: &impl Leased, workers: &Workers) -> Result<(), Error> {
    let mut transaction = workers.pool.begin().await?;
    leased.put_back(&mut transaction).await?;
    fail_job(&mut transaction, leased, &Trouble::lost_workers(leased.failures()), workers.retention).await?;
    transaction.commit().await?;
    Ok(())
}

/// Gives it back unharmed, so that another replica can start on it at once.
pub(super) async fn release(leased: &impl Leased, workers: &Workers) -> Result<(), Error> {
    let mut transaction = workers.pool.begin().await?;
    leased.put_back(&mut transaction).await?;
    announce_work(&mut transaction).await?;
    transaction.commit().await?;
    Ok(())
}

async fn fail_job(
    transaction: &mut PgConnection,
    leased: &impl Leased,
    trouble: &str,
    retention: Duration,
) -> Result<(), Error> {
    let reason = format!("The export failed: {} {trouble}.", leased.told());
    tracing::error!(job.id = %leased.job(), reason, "export failed");
    Ok(job::fail(transaction, leased.job(), &reason, retention).await?)
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
