//! Polls of one job: a client that waits as `Retry-After` says never meets this limit, one that hammers is told to wait
//! (rule C5). It never ends a job.

use std::time::Duration;

use uuid::Uuid;

use super::rate::Rate;

/// Polls of a job that may come at once.
const AT_ONCE: u32 = 50;
/// One more is allowed each time so much has passed.
const EVERY: Duration = Duration::from_millis(100);

/// How often each job was polled lately.
pub(crate) struct Polls(Rate<Uuid>);

impl Polls {
    pub(crate) fn new() -> Self {
        Self(Rate::new(AT_ONCE, EVERY))
    }

    /// Counts a poll of a job that is there; false if it is one too many, which does not count.
    pub(in crate::http) fn allow(&self, job: Uuid) -> bool {
        self.0.allow(job)
    }
}
