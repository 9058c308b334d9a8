//! An export while every five seconds a replica is killed takes at most twice its quiet time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Run;
use crate::checks;
use crate::export::{Asked, Ended, Exporter};
use crate::fault::kill;
use crate::findings::Findings;
use crate::installation::{Installation, REPLICAS, RETENTION};
use crate::postgres::Postgres;
use crate::random::Random;
use crate::store;

const EVERY: Duration = Duration::from_secs(5);
/// So that there are several kills in it.
const QUIET_AT_LEAST: Duration = Duration::from_secs(15);
const SETTINGS: [(&str, &str); 2] = [("export.file_target", "4MiB"), ("export.pace", "5MiB")];

pub async fn run(postgres: &Arc<Postgres>, run: Run, findings: &Arc<Findings>) {
    let mut random = Random::new(run.seed);
    let installation = Installation::new(postgres, "chaos_kills", &SETTINGS).await;
    store::fill_with_pictures(&installation.pool).await;
    let idle = installation.start().await;
    let mut own = random.fork();
    let quiet = export(&installation, &mut own, findings).await;
    println!("  quiet: {:.1} s", quiet.as_secs_f64());
    if quiet < QUIET_AT_LEAST {
        findings.violation(format!("the quiet export takes only {quiet:?}: too short to be measured under kills"));
    }
    let under_kills = tokio::select! {
        took = export(&installation, &mut own, findings) => took,
        () = keep_killing(&installation, &mut random, findings) => unreachable!("it goes on for ever"),
    };
    findings.took("an export without kills", quiet);
    findings.took("the same under a kill every five seconds", under_kills);
    if under_kills > quiet * 2 {
        findings.violation(format!("an export under kills takes {under_kills:?}, without them {quiet:?}"));
    }
    for replica in &installation.replicas {
        // The last kill may have been cut short.
        replica.hold().await.kill().await;
        replica.hold().await.start().await;
    }
    checks::check(&installation, idle, findings).await;
    installation.stop().await;
}

async fn export(installation: &Installation, random: &mut Random, findings: &Findings) -> Duration {
    let client = installation.client();
    let exporter = Exporter { client: &client, findings, retention: RETENTION };
    let begun = Instant::now();
    let job = exporter.kick_off(&Asked::of(&[store::LARGE]), random).await.unwrap();
    let ended = exporter.ended(&job).await;
    let took = begun.elapsed();
    if !matches!(ended, Ended::Completed(_)) {
        findings.violation(format!("job {} ended as {ended:?}", job.id));
    }
    exporter.delete(&job).await;
    took
}

async fn keep_killing(installation: &Installation, random: &mut Random, findings: &Findings) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        kill(&installation.replicas[random.index(REPLICAS)], Duration::ZERO, None, findings).await;
    }
}
