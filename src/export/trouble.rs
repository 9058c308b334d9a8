//! Attempts that come to nothing: how many are enough.

use crate::config;

/// How an attempt fits into those before it.
#[derive(Debug)]
pub(super) struct Trouble {
    /// Attempts that came to nothing, but for those that met a fault that may go away by itself.
    pub(super) failures: i32,
    /// Seconds since attempts come to nothing.
    pub(super) seconds: f64,
}

impl Trouble {
    pub(super) fn is_too_much(&self, config: &config::Export) -> bool {
        self.failures >= i32::from(config.attempts) || self.seconds >= config.patience.as_secs_f64()
    }

    /// What is told of work whose workers were lost so many times.
    pub(super) fn lost_workers(failures: i32) -> String {
        Self { failures, seconds: 0.0 }.told("its worker was lost")
    }

    /// `came to nothing 5 times, at last: …`
    pub(super) fn told(&self, cause: &str) -> String {
        match self.failures {
            0 => format!("came to nothing for {:.0} seconds: {cause}", self.seconds),
            failures => format!("came to nothing {failures} times, at last: {cause}"),
        }
    }
}
