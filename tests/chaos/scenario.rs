//! What can be run. Each scenario has a database and replicas of its own.

pub mod frozen;
pub mod kills;
pub mod pickup;
pub mod random;
pub mod rolling;
pub mod silent;

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
pub const SCENARIOS: [(&str, &str, bool); 6] = [
    ("pickup", "a dead worker's part is picked up within the lease and a second", false),
    ("frozen", "a worker that is frozen past its lease does no harm", false),
    ("rolling", "rolling restarts cost nothing", false),
    ("silent", "connections that die without a word stop no export", true),
    ("kills", "an export under kills takes at most twice its quiet time", true),
    ("random", "random faults while writers write and data engineers export", false),
];

pub async fn run(name: &str, postgres: &Arc<Postgres>, run: Run, findings: &Arc<Findings>) {
    match name {
        "pickup" => pickup::run(postgres, run, findings).await,
        "frozen" => frozen::run(postgres, run, findings).await,
        "rolling" => rolling::run(postgres, run, findings).await,
        "silent" => silent::run(postgres, run, findings).await,
        "kills" => kills::run(postgres, run, findings).await,
        "random" => random::run(postgres, run, findings).await,
        _ => unreachable!("a scenario without a name in the list"),
    }
}
