//! `demo`: one command that shows a whole export, on a private Postgres with sample data.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use crate::config::{AuthMode, Config};
use crate::database::{Database, LocalChoice, migrate};
use crate::resource::load;
use crate::secret::Secret;
use crate::server::{Server, tell};

pub(super) async fn run(mut config: Config, local: &LocalChoice, sample: PathBuf) -> Result<ExitCode, Failure> {
    if !sample.is_dir() {
        let path = sample.display();
        return Err(Failure::Other(format!("there is no sample data in {path}; --sample DIR names its folder")));
    }
    // The demo has its own database and no users, whatever the environment says.
    config.database.url = Secret::default();
    config.auth.mode = AuthMode::None;
    tell(&format!("Starting a private Postgres in {} …", local.data_dir.display()));
    let database = Database::open(&config, local)?;
    tell("Creating the database schema …");
    migrate(&database.work_pool(1)).await?;
    tell(&format!("Loading the sample data of {} …", sample.display()));
    let loaded = load::load(&database.pool(), vec![sample.clone()], load::Rules::from(&config.store)).await?;
    let load::Loaded { written, refused } = loaded;
    tell(&format!(
        "  {} resources are new, {} were there, {refused} were refused",
        written.versions, written.unchanged
    ));
    let server = Server::bind(config, database).await?;
    tell(&calls(&server.base, &sample, &local.data_dir));
    tell(&format!("serving {}", server.base));
    server.run().await?;
    tell("The demo has ended. Its data stays in the folder above; remove that to start afresh.");
    Ok(ExitCode::SUCCESS)
}

/// What to try next.
fn calls(base: &str, sample: &std::path::Path, data_dir: &std::path::Path) -> String {
    let (script, data_dir) = (sample.join("export.sh"), data_dir.display());
    format!(
        "
One whole export, in another terminal:

  # kick off: the answer is 202, and Content-Location is where to poll
  curl -si '{base}/$export' -H 'Accept: application/fhir+json' -H 'Prefer: respond-async'

  # poll: 202 while it runs, then 200 and the manifest
  curl -si '<Content-Location>'

  # download a file of the manifest, compressed on the way
  curl -s --compressed '<url>' | head -n 1

All of it, with counts and hashes checked:

  {script} '{base}'

What the operator sees:

  fhir-bulk-export --data-dir {data_dir} jobs

Ctrl-C ends the demo.
",
        script = script.display(),
    )
}
