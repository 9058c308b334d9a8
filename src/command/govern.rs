//! `govern`: the limits on exports of all running servers, shown and changed.

use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;

use super::Failure;
use crate::config::ByteSize;
use crate::database::Database;
use crate::export::governor::{self, Settings};
use crate::server::tell;

#[derive(Debug, Args)]
pub(super) struct Limits {
    /// NDJSON bytes a second that the workers of each process read together (20MiB); unlimited; default: export.pace
    #[arg(long, value_name = "BYTES")]
    pace: Option<Set<Pace>>,
    /// How many of its workers each process uses, with two connections each; 0: none; default: export.workers
    #[arg(long, value_name = "NUMBER")]
    workers: Option<Set<u16>>,
}

/// A limit, or that there is none of the operator's.
#[derive(Debug, Clone, Copy)]
enum Set<T> {
    Default,
    To(T),
}

impl<T> Set<T> {
    fn value(self) -> Option<T> {
        match self {
            Self::Default => None,
            Self::To(value) => Some(value),
        }
    }
}

impl<T: FromStr<Err: ToString>> FromStr for Set<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::Default),
            text => text.parse().map(Self::To).map_err(|error: T::Err| format!("{}, or default", error.to_string())),
        }
    }
}

/// Bytes a second; 0: unlimited.
#[derive(Debug, Clone, Copy)]
struct Pace(i64);

impl FromStr for Pace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "unlimited" {
            return Ok(Self(0));
        }
        let bytes = text.parse().map(ByteSize::bytes).ok().filter(|bytes| *bytes > 0);
        bytes.and_then(|bytes| i64::try_from(bytes).ok()).map(Self).ok_or("a size such as 20MiB, unlimited")
    }
}

/// Changes what is given, and shows what holds then.
pub(super) async fn run(database: &Database, limits: Limits) -> Result<ExitCode, Failure> {
    let pool = database.pool();
    let mut settings = governor::settings(&pool).await?;
    if let Some(pace) = limits.pace {
        settings.pace = pace.value().map(|Pace(bytes)| bytes);
    }
    if let Some(workers) = limits.workers {
        settings.workers = workers.value().map(i32::from);
    }
    if limits.pace.is_some() || limits.workers.is_some() {
        governor::set(&mut *pool.acquire().await?, settings).await?;
    }
    show(settings);
    Ok(ExitCode::SUCCESS)
}

fn show(Settings { pace, workers }: Settings) {
    let pace = match pace {
        None => "as configured (export.pace)".to_owned(),
        Some(0) => "unlimited".to_owned(),
        Some(bytes) => format!("{} a second for each process", ByteSize::from(bytes.unsigned_abs())),
    };
    let workers = match workers {
        None => "as configured (export.workers)".to_owned(),
        Some(workers) => format!("{workers} of each process at most"),
    };
    tell(&format!("pace     {pace}"));
    tell(&format!("workers  {workers}"));
}
