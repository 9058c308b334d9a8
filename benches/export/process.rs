//! What a process costs, read from `/proc` (Linux): CPU time and resident memory.

use std::fs;
use std::io;

use rustix::param::clock_ticks_per_second;

/// CPU seconds of a process and of its children, dead ones that it has waited for included.
pub fn cpu_seconds_of_tree(pid: u32) -> io::Result<f64> {
    // One that ends in the meantime is counted with its parent's: perhaps twice, but never not at all.
    let children: u64 = children(pid)?.into_iter().filter_map(|child| stat(child).ok()).map(|stat| stat.own).sum();
    Ok(seconds(children + stat(pid)?.all()))
}

/// CPU seconds of one process.
pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    Ok(seconds(stat(pid)?.own))
}

/// Resident memory now, in bytes.
pub fn resident(pid: u32) -> io::Result<u64> {
    status(pid, "VmRSS:")
}

/// The highest resident memory since [`forget_peak`], in bytes.
pub fn peak(pid: u32) -> io::Result<u64> {
    status(pid, "VmHWM:")
}

pub fn forget_peak(pid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// Clock ticks, as in proc(5).
struct Stat {
    own: u64,
    waited_for: u64,
}

impl Stat {
    fn all(&self) -> u64 {
        self.own + self.waited_for
    }
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses, which may hold anything.
    let (_, fields) = text.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| -> io::Result<u64> {
        fields.get(index).and_then(|field| field.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    // Fields 14 to 17, counted from 1: utime, stime, cutime, cstime.
    Ok(Stat { own: ticks(11)? + ticks(12)?, waited_for: ticks(13)? + ticks(14)? })
}

fn children(pid: u32) -> io::Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

fn status(pid: u32, field: &str) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kilobytes| kilobytes * 1024)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / clock_ticks_per_second() as f64
}
