//! Faults: what can go wrong, when it does, and how it is brought about. The schedule follows from the seed alone; what
//! the processes are at when a fault hits them does not.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::findings::{Findings, Of};
use crate::installation::{Installation, REPLICAS};
use crate::proxy::Way;
use crate::random::Random;
use crate::replica::{Held, Replica};

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// `kill -9` of a replica, which is started again after `down`; perhaps once more while it starts.
    Kill { replica: usize, down: Duration, again: Option<Duration> },
    /// SIGSTOP, and after this time SIGCONT; or `kill -9` where it lies frozen.
    Freeze { replica: usize, time: Duration, killed: bool },
    /// SIGTERM, as in a rolling restart; perhaps `kill -9` before it has ended.
    Roll { replica: usize, killed_after: Option<Duration> },
    /// `kill -9` of Postgres.
    Crash { down: Duration },
    /// `pg_terminate_backend` of about one session in so many.
    Terminate { one_in: u64, salt: u64 },
    /// All connections of a replica to Postgres end.
    Cut { replica: usize },
    /// The same, and it gets no new ones for this time.
    Refuse { replica: usize, time: Duration },
    /// Its connections stay, and nothing gets through for this time.
    Stall { replica: usize, time: Duration },
    /// Its connections die without a word; new ones work.
    Silence { replica: usize },
    /// No space for chunks for this time.
    FillDisk { time: Duration },
}

/// A fault and its moment, counted from the beginning.
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    pub at: Duration,
    pub fault: Fault,
}

/// Of each kind one in the beginning, in an order left to chance; then mostly those that kill, until there were so many
/// kills.
pub fn schedule(random: &mut Random, kills: usize, gap: std::ops::Range<u64>) -> Vec<Planned> {
    let mut kinds: Vec<u64> = (0..KINDS).collect();
    random.shuffle(&mut kinds);
    let mut first = kinds.into_iter();
    let (mut schedule, mut killed, mut at) = (Vec::new(), 0, Duration::from_millis(500));
    while killed < kills || first.len() > 0 {
        let fault = match first.next() {
            Some(kind) => fault(kind, random),
            // Two of three kill.
            None if random.below(3) > 0 => fault(0, random),
            None => fault(random.below(KINDS), random),
        };
        killed += usize::from(matches!(fault, Fault::Kill { .. }));
        schedule.push(Planned { at, fault });
        at += random.time(gap.clone());
    }
    schedule
}

const KINDS: u64 = 10;

fn fault(kind: u64, random: &mut Random) -> Fault {
    let replica = random.index(REPLICAS);
    match kind {
        0 => {
            let again = random.one_in(5).then(|| random.time(0..400));
            Fault::Kill { replica, down: random.time(0..1_500), again }
        }
        // Now within the lease, now past it.
        1 => Fault::Freeze { replica, time: random.time(500..5_000), killed: random.one_in(3) },
        2 => Fault::Roll { replica, killed_after: random.one_in(3).then(|| random.time(0..1_500)) },
        3 => Fault::Crash { down: random.time(0..2_000) },
        4 => Fault::Terminate { one_in: 1 + random.below(4), salt: random.below(1 << 30) },
        5 => Fault::Cut { replica },
        6 => Fault::Refuse { replica, time: random.time(300..3_000) },
        7 => Fault::Stall { replica, time: random.time(300..4_000) },
        8 => Fault::Silence { replica },
        _ => Fault::FillDisk { time: random.time(500..2_500) },
    }
}

/// Brings them about, each at its moment, and returns when all are over and all is as it should be again.
pub async fn inflict(installation: &Arc<Installation>, findings: &Arc<Findings>, schedule: &[Planned]) {
    let begun = tokio::time::Instant::now();
    let mut under_way = JoinSet::new();
    for planned in schedule {
        let moment = tokio::time::sleep_until(begun + planned.at);
        tokio::pin!(moment);
        loop {
            tokio::select! {
                () = &mut moment => break,
                Some(ended) = under_way.join_next() => ended.unwrap(),
            }
        }
        let (installation, findings, fault) = (Arc::clone(installation), Arc::clone(findings), planned.fault);
        under_way.spawn(async move { bring_about(fault, &installation, &findings).await });
    }
    while let Some(ended) = under_way.join_next().await {
        ended.unwrap();
    }
    installation.open_ways();
}

