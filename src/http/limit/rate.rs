//! How often something may happen to one and the same: so many times at once, and then one more each time so much has passed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at what can be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// A bucket for each to which it has happened lately.
pub(super) struct Rate<K>(Mutex<Buckets<K>>);

struct Buckets<K> {
    at_once: u32,
    every: Duration,
    /// When a bucket will be full again. A full one says nothing, so it is not kept.
    full_at: HashMap<K, Instant>,
    forget_at: Instant,
}

impl<K: Eq + Hash> Rate<K> {
    pub(super) fn new(at_once: u32, every: Duration) -> Self {
        Self(Mutex::new(Buckets { at_once, every, full_at: HashMap::new(), forget_at: Instant::now() }))
    }

    /// Counts one more; false if it is one too many, which does not count.
    pub(super) fn allow(&self, key: K) -> bool {
        // What a panic left behind is no worse than what was there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).allow(key, Instant::now())
    }
}

impl<K: Eq + Hash> Buckets<K> {
    fn allow(&mut self, key: K, now: Instant) -> bool {
        self.forget(now);
        let full_at = self.full_at.entry(key).or_insert(now);
        let full_after = (*full_at).max(now) + self.every;
        let is_allowed = full_after <= now + self.every * self.at_once;
        if is_allowed {
            *full_at = full_after;
        }
        is_allowed
    }

    /// Forgets the buckets that are full again: what is left is what happened lately.
    fn forget(&mut self, now: Instant) {
        if now >= self.forget_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.forget_at = now + FORGET_EVERY;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const JOB: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn buckets() -> (Buckets<Uuid>, Instant) {
        let now = Instant::now();
        let every = Duration::from_millis(100);
        (Buckets { at_once: 50, every, full_at: HashMap::new(), forget_at: now }, now)
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
