//! The private Postgres: from the machine's programs, on a Unix socket, in a data folder of its own.
//!
//! Commands that are given the same data folder share it. Each holds the write end of a named pipe; a small shell
//! process reads the other end and stops Postgres when the last writer is gone, in whatever way it went: the kernel
//! closes the pipe also after kill -9.
//!
//! A command that joins writes a token into the pipe and waits to see it again: only then has the reader surely seen
//! a live writer, and will not stop under it. A file lock lets one command at a time start or join.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use sqlx::postgres::PgConnectOptions;

use super::programs::{Programs, how_to_install};

const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(10);

/// Runs as long as somebody writes to its standard input; then stops Postgres, and removes what is to be removed.
const SUPERVISOR: &str = r#"
data=$1 remove=$2; shift 2
"$@" & postgres=$!
trap '' HUP INT TERM
while read -r token; do
    echo "$token" >"$data/joined.new" && mv "$data/joined.new" "$data/joined"
done
rm -f "$data/users"
kill -INT "$postgres" 2>/dev/null
wait "$postgres"
rm -rf "$remove"
"#;

/// Why the private Postgres could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL is not installed.
    #[error(
        "PostgreSQL's programs (initdb, postgres; version 14 or newer) are not on this machine, and no DATABASE_URL \
         is set. To install them: {0}"
    )]
    NoPrograms(&'static str),
    /// The data folder belongs to a version that is gone.
    #[error(
        "the data folder {folder} was made by PostgreSQL {major}, whose programs are not on this machine: install \
         that version, or name another --data-dir"
    )]
    OtherVersion {
        /// The data folder.
        folder: PathBuf,
        /// Its version.
        major: u32,
    },
    /// There is no user to run it as.
    #[error("PostgreSQL refuses to run as root, and this machine has neither a user postgres nor nobody")]
    NoUser,
    /// A file could not be made or read.
    #[error("private Postgres: {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// A program failed.
    #[error("private Postgres: {what} failed: {message}")]
    Failed {
        /// Which.
        what: &'static str,
        /// What it said.
        message: String,
    },
}

/// A share in a running private Postgres; it runs until the last share of any process is dropped.
#[derive(Debug)]
pub struct LocalPostgres {
    data_dir: PathBuf,
    socket_dir: PathBuf,
    /// The write end of the pipe: holding it keeps Postgres running.
    share: Option<File>,
    /// The supervisor, if this process started it.
    supervisor: Option<Mutex<Child>>,
}

/// Whom Postgres runs as: it refuses root.
#[derive(Debug, Clone, Copy)]
struct RunAs(Option<(u32, u32)>);

/// How much the data matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// It is there at the next start.
    Data,
    /// It goes with the last share: for tests, which need no durability either.
    Nothing,
}

/// Where the data lies unless `--data-dir` says otherwise: readable for the user Postgres runs as.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/fhir-bulk-export");
    }
    let home = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    home("XDG_DATA_HOME")
        .or_else(|| Some(home("HOME")?.join(".local/share")))
        .unwrap_or_else(std::env::temp_dir)
        .join("fhir-bulk-export")
}

impl LocalPostgres {
    /// Joins the Postgres of this data folder, or starts it; the folder is made when it is missing.
    ///
    /// # Errors
    /// When PostgreSQL's programs are missing or do not start.
    pub fn join(data_dir: &Path) -> Result<Self, Error> {
        Self::join_keeping(data_dir, Keep::Data)
    }

    /// A fresh one in a temporary folder, which goes with its last share; not durable. For tests.
    ///
    /// # Errors
    /// When PostgreSQL's programs are missing or do not start.
    pub fn temporary() -> Result<Self, Error> {
        let data_dir = make_temporary_dir(RunAs::find()?)?;
        Self::join_keeping(&data_dir, Keep::Nothing)
    }

    /// How to connect to it.
    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.socket_dir).username("postgres").database("postgres")
    }

    /// As a URL, for the child processes of tests.
    pub fn url(&self, database: &str) -> String {
        let socket = self.socket_dir.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{socket}/{database}")
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    fn join_keeping(data_dir: &Path, keep: Keep) -> Result<Self, Error> {
        let run_as = RunAs::find()?;
        make_dir(data_dir, run_as)?;
        let data_dir = data_dir.canonicalize().map_err(file("cannot open", data_dir))?;
        let lock_path = data_dir.join("lock");
        let lock = File::create(&lock_path).map_err(file("cannot create", &lock_path))?;
        lock.lock().map_err(file("cannot lock", &lock_path))?;
        if let Some(share) = join_running(&data_dir)? {
            let path = data_dir.join("socket");
            let socket_dir = fs::read_to_string(&path).map_err(file("cannot read", &path))?.into();
            return Ok(Self { data_dir, socket_dir, share: Some(share), supervisor: None });
        }
        start(data_dir, run_as, keep)
        // The lock goes here, when Postgres is up.
    }
}

