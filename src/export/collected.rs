//! Ids that a part comes across on their way to a table: each once, and many in one statement.

use std::collections::{BTreeMap, HashSet};

use tokio::sync::mpsc;

use crate::binary::ndjson::Gone;

/// What was collected is passed on when it takes so much memory, about, …
pub(super) const BATCH: usize = 1 << 20;
/// … of which this is what one takes besides its id.
const AROUND: usize = 64;

/// Ids, by what they are told apart by besides.
pub(super) type Batch<K> = BTreeMap<K, HashSet<String>>;

/// Collects ids.
pub(super) struct Collected<K> {
    ids: Batch<K>,
    bytes: usize,
    batches: mpsc::Sender<Batch<K>>,
}

impl<K: Ord> Collected<K> {
    /// A collector, and where its batches come out.
    pub(super) fn new() -> (Self, mpsc::Receiver<Batch<K>>) {
        let (batches, received) = mpsc::channel(1);
        (Self { ids: Batch::new(), bytes: 0, batches }, received)
    }

    /// Notes one.
    pub(super) fn add(&mut self, key: K, id: &str) {
        let ids = self.ids.entry(key).or_default();
        if !ids.contains(id) {
            ids.insert(id.to_owned());
            self.bytes += id.len() + AROUND;
        }
    }

    /// Passes on what was collected so far, if it is much.
    pub(super) async fn pass_on_if_much(&mut self) -> Result<(), Gone> {
        if self.bytes >= BATCH { self.pass_on().await } else { Ok(()) }
    }

    /// Passes on what was collected so far.
    pub(super) async fn pass_on(&mut self) -> Result<(), Gone> {
        if self.ids.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        self.batches.send(std::mem::take(&mut self.ids)).await.map_err(|_| Gone)
    }
}
