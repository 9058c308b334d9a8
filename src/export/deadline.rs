//! Whatever happens, an export ends: at its deadline it fails, and says what stood in its way.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::job;
use super::lease::{NO_ANSWER, answered};
use super::worker::Workers;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Ends the overdue, of whichever replica, until it is stopped.
pub(super) async fn watch(workers: &Workers, stop: CancellationToken) {
    let watching = async {
        loop {
            if let Err(error) = answered(NO_ANSWER, end_overdue(workers)).await {
                tracing::warn!(%error, "cannot end overdue exports");
            }
            sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}

async fn end_overdue(workers: &Workers) -> Result<(), Error> {
    for id in job::fail_overdue(&workers.pool, workers.config.deadline, workers.retention).await? {
        tracing::error!(job.id = %id, "an export did not end within export.deadline and has failed");
    }
    Ok(())
}
