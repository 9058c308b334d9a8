//! What an export costs, as ratios to what Postgres can do in the same run: `cargo bench --bench export`.
//!
//! Makes resources from the sample, loads them into a durable private Postgres, and measures the release build from
//! outside, as a client sees it. `docs/performance.md` tells how to read the table. Linux only: costs are read from
//! `/proc`.

#![allow(
    clippy::allow_attributes,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "a program for developers"
)]

mod builds;
mod client;
mod data;
mod filters;
mod levels;
mod measure;
mod postgres;
mod process;
mod report;
mod server;

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;

use measure::Bench;
use report::Report;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Error>;

/// Measures export, download, small exports and reaping, next to the limit of the same Postgres.
#[derive(Parser)]
pub struct Options {
    /// Resources in the store
    #[arg(long, default_value_t = 1_000_000)]
    resources: usize,
    /// Runs of limit, export and reaping, in turns
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Small exports of each kind
    #[arg(long, default_value_t = 50)]
    small_runs: usize,
    /// Measure the growth up to five times as many resources
    #[arg(long)]
    growth: bool,
    /// Measure exports of some patients next to those of all, and nothing else
    #[arg(long)]
    levels: bool,
    /// Patients in the store for that
    #[arg(long, default_value_t = 100_000)]
    patients: usize,
    /// Measure exports with filters next to those without, and nothing else
    #[arg(long)]
    filters: bool,
    /// Measure exports next to those of another build of the server, such as the version before, and nothing else
    #[arg(long, value_name = "BINARY")]
    against: Option<PathBuf>,
    /// Write the measurements to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Folder of the sample
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/sample"), value_name = "DIR")]
    sample: PathBuf,
    /// Where the data and the database lie while it runs
    #[arg(long, default_value_os_t = std::env::temp_dir(), value_name = "DIR")]
    folder: PathBuf,
    /// What cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What came of something, and how many seconds it took.
pub struct Timed<T> {
    pub value: T,
    pub seconds: f64,
}

pub async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<Timed<T>> {
    let started = Instant::now();
    let value = work.await?;
    Ok(Timed { value, seconds: started.elapsed().as_secs_f64() })
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let folder = tempfile::Builder::new().prefix("fbe-bench-").tempdir_in(&options.folder)?;
    // Postgres does not run as root, and has to get into it.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let mut report = Report::default();
    if options.levels {
        report.fact("cores", std::thread::available_parallelism()?);
        levels::measure(&options, folder.path(), &mut report).await?;
    } else if options.filters {
        report.fact("cores", std::thread::available_parallelism()?);
        filters::measure(&options, folder.path(), &mut report).await?;
    } else if let Some(other) = &options.against {
        report.fact("cores", std::thread::available_parallelism()?);
        builds::measure(&options, other, folder.path(), &mut report).await?;
    } else {
        let bench = Bench::prepare(&options, folder.path(), &mut report).await?;
        bench.exports(&mut report).await?;
        bench.downloads(&mut report).await?;
        bench.small_exports(&mut report).await?;
        bench.large_resources(&mut report).await?;
        bench.ways_to_reap(&mut report).await?;
    }
    println!("{}", report.text());
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    Ok(())
}
