//! What is checked when a run is over: every promise, against the store and the ledger's diary.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use crate::diary::{self, Entry};
use crate::export::Export;
use crate::findings::{Findings, Of};
use crate::history::History;
use crate::installation::{Installation, REPLICAS};

/// From the end of the last fault until every job has ended: the lease, the longest back-off of a few attempts, work.
const BOUND: Duration = Duration::from_secs(60);
/// For what goes by itself once nobody needs it: the reaper's sweep, the hold of a download.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a replica may keep of what it had, over what a fresh one has.
const MEMORY: u64 = 64 << 20;
/// Connections of one replica by its settings: 20 of the API, two for each of three workers, and a few single ones.
const CONNECTIONS: i64 = 20 + 2 * 3 + 6;

/// 1: every job has ended, with a reason where it failed.
pub async fn all_jobs_end(installation: &Installation, findings: &Findings) {
    let asked = Instant::now();
    let unfinished = "select count(*) from export_job where state in ('accepted', 'running')";
    while number(installation, unfinished).await > 0 {
        if asked.elapsed() > BOUND {
            let stuck: Vec<String> = sqlx::query_scalar(
                "select id::text from export_job where state in ('accepted', 'running') order by accepted_at",
            )
            .fetch_all(&installation.pool)
            .await
            .unwrap();
            let diary = diary::read(&installation.pool).await;
            for job in stuck {
                let ledger = diary::of_job(&diary, &job);
                findings.violation(format!("job {job} has not ended {BOUND:?} after the last fault\n{ledger}"));
            }
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    findings.took("from the end of the last fault until all jobs had ended", asked.elapsed());
}

/// 1, by the diary: what was accepted is known, ends once, and keeps its transaction time.
pub fn check_diary(diary: &[Entry], findings: &Findings) {
    let mut jobs: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in diary {
        jobs.entry(&entry.job).or_default().push(entry);
    }
    for job in findings.all_accepted() {
        if !jobs.contains_key(job.as_str()) {
            findings.violation(format!("job {job} was accepted, and the ledger knows nothing of it"));
        }
    }
    for (job, entries) in jobs {
        if let Some(wrong) = wrong_in(&entries) {
            findings.violation(format!("job {job}: {wrong}\n{}", diary::of_job(diary, job)));
        }
    }
    count_ends(diary, findings);
}

fn wrong_in(entries: &[&Entry]) -> Option<&'static str> {
    let is_final = |state: &Option<String>| matches!(state.as_deref(), Some("completed" | "failed" | "cancelled"));
    let of_job = || entries.iter().filter(|entry| entry.part.is_none());
    let times: HashSet<_> = of_job().filter_map(|entry| entry.transaction_time).collect();
    let done: Vec<_> = entries.iter().filter(|e| e.part.is_some() && e.becomes.as_deref() == Some("done")).collect();
    let done_once: HashSet<_> = done.iter().map(|entry| entry.part).collect();
    let has_no_reason = |entry: &&&Entry| {
        entry.becomes.as_deref() == Some("failed") && entry.reason.as_ref().is_none_or(String::is_empty)
    };
    if of_job().any(|entry| is_final(&entry.was) && entry.becomes.is_some() && entry.was != entry.becomes) {
        Some("it left a state that is final")
    } else if of_job().any(|entry| entry.becomes.is_none() && !is_final(&entry.was)) {
        Some("it was removed before it had ended")
    } else if of_job().any(|entry| entry.becomes.is_none() && entry.expires_at.is_none_or(|at| at > entry.at)) {
        Some("it was removed before its time")
    } else if times.len() > 1 {
        Some("it has more than one transaction time")
    } else if of_job().find(has_no_reason).is_some() {
        Some("it failed without a reason")
    } else if done.len() > done_once.len()
        || entries.iter().any(|e| e.part.is_some() && e.was.as_deref() == Some("done"))
    {
        Some("a part was done more than once")
    } else {
        None
    }
}

fn count_ends(diary: &[Entry], findings: &Findings) {
    for entry in diary {
        let is_change = entry.was != entry.becomes;
        match (entry.part, entry.becomes.as_deref()) {
            (None, Some(state @ ("completed" | "failed" | "cancelled"))) if is_change => {
                findings.count(Of::Seen, &format!("jobs {state}"));
                if let Some(reason) = entry.reason.as_ref().filter(|_| state == "failed") {
                    println!("  job {} failed: {reason}", entry.job);
                }
            }
            (Some(_), Some("running")) if entry.was.as_deref() == Some("running") => {
                findings.count(Of::Seen, "parts taken over");
                if let Some(late) = entry.lease_until.map(|until| entry.at - until) {
                    findings.took("from the end of a lease until its part was taken over", late.unsigned_abs());
                }
            }
            (Some(_), Some("pending")) => findings.count(Of::Seen, "parts given back"),
            (Some(_), Some("done")) => findings.count(Of::Seen, "parts done"),
            _ => {}
        }
    }
}

/// 2 and 3: every export is the store at its instant, and the chain is the store after every link.
pub async fn check_exports(installation: &Installation, exports: &[Export], diary: &[Entry], findings: &Findings) {
    let history = History::read(&installation.pool, findings).await;
    findings.add(Of::Seen, "versions in the store", history.versions() as u64);
    for export in exports {
        let before = findings.violations();
        history.check(export, findings);
        if findings.violations() > before {
            eprintln!("{}", diary::of_job(diary, &export.job));
        }
    }
    let mut chain: Vec<&Export> = exports.iter().filter(|export| export.link.is_some()).collect();
    chain.sort_by_key(|export| export.link);
    history.replay(&chain, findings);
    check_superseded(installation, findings).await;
}

/// What the server reads by is what the dates say.
async fn check_superseded(installation: &Installation, findings: &Findings) {
    let wrong = "select count(*) from (
            select superseded_at, lead(last_updated) over (partition by resource_type, id order by version_id) as next
            from resource
        ) as version where superseded_at <> coalesce(next, 'infinity')";
    let wrong = number(installation, wrong).await;
    if wrong > 0 {
        findings.violation(format!("{wrong} versions are not superseded when the next one begins"));
    }
}

