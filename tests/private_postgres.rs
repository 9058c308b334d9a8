//! The private Postgres: commands with the same data folder share it, and it goes with the last of them, however
//! that went (DESIGN 7).

#![expect(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    unreachable_pub,
    missing_docs,
    reason = "as above"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENT: &str = r#"{"resourceType":"Patient","id":"p"}"#;

/// A data folder that is removed again, under a path that every user can pass.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let parent = Path::new("/tmp").join(format!("fbe-test-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&parent).unwrap();
        Self(parent.join("a-rather-long-name-so-that-a-socket-in-it-could-not-be-bound".repeat(2)))
    }

    fn runs(&self) -> bool {
        self.0.join("postgres/postmaster.pid").exists()
    }

    fn wait_until_stopped(&self) {
        let started = Instant::now();
        while self.runs() {
            assert!(started.elapsed() < Duration::from_secs(30), "Postgres does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fhir-bulk-export"));
        command.args(arguments).arg("--data-dir").arg(&self.0).env_remove("DATABASE_URL");
        command.env("BULK_EXPORT__HTTP__LISTEN", "127.0.0.1:0").env("BULK_EXPORT__OPERATOR__LISTEN", "127.0.0.1:0");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn serve(&self) -> Child {
        let mut child = self.command(&["serve"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().starts_with("serving "));
        // The rest is read away, so that nothing blocks.
        std::thread::spawn(move || lines.for_each(drop));
        child
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.0.parent().unwrap()).unwrap();
    }
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn commands_share_it_and_the_last_one_stops_it() {
    let folder = Folder::new();
    let input = folder.0.parent().unwrap().join("p.ndjson");
    std::fs::write(&input, PATIENT).unwrap();
    let mut server = folder.serve();
    assert!(said(&folder.run(&["load", input.to_str().unwrap()])).contains("1 new versions"));
    assert!(folder.runs(), "the server goes on using it");
    assert!(said(&folder.run(&["jobs"])).contains("state"));
    // kill -9: nobody is left to stop it but the pipe.
    server.kill().unwrap();
    server.wait().unwrap();
    folder.wait_until_stopped();
    assert!(said(&folder.run(&["load", input.to_str().unwrap()])).contains("1 unchanged"), "the data is still there");
    assert!(!folder.runs(), "a command that has returned leaves nothing running");
}

#[test]
fn a_start_right_after_kill_9_works() {
    let folder = Folder::new();
    for _ in 0..3 {
        let mut server = folder.serve();
        server.kill().unwrap();
        server.wait().unwrap();
    }
    said(&folder.run(&["jobs"]));
    folder.wait_until_stopped();
}

#[test]
fn many_may_start_at_the_same_moment() {
    let folder = Folder::new();
    let children: Vec<Child> = (0..8)
        .map(|_| folder.command(&["migrate"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        said(&child.wait_with_output().unwrap());
    }
    folder.wait_until_stopped();
}

#[test]
fn it_is_not_the_silent_default_in_production() {
    let folder = Folder::new();
    let mut command = folder.command(&["serve"]);
    command.env("BULK_EXPORT__HTTP__LISTEN", "0.0.0.0:0");
    command.env("BULK_EXPORT__AUTH__ALLOW_ANONYMOUS_ON_ANY_ADDRESS", "true");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("DATABASE_URL") && text.contains("--local-database"), "{text}");
    let mut command = folder.command(&["serve"]);
    let output = command.env("BULK_EXPORT__HTTP__LISTEN", "0.0.0.0:0").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("auth.allow_anonymous_on_any_address"), "{text}");
}