impl Drop for LocalPostgres {
    /// Gives the share back. Where it was surely the last, waits for the end, so that nothing runs on behind a
    /// command that has returned.
    fn drop(&mut self) {
        self.share = None;
        let Some(supervisor) = self.supervisor.take() else { return };
        let Ok(mut supervisor) = supervisor.into_inner() else { return };
        let last_look = Instant::now() + Duration::from_millis(300);
        let deadline = Instant::now() + PATIENCE;
        while matches!(supervisor.try_wait(), Ok(None)) && Instant::now() < deadline {
            // The pipe stays while other commands use this Postgres: it is theirs now.
            if Instant::now() > last_look && self.data_dir.join("users").exists() {
                return;
            }
            std::thread::sleep(TICK);
        }
    }
}

impl RunAs {
    fn find() -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|user| Some((id_of(user, "-u")?, id_of(user, "-g")?)))
            .map(|ids| Self(Some(ids)))
            .ok_or(Error::NoUser)
    }

    fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        // The caller's folder may be closed to that user; and a group of its own is not reached by Ctrl-C.
        command.current_dir("/").stdin(Stdio::null()).process_group(0);
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
        command
    }

    fn give(self, path: &Path) -> Result<(), Error> {
        match self.0 {
            Some((user, group)) => {
                chown(path, Some(user), Some(group)).map_err(file("cannot change the owner of", path))
            }
            None => Ok(()),
        }
    }
}

fn id_of(user: &str, which: &str) -> Option<u32> {
    let output = Command::new("id").args([which, user]).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

fn file<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File { what, path: path.to_owned(), source }
}

fn make_dir(path: &Path, run_as: RunAs) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(file("cannot create the folder", path))?;
    run_as.give(path)
}

