//! What can be run. Each scenario has a database and replicas of its own.

pub mod random;

use std::sync::Arc;

use crate::findings::Findings;
use crate::postgres::Postgres;

/// How a scenario is run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub seed: u64,
    /// Minutes instead of seconds.
    pub long: bool,
}

/// Name, what it shows, and whether it runs only in the long run.
pub const SCENARIOS: [(&str, &str, bool); 1] =
    [("random", "random faults while writers write and data engineers export", false)];

pub async fn run(name: &str, postgres: &Arc<Postgres>, run: Run, findings: &Arc<Findings>) {
    match name {
        "random" => random::run(postgres, run, findings).await,
        _ => unreachable!("a scenario without a name in the list"),
    }
}
