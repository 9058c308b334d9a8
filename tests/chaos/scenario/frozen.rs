//! A worker that is frozen past its lease, in the middle of its transaction, and then goes on: the part is another's by
//! then, and nothing of the frozen one's is seen.

use std::sync::Arc;

use rustix::process::Signal;

use super::Run;
use crate::checks;
use crate::export::{Asked, Exporter};
use crate::findings::{Findings, Of};
use crate::gate::{self, Gate};
use crate::installation::{Installation, RETENTION};
use crate::postgres::Postgres;
use crate::random::Random;
use crate::store;

const ROUNDS: (usize, usize) = (1, 10);

pub async fn run(postgres: &Arc<Postgres>, run: Run, findings: &Arc<Findings>) {
    let mut random = Random::new(run.seed);
    let installation = Installation::new(postgres, "chaos_frozen", &[]).await;
    store::fill(&installation.pool, &mut random, false).await;
    gate::build(&installation.pool).await;
    let idle = installation.start().await;
    for _ in 0..if run.long { ROUNDS.1 } else { ROUNDS.0 } {
        // The second in the middle of its search.
        for asked in [Asked::of(&["Task"]), Asked::with_a_chain()] {
            freeze_and_thaw(&installation, &asked, &mut random, findings).await;
        }
    }
    checks::check(&installation, idle, findings).await;
    installation.stop().await;
}

async fn freeze_and_thaw(installation: &Installation, asked: &Asked, random: &mut Random, findings: &Findings) {
    let client = installation.client();
    let exporter = Exporter { client: &client, findings, retention: RETENTION };
    let gate = Gate::before_parts(&installation.pool).await;
    let job = exporter.kick_off(asked, random).await.unwrap();
    let frozen = installation.worker_on(&job.id).await;
    let held = frozen.hold().await;
    held.signal(Signal::STOP);
    findings.count(Of::Faults, "SIGSTOP");
    // Half of them thaw before the other has finished, half afterwards.
    let thaws_early = random.one_in(2);
    installation
        .wait_for("chaos_diary where job = $1 and part is not null and becomes = 'running' and attempt = 2", &job.id)
        .await;
    if thaws_early {
        held.signal(Signal::CONT);
    }
    gate.open().await;
    let is_over = "chaos_diary where job = $1 and part is null and becomes in ('completed', 'failed')";
    installation.wait_for(is_over, &job.id).await;
    held.signal(Signal::CONT);
    match exporter.have(&job, asked, random).await {
        Some(export) => findings.keep(export),
        None => findings.violation(format!("job {}, whose worker was frozen, has no files", job.id)),
    }
}
