//! A small disk for the chunks of files, which can be filled: a tmpfs, which takes root to mount.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sqlx::{AssertSqlSafe, PgPool};

const SIZE: &str = "768m";
/// The shared volume, and those that the first large exports get.
const VOLUMES: std::ops::RangeInclusive<u32> = 0..=4;

pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Says why where it cannot be.
    pub fn mount(folder: &Path, owner: Option<(u32, u32)>) -> Result<Self, String> {
        let Some((user, group)) = owner else { return Err("it needs root".to_owned()) };
        fs::create_dir(folder).map_err(|error| error.to_string())?;
        let options = format!("size={SIZE},mode=0700,uid={user},gid={group}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "fbe-chaos"]).arg(folder).output();
        let output = mount.map_err(|error| format!("mount: {error}"))?;
        match output.status.success() {
            true => Ok(Self { folder: folder.to_owned() }),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    /// Puts the chunks of a database there.
    pub async fn take_chunks(&self, pool: &PgPool, database: &str) {
        let folder = self.folder.join(database);
        fs::create_dir(&folder).unwrap();
        let owner = fs::metadata(&self.folder).unwrap();
        let (user, group) = (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
        std::os::unix::fs::chown(&folder, Some(user), Some(group)).unwrap();
        let space = format!("create tablespace {database}_disk location '{}'", folder.display());
        sqlx::query(AssertSqlSafe(space)).execute(pool).await.unwrap();
        for volume in VOLUMES {
            let go = format!("alter table binary_chunk_{volume} set tablespace {database}_disk");
            sqlx::query(AssertSqlSafe(go)).execute(pool).await.unwrap();
        }
    }

    /// Takes all the space that is left.
    pub fn fill(&self) {
        let mut filler = File::create(self.folder.join("filler")).unwrap();
        for size in [1 << 20, 4 << 10, 1] {
            let block = vec![0; size];
            while filler.write_all(&block).is_ok() {}
        }
    }

    pub fn free(&self) {
        let _ = fs::remove_file(self.folder.join("filler"));
    }

    pub fn unmount(&mut self) {
        let unmount = |options: &[&str]| {
            let mut command = Command::new("umount");
            command.args(options).arg(&self.folder).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        // Lazily where something is still in it.
        if !unmount(&[]) && !unmount(&["-l"]) {
            eprintln!("{} stays mounted", self.folder.display());
        }
    }
}
