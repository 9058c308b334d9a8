//! How much of the database's disk is free. Postgres itself cannot say: either this process sees the disk, or the
//! configuration says how much the database may take.

use std::path::PathBuf;

use sqlx::PgPool;

use super::Database;
use crate::config::{self, ByteSize};

/// The free space that kick-offs leave alone.
#[derive(Debug, Clone)]
pub(crate) struct DiskReserve {
    reserve: ByteSize,
    free: Free,
}

#[derive(Debug, Clone)]
enum Free {
    /// Of the file system this path is on.
    Path(PathBuf),
    /// What the database does not take yet of this size.
    Of(ByteSize),
    Unknown,
}

impl DiskReserve {
    pub(crate) fn new(config: &config::Database, database: &Database) -> Self {
        let path = config.disk_path.clone();
        let path = path.or_else(|| Some(database.local()?.data_dir().to_owned()));
        let free = match (path, config.disk_size) {
            (Some(path), _) => Free::Path(path),
            (None, Some(size)) => Free::Of(size),
            (None, None) => Free::Unknown,
        };
        Self { reserve: config.reserve, free }
    }

    /// Whether there is less free space than the reserve. What cannot be known is not short.
    pub(crate) async fn is_short(&self, pool: &PgPool) -> Result<bool, sqlx::Error> {
        let free = match &self.free {
            Free::Path(path) => match rustix::fs::statvfs(path) {
                Ok(file_system) => file_system.f_bavail.saturating_mul(file_system.f_frsize),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot see the free space of the database's disk");
                    return Ok(false);
                }
            },
            Free::Of(size) => size.bytes().saturating_sub(database_size(pool).await?),
            Free::Unknown => return Ok(false),
        };
        Ok(free < self.reserve.bytes())
    }
}

async fn database_size(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let size = sqlx::query_scalar!(
        r#"-- database.size
        select pg_database_size(current_database()) as "size!""#
    )
    .fetch_one(pool)
    .await?;
    Ok(u64::try_from(size).unwrap_or(0))
}
