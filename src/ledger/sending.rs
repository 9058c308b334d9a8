//! A file on its way to a client: written down before the first byte leaves, and again when no more do, however that comes.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde_json::json;
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

use super::event::{Entry, Kind};
use super::{Ledger, Requester};

/// Which bytes of which representation of a file are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    pub(crate) job: Uuid,
    pub(crate) file: String,
    pub(crate) representation: &'static str,
    pub(crate) from: u64,
    pub(crate) bytes: u64,
    /// How many the whole has.
    pub(crate) of: u64,
}

/// One that is under way until this is dropped, which happens however it ends.
pub(crate) struct Sending {
    told: Option<Told>,
    tracker: TaskTracker,
    /// The server waits for it when it stops.
    _under_way: TaskTrackerToken,
}

/// What is written at the end.
struct Told {
    pool: PgPool,
    by: Requester,
    job: Uuid,
    file: String,
    outcome: u16,
    download: i64,
    bytes: u64,
    sent: u64,
}

impl Sending {
    /// Writes that it begins. If that cannot be, nothing is to be sent.
    pub(crate) async fn begin(ledger: &Ledger, by: Requester, outcome: u16, range: Range) -> Result<Self, sqlx::Error> {
        let Range { job, file, representation, from, bytes, of } = range;
        let detail = json!({ "representation": representation, "from": from, "bytes": bytes, "of": of });
        let entry = Entry { kind: Kind::Download, by: &by, job, file: Some(&file), download: None, outcome, detail };
        let download = entry.write(&ledger.pool).await?;
        let told = Told { pool: ledger.pool.clone(), by, job, file, outcome, download, bytes, sent: 0 };
        Ok(Self { told: Some(told), tracker: ledger.sending.clone(), _under_way: ledger.sending.token() })
    }

    /// What is sent, counted as the connection takes it.
    pub(crate) fn counting<E>(
        mut self,
        stream: impl Stream<Item = Result<Bytes, E>>,
    ) -> impl Stream<Item = Result<Bytes, E>> {
        stream.inspect(move |piece| {
            if let (Some(told), Ok(piece)) = (&mut self.told, piece) {
                told.sent += piece.len() as u64;
            }
        })
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // Without a runtime the process is at its end, and the entry is missing as after a crash.
        if let (Some(told), Ok(runtime)) = (self.told.take(), Handle::try_current()) {
            self.tracker.spawn_on(told.write(), &runtime);
        }
    }
}

impl Told {
    async fn write(self) {
        let entry = Entry {
            kind: Kind::Sent,
            by: &self.by,
            job: self.job,
            file: Some(&self.file),
            download: Some(self.download),
            outcome: self.outcome,
            detail: json!({ "bytes": self.sent, "whole": self.sent == self.bytes }),
        };
        if let Err(error) = entry.write(&self.pool).await {
            // Who asks is told that the file may have been received.
            tracing::error!(%error, "the end of a download cannot be written to the ledger of disclosures");
        }
    }
}
