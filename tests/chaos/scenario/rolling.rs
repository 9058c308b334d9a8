//! Rolling restarts: one replica after the other is asked to end (SIGTERM) and started again, while exports run. No
//! part is lost by it: what cannot be finished is given back, and counts as no failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::Run;
use crate::checks;
use crate::engineers::Engineer;
use crate::fault::roll;
use crate::findings::Findings;
use crate::installation::Installation;
use crate::postgres::Postgres;
use crate::random::Random;
use crate::store;

const ROLLS: (usize, usize) = (6, 60);
const ENGINEERS: usize = 3;

pub async fn run(postgres: &Arc<Postgres>, run: Run, findings: &Arc<Findings>) {
    let mut random = Random::new(run.seed);
    let installation = Installation::new(postgres, "chaos_rolling", &[]).await;
    store::fill(&installation.pool, &mut random, false).await;
    let idle = installation.start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let client = Arc::new(installation.client());
    let mut busy = JoinSet::new();
    for _ in 0..ENGINEERS {
        let (client, findings, stop) = (Arc::clone(&client), Arc::clone(findings), Arc::clone(&stop));
        busy.spawn(Engineer { client, findings, random: random.fork(), stop, with_large: false }.work());
    }
    for turn in 0..if run.long { ROLLS.1 } else { ROLLS.0 } {
        roll(&installation.replicas[turn % installation.replicas.len()], None, findings).await;
        tokio::time::sleep(random.time(0..500)).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = busy.join_next().await {
        ended.unwrap();
    }
    check_no_failures(&installation, findings).await;
    checks::check(&installation, idle, findings).await;
    installation.stop().await;
}

async fn check_no_failures(installation: &Installation, findings: &Findings) {
    let query = "select count(*) from chaos_diary where failures > 0 or becomes = 'failed'";
    let failures = checks::number(installation, query).await;
    if failures > 0 {
        findings.violation(format!("rolling restarts cost {failures} attempts at parts"));
    }
}
