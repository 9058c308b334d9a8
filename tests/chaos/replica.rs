//! One replica of the server: a real process, which is killed, frozen and rolled, and started again.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{Mutex, MutexGuard};

use crate::proxy::Proxy;

/// A replica that cannot start while the database is away is started again, as a service manager does.
const RESTART: Duration = Duration::from_millis(200);
const START: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Replica {
    /// Also its user in Postgres, by which its sessions are known.
    pub name: &'static str,
    pub proxy: Proxy,
    environment: Vec<(String, String)>,
    log: PathBuf,
    /// Locked by whoever does something to the process.
    process: Mutex<Process>,
    /// Where it answers, while it runs.
    base: RwLock<Option<String>>,
}

struct Process {
    child: Option<Child>,
}

/// The process of a replica, for one fault: others wait for its end.
pub struct Held<'a> {
    replica: &'a Replica,
    process: MutexGuard<'a, Process>,
}

impl Replica {
    pub fn new(name: &'static str, proxy: Proxy, environment: Vec<(String, String)>, log: PathBuf) -> Self {
        let process = Mutex::new(Process { child: None });
        Self { name, proxy, environment, log, process, base: RwLock::new(None) }
    }

    /// Where it answers; none while it does not run.
    pub fn base(&self) -> Option<String> {
        self.base.read().unwrap().clone()
    }

    pub async fn hold(&self) -> Held<'_> {
        Held { replica: self, process: self.process.lock().await }
    }

    /// Its memory now, in bytes.
    pub async fn memory(&self) -> Option<u64> {
        let id = self.process.lock().await.child.as_ref()?.id()?;
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fhir-bulk-export"));
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        command
            .arg("serve")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C is for us: we end it ourselves.
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

impl Held<'_> {
    /// Starts it, and waits until it serves. One that neither serves nor ends is killed, as by a startup probe; gives
    /// how often that was so.
    pub async fn start(&mut self) -> u64 {
        let (asked, mut hung) = (Instant::now(), 0);
        loop {
            match tokio::time::timeout(START, self.start_once()).await {
                Ok(true) => return hung,
                Ok(false) => {}
                Err(_) => {
                    self.kill().await;
                    hung += 1;
                }
            }
            let log = self.replica.log.display();
            assert!(asked.elapsed() < PATIENCE, "{} does not start, see {log}", self.replica.name);
            tokio::time::sleep(RESTART).await;
        }
    }

    /// Whether it got as far as to serve.
    async fn start_once(&mut self) -> bool {
        let mut lines = self.spawn();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(base) = line.strip_prefix("serving ") {
                *self.replica.base.write().unwrap() = Some(base.to_owned());
            }
            // The last thing it says.
            if line.starts_with("probes ") {
                return true;
            }
        }
        self.ended().await;
        false
    }

    /// Starts it, and does not wait.
    pub fn spawn(&mut self) -> Lines<BufReader<ChildStdout>> {
        let mut child = self.replica.command().spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        self.process.child = Some(child);
        BufReader::new(stdout).lines()
    }

    pub fn signal(&self, signal: Signal) {
        let id = self.process.child.as_ref().and_then(Child::id);
        if let Some(pid) = id.and_then(|id| Pid::from_raw(i32::try_from(id).unwrap())) {
            // Whoever has ended by himself needs no signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// Whether it ended within this time; it is waited for in any case.
    pub async fn ends_within(&mut self, patience: Duration) -> bool {
        let Some(child) = self.process.child.as_mut() else { return true };
        let in_time = tokio::time::timeout(patience, child.wait()).await.is_ok();
        *self.replica.base.write().unwrap() = None;
        if in_time {
            self.process.child = None;
        }
        in_time
    }

    async fn ended(&mut self) {
        *self.replica.base.write().unwrap() = None;
        if let Some(mut child) = self.process.child.take() {
            child.wait().await.unwrap();
        }
    }
}
