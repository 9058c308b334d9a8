//! `erase`: how an operator has all that is stored of a patient removed.

use std::process::ExitCode;

use clap::Args;

use super::Failure;
use crate::config::Config;
use crate::database::{Database, migrate};
use crate::erasure::{Erased, Permitted, erase};
use crate::server::tell;

#[derive(Debug, Args)]
pub(super) struct Whom {
    /// The patient, as Patient/ID
    #[arg(value_name = "Patient/ID", value_parser = patient)]
    patient: String,
    /// Cancel exports that are not finished and may hold something of the patient
    #[arg(long)]
    cancel: bool,
    /// Erase also, as a whole, what tells of other patients, too, such as a Group with other members
    #[arg(long)]
    shared: bool,
}

/// The id in a reference.
fn patient(text: &str) -> Result<String, String> {
    let is_id = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
    };
    let id = text.strip_prefix("Patient/").filter(is_id);
    id.map(str::to_owned).ok_or_else(|| "expected Patient/ and the id of a Patient".to_owned())
}

pub(super) async fn run(database: &Database, config: &Config, whom: Whom) -> Result<ExitCode, Failure> {
    let Whom { patient, cancel, shared } = whom;
    // One for the transaction, one for what goes on beside it; neither has a limit for statements.
    let pool = database.work_pool(2);
    migrate(&pool).await?;
    let erased = erase(&pool, &patient, Permitted { cancel, shared }, config.retention.files).await;
    let Erased { versions, exports, is_past } = erased.map_err(|error| Failure::Other(error.to_string()))?;
    tell(&format!("{versions} versions and tombstones and {exports} exports with their files are erased."));
    if !is_past {
        tell(
            "Transactions that are open since before keep Postgres from taking it out of the tables; it does so when they have \
             ended and vacuum comes by.",
        );
    }
    tell(&format!("Who received data of the patient before: fhir-bulk-export disclosures --patient {patient}"));
    Ok(ExitCode::SUCCESS)
}
