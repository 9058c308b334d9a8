//! The real binary, serving a test's database on free ports of 127.0.0.1.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use super::{Caller, Database};

pub struct Server {
    child: Child,
    /// Where the FHIR API is, as clients are told.
    pub base: String,
    /// Where it listens.
    api: String,
    /// Where the probes are.
    pub probes: String,
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

impl Server {
    /// A server with the default configuration.
    pub async fn start(database: &Database) -> Self {
        Self::start_with::<&str>(database, &[]).await
    }

    /// A server with these settings, `("export.workers", "4")`.
    pub async fn start_with<V: AsRef<str>>(database: &Database, settings: &[(&str, V)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fhir-bulk-export"));
        command.arg("serve").env("DATABASE_URL", database.url());
        let defaults = [
            ("http.listen", "127.0.0.1:0"),
            ("operator.listen", "127.0.0.1:0"),
            ("log.filter", "fhir_bulk_export=debug,info"),
        ];
        let settings = settings.iter().map(|(key, value)| (*key, value.as_ref()));
        for (key, value) in defaults.into_iter().chain(settings) {
            let variable = format!("BULK_EXPORT__{}", key.to_ascii_uppercase().replace('.', "__"));
            command.env(variable, value);
        }
        tokio::task::spawn_blocking(move || Self::spawn(command)).await.unwrap()
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut stderr = child.stderr.take().unwrap();
        let into = Arc::clone(&log);
        let reading = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stderr.read(&mut buffer) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        let mut server =
            Self { child, base: String::new(), api: String::new(), probes: String::new(), log, reading: Some(reading) };
        let stdout = server.child.stdout.take().unwrap();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(base) = line.strip_prefix("serving ") {
                server.base = base.to_owned();
            } else if let Some(address) = line.strip_prefix("listening on ") {
                server.api = format!("http://{address}/fhir");
            } else if let Some(probes) = line.strip_prefix("probes ") {
                server.probes = probes.trim_end_matches("/readyz").to_owned();
                return server;
            }
        }
        panic!("the server did not start:\n{}", server.log());
    }

    /// The FHIR base at the address it listens on, which a proxy would use.
    pub fn address(&self) -> String {
        self.api.clone()
    }

    /// Where tokens are asked for, at the address it listens on …
    pub fn token_url(&self) -> String {
        token_url_of(&self.api)
    }

    /// … and as clients are told.
    pub fn public_token_url(&self) -> String {
        token_url_of(&self.base)
    }

    /// A caller without a token.
    pub fn anybody(&self) -> Caller {
        Caller::new(&self.base, None)
    }

    /// A caller with this token.
    pub fn with_token(&self, token: &str) -> Caller {
        Caller::new(&self.base, Some(token))
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The most memory it has had, in bytes; none where the system does not tell.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
        Some(peak.parse::<u64>().unwrap() * 1024)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

fn token_url_of(base: &str) -> String {
    format!("{}/auth/token", base.strip_suffix("/fhir").unwrap())
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}", self.log());
        }
    }
}
