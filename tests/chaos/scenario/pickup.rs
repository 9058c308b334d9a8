//! `kill -9` of the replica that holds a part, or plans a job: another takes it over within the lease and a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use time::OffsetDateTime;

use super::Run;
use crate::checks;
use crate::export::{Asked, Exporter};
use crate::findings::{Findings, Of};
use crate::gate::{self, Gate};
use crate::installation::{Installation, LEASE, RETENTION};
use crate::postgres::Postgres;
use crate::random::Random;
use crate::replica::Replica;
use crate::store;

const BOUND: Duration = LEASE.saturating_add(Duration::from_secs(1));
/// In the short run, whose machine may be busy with other things: sooner than who only looks now and then.
const LOOSE_BOUND: Duration = LEASE.saturating_add(Duration::from_secs(4));

/// Parts, searches, then planning, so many times each.
const ROUNDS: (usize, usize) = (2, 20);
/// The default: it is not what makes a worker look.
const FALLBACK_POLL: (&str, &str) = ("export.fallback_poll", "10s");

/// What is held by the one that dies.
#[derive(Clone, Copy)]
enum What {
    Part,
    Search,
    Planning,
}

pub async fn run(postgres: &Arc<Postgres>, run: Run, findings: &Arc<Findings>) {
    let mut random = Random::new(run.seed);
    let installation = Installation::new(postgres, "chaos_pickup", &[FALLBACK_POLL]).await;
    store::fill(&installation.pool, &mut random, false).await;
    gate::build(&installation.pool).await;
    let idle = installation.start().await;
    for _ in 0..if run.long { ROUNDS.1 } else { ROUNDS.0 } {
        for what in [What::Part, What::Search, What::Planning] {
            let took = pick_up(&installation, what, &mut random, findings).await;
            let kind = match what {
                What::Part => "from the death of a worker until its part was picked up",
                What::Search => "from the death of a worker until its search was picked up",
                What::Planning => "from the death of a planner until its job was picked up",
            };
            findings.took(kind, took);
            let bound = if run.long { BOUND } else { LOOSE_BOUND };
            if took > bound {
                findings.violation(format!("{took:?} {kind}, more than {bound:?}"));
            }
        }
    }
    checks::check(&installation, idle, findings).await;
    installation.stop().await;
}

/// From the kill to the claim, by the database's clock.
async fn pick_up(installation: &Installation, what: What, random: &mut Random, findings: &Findings) -> Duration {
    let (pool, client) = (&installation.pool, installation.client());
    let exporter = Exporter { client: &client, findings, retention: RETENTION };
    let gate = match what {
        What::Part | What::Search => Gate::before_parts(pool).await,
        What::Planning => Gate::before_planning(pool).await,
    };
    let asked = match what {
        What::Part | What::Planning => Asked::of(&["Task"]),
        What::Search => Asked::with_a_chain(),
    };
    let job = exporter.kick_off(&asked, random).await.unwrap();
    let holder: &Replica = match what {
        What::Part | What::Search => installation.worker_on(&job.id).await,
        What::Planning => installation.planner().await,
    };
    // Anywhere between two renewals.
    tokio::time::sleep(random.time(0..1_000)).await;
    let mut held = holder.hold().await;
    let killed: OffsetDateTime = sqlx::query_scalar("select clock_timestamp()").fetch_one(pool).await.unwrap();
    held.kill().await;
    findings.count(Of::Faults, "kill -9 of a replica");
    let claimed = next_claim(pool, what, &job.id, killed).await;
    gate.open().await;
    held.start().await;
    drop(held);
    if let Some(export) = exporter.have(&job, &asked, random).await {
        findings.keep(export);
    }
    (claimed - killed).unsigned_abs()
}

/// When the next one claimed it.
async fn next_claim(pool: &PgPool, what: What, job: &str, killed: OffsetDateTime) -> OffsetDateTime {
    let is_claim = match what {
        What::Part => "part is not null and becomes = 'running'",
        // Of several, others may be claimed for the first time.
        What::Search => "stage = 'search' and becomes = 'running' and attempt > 1",
        What::Planning => "part is null and becomes = 'accepted'",
    };
    let query = format!("select min(at) from chaos_diary where job = $1 and at > $2 and {is_claim}");
    let asked = Instant::now();
    loop {
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query.as_str())).bind(job).bind(killed);
        if let Some(at) = query.fetch_one(pool).await.unwrap() {
            return at;
        }
        assert!(asked.elapsed() < Duration::from_secs(60), "nobody picks up job {job}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
