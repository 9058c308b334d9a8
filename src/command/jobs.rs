//! `jobs`: what the operator sees of the exports, and how to end one.

use std::process::ExitCode;

use clap::Subcommand;
use uuid::Uuid;

use super::Failure;
use crate::binary;
use crate::config::Config;
use crate::database::Database;
use crate::export::job::{self, Job, State};
use crate::export::part;
use crate::fhir::instant;
use crate::server::tell;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// All exports that have not been removed yet, the newest first
    List,
    /// All that is known of one
    Show {
        /// The export
        id: Uuid,
    },
    /// End one that is not finished
    Cancel {
        /// The export
        id: Uuid,
    },
}

pub(super) async fn run(database: &Database, config: &Config, action: Option<Action>) -> Result<ExitCode, Failure> {
    let pool = database.pool();
    match action.unwrap_or(Action::List) {
        Action::List => {
            tell(&format!("{:36}  {:9}  {:>4}  {:24}  {:24}", "job", "state", "done", "accepted", "expires"));
            for job in job::list(&pool).await? {
                let progress = part::progress(&pool, job.id).await?;
                let done = if job.state == State::Completed { 100 } else { progress.percent() };
                let accepted = instant::format(job.accepted_at);
                let expires = job.expires_at.map(instant::format).unwrap_or_default();
                tell(&format!("{}  {:9}  {done:>3}%  {accepted:24}  {expires:24}", job.id, job.state.as_str()));
            }
        }
        Action::Show { id } => match job::find(&pool, id).await? {
            Some(job) => show(&pool, &job).await?,
            None => return Err(unknown(id)),
        },
        Action::Cancel { id } => {
            if job::cancel(&pool, id, config.retention.files, None).await? {
                tell(&format!("{id} is cancelled."));
            } else if job::find(&pool, id).await?.is_some() {
                return Err(Failure::Other(format!("{id} is finished already")));
            } else {
                return Err(unknown(id));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn unknown(id: Uuid) -> Failure {
    Failure::Other(format!("there is no export {id}; it may have expired"))
}

/// Nothing here tells who the owner is: logs and terminals are seen by many.
async fn show(pool: &sqlx::PgPool, job: &Job) -> Result<(), Failure> {
    let line = |name: &str, value: &str| tell(&format!("{name:18}{value}"));
    let time = |at: Option<time::OffsetDateTime>| at.map(instant::format).unwrap_or_default();
    line("job", &job.id.to_string());
    line("state", job.state.as_str());
    if let Some(failure) = &job.failure {
        line("failure", failure);
    }
    line("transaction time", &time(job.transaction_time));
    line("since", &time(job.request.since));
    line("until", &time(job.request.until));
    let types: Vec<_> = job.request.types.iter().map(|t| t.as_str()).collect();
    line("types", &types.join(", "));
    line("accepted", &instant::format(job.accepted_at));
    line("started", &time(job.started_at));
    line("finished", &time(job.finished_at));
    line("expires", &time(job.expires_at));
    let progress = part::progress(pool, job.id).await?;
    line("resources", &format!("{} of about {}", progress.examined, progress.expected));
    for (state, count) in part::counts(pool, job.id).await? {
        line(&format!("parts {state}"), &count.to_string());
    }
    for part::Fault { part, failures, fault, since } in part::faults(pool, job.id).await? {
        let what = part.map_or("planning".to_owned(), |part| format!("part {part}"));
        line("fault", &format!("{what}: {fault}, since {}, {failures} attempts counted", instant::format(since)));
    }
    for file in binary::list(pool, job.id).await? {
        line("file", &format!("{} {} {} {}", file.id, file.kind, file.resource_type, file.resources));
    }
    Ok(())
}
