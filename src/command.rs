//! The command line.

mod demo;
mod disclosures;
mod govern;
mod jobs;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config};
use crate::database::{self, Database, LocalChoice, default_data_dir, migrate};
use crate::resource::load;
use crate::server::{self, Server, tell};
use crate::telemetry;

/// A FHIR store in Postgres that hands health data out in bulk.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Command {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Args)]
struct Common {
    /// Configuration file (TOML); see config/default.toml for every key
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder of the private Postgres, which is used when no DATABASE_URL is set
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Use a private Postgres even though http.listen is not a loopback address
    #[arg(long, global = true)]
    local_database: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run the server: the FHIR API, the workers and the reaper; this is what is done without a command
    Serve {
        /// Do not touch the database schema; `migrate` is run apart
        #[arg(long)]
        no_migrate: bool,
    },
    /// Load resources: NDJSON or Bundles, plain or gzip; files, folders, or - for standard input
    Load {
        /// What to load
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Serve sample data on a private Postgres, and print the calls to try
    Demo {
        /// Folder of the sample data
        #[arg(long, default_value = "sample", value_name = "DIR")]
        sample: PathBuf,
    },
    /// List exports; show or cancel one
    Jobs {
        #[command(subcommand)]
        action: Option<jobs::Action>,
    },
    /// Show or change, while servers run, how much of the database exports may take
    Govern(govern::Limits),
    /// Tell who received whose data
    Disclosures(disclosures::Question),
    /// Bring the database schema up to date
    Migrate,
    /// Ask the server of this configuration whether it is ready, for health checks of containers
    Health,
}

/// What ended a command.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("log.filter: {0}")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    #[error(transparent)]
    Database(#[from] database::Error),
    #[error(transparent)]
    Server(#[from] server::Error),
    #[error(transparent)]
    Load(#[from] load::Error),
    #[error("database: {0}")]
    Sqlx(#[from] sqlx::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Other(String),
}

impl Command {
    /// Runs it. What goes wrong is said on standard error.
    pub async fn run(self) -> ExitCode {
        match self.try_run().await {
            Ok(code) => code,
            Err(failure) => {
                eprintln!("fhir-bulk-export: {failure}");
                ExitCode::FAILURE
            }
        }
    }

    async fn try_run(self) -> Result<ExitCode, Failure> {
        let config = Config::load(self.common.config.as_deref())?;
        telemetry::start(&config.log)?;
        for file in config.exposed_files() {
            tracing::warn!(?file, "every user of this machine can read a file with a secret");
        }
        let local = LocalChoice {
            anywhere: self.common.local_database,
            data_dir: self.common.data_dir.unwrap_or_else(default_data_dir),
        };
        match self.what.unwrap_or(What::Serve { no_migrate: false }) {
            What::Serve { no_migrate } => serve(config, &local, !no_migrate).await,
            What::Load { paths } => load(&config, &local, paths).await,
            What::Demo { sample } => demo::run(config, &local, sample).await,
            What::Jobs { action } => jobs::run(&Database::open(&config, &local)?, &config, action).await,
            What::Govern(limits) => govern::run(&Database::open(&config, &local)?, limits).await,
            What::Disclosures(question) => disclosures::run(&Database::open(&config, &local)?, question).await,
            What::Migrate => {
                migrate(&Database::open(&config, &local)?.work_pool(1)).await?;
                tell("The database schema is up to date.");
                Ok(ExitCode::SUCCESS)
            }
            What::Health => health(&config).await,
        }
    }
}

async fn serve(config: Config, local: &LocalChoice, migrates: bool) -> Result<ExitCode, Failure> {
    let database = Database::open(&config, local)?;
    if migrates {
        migrate(&database.work_pool(1)).await?;
    }
    let server = Server::bind(config, database).await?;
    tell(&format!("serving {}", server.base));
    tell(&format!("listening on {}", server.address()?));
    tell(&format!("probes http://{}/readyz", server.operator_address()?));
    server.run().await?;
    Ok(ExitCode::SUCCESS)
}

async fn load(config: &Config, local: &LocalChoice, paths: Vec<PathBuf>) -> Result<ExitCode, Failure> {
    let database = Database::open(config, local)?;
    migrate(&database.work_pool(1)).await?;
    let started = std::time::Instant::now();
    let loaded = load::load(&database.pool(), paths, load::Rules::from(&config.store)).await?;
    let load::Loaded { written, refused } = loaded;
    tell(&format!(
        "{} new versions, {} unchanged, {} deleted, {refused} refused, in {:.1} s",
        written.versions,
        written.unchanged,
        written.deleted,
        started.elapsed().as_secs_f64()
    ));
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

async fn health(config: &Config) -> Result<ExitCode, Failure> {
    let mut address = config.operator.listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let answer = reqwest::Client::builder()
        .timeout(std::time::Duration::from_secs(5))
        .build()
        .map_err(|error| Failure::Other(error.to_string()))?
        .get(format!("http://{address}/readyz"))
        .send()
        .await
        .map_err(|error| Failure::Other(format!("the server does not answer: {error}")))?;
    Ok(if answer.status().is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
