//! The Postgres of a run: our own child process, which is killed and started again on the same data.
//!
//! Nothing is flushed to the disk (`fsync=off`): a process that is killed loses nothing that it gave to the operating
//! system. All else is as in earnest, so that a commit that was acknowledged survives `kill -9`.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::disk::SmallDisk;

const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(10);

pub struct Postgres {
    folder: PathBuf,
    programs: PathBuf,
    run_as: Option<(u32, u32)>,
    postmaster: Mutex<Option<Child>>,
    /// Where all logs of the run go.
    pub logs: PathBuf,
    /// A disk that can be filled, where that is possible. It goes after Postgres has ended.
    pub disk: Result<SmallDisk, String>,
}

impl Postgres {
    pub async fn start(logs: &Path) -> Arc<Self> {
        let logs = logs.to_owned();
        tokio::task::spawn_blocking(move || Self::make(logs)).await.unwrap()
    }

    fn make(logs: PathBuf) -> Arc<Self> {
        let run_as = rustix::process::geteuid().is_root().then(unprivileged);
        let name = format!("fbe-chaos-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        // A socket's path may have about 100 bytes at most.
        let folder = Path::new("/tmp").join(name);
        fs::DirBuilder::new().mode(0o755).create(&folder).unwrap();
        let mut postgres = Self {
            folder,
            programs: programs(),
            run_as,
            postmaster: Mutex::new(None),
            logs,
            disk: Err("there is none yet".to_owned()),
        };
        postgres.give(&postgres.folder);
        postgres.initialise();
        postgres.disk = SmallDisk::mount(&postgres.folder.join("disk"), run_as);
        *postgres.postmaster.lock().unwrap() = Some(postgres.spawn());
        let postgres = Arc::new(postgres);
        postgres.wait_until_ready();
        postgres
    }

    pub fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.folder)
            .username("postgres")
            .database(database)
            .application_name("chaos")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// A database of this name, past all proxies.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.folder.display().to_string().replace('/', "%2F"))
    }

    /// An empty database, and users that may do everything in it.
    pub async fn create(&self, database: &str, users: &[&str]) -> PgPool {
        let mut admin = PgConnection::connect_with(&self.options("postgres")).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("create database {database}"))).execute(&mut admin).await.unwrap();
        // Kept for the next database.
        let role = |role: &str| {
            format!("do $$ begin create role {role} superuser login; exception when duplicate_object then null; end $$")
        };
        for user in users {
            sqlx::raw_sql(AssertSqlSafe(role(user))).execute(&mut admin).await.unwrap();
        }
        PgPoolOptions::new()
            .max_connections(12)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(self.options(database))
    }

    /// Kills the postmaster, waits until all that belonged to it is gone, and after `down` starts it again.
    pub async fn crash(self: &Arc<Self>, down: Duration) {
        let postgres = Arc::clone(self);
        let crash = move || {
            let mut postmaster = postgres.postmaster.lock().unwrap();
            let mut killed = postmaster.take().unwrap();
            let backends = children(killed.id());
            killed.kill().unwrap();
            killed.wait().unwrap();
            wait_until_gone(&backends);
            std::thread::sleep(down);
            *postmaster = Some(postgres.spawn());
            drop(postmaster);
            postgres.wait_until_ready();
        };
        tokio::task::spawn_blocking(crash).await.unwrap();
    }

    fn log(&self) -> PathBuf {
        self.logs.join("postgres.log")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        // A group of its own is not reached by Ctrl-C: we end it ourselves.
        command.current_dir("/").stdin(Stdio::null()).process_group(0);
        if let Some((user, group)) = self.run_as {
            command.uid(user).gid(group);
        }
        command
    }

    fn give(&self, path: &Path) {
        if let Some((user, group)) = self.run_as {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }

    fn initialise(&self) {
        let output = self
            .command("initdb")
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .output()
            .unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn spawn(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let socket = format!("unix_socket_directories={}", self.folder.display());
        let settings = [
            socket.as_str(),
            "listen_addresses=",
            "max_connections=400",
            "shared_buffers=128MB",
            "max_wal_size=2GB",
            "fsync=off",
            // A run makes as much garbage in a minute as others do in hours.
            "autovacuum_naptime=5s",
            "log_timezone=UTC",
            "log_line_prefix=%m [%p] %a ",
        ];
        self.command("postgres")
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Starts it again where it ended by itself: on a full disk, or while something of the killed one was left.
    fn wait_until_ready(&self) {
        let asked = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = self.options("postgres");
        loop {
            let greeted = async { PgConnection::connect_with(&options).await?.close().await };
            let in_time = async { tokio::time::timeout(Duration::from_secs(5), greeted).await };
            if matches!(runtime.block_on(in_time), Ok(Ok(()))) {
                return;
            }
            assert!(asked.elapsed() < PATIENCE, "Postgres does not start, see {}", self.log().display());
            let mut postmaster = self.postmaster.lock().unwrap();
            if postmaster.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some()) {
                *postmaster = Some(self.spawn());
            }
            drop(postmaster);
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let postmaster = self.postmaster.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(mut postmaster) = postmaster.take() {
            let backends = children(postmaster.id());
            // Immediately: nobody wants the data any more.
            let _ = kill_process(pid(postmaster.id()), Signal::QUIT);
            let asked = Instant::now();
            while matches!(postmaster.try_wait(), Ok(None)) && asked.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(TICK);
            }
            let _ = postmaster.kill();
            let _ = postmaster.wait();
            wait_until_gone(&backends);
        }
        if let Ok(disk) = &mut self.disk {
            disk.unmount();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}

fn children(parent: u32) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)).collect()
}

/// They notice by themselves that their postmaster is gone; one that is deep in a query is ended.
fn wait_until_gone(backends: &[Pid]) {
    let asked = Instant::now();
    let is_there = |backend: &&Pid| test_kill_process(**backend).is_ok() && is_postgres(**backend);
    while let Some(left) = backends.iter().find(is_there) {
        if asked.elapsed() > Duration::from_secs(2) {
            let _ = kill_process(*left, Signal::KILL);
        }
        std::thread::sleep(TICK);
    }
}

/// Another process may have got the number by now; one that nobody has waited for is as good as gone.
fn is_postgres(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
    stat.contains("(postgres)") && !stat.contains(") Z ")
}

/// Whom Postgres runs as: it refuses root.
fn unprivileged() -> (u32, u32) {
    let id = |user: &str, which: &str| -> Option<u32> {
        let output = Command::new("id").args([which, user]).output().ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    let find = |user| Some((id(user, "-u")?, id(user, "-g")?));
    find("postgres").or_else(|| find("nobody")).expect("a user postgres or nobody")
}

/// The newest folder with Postgres' programs.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let newest_first = versions.into_iter().rev().map(|(_, folder)| folder);
    std::env::split_paths(&path)
        .chain(newest_first)
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .expect("PostgreSQL's programs (initdb, postgres)")
}
