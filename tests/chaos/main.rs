//! The server under faults: real processes on a Postgres of their own, which are killed, frozen, cut off and rolled
//! while clients export and writers write. The promise: nothing lost, no job stuck, no line missing, whatever dies.
//!
//! ```text
//! cargo test --test chaos                      a minute
//! cargo test --test chaos -- --long            some minutes, with more than 500 kills
//! cargo test --test chaos -- --seed 42         the faults of seed 42 again
//! cargo test --test chaos -- --only random     one scenario
//! ```
//!
//! Every run prints its seed. The faults, the writers and the clients follow from it; what the processes are at when a
//! fault hits them does not, so a seed that failed once may have to be tried a few times. Logs are kept,
//! in `target/tmp`, of a run that failed.
//!
//! What is checked is in [`checks`] and [`leftovers`]; the reference it is checked against is in [`history`].

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    unreachable_pub,
    missing_docs,
    reason = "as above"
)]

mod arguments;
mod checks;
mod client;
mod diary;
mod disk;
mod download;
mod engineers;
mod export;
mod fault;
mod filter;
mod findings;
mod gate;
mod history;
mod installation;
mod leftovers;
mod postgres;
mod proxy;
mod random;
mod replica;
mod scenario;
mod skew;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use arguments::Arguments;
use findings::Findings;
use postgres::Postgres;
use scenario::{Run, SCENARIOS};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.list {
        if !arguments.is_filtered_out {
            println!("{}: test", arguments::NAME);
        }
        return ExitCode::SUCCESS;
    }
    if arguments.is_filtered_out {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let code = runtime.block_on(async {
        tokio::select! {
            code = run_all(&arguments) => code,
            // What was started ends as it goes out of scope.
            () = interrupted() => ExitCode::FAILURE,
        }
    });
    // Postgres may be in the middle of a restart.
    runtime.shutdown_timeout(PATIENCE);
    code
}

async fn interrupted() {
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}

async fn run_all(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
    let run = Run { seed, long: arguments.long };
    println!("chaos: seed {seed}");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let postgres = Postgres::start(&folder).await;
    let mut violations = 0;
    let is_wanted = |name: &str, only_long: bool| match &arguments.only {
        Some(only) => only == name,
        None => run.long || !only_long,
    };
    for (name, what, only_long) in SCENARIOS {
        if is_wanted(name, only_long) {
            println!("{name}: {what}");
            let (begun, findings) = (Instant::now(), Arc::new(Findings::default()));
            scenario::run(name, &postgres, run, &findings).await;
            findings.print();
            println!("    {:>8.2} s  in all", begun.elapsed().as_secs_f64());
            violations += findings.violations();
        }
    }
    println!("chaos: {violations} violations, {:.0} s, seed {seed}", begun.elapsed().as_secs_f64());
    if violations == 0 {
        let _ = std::fs::remove_dir_all(&folder);
        return ExitCode::SUCCESS;
    }
    println!("again with: cargo test --test chaos -- --seed {seed}; logs are in {}", folder.display());
    ExitCode::FAILURE
}
