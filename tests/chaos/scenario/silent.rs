//! A replica whose connections to Postgres have died without a word while it works on a part: it can reach Postgres again
//! at once, but hears nothing any more of what it waits for. The part ends all the same.

use std::sync::Arc;
use std::time::Duration;

use super::Run;
use crate::checks;
use crate::export::{Asked, Exporter};
use crate::findings::{Findings, Of};
use crate::gate::{self, Gate};
use crate::installation::{Installation, RETENTION};
use crate::postgres::Postgres;
use crate::random::Random;
use crate::store;

/// Long enough to be renewed over a new connection before it runs out.
const LEASE: &str = "12s";
const ROUNDS: usize = 2;

pub async fn run(postgres: &Arc<Postgres>, run: Run, findings: &Arc<Findings>) {
    let mut random = Random::new(run.seed);
    let installation = Installation::new(postgres, "chaos_silent", &[("export.lease", LEASE)]).await;
    store::fill(&installation.pool, &mut random, false).await;
    gate::build(&installation.pool).await;
    let idle = installation.start().await;
    for _ in 0..ROUNDS {
        silence(&installation, &mut random, findings).await;
    }
    checks::check(&installation, idle, findings).await;
    installation.stop().await;
}

async fn silence(installation: &Installation, random: &mut Random, findings: &Findings) {
    let client = installation.client();
    let exporter = Exporter { client: &client, findings, retention: RETENTION };
    let gate = Gate::before_parts(&installation.pool).await;
    let asked = Asked::of(&["Task"]);
    let job = exporter.kick_off(&asked, random).await.unwrap();
    let worker = installation.worker_on(&job.id).await;
    tokio::time::sleep(random.time(0..1_000)).await;
    worker.proxy.silence();
    findings.count(Of::Faults, "connections of a replica that died without a word");
    tokio::time::sleep(Duration::from_secs(1)).await;
    gate.open().await;
    if let Some(export) = exporter.have(&job, &asked, random).await {
        findings.keep(export);
    }
}
