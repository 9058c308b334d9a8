//! Resources that wait until it is known what their filters depend on, so that it is asked for many at once. Those that
//! come after them wait, too: all keep their order.

use std::sync::Arc;

use super::gate::Asked;

/// So many wait at most, …
const RESOURCES: usize = 1_000;
/// … and so much of them, but for the last.
const BYTES: usize = 1 << 20;

/// One of them.
pub(super) struct Resource {
    pub(super) body: Vec<u8>,
    /// Ids, with a blank between each two.
    pub(super) patients: String,
    pub(super) asked: Arc<Asked>,
    pub(super) resource_type: &'static str,
    /// It waits only for those before it.
    pub(super) is_admitted: bool,
}

/// Those of one part.
#[derive(Default)]
pub(super) struct Waiting {
    resources: Vec<Resource>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.resources.len() >= RESOURCES || self.bytes >= BYTES
    }

    pub(super) fn add(&mut self, resource: Resource) {
        self.bytes += resource.body.len() + resource.patients.len();
        self.resources.push(resource);
    }

    /// All of them, in their order; none is left.
    pub(super) fn take(&mut self) -> Vec<Resource> {
        self.bytes = 0;
        std::mem::take(&mut self.resources)
    }
}
