//! `erase Patient/X`: what is stored of a patient goes physically: versions and tombstones, and exports that hold something
//! of them. Who received it stays known (`ledger`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::binary::volume::{self, Held, remove_files};
use crate::database::code;
use crate::export::holding::{self, Traces};
use crate::export::{admission, job};
use crate::ledger::event::write_erasure;
use crate::ledger::file::exports_holding;
use crate::resource::clock;
use crate::resource::erase::{self, Mentions};

/// For the files of one export: a worker that is still at them notices within a second that it has ended.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);
/// For the locks, at first and at most.
const WAITS: Duration = Duration::from_millis(100);
const WAITS_AT_MOST: Duration = Duration::from_secs(5);
/// Who holds the locks and is frozen is cut off after this long.
const HOLDS_MS: &str = "30000";

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
    /// Nobody can see any more what was there, so it is gone from the tables.
    pub(crate) is_past: bool,
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
        "the store has nothing of the patient any more, but files of exports cannot be removed now: {}; try again",
        list(.0)
    )]
    InUse(Vec<Uuid>),
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
    let recorded = exports_holding(pool, patient).await?;
    let mut transaction = alone(pool).await?;
    mentions.complete(&mut transaction, patient, at).await?;
    let shared = mentions.shared();
    if !shared.is_empty() && !permitted.shared {
        return Err(Error::Shared(shared));
    }
    let traces = Traces { patient, types: mentions.types(), are_alone: mentions.are_alone() };
    let exporting = holding::unfinished(&mut transaction, &traces, &recorded).await?;
    if !exporting.is_empty() && !permitted.cancel {
        return Err(Error::Exporting(exporting));
    }
    for id in &exporting {
        job::cancel(pool, *id, retention, None).await?;
    }
    let versions = mentions.delete(&mut transaction).await?;
    write_erasure(&mut *transaction, json!({ "patient": format!("Patient/{patient}"), "versions": versions })).await?;
    let number = erase::number(&mut transaction).await?;
    transaction.commit().await?;
    let removed = remove_exports(pool, &traces, exporting).await?;
    let is_past = erase::vacuum(pool, &traces.types, &number).await?;
    volume::vacuum(pool).await?;
    match removed.in_use.as_slice() {
        [] => Ok(Erased { versions, exports: removed.exports, is_past }),
        ids => Err(Error::InUse(ids.to_vec())),
    }
}

/// A transaction in which nobody else starts an export or writes: who reads after it finds nothing of what it deletes. Those
/// who come meanwhile wait for it, so it does not stand in line for long, and is cut off if it is frozen.
async fn alone(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut patience = WAITS;
    loop {
        let mut transaction = pool.begin().await?;
        sqlx::query!(
            "-- erasure.patience
            select set_config('lock_timeout', $1, true) as waits,
                set_config('idle_in_transaction_session_timeout', $2, true) as holds",
            patience.as_millis().to_string(),
            HOLDS_MS
        )
        .fetch_one(&mut *transaction)
        .await?;
        let locked = async {
            clock::keep_writers_out(&mut transaction).await?;
            admission::keep_others_out(&mut transaction).await
        };
        match locked.await {
            Ok(()) => return Ok(transaction),
            // lock_not_available
            Err(error) if code(&error).as_deref() == Some("55P03") => {
                transaction.rollback().await?;
                tokio::time::sleep(patience).await;
                patience = (patience * 2).min(WAITS_AT_MOST);
            }
            Err(error) => return Err(error),
        }
    }
}

struct Removed {
    exports: usize,
    /// Those whose files could not be removed.
    in_use: Vec<Uuid>,
}

/// Removes the exports that have ended and hold something of a patient, those just cancelled and held files among them.
async fn remove_exports(pool: &PgPool, traces: &Traces<'_>, cancelled: Vec<Uuid>) -> Result<Removed, sqlx::Error> {
    let mut recorded = exports_holding(pool, traces.patient).await?;
    recorded.extend(cancelled);
    let mut removed = Removed { exports: 0, in_use: Vec::new() };
    let mut ids = Vec::new();
    for id in holding::finished(pool, traces, &recorded).await? {
        job::discard(pool, id, None).await?;
        if !remove_all_files(pool, id).await? {
            removed.in_use.push(id);
            continue;
        }
        job::remove_expired(pool, id).await?;
        removed.exports += 1;
        ids.push(id.to_string());
    }
    if !ids.is_empty() {
        write_erasure(pool, json!({ "patient": format!("Patient/{}", traces.patient), "exports": ids })).await?;
    }
    Ok(removed)
}

/// False if somebody keeps it from being done.
async fn remove_all_files(pool: &PgPool, export: Uuid) -> Result<bool, sqlx::Error> {
    let started = Instant::now();
    while !remove_files(pool, export, Held::Goes).await?.all {
        if started.elapsed() > PATIENCE {
            return Ok(false);
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(true)
}
