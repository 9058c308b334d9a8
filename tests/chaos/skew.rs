//! A clock that is off: a small library that is loaded before all others and answers for the system's.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Hours by which it is ahead.
pub const HOURS: u64 = 5;

const SHIM: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += SECONDS;
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
";

/// Compiles it; says why where it cannot.
pub fn compile(folder: &Path) -> Result<PathBuf, String> {
    let (source, library) = (folder.join("skew.c"), folder.join("skew.so"));
    std::fs::write(&source, SHIM).map_err(|error| error.to_string())?;
    let seconds = format!("-DSECONDS={}", HOURS * 3600);
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", &seconds, "-o"]).arg(&library).arg(&source);
    let output = compile.output().map_err(|error| format!("cc: {error}"))?;
    if output.status.success() { Ok(library) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
