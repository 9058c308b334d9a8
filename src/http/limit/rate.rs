//! Polls of one job: a client that waits as `Retry-After` says never meets this limit, one that hammers is told to wait
//! (rule C5). It never ends a job.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// Polls of a job that may come at once.
const AT_ONCE: u32 = 50;
/// One more is allowed each time so much has passed.
const EVERY: Duration = Duration::from_millis(100);
/// Between two looks at what can be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// A bucket of polls for each job that was polled lately.
pub(crate) struct Polls(Mutex<Buckets>);

struct Buckets {
    /// When the bucket of a job will be full again. A full one says nothing, so it is not kept.
    full_at: HashMap<Uuid, Instant>,
    forget_at: Instant,
}

impl Polls {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Buckets { full_at: HashMap::new(), forget_at: Instant::now() }))
    }

    /// Counts a poll of a job that is there; false if it is one too many, which does not count.
    pub(in crate::http) fn allow(&self, job: Uuid) -> bool {
        // What a panic left behind is no worse than what was there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).allow(job, Instant::now())
    }
}

impl Buckets {
    fn allow(&mut self, job: Uuid, now: Instant) -> bool {
        self.forget(now);
        let full_at = self.full_at.entry(job).or_insert(now);
        let full_after = (*full_at).max(now) + EVERY;
        let is_allowed = full_after <= now + EVERY * AT_ONCE;
        if is_allowed {
            *full_at = full_after;
        }
        is_allowed
    }

    /// Forgets the buckets that are full again: what is left are the jobs polled in the last few seconds.
    fn forget(&mut self, now: Instant) {
        if now >= self.forget_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.forget_at = now + FORGET_EVERY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn buckets() -> (Buckets, Instant) {
        let now = Instant::now();
        (Buckets { full_at: HashMap::new(), forget_at: now }, now)
    }

    // C5
    #[test]
    fn a_client_that_waits_a_second_is_never_refused() {
        let (mut buckets, start) = buckets();
        // Half a day, and some impatience on the way.
        for second in 0..43_200 {
            let now = start + Duration::from_secs(second);
            assert!((0..9).all(|_| buckets.allow(JOB, now)), "{second}");
        }
    }

    #[test]
    fn so_many_at_once_are_allowed_and_then_so_many_a_second() {
        let (mut buckets, start) = buckets();
        let mut allowed = |job, milliseconds| {
            let now = start + Duration::from_millis(milliseconds);
            (0..200).filter(|_| buckets.allow(job, now)).count()
        };
        assert_eq!(allowed(JOB, 0), 50);
        assert_eq!(allowed(OTHER, 0), 50);
        assert_eq!(allowed(JOB, 99), 0);
        // Being refused costs nothing.
        assert_eq!(allowed(JOB, 1_000), 10);
        assert_eq!(allowed(JOB, 1_050), 0);
        assert_eq!(allowed(JOB, 60_000), 50);
    }

    #[test]
    fn what_is_not_polled_any_more_is_forgotten() {
        let (mut buckets, start) = buckets();
        for id in 0..1_000 {
            buckets.allow(Uuid::from_u128(id), start);
        }
        assert_eq!(buckets.full_at.len(), 1_000);
        buckets.allow(JOB, start + Duration::from_secs(2));
        assert_eq!(buckets.full_at.len(), 1);
    }
}
