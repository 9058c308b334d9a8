//! What the tests are written with: a database for each, a server for each, and callers with verbs.

pub mod answer;
mod client;
mod files;
mod issuer;
mod postgres;
mod random;
pub mod schema;
pub mod secured;
mod server;
pub mod smart;

pub use client::{Caller, Job, Manifest};
pub use files::{put_mebibytes, with_a_large_file, with_a_small_file};
pub use issuer::{Issuer, trusting};
pub use postgres::Database;
pub use random::Random;
pub use server::Server;

use std::future::Future;
use std::time::{Duration, Instant};

/// Waits until it is so, for half a minute at most.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < Duration::from_secs(30), "it never came true that {what}");
        pause_since(started).await;
    }
}

/// Between two looks: short at first, then long enough that a job may be polled so for ever (rule C5).
async fn pause_since(started: Instant) {
    let is_new = started.elapsed() < Duration::from_millis(500);
    tokio::time::sleep(Duration::from_millis(if is_new { 20 } else { 110 })).await;
}
