//! How much an issuer is asked: so many questions at once, and so many in a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// How long one waits for a turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions of one kind.
pub(super) struct Turns {
    free: Semaphore,
    pace: Pace,
    /// When all that may be asked in a burst may be asked again.
    full_at: Mutex<Instant>,
}

/// How often questions come.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// Under way at once.
    pub(super) at_once: usize,
    /// One more is allowed each time so much has passed …
    pub(super) every: Duration,
    /// … and so many in a burst.
    pub(super) burst: u32,
}

impl Turns {
    pub(super) fn new(pace: Pace) -> Self {
        Self { free: Semaphore::new(pace.at_once), pace, full_at: Mutex::new(Instant::now()) }
    }

    /// A turn, for as long as it is held; none if there was none for long.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(PATIENCE, self.free.acquire()).await.ok()?.ok()
    }

    /// Counts a question; false if it is one too many, which does not count.
    pub(super) fn may_ask(&self) -> bool {
        // What a panic left behind is no worse than what was there.
        self.pace.allows(&mut self.full_at.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }
}

impl Pace {
    fn allows(&self, full_at: &mut Instant, now: Instant) -> bool {
        let full_after = (*full_at).max(now) + self.every;
        let is_allowed = full_after <= now + self.every * self.burst;
        if is_allowed {
            *full_at = full_after;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_so_many_in_a_second() {
        let pace = Pace { at_once: 1, every: Duration::from_millis(50), burst: 40 };
        let start = Instant::now();
        let mut full_at = start;
        let mut allowed =
            |millis| (0..1000).filter(|_| pace.allows(&mut full_at, start + Duration::from_millis(millis))).count();
        for (millis, expected) in [(0, 40), (49, 0), (50, 1), (1050, 20), (60_000, 40)] {
            assert_eq!(allowed(millis), expected, "after {millis} ms");
        }
    }
}
