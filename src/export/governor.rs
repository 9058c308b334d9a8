//! The load governor: how many workers of a process work, and how fast they read. An operator changes it while they
//! run (`fhir-bulk-export govern`), for all replicas at once: it lies in Postgres.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::announcement::announce_work;
use super::lease::{NO_ANSWER, answered};
use crate::config;

/// How often a process looks whether its limits have changed, besides when work is announced.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Bytes after which a worker waits for its turn. Less would cost more than it evens out.
const STEP: u64 = 64 << 10;

/// What the operator has set; none: as the process is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Bytes a second; 0: unlimited.
    pub(crate) pace: Option<i64>,
    pub(crate) workers: Option<i32>,
}

/// What the operator has set.
pub(crate) async fn settings(pool: &PgPool) -> Result<Settings, sqlx::Error> {
    sqlx::query_as!(
        Settings,
        "-- export.governor.settings
        select pace, workers from export_governor"
    )
    .fetch_one(pool)
    .await
}

/// Sets it for all processes, which notice at once.
pub(crate) async fn set(connection: &mut PgConnection, settings: Settings) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- export.governor.set
        update export_governor set pace = $1, workers = $2",
        settings.pace,
        settings.workers
    )
    .execute(&mut *connection)
    .await?;
    announce_work(connection).await
}

/// The limits of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// NDJSON bytes a second, of all workers together; none: unlimited.
    pace: Option<u64>,
    workers: u16,
}

impl Limits {
    fn new(settings: Settings, config: &config::Export) -> Self {
        let configured = config.pace.map_or(0, config::ByteSize::bytes);
        let pace = settings.pace.map_or(configured, i64::unsigned_abs);
        let workers = settings.workers.map_or(config.workers, |workers| u16::try_from(workers).unwrap_or(u16::MAX));
        Self { pace: Some(pace).filter(|pace| *pace > 0), workers }
    }
}

/// Holds the workers of this process to its limits.
#[derive(Debug)]
pub(crate) struct Governor {
    limits: watch::Sender<Limits>,
    /// When what has been read so far will have been read at the pace.
    even: Mutex<Instant>,
}

impl Governor {
    pub(crate) fn new(config: &config::Export) -> Self {
        let limits = Limits::new(Settings { pace: None, workers: None }, config);
        Self { limits: watch::Sender::new(limits), even: Mutex::new(Instant::now()) }
    }

    /// Keeps up with what the operator sets, until it is stopped.
    pub(super) async fn follow(
        &self,
        pool: &PgPool,
        config: &config::Export,
        mut announced: watch::Receiver<()>,
        stop: CancellationToken,
    ) {
        let following = async {
            loop {
                match answered(NO_ANSWER, async { Ok(settings(pool).await?) }).await {
                    Ok(settings) => self.apply(Limits::new(settings, config)),
                    Err(error) => tracing::warn!(%error, "cannot look up the limits on exports"),
                }
                tokio::select! {
                    _ = announced.changed() => {}
                    () = sleep(LOOK_EVERY) => {}
                }
            }
        };
        tokio::select! {
            () = following => {}
            () = stop.cancelled() => {}
        }
    }

    fn apply(&self, limits: Limits) {
        let changed = self.limits.send_if_modified(|current| std::mem::replace(current, limits) != limits);
        if changed {
            tracing::info!(pace = limits.pace, workers = limits.workers, "the limits on exports have changed");
            // What is owed at another pace is forgiven.
            *self.even.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    /// How many workers may work.
    pub(super) fn workers(&self) -> u16 {
        self.limits.borrow().workers
    }

    /// Waits until the worker of this number, which counts from 0, may work.
    pub(super) async fn admits(&self, number: u16) {
        // The sender is ours: it is not closed.
        let _ = self.limits.subscribe().wait_for(|limits| number < limits.workers).await;
    }

    /// Waits for as long as so many bytes take at the pace, or until that changes.
    async fn wait_for(&self, bytes: u64) {
        let mut limits = self.limits.subscribe();
        let Some(pace) = limits.borrow_and_update().pace else { return };
        let until = self.reserve(bytes, pace);
        tokio::select! {
            () = sleep_until(until) => {}
            _ = limits.changed() => {}
        }
    }

    fn reserve(&self, bytes: u64, pace: u64) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "a time to wait")]
        let takes = Duration::try_from_secs_f64(bytes as f64 / pace as f64).unwrap_or(LOOK_EVERY);
        let mut even = self.even.lock().unwrap_or_else(PoisonError::into_inner);
        *even = (*even).max(Instant::now()) + takes;
        *even
    }
}

/// One worker's reading at the pace of all.
#[derive(Debug)]
pub(super) struct Paced<'a> {
    governor: &'a Governor,
    /// Bytes read and not waited for yet.
    read: u64,
}

impl<'a> Paced<'a> {
    pub(super) fn new(governor: &'a Governor) -> Self {
        Self { governor, read: 0 }
    }

    /// So many bytes were read: waits when that was faster than the pace.
    pub(super) async fn read(&mut self, bytes: usize) {
        self.read += bytes as u64;
        if self.read >= STEP {
            self.governor.wait_for(std::mem::take(&mut self.read)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn governor(pace: Option<u64>) -> Governor {
        Governor { limits: watch::Sender::new(Limits { pace, workers: 4 }), even: Mutex::new(Instant::now()) }
    }

    #[tokio::test]
    async fn workers_keep_the_pace_together() {
        let governor = governor(Some(4 << 20));
        let started = Instant::now();
        let read = async || {
            let mut paced = Paced::new(&governor);
            for _ in 0..256 {
                paced.read(4096).await;
            }
        };
        tokio::join!(read(), read());
        assert!(started.elapsed() >= Duration::from_millis(450), "2 MiB at 4 MiB a second take half a second");
    }

    #[tokio::test]
    async fn a_new_pace_holds_at_once() {
        let governor = governor(Some(1));
        // A day and more at this pace.
        let waiting = governor.wait_for(1 << 20);
        tokio::join!(waiting, async {
            sleep(Duration::from_millis(50)).await;
            governor.apply(Limits { pace: None, workers: 4 });
        });
        governor.wait_for(1 << 60).await;
    }

    #[tokio::test]
    async fn the_ceiling_lets_in_the_first_workers_only() {
        let governor = governor(None);
        governor.admits(3).await;
        governor.apply(Limits { pace: None, workers: 1 });
        governor.admits(0).await;
        let second = tokio::time::timeout(Duration::from_millis(50), governor.admits(1));
        assert!(second.await.is_err());
    }
}
