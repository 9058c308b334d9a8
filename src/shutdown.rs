//! The tasks of the server, and their end: softly at first, then hard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Two steps. Soft: take nothing new, finish what is under way. Hard: drop it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown {
    pub(crate) soft: CancellationToken,
    pub(crate) hard: CancellationToken,
}

/// Tasks without which the server is none: when one dies of a panic, the process ends in good order, so that it is
/// started anew, and does not go on without a worker or a reaper.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
    died: Arc<AtomicBool>,
}

impl Tasks {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self { tracker: TaskTracker::new(), shutdown, died: Arc::default() }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (soft, died) = (self.shutdown.soft.clone(), Arc::clone(&self.died));
        self.tracker.spawn(async move {
            if let Err(error) = tokio::spawn(task).await {
                tracing::error!(%error, "a task died: the process ends");
                died.store(true, Ordering::Relaxed);
                soft.cancel();
            }
        });
    }

    /// Waits until all have ended; false if one died.
    pub(crate) async fn all_ended(&self) -> bool {
        self.tracker.close();
        self.tracker.wait().await;
        !self.died.load(Ordering::Relaxed)
    }
}

/// SIGTERM and SIGINT, caught from when this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn catch() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// At the first one goes soft, unless that has been done; after `grace`, or at a second one, hard.
    pub(crate) async fn shut_down(mut self, shutdown: Shutdown, grace: Duration) {
        tokio::select! {
            () = self.next() => {}
            () = shutdown.soft.cancelled() => {}
        }
        tracing::info!("stopping: nothing new is taken");
        shutdown.soft.cancel();
        tokio::select! {
            () = self.next() => {}
            () = tokio::time::sleep(grace) => {}
        }
        shutdown.hard.cancel();
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
