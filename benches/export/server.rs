//! The real binary, serving one database.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::client::Client;
use crate::postgres::{Database, Postgres};
use crate::process;
use crate::{Result, Timed, timed};

pub struct Server {
    child: Child,
    pub client: Client,
    /// Resident memory before it has done anything.
    pub idle: u64,
}

impl Server {
    /// The build that is measured.
    pub fn binary() -> &'static Path {
        Path::new(env!("CARGO_BIN_EXE_fhir-bulk-export"))
    }

    /// With the default configuration, on free ports.
    pub async fn start(database: &Database) -> Result<Self> {
        Self::start_build(Self::binary(), database).await
    }

    /// The same with any build of the server.
    pub async fn start_build(binary: &Path, database: &Database) -> Result<Self> {
        let mut child = command(binary, database, "serve").stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let base = BufReader::new(stdout)
            .lines()
            .map_while(std::result::Result::ok)
            .find_map(|line| line.strip_prefix("serving ").map(str::to_owned))
            .ok_or("the server did not start")?;
        // Until it has looked for work once.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let idle = process::resident(child.id())?;
        Ok(Self { child, client: Client::new(base)?, idle })
    }

    pub fn cpu_seconds(&self) -> Result<f64> {
        Ok(process::cpu_seconds(self.child.id())?)
    }

    pub fn forget_peak(&self) -> Result<()> {
        Ok(process::forget_peak(self.child.id())?)
    }

    /// The highest resident memory since [`Server::forget_peak`], above what it takes idle.
    pub fn peak_above_idle(&self) -> Result<f64> {
        Ok(process::peak(self.child.id())?.saturating_sub(self.idle) as f64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Loads a folder.
pub async fn load(database: &Database, folder: &Path) -> Result<Timed<()>> {
    let mut command = command(Server::binary(), database, "load");
    command.arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
    timed(async {
        let status = tokio::task::spawn_blocking(move || command.status()).await??;
        if status.success() { Ok(()) } else { Err(format!("load: {status}").into()) }
    })
    .await
}

/// A database of its own for what is in a folder, which is removed; how long the load took.
pub async fn store(postgres: &Postgres, name: &str, folder: &Path) -> Result<Timed<Database>> {
    let database = postgres.create(name).await?;
    let loaded = load(&database, folder).await?;
    std::fs::remove_dir_all(folder)?;
    database.settle().await?;
    Ok(Timed { value: database, seconds: loaded.seconds })
}

fn command(binary: &Path, database: &Database, verb: &str) -> Command {
    let mut command = Command::new(binary);
    command.arg(verb).env("DATABASE_URL", database.url()).stdin(Stdio::null());
    let settings = [("HTTP__LISTEN", "127.0.0.1:0"), ("OPERATOR__LISTEN", "127.0.0.1:0"), ("LOG__FILTER", "warn")];
    for (key, value) in settings {
        command.env(format!("BULK_EXPORT__{key}"), value);
    }
    command
}