/// 5: nothing is left of exports that ended without files, and nothing at all once all have expired.
pub async fn check_nothing_is_left(installation: &Installation, findings: &Findings) {
    let dead = "select count(*) from binary_file join export_job on export_job.id = job_id
        where state in ('failed', 'cancelled')";
    comes_to_nothing(installation, findings, "files of exports that failed or were cancelled", dead).await;
    let unfinished = "select count(*) from binary_file
        where not exists (select from export_job where id = job_id and (state = 'completed' or expires_at is not null))";
    comes_to_nothing(installation, findings, "files of no export", unfinished).await;
    // Rows are moved, not time.
    for statement in [
        "update export_job set expires_at = clock_timestamp() where expires_at is not null",
        "update binary_file set held_until = null",
    ] {
        sqlx::query(statement).execute(&installation.pool).await.unwrap();
    }
    for (what, query) in [
        ("jobs that have expired", "select count(*) from export_job"),
        ("parts", "select count(*) from export_part"),
        ("files", "select count(*) from binary_file"),
        ("chunks", "select count(*) from binary_chunk"),
        ("volumes in use", "select count(*) from binary_volume where job_id is not null"),
    ] {
        comes_to_nothing(installation, findings, what, query).await;
    }
}

/// 5: connections and locks.
pub async fn check_connections(installation: &Installation, findings: &Findings) {
    let ours = "datname = current_database() and pid <> pg_backend_pid() and application_name <> 'chaos'";
    let busy = format!("select count(*) from pg_stat_activity where {ours} and state <> 'idle'");
    comes_to_nothing(installation, findings, "sessions in the middle of something", &busy).await;
    let locks = "select count(*) from pg_locks where locktype = 'advisory'
        and database = (select oid from pg_database where datname = current_database())";
    comes_to_nothing(installation, findings, "advisory locks", locks).await;
    let sessions = number(installation, &format!("select count(*) from pg_stat_activity where {ours}")).await;
    findings.add(Of::Seen, "sessions of the replicas at the end", sessions.unsigned_abs());
    if sessions > CONNECTIONS * i64::try_from(REPLICAS).unwrap() {
        findings.violation(format!("the replicas have {sessions} sessions"));
    }
}

/// 5: memory. `idle` is what a fresh replica has.
pub async fn check_memory(installation: &Installation, idle: u64, findings: &Findings) {
    for replica in &installation.replicas {
        let asked = Instant::now();
        loop {
            let memory = replica.memory().await.unwrap_or_default();
            if memory <= idle + MEMORY {
                findings.add(Of::Seen, "MiB of memory of all replicas at the end", memory >> 20);
                break;
            }
            if asked.elapsed() > PATIENCE {
                let (memory, idle) = (memory >> 20, idle >> 20);
                findings.violation(format!("{} still has {memory} MiB; idle it had {idle} MiB", replica.name));
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn comes_to_nothing(installation: &Installation, findings: &Findings, what: &str, query: &str) {
    let asked = Instant::now();
    loop {
        let count = number(installation, query).await;
        if count == 0 {
            return;
        }
        if asked.elapsed() > PATIENCE {
            findings.violation(format!("{count} {what} are left"));
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn number(installation: &Installation, query: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&installation.pool).await.unwrap()
}
