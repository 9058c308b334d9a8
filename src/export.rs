//! An export, from kick-off to manifest. The ledger in Postgres is all there is: any worker of any replica may take
//! up any work at any time.
//!
//! | job state | what it means | next |
//! |---|---|---|
//! | accepted | waits to be planned | running, completed (nothing to export), failed, cancelled |
//! | running | its parts are there; workers take them; files on a page can be had | completed, failed, cancelled |
//! | completed | the manifest and its files can be had | – |
//! | failed | it says why; no files | – |
//! | cancelled | by its owner or the operator; no files | – |
//!
//! | part state | what it means | next |
//! |---|---|---|
//! | pending | waits for a worker; and first for all parts of the turns before its own | running |
//! | running | leased to a worker; `attempt` fences it | done, pending (failed, lost or released) |
//! | done | its files are there, committed with this state | – |

pub(crate) mod admission;
pub(crate) mod announcement;
mod block;
pub(crate) mod chosen;
pub(crate) mod claim;
mod collected;
mod coverage;
mod deadline;
mod elements;
mod found;
mod gate;
pub(crate) mod governor;
pub(crate) mod holding;
pub(crate) mod job;
mod lease;
pub(crate) mod level;
pub(crate) mod manifest;
pub(crate) mod page;
pub(crate) mod part;
pub(crate) mod plan;
mod referenced;
mod remark;
pub(crate) mod request;
mod run;
mod seek;
mod sink;
mod trouble;
mod unreadable;
mod waiting;
pub(crate) mod worker;

use std::time::Duration;

use crate::binary;
use crate::database::code;
use crate::database::fault::transient;
use crate::resource::group;

/// Between two looks at whether a job still runs: a cancel is noticed within a second.
const NOTICE: Duration = Duration::from_millis(900);

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
    #[error("{put_out} lines were put out, but {stored} stored")]
    Incomplete { put_out: i64, stored: i64 },
    #[error("this version of the server does not know the type {0}")]
    UnknownType(String),
    #[error("this version of the server does not understand a filter of the export")]
    UnknownFilter,
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A connection may be dead without anybody having noticed.
    #[error("the database did not answer")]
    NoAnswer,
    /// Postgres knows nothing of a session in which we wait for an answer.
    #[error("the connection to the database was lost")]
    SessionLost,
    #[error("the indexes of a store that was large before are being made")]
    IndexesMissing,
    #[error(transparent)]
    Group(#[from] group::Error),
    #[error(transparent)]
    File(#[from] binary::Unwritten),
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// Whether it may go away by itself. A type or a filter that this version does not know, a newer replica will.
    fn is_transient(&self) -> bool {
        match self {
            Self::Database(error)
            | Self::Group(group::Error::Database(error))
            | Self::File(binary::Unwritten::Database(error)) => transient(error).is_some(),
            Self::NoAnswer | Self::SessionLost | Self::IndexesMissing | Self::UnknownType(_) | Self::UnknownFilter => {
                true
            }
            _ => false,
        }
    }

    /// Whether the next attempt would meet the very same: the state at the transaction time does not change.
    fn is_final(&self) -> bool {
        matches!(self, Self::Group(group::Error::Gone(_) | group::Error::Unreadable(_)))
    }

    /// The cause in words for the owner of the export. What Postgres says stays in the log.
    fn cause(&self) -> String {
        match self {
            Self::Database(error)
            | Self::Group(group::Error::Database(error))
            | Self::File(binary::Unwritten::Database(error)) => match transient(error) {
                Some(cause) => cause.to_owned(),
                None => format!("the database refused a statement (SQLSTATE {})", code(error).unwrap_or_default()),
            },
            other => other.to_string(),
        }
    }
}