async fn bring_about(fault: Fault, installation: &Installation, findings: &Findings) {
    let replica = |number: usize| &*installation.replicas[number];
    let count = |what: &str| findings.count(Of::Faults, what);
    match fault {
        Fault::Kill { replica: number, down, again } => kill(replica(number), down, again, findings).await,
        Fault::Freeze { replica: number, time, killed } => {
            let mut held = replica(number).hold().await;
            held.signal(Signal::STOP);
            tokio::time::sleep(time).await;
            count("SIGSTOP");
            if killed {
                held.kill().await;
                count(KILL);
                start(&mut held, findings).await;
            } else {
                held.signal(Signal::CONT);
            }
        }
        Fault::Roll { replica: number, killed_after } => roll(replica(number), killed_after, findings).await,
        Fault::Crash { down } => {
            installation.postgres.crash(down).await;
            count("kill -9 of Postgres");
        }
        Fault::Terminate { one_in, salt } => {
            let ended = terminate(installation, one_in, salt).await;
            count("pg_terminate_backend of a share of all sessions");
            findings.add(Of::Faults, "sessions so ended", ended);
        }
        Fault::Cut { replica: number } => {
            replica(number).proxy.cut();
            count("all connections of a replica cut");
        }
        Fault::Refuse { replica: number, time } => {
            replica(number).proxy.set(Way::Closed);
            replica(number).proxy.cut();
            tokio::time::sleep(time).await;
            replica(number).proxy.set(Way::Open);
            count("database refused to a replica");
        }
        Fault::Stall { replica: number, time } => {
            replica(number).proxy.set(Way::Stalled);
            tokio::time::sleep(time).await;
            replica(number).proxy.set(Way::Open);
            count("database stalled for a replica");
        }
        Fault::Silence { replica: number } => {
            replica(number).proxy.silence();
            count("connections of a replica that died without a word");
        }
        Fault::FillDisk { time } => fill_disk(installation, time, findings).await,
    }
}

const KILL: &str = "kill -9 of a replica";

pub async fn kill(replica: &Replica, down: Duration, again: Option<Duration>, findings: &Findings) {
    let mut held = replica.hold().await;
    held.kill().await;
    findings.count(Of::Faults, KILL);
    tokio::time::sleep(down).await;
    if let Some(again) = again {
        let starting = held.spawn();
        tokio::time::sleep(again).await;
        drop(starting);
        held.kill().await;
        findings.count(Of::Faults, KILL);
        findings.count(Of::Faults, "of these while it started");
    }
    start(&mut held, findings).await;
}

pub async fn roll(replica: &Replica, killed_after: Option<Duration>, findings: &Findings) {
    /// Its `shutdown_grace`, and the longest it waits for an answer of a connection that died without a word (45 s).
    const PATIENCE: Duration = Duration::from_secs(60);
    let mut held = replica.hold().await;
    held.signal(Signal::TERM);
    findings.count(Of::Faults, "SIGTERM");
    if !held.ends_within(killed_after.unwrap_or(PATIENCE)).await {
        match killed_after {
            Some(_) => findings.count(Of::Faults, "of these killed before they had ended"),
            None => findings.violation(format!("{} does not end within {PATIENCE:?} of SIGTERM", replica.name)),
        }
        held.kill().await;
        findings.count(Of::Faults, KILL);
    }
    start(&mut held, findings).await;
}

async fn start(held: &mut Held<'_>, findings: &Findings) {
    let hung = held.start().await;
    if hung > 0 {
        findings.add(Of::Seen, "starts that hung and were killed", hung);
    }
}

async fn terminate(installation: &Installation, one_in: u64, salt: u64) -> u64 {
    let ended = sqlx::query_scalar::<_, i64>(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()
            and abs(hashint8(pid::bigint + $1)::bigint) % $2 = 0",
    )
    .bind(i64::try_from(salt).unwrap())
    .bind(i64::try_from(one_in).unwrap())
    .fetch_one(&installation.pool)
    .await;
    // Postgres may be away itself.
    ended.map_or(0, |ended| ended.unsigned_abs())
}

async fn fill_disk(installation: &Installation, time: Duration, findings: &Findings) {
    let postgres = Arc::clone(&installation.postgres);
    let filled = tokio::task::spawn_blocking(move || postgres.disk.as_ref().map(|disk| disk.fill()).is_ok());
    if !filled.await.unwrap() {
        return;
    }
    tokio::time::sleep(time).await;
    if let Ok(disk) = &installation.postgres.disk {
        disk.free();
    }
    findings.count(Of::Faults, "full disk");
}
