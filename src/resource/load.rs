//! Loads files into the store: NDJSON or Bundles, plain or gzip, files, folders or standard input.
//!
//! One thread reads and parses; several connections write batches, each batch in one transaction. A batch waits for
//! the batches before it that hold one of its resources, so that changes to a resource keep their order.

mod bundle;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod progress;
mod source;

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::write::{Change, Written, write};
use crate::config;
use crate::fhir::reference::PatientBases;
use crate::fhir::resource_type::ResourceType;
use progress::Progress;

/// Batches written at once.
const WRITERS: usize = 3;
/// A batch is full at this many changes …
const BATCH_CHANGES: usize = 1_000;
/// … or at this many bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Of a type with so many new versions, the statistics are renewed at once; autovacuum does the rest in its time.
const ANALYZE_FROM: u64 = 1_000;

/// Why loading stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("cannot read {path:?}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A task died.
    #[error("loading stopped: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What a load came to.
#[derive(Debug, Default, Clone, Copy)]
pub struct Loaded {
    /// What was written.
    pub written: Written,
    /// Resources, lines or Bundles that were not taken; each was reported.
    pub refused: u64,
}

/// What is taken, and what is refused.
#[derive(Debug, Clone)]
pub struct Rules {
    bases: PatientBases,
    max_resource: usize,
    max_document: usize,
}

impl From<&config::Store> for Rules {
    fn from(store: &config::Store) -> Self {
        Self {
            bases: PatientBases::from(store.patient_bases.clone()),
            max_resource: store.max_resource.as_usize(),
            max_document: store.max_document.as_usize(),
        }
    }
}

/// Changes that are written together.
#[derive(Debug, Default)]
struct Batch {
    changes: Vec<Change>,
    bytes: usize,
    /// What was read since the batch before, for the progress.
    read: u64,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.changes.len() >= BATCH_CHANGES || self.bytes >= BATCH_BYTES
    }
}

/// What the reading thread sends.
enum Event {
    Batch(Batch),
    Refused { place: String, reason: String },
    Opened(String, Option<u64>),
}

/// Loads all of these, in their order; `-` is standard input. Refusals and progress go to standard error.
///
/// # Errors
/// When a file cannot be read or the database refuses; what was loaded until then stays.
pub async fn load(pool: &PgPool, paths: Vec<PathBuf>, rules: Rules) -> Result<Loaded, Error> {
    let (events, mut received) = mpsc::channel(WRITERS);
    let reader = tokio::task::spawn_blocking(move || source::read_all(&paths, &rules, &events));
    let mut load = Load::new(pool.clone());
    while let Some(event) = received.recv().await {
        match event {
            Event::Batch(batch) => load.write(batch).await?,
            Event::Refused { place, reason } => load.refuse(&place, &reason),
            Event::Opened(name, bytes) => load.progress.open(&name, bytes),
        }
    }
    load.settle().await?;
    reader.await??;
    load.analyze().await?;
    load.progress.finish();
    Ok(load.loaded)
}

struct Load {
    pool: PgPool,
    writers: JoinSet<Result<Written, sqlx::Error>>,
    /// Hashes of the resources in the batches under way: equal ones may be the same resource.
    under_way: HashSet<u64>,
    hasher: RandomState,
    changed: BTreeMap<ResourceType, u64>,
    loaded: Loaded,
    progress: Progress,
}

impl Load {
    fn new(pool: PgPool) -> Self {
        Self {
            pool,
            writers: JoinSet::new(),
            under_way: HashSet::new(),
            hasher: RandomState::new(),
            changed: BTreeMap::new(),
            loaded: Loaded::default(),
            progress: Progress::new(),
        }
    }

    fn refuse(&mut self, place: &str, reason: &str) {
        self.loaded.refused += 1;
        self.progress.say(&format!("{place}: refused: {reason}"));
    }

    async fn write(&mut self, batch: Batch) -> Result<(), Error> {
        let hash = |change: &Change| self.hasher.hash_one((change.resource_type(), change.id()));
        let hashes: Vec<u64> = batch.changes.iter().map(hash).collect();
        if hashes.iter().any(|hash| self.under_way.contains(hash)) {
            self.settle().await?;
        }
        while self.writers.len() >= WRITERS {
            self.settle_one().await?;
        }
        if self.writers.is_empty() {
            self.under_way.clear();
        }
        self.under_way.extend(hashes);
        for change in &batch.changes {
            *self.changed.entry(change.resource_type()).or_default() += 1;
        }
        self.progress.advance(batch.read, batch.changes.len());
        let pool = self.pool.clone();
        self.writers.spawn(async move { write(&pool, &batch.changes).await });
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<(), Error> {
        if let Some(result) = self.writers.join_next().await {
            self.loaded.written += result??;
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), Error> {
        while !self.writers.is_empty() {
            self.settle_one().await?;
        }
        self.under_way.clear();
        Ok(())
    }

    /// Without fresh statistics, Postgres would scan a whole partition for every part of an export.
    async fn analyze(&self) -> Result<(), Error> {
        for (resource_type, changed) in &self.changed {
            if *changed >= ANALYZE_FROM {
                super::read::analyze(&self.pool, *resource_type).await?;
            }
        }
        Ok(())
    }
}
