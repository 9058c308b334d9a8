//! The ledger of disclosures: who was handed whose data, and what of it was really sent. It only grows; nothing that is
//! reaped or pruned takes anything from it. (`export_job` and its parts, which come and go, are the ledger of work.)

pub(crate) mod audit_event;
pub(crate) mod brief;
pub(crate) mod denied;
pub(crate) mod event;
pub(crate) mod file;
pub(crate) mod patients;
pub(crate) mod received;
mod sending;

use std::net::IpAddr;
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::Owner;
use denied::{Attempt, Denied};
pub(crate) use sending::{Range, Sending};

/// How often denied requests are written.
const WRITE_DENIED_EVERY: Duration = Duration::from_secs(5);
/// For the last entries of a server that stops, whose database may be away.
const LAST_ENTRIES: Duration = Duration::from_secs(5);

/// Who asked, and from where.
#[derive(Debug, Clone)]
pub(crate) struct Requester {
    pub(crate) owner: Owner,
    /// The program that called for the owner, if the token names it.
    pub(crate) client: Option<String>,
    pub(crate) address: IpAddr,
}

/// What a server writes besides its requests: what denied ones came to, and how downloads ended.
pub(crate) struct Ledger {
    pool: PgPool,
    denied: Denied,
    /// Downloads whose end is not written yet.
    sending: TaskTracker,
}

impl Ledger {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, denied: Denied::default(), sending: TaskTracker::new() }
    }

    /// Counts a request that was denied. Nobody waits for the database because of it.
    pub(crate) fn deny(&self, attempt: Attempt) {
        self.denied.count(attempt);
    }

    /// Writes denied requests now and then, until it is stopped.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(WRITE_DENIED_EVERY) => self.denied.write(&self.pool).await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Writes what is left, when no request comes any more.
    pub(crate) async fn close(&self) {
        self.sending.close();
        let rest = async {
            self.sending.wait().await;
            self.denied.write(&self.pool).await;
        };
        if timeout(LAST_ENTRIES, rest).await.is_err() {
            tracing::error!("the last entries of the ledger of disclosures could not be written");
        }
    }
}
