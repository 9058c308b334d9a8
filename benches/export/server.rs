//! The real binary, serving one database.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::client::Client;
use crate::postgres::Database;
use crate::process;
use crate::{Result, Timed, timed};

const BINARY: &str = env!("CARGO_BIN_EXE_fhir-bulk-export");

pub struct Server {
    child: Child,
    pub client: Client,
    /// Resident memory before it has done anything.
    pub idle: u64,
}

impl Server {
    /// With the default configuration, on free ports.
    pub async fn start(database: &Database) -> Result<Self> {
        let mut child = command(database, "serve").stdout(Stdio::piped()).spawn()?;
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
    let mut command = command(database, "load");
    command.arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
    timed(async {
        let status = tokio::task::spawn_blocking(move || command.status()).await??;
        if status.success() { Ok(()) } else { Err(format!("load: {status}").into()) }
    })
    .await
}

fn command(database: &Database, verb: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.arg(verb).env("DATABASE_URL", database.url()).stdin(Stdio::null());
    let settings = [("HTTP__LISTEN", "127.0.0.1:0"), ("OPERATOR__LISTEN", "127.0.0.1:0"), ("LOG__FILTER", "warn")];
    for (key, value) in settings {
        command.env(format!("BULK_EXPORT__{key}"), value);
    }
    command
}
