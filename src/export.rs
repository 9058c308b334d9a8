//! An export, from kick-off to manifest. The ledger in Postgres is all there is: any worker of any replica may take
//! up any work at any time.
//!
//! | job state | what it means | next |
//! |---|---|---|
//! | accepted | waits to be planned | running, completed (nothing to export), failed, cancelled |
//! | running | its parts are there; workers take them | completed, failed, cancelled |
//! | completed | the manifest and its files can be had | – |
//! | failed | it says why; no files | – |
//! | cancelled | by its owner or the operator; no files | – |
//!
//! | part state | what it means | next |
//! |---|---|---|
//! | pending | waits for a worker | running |
//! | running | leased to a worker; `attempt` fences it | done, pending (failed, lost or released) |
//! | done | its files are there, committed with this state | – |

pub(crate) mod job;
pub(crate) mod manifest;
pub(crate) mod part;
mod plan;
pub(crate) mod request;
mod run;
pub(crate) mod worker;

use std::time::Duration;

use crate::binary;

/// The channel on which work is announced.
const WORK: &str = "export_work";

/// How long to wait before the next attempt after so many that failed: half a second, doubling, a minute at most.
fn backoff(failures: i32) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(0).min(7);
    Duration::from_millis(500 << doublings).min(Duration::from_secs(60))
}

/// Why work came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The job was cancelled or has failed, or another worker has the lease: nothing may be written any more.
    #[error("the lease is lost")]
    LeaseLost,
    /// Shutting down.
    #[error("stopped")]
    Stopped,
    /// A line got lost on its way: never to be committed.
    #[error("{read} resources were read, but {stored} stored")]
    Incomplete { read: i64, stored: i64 },
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    File(#[from] binary::Unwritten),
}
