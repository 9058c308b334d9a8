//! Faults at random, from a seed, while writers write and data engineers export; then every promise is checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;

use super::Run;
use crate::checks;
use crate::engineers::Engineer;
use crate::fault::{Planned, inflict, schedule};
use crate::findings::Findings;
use crate::installation::Installation;
use crate::postgres::Postgres;
use crate::proxy::Proxy;
use crate::random::Random;
use crate::store;

const WRITERS: usize = 3;
const ENGINEERS: usize = 6;
/// So that a part lasts long enough to be hit; in the long run there are larger ones.
const PACE: (&str, &str) = ("3MiB", "8MiB");
/// In the short run, and in the long: more than the 500 that are promised.
const KILLS: (usize, usize) = (16, 520);

pub async fn run(postgres: &Arc<Postgres>, run: Run, findings: &Arc<Findings>) {
    let mut random = Random::new(run.seed);
    let (kills, gap) = if run.long { (KILLS.1, 300..1_700) } else { (KILLS.0, 300..1_100) };
    let pace = if run.long { PACE.1 } else { PACE.0 };
    let schedule = schedule(&mut random, kills, gap);
    let installation = Arc::new(Installation::new(postgres, "chaos_random", &[("export.pace", pace)]).await);
    let idle = prepare(&installation, &mut random, run.long).await;
    if installation.clock_is_off().await == Some(false) {
        findings.violation("the clock of the replica whose clock should be off is right".to_owned());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut busy = set_to_work(&installation, &mut random, findings, &stop, run.long).await;
    inflict(&installation, findings, &schedule).await;
    stop.store(true, Ordering::Relaxed);
    checks::all_jobs_end(&installation, findings).await;
    while let Some(ended) = busy.join_next().await {
        ended.unwrap();
    }
    checks::check(&installation, idle, findings).await;
    if findings.violations() > 0 {
        tell(&schedule);
    }
    for what in &installation.skipped {
        println!("SKIPPED: {what}");
    }
    Arc::into_inner(installation).unwrap().stop().await;
}

async fn prepare(installation: &Installation, random: &mut Random, long: bool) -> u64 {
    store::fill(&installation.pool, random, long).await;
    match &installation.postgres.disk {
        Ok(disk) => disk.take_chunks(&installation.pool, installation.name).await,
        Err(why) => println!("SKIPPED: full disk ({why})"),
    }
    installation.start().await
}

async fn set_to_work(
    installation: &Installation,
    random: &mut Random,
    findings: &Arc<Findings>,
    stop: &Arc<AtomicBool>,
    long: bool,
) -> JoinSet<()> {
    let mut busy = JoinSet::new();
    let writers = Arc::new(Proxy::start(&installation.postgres.socket()).await);
    let pool = PgPoolOptions::new().connect_lazy(&writers.url("postgres", installation.name)).unwrap();
    for _ in 0..WRITERS {
        busy.spawn(store::keep_writing(pool.clone(), random.fork(), Arc::clone(findings), Arc::clone(stop)));
    }
    busy.spawn(store::hesitate(writers, random.fork(), Arc::clone(stop)));
    let url = installation.postgres.url(installation.name);
    busy.spawn(store::keep_loading(url, random.fork(), Arc::clone(findings), Arc::clone(stop)));
    let client = Arc::new(installation.client());
    let mut engineer = || Engineer {
        client: Arc::clone(&client),
        findings: Arc::clone(findings),
        random: random.fork(),
        stop: Arc::clone(stop),
        with_large: long,
    };
    for _ in 0..ENGINEERS {
        busy.spawn(engineer().work());
    }
    busy.spawn(engineer().follow());
    if long {
        busy.spawn(engineer().export_large());
    }
    busy
}

fn tell(schedule: &[Planned]) {
    eprintln!("the faults:");
    for Planned { at, fault } in schedule {
        eprintln!("  {:>8.3} s  {fault:?}", at.as_secs_f64());
    }
}
