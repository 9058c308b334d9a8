//! The end of the server: softly at first, then hard.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Two steps. Soft: take nothing new, finish what is under way. Hard: drop it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown {
    pub(crate) soft: CancellationToken,
    pub(crate) hard: CancellationToken,
}

impl Shutdown {
    /// Waits for SIGTERM or SIGINT and goes soft; after `grace`, or at a second signal, hard.
    pub(crate) async fn on_signals(self, grace: Duration) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: nothing new is taken");
        self.soft.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = tokio::time::sleep(grace) => {}
        }
        self.hard.cancel();
        Ok(())
    }
}