/// A new folder with a short path: the path of a socket may have about 100 bytes at most.
fn make_temporary_dir(run_as: RunAs) -> Result<PathBuf, Error> {
    let name = format!("fbe-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    let path = Path::new("/tmp").join(name);
    fs::DirBuilder::new().mode(0o700).create(&path).map_err(file("cannot create the folder", &path))?;
    run_as.give(&path)?;
    Ok(path)
}

/// Takes a share of the running Postgres; none if it does not run, or is just stopping.
fn join_running(data_dir: &Path) -> Result<Option<File>, Error> {
    let pipe = data_dir.join("users");
    // Without a reader at the other end this fails at once.
    let Ok(share) = rustix::fs::open(&pipe, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) else {
        return wait_until_stopped(data_dir).map(|()| None);
    };
    let mut share = File::from(share);
    let token = uuid::Uuid::new_v4().to_string();
    let joined = || fs::read_to_string(data_dir.join("joined")).is_ok_and(|seen| seen.trim() == token);
    let asked = Instant::now();
    if writeln!(share, "{token}").is_ok() {
        while pipe.exists() && asked.elapsed() < PATIENCE {
            if joined() {
                return Ok(Some(share));
            }
            std::thread::sleep(TICK);
        }
    }
    drop(share);
    wait_until_stopped(data_dir).map(|()| None)
}

fn wait_until_stopped(data_dir: &Path) -> Result<(), Error> {
    let pid_file = data_dir.join("postgres/postmaster.pid");
    let asked = Instant::now();
    while server_runs(&pid_file) {
        if asked.elapsed() > PATIENCE {
            let message = format!("another Postgres runs in {} and does not stop", data_dir.display());
            return Err(Error::Failed { what: "starting", message });
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// Whether the process named in `postmaster.pid` is there; the file alone may be left from a crash.
fn server_runs(pid_file: &Path) -> bool {
    let Ok(text) = fs::read_to_string(pid_file) else { return false };
    let pid = text.lines().next().and_then(|line| line.trim().parse().ok()).and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

fn start(data_dir: PathBuf, run_as: RunAs, keep: Keep) -> Result<LocalPostgres, Error> {
    let cluster = data_dir.join("postgres");
    let programs = programs_for(&data_dir, &cluster)?;
    if !cluster.join("PG_VERSION").exists() {
        initialise(&programs, run_as, &cluster)?;
    }
    let socket_dir = match keep {
        Keep::Data => make_temporary_dir(run_as)?,
        Keep::Nothing => data_dir.clone(),
    };
    let path = data_dir.join("socket");
    fs::write(&path, socket_dir.as_os_str().as_encoded_bytes()).map_err(file("cannot write", &path))?;

    let (listener, share) = make_pipe(&data_dir)?;
    let log_path = data_dir.join("postgres.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.map_err(file("cannot open", &log_path))?;
    let supervisor = run_as
        .command("/bin/sh")
        .args(["-c", SUPERVISOR, "sh"])
        .arg(&data_dir)
        .arg(&socket_dir)
        .arg(programs.path("postgres"))
        .arg("-D")
        .arg(&cluster)
        .args(settings(&socket_dir, keep))
        .stdin(Stdio::from(listener))
        .stdout(log.try_clone().map_err(file("cannot open", &log_path))?)
        .stderr(log)
        .spawn()
        .map_err(file("cannot run", Path::new("/bin/sh")))?;
    let local = LocalPostgres { data_dir, socket_dir, share: Some(share), supervisor: Some(Mutex::new(supervisor)) };
    wait_until_ready(&cluster, &log_path)?;
    Ok(local)
}

fn programs_for(data_dir: &Path, cluster: &Path) -> Result<Programs, Error> {
    let major = fs::read_to_string(cluster.join("PG_VERSION")).ok().and_then(|text| text.trim().parse().ok());
    match (Programs::find(major), major) {
        (Some(programs), _) => Ok(programs),
        (None, Some(major)) if Programs::find(None).is_some() => {
            Err(Error::OtherVersion { folder: data_dir.to_owned(), major })
        }
        (None, _) => Err(Error::NoPrograms(how_to_install())),
    }
}

fn initialise(programs: &Programs, run_as: RunAs, cluster: &Path) -> Result<(), Error> {
    let output = run_as
        .command(programs.path("initdb"))
        .arg("-D")
        .arg(cluster)
        // The socket's folder is closed to everybody else: whoever reaches it is trusted.
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .output()
        .map_err(file("cannot run", &programs.path("initdb")))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Failed { what: "initdb", message })
}

fn settings(socket_dir: &Path, keep: Keep) -> Vec<String> {
    let mut settings = vec![
        "listen_addresses=".to_owned(),
        format!("unix_socket_directories={}", socket_dir.display()),
        "unix_socket_permissions=0700".to_owned(),
        "max_connections=200".to_owned(),
        "max_wal_size=4GB".to_owned(),
        "wal_compression=on".to_owned(),
        "log_timezone=UTC".to_owned(),
    ];
    if keep == Keep::Data {
        // Memory is only taken as it is used. The indexes of a few million resources should fit.
        settings.extend(["shared_buffers=1GB", "checkpoint_timeout=15min"].map(str::to_owned));
    } else {
        let fast = ["shared_buffers=128MB", "fsync=off", "synchronous_commit=off", "full_page_writes=off"];
        settings.extend(fast.map(str::to_owned));
    }
    settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect()
}

/// The named pipe: its read end for the supervisor, its write end for us. Both are open before the supervisor
/// starts, so that there is no moment in which our end would go unnoticed.
fn make_pipe(data_dir: &Path) -> Result<(File, File), Error> {
    let pipe = data_dir.join("users");
    let failed = |error: rustix::io::Errno| file("cannot open", &pipe)(error.into());
    let _ = fs::remove_file(&pipe);
    let made = Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status();
    if !made.map_err(file("cannot run mkfifo for", &pipe))?.success() {
        return Err(Error::Failed { what: "mkfifo", message: pipe.display().to_string() });
    }
    let read =
        rustix::fs::open(&pipe, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let write = rustix::fs::open(&pipe, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    rustix::fs::fcntl_setfl(&read, OFlags::empty()).map_err(failed)?;
    Ok((File::from(read), File::from(write)))
}

/// Postgres writes "ready" into its pid file when it takes connections.
fn wait_until_ready(cluster: &Path, log: &Path) -> Result<(), Error> {
    let asked = Instant::now();
    let pid_file = cluster.join("postmaster.pid");
    loop {
        let ready = fs::read_to_string(&pid_file)
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|status| status.trim() == "ready"));
        if ready {
            return Ok(());
        }
        // The supervisor outlives Postgres until its pipe ends, so the log tells.
        let ended = asked.elapsed() > Duration::from_secs(1) && !pid_file.exists();
        if ended || asked.elapsed() > PATIENCE {
            let text = fs::read_to_string(log).unwrap_or_default();
            let tail: Vec<_> = text.lines().rev().take(5).collect();
            let message = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
            return Err(Error::Failed { what: "starting postgres", message });
        }
        std::thread::sleep(TICK);
    }
}
