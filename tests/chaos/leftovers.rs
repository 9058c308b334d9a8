//! What a run leaves behind (5): no files of dead jobs, no connections, no locks, no memory.

use std::time::{Duration, Instant};

use crate::checks::number;
use crate::findings::{Findings, Of};
use crate::installation::Installation;

/// For what goes by itself once nobody needs it: the reaper's sweep, the hold of a download.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a replica may keep of what it had, over what a fresh one has.
const MEMORY: u64 = 64 << 20;
/// Connections of one replica by its settings: 20 of the API, three for each of three workers, and four of the process.
const CONNECTIONS: usize = 20 + 3 * 3 + 4;

/// Nothing is left of exports that ended without files, and nothing at all once all have expired.
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

/// Connections and locks.
pub async fn check_connections(installation: &Installation, findings: &Findings) {
    let ours = "datname = current_database() and pid <> pg_backend_pid() and application_name <> 'chaos'";
    let busy = format!("select count(*) from pg_stat_activity where {ours} and state <> 'idle'");
    comes_to_nothing(installation, findings, "sessions in the middle of something", &busy).await;
    let locks = "select count(*) from pg_locks where locktype = 'advisory'
        and database = (select oid from pg_database where datname = current_database())";
    comes_to_nothing(installation, findings, "advisory locks", locks).await;
    let sessions = number(installation, &format!("select count(*) from pg_stat_activity where {ours}")).await;
    findings.add(Of::Seen, "sessions of the replicas at the end", sessions.unsigned_abs());
    for replica in &installation.replicas {
        let connections = replica.proxy.connections();
        if connections > CONNECTIONS {
            findings.violation(format!("{} has {connections} connections to Postgres", replica.name));
        }
    }
}

/// `idle` is what a fresh replica has.
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
