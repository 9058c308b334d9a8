//! `erase Patient/X`: what is stored of a patient goes physically: versions and tombstones, and exports that hold something
//! of them. Who received it stays known (`ledger`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::binary::volume::{self, Held, remove_files};
use crate::export::holding::{self, Traces};
use crate::export::{admission, job};
use crate::ledger::event::write_erasure;
use crate::ledger::file::exports_holding;
use crate::resource::erase::{Mentions, vacuum};

/// For the files of one export: a worker that is still at them notices within a second that it has ended.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);

/// What may go with a patient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permitted {
    /// Exports that are not finished are cancelled if they may hold something of the patient.
    pub(crate) cancel: bool,
    /// Resources that tell of other patients, too, go as a whole.
    pub(crate) shared: bool,
}

/// What went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Erased {
    /// Versions, tombstones among them.
    pub(crate) versions: u64,
    /// Exports, with all of their files.
    pub(crate) exports: usize,
}

/// Why nothing was erased, or not all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing was done.
    #[error(
        "{} tell of other patients, too. Load them anew without this one, or let them go as a whole with --shared",
        .0.iter().cloned().collect::<Vec<_>>().join(", ")
    )]
    Shared(BTreeSet<String>),
    /// Nothing was done.
    #[error("exports that are not finished may hold something of the patient: {}. Wait for them, or end them with --cancel", list(.0))]
    Exporting(Vec<Uuid>),
    #[error(
        "the store has nothing of the patient any more, but the files of export {0} cannot be removed now; try again"
    )]
    InUse(Uuid),
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

fn list(ids: &[Uuid]) -> String {
    ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(", ")
}

/// Erases all there is of a patient; what comes after it has begun is not looked for. Needs connections without a limit for
/// statements, two at least.
pub(crate) async fn erase(
    pool: &PgPool,
    patient: &str,
    permitted: Permitted,
    retention: Duration,
) -> Result<Erased, Error> {
    let (mut mentions, at) = Mentions::find(pool, patient).await?;
    // Nobody starts an export and nobody writes until it is done: who reads after that finds nothing.
    let mut transaction = pool.begin().await?;
    admission::keep_others_out(&mut transaction).await?;
    mentions.complete(&mut transaction, patient, at).await?;
    let shared = mentions.shared();
    if !shared.is_empty() && !permitted.shared {
        return Err(Error::Shared(shared));
    }
    let traces = Traces { patient, types: mentions.types(), are_alone: mentions.are_alone() };
    let exporting = holding::unfinished(&mut transaction, &traces).await?;
    if !exporting.is_empty() && !permitted.cancel {
        return Err(Error::Exporting(exporting));
    }
    for id in &exporting {
        job::cancel(pool, *id, retention, None).await?;
    }
    let versions = mentions.delete(&mut transaction).await?;
    write_erasure(&mut *transaction, json!({ "patient": format!("Patient/{patient}"), "versions": versions })).await?;
    transaction.commit().await?;
    vacuum(pool, &traces.types).await?;
    let exports = remove_exports(pool, &traces, exporting).await?;
    Ok(Erased { versions, exports })
}

/// Removes the exports that hold something of a patient, held files among them; gives how many.
async fn remove_exports(pool: &PgPool, traces: &Traces<'_>, cancelled: Vec<Uuid>) -> Result<usize, Error> {
    let mut exports = exports_holding(pool, traces.patient).await?;
    exports.extend(cancelled);
    exports.extend(holding::finished(pool, traces).await?);
    for id in &exports {
        job::discard(pool, *id, None).await?;
        let started = Instant::now();
        while !remove_files(pool, *id, Held::Goes).await?.all {
            if started.elapsed() > PATIENCE {
                return Err(Error::InUse(*id));
            }
            tokio::time::sleep(AGAIN).await;
        }
        job::remove_expired(pool, *id).await?;
    }
    if !exports.is_empty() {
        let ids: Vec<_> = exports.iter().map(Uuid::to_string).collect();
        write_erasure(pool, json!({ "patient": format!("Patient/{}", traces.patient), "exports": ids })).await?;
        volume::vacuum(pool).await?;
    }
    Ok(exports.len())
}
