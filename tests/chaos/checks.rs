//! What is checked when a run is over, against the store and the ledger's diary: every job has ended (1), every export
//! is the store at its instant (2), and the chain of `_since` is the store after every link (3). Files are checked as
//! they are downloaded (4).

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use crate::diary::{self, Entry};
use crate::export::Export;
use crate::findings::{Findings, Of};
use crate::history::History;
use crate::installation::Installation;
use crate::leftovers;

/// From the end of the last fault until every job has ended: the lease, the longest back-off of a few attempts, work.
const BOUND: Duration = Duration::from_secs(60);

/// All of it. `idle` is the memory that a fresh replica has.
pub async fn check(installation: &Installation, idle: u64, findings: &Findings) {
    all_jobs_end(installation, findings).await;
    leftovers::check_nothing_is_left(installation, findings).await;
    leftovers::check_connections(installation, findings).await;
    leftovers::check_memory(installation, idle, findings).await;
    let diary = diary::read(&installation.pool).await;
    check_diary(&diary, findings);
    check_keys(installation, findings).await;
    check_exports(installation, &findings.exports(), &diary, findings).await;
}

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
fn check_diary(diary: &[Entry], findings: &Findings) {
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

/// A kick-off with a key starts one job, however often it was sent.
async fn check_keys(installation: &Installation, findings: &Findings) {
    let doubled = "select count(*) from (
            select key from chaos_diary where was is null and key is not null group by key having count(*) > 1
        ) as doubled";
    let doubled = number(installation, doubled).await;
    if doubled > 0 {
        findings.violation(format!("{doubled} kick-offs with a key started more than one job"));
    }
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
        let of_stage = |what: &str| format!("{what}, {}", entry.stage.as_deref().unwrap_or_default());
        let is_change = entry.was != entry.becomes;
        match (entry.part, entry.becomes.as_deref()) {
            (None, Some(state @ ("completed" | "failed" | "cancelled"))) if is_change => {
                findings.count(Of::Seen, &format!("jobs {state}"));
            }
            (Some(_), Some("running")) if entry.was.as_deref() == Some("running") => {
                findings.count(Of::Seen, &of_stage("parts taken over"));
                if let Some(late) = entry.lease_until.map(|until| entry.at - until) {
                    findings.took("from the end of a lease until its part was taken over", late.unsigned_abs());
                }
            }
            (Some(_), Some("pending")) => findings.count(Of::Seen, &of_stage("parts given back")),
            (Some(_), Some("done")) => findings.count(Of::Seen, &of_stage("parts done")),
            _ => {}
        }
    }
}

/// 2 and 3: every export is the store at its instant, and the chain is the store after every link.
async fn check_exports(installation: &Installation, exports: &[Export], diary: &[Entry], findings: &Findings) {
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

pub async fn number(installation: &Installation, query: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&installation.pool).await.unwrap()
}
