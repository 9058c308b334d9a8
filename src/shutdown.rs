//! The end of the server: softly at first, then hard.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Two steps. Soft: take nothing new, finish what is under way. Hard: drop it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown {
    pub(crate) soft: CancellationToken,
    pub(crate) hard: CancellationToken,
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

    /// At the first one goes soft; after `grace`, or at a second one, hard.
    pub(crate) async fn shut_down(mut self, shutdown: Shutdown, grace: Duration) {
        self.next().await;
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
