//! The diary: what became of every job and part, written by the database itself, in the transactions that change the
//! ledger. It outlives the jobs, so that nothing can come and go unseen.

use sqlx::PgPool;
use time::OffsetDateTime;

const TRIGGERS: &str = r"
create table chaos_diary (
    entry bigint generated always as identity,
    at timestamptz not null default clock_timestamp(),
    job text not null,
    part int,
    stage text,
    was text,
    becomes text,
    attempt int,
    failures int,
    worker text,
    lease_until timestamptz,
    transaction_time timestamptz,
    expires_at timestamptz,
    reason text,
    key text
);
create index on chaos_diary (job);

create function chaos_job() returns trigger language plpgsql as $$
begin
    insert into chaos_diary (job, was, becomes, attempt, failures, transaction_time, expires_at, reason, key)
    values (coalesce(new.id, old.id), old.state, new.state, coalesce(new.attempt, old.attempt),
        coalesce(new.failures, old.failures), coalesce(new.transaction_time, old.transaction_time),
        coalesce(new.expires_at, old.expires_at), new.failure,
        coalesce(new.idempotency_key, old.idempotency_key));
    return null;
end
$$;
create trigger chaos_comes_and_goes after insert or delete on export_job for each row execute function chaos_job();
create trigger chaos_changes after update on export_job for each row
when ((old.state, old.attempt, old.transaction_time, old.expires_at)
    is distinct from (new.state, new.attempt, new.transaction_time, new.expires_at))
execute function chaos_job();

create function chaos_part() returns trigger language plpgsql as $$
begin
    -- The lease that ran out is what a take-over is measured by.
    insert into chaos_diary (job, part, stage, was, becomes, attempt, failures, worker, lease_until)
    values (new.job_id, new.ordinal, new.stage, old.state, new.state, new.attempt, new.failures, new.worker, old.lease_until);
    return null;
end
$$;
create trigger chaos_changes after update on export_part for each row
when ((old.state, old.attempt) is distinct from (new.state, new.attempt))
execute function chaos_part();
";

/// One change of a job, or of a part of it.
#[derive(Debug, sqlx::FromRow)]
pub struct Entry {
    pub at: OffsetDateTime,
    pub job: String,
    pub part: Option<i32>,
    pub stage: Option<String>,
    pub was: Option<String>,
    pub becomes: Option<String>,
    pub attempt: i32,
    pub failures: i32,
    pub worker: Option<String>,
    pub lease_until: Option<OffsetDateTime>,
    pub transaction_time: Option<OffsetDateTime>,
    pub expires_at: Option<OffsetDateTime>,
    pub reason: Option<String>,
}

/// Begins to keep it.
pub async fn keep(pool: &PgPool) {
    sqlx::raw_sql(TRIGGERS).execute(pool).await.unwrap();
}

/// All of it, in order.
pub async fn read(pool: &PgPool) -> Vec<Entry> {
    sqlx::query_as(
        "select at, job, part, stage, was, becomes, attempt, failures, worker, lease_until, transaction_time, expires_at,
            reason
        from chaos_diary order by entry",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

/// What is told of one job, a line for each change.
pub fn of_job(diary: &[Entry], job: &str) -> String {
    let text = |state: &Option<String>| state.clone().unwrap_or_else(|| "-".to_owned());
    diary
        .iter()
        .filter(|entry| entry.job == job)
        .map(|entry| {
            let what = entry.part.map_or("job".to_owned(), |part| format!("part {part} ({})", text(&entry.stage)));
            let (was, becomes) = (text(&entry.was), text(&entry.becomes));
            let Entry { at, attempt, failures, worker, transaction_time, reason, .. } = entry;
            let extra = [
                worker.as_ref().map(|worker| format!(" worker {worker}")),
                transaction_time.map(|at| format!(" T {at}")),
                reason.as_ref().map(|reason| format!(" because {reason}")),
            ];
            let extra: String = extra.into_iter().flatten().collect();
            format!("    {at} {what}: {was} -> {becomes}, attempt {attempt}, failures {failures}{extra}\n")
        })
        .collect()
}
