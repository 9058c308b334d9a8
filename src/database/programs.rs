//! Finds PostgreSQL's programs on this machine, and says how to install them where they are missing.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Older ones lack what the schema uses.
const OLDEST: u32 = 14;

/// A folder with `postgres` and `initdb` of one version.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    folder: PathBuf,
    pub(super) major: u32,
}

impl Programs {
    /// The newest ones there are, or those of version `major`, which a data folder was made with.
    pub(super) fn find(major: Option<u32>) -> Option<Self> {
        folders()
            .into_iter()
            .filter_map(Self::at)
            .filter(|found| found.major >= OLDEST && major.is_none_or(|major| found.major == major))
            .max_by_key(|found| found.major)
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    fn at(folder: PathBuf) -> Option<Self> {
        if !folder.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // "postgres (PostgreSQL) 15.18 (Debian …)"
        let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { folder, major: digits.parse().ok()? })
    }
}

/// Where distributions put them; most keep them off the PATH.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    for (parent, prefix, bin) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/lib64/pgsql", "", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        folders.extend(
            entries
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
                .map(|entry| entry.path().join(bin)),
        );
    }
    folders
}

/// The line that installs the programs here.
pub(super) fn how_to_install() -> &'static str {
    if cfg!(target_os = "macos") {
        "brew install postgresql@17"
    } else if Path::new("/etc/debian_version").exists() {
        "sudo apt-get install postgresql"
    } else if Path::new("/etc/fedora-release").exists() || Path::new("/etc/redhat-release").exists() {
        "sudo dnf install postgresql-server"
    } else {
        "install the PostgreSQL server with your system's package manager"
    }
}
