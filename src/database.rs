//! The way to Postgres: which server, the pools and their session limits, the schema, and how much disk is left.

mod disk;
pub(crate) mod fault;
mod local;
mod programs;
mod schema;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Executor, PgPool};

use crate::config::Config;
pub(crate) use disk::DiskReserve;
pub use local::{LocalPostgres, default_data_dir};
pub use schema::migrate;

/// What Postgres sends and nobody takes: it ends the session then. Not for workers, who read at a pace.
const NOBODY_TAKES: (&str, &str) = ("tcp_user_timeout", "60s");
/// What this version can do, for the guard that keeps replicas of older ones from what they cannot (migration 8). A version
/// that adds something which must not be left out of an export counts one on.
pub(crate) const ABLE: i16 = 3;
/// How long to wait for a connection.
const CONNECTING: Duration = Duration::from_secs(5);

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No database is configured, and a private one is not to be the silent default here.
    #[error(
        "no database is configured: set DATABASE_URL (or database.url). A private Postgres is started by itself \
         only while http.listen is a loopback address; --local-database asks for it anywhere"
    )]
    NotConfigured,
    /// The URL is none.
    #[error("database.url is not a Postgres URL (postgres://user:password@host/name): {0}")]
    Url(#[source] sqlx::Error),
    /// The private Postgres could not be had.
    #[error(transparent)]
    Local(#[from] local::Error),
    /// The schema could not be brought up to date.
    #[error("cannot bring the database schema up to date: {0}")]
    Migrate(#[from] MigrateError),
    /// Postgres said no.
    #[error("database: {0}")]
    Sqlx(#[from] sqlx::Error),
}

/// Which Postgres to use when none is configured.
#[derive(Debug, Clone)]
pub struct LocalChoice {
    /// Start one even though the API listens on more than loopback.
    pub anywhere: bool,
    /// Its data folder.
    pub data_dir: PathBuf,
}

/// A Postgres server and database, configured or private; the private one lives while this value does. Not to be printed:
/// the options have the password.
pub struct Database {
    options: PgConnectOptions,
    local: Option<LocalPostgres>,
    statement_timeout: Duration,
    max_connections: u32,
}

impl Database {
    /// Finds the configured database, or joins or starts the private one.
    ///
    /// # Errors
    /// When there is neither.
    pub fn open(config: &Config, choice: &LocalChoice) -> Result<Self, Error> {
        let (options, local) = match config.database_url() {
            Some(url) => (PgConnectOptions::from_str(url).map_err(Error::Url)?, None),
            None if choice.anywhere || config.http.listen.ip().is_loopback() => {
                let local = LocalPostgres::join(&choice.data_dir)?;
                (local.options(), Some(local))
            }
            None => return Err(Error::NotConfigured),
        };
        Ok(Self {
            options,
            local,
            statement_timeout: config.database.statement_timeout,
            max_connections: config.database.max_connections,
        })
    }

    /// A database that is there already.
    pub fn at(options: PgConnectOptions) -> Self {
        Self { options, local: None, statement_timeout: Duration::from_secs(30), max_connections: 10 }
    }

    /// The private Postgres, if it is one.
    pub fn local(&self) -> Option<&LocalPostgres> {
        self.local.as_ref()
    }

    /// Connections of the API, for short statements.
    pub fn pool(&self) -> PgPool {
        self.short_pool(self.max_connections)
    }

    /// Connections for short statements: each is bounded, and so is the time between two of a transaction, so that
    /// nothing can hang on the database and no frozen process can keep others from what it has locked.
    pub(crate) fn short_pool(&self, connections: u32) -> PgPool {
        let milliseconds = self.statement_timeout.as_millis();
        self.pool_with(
            connections,
            &[
                ("statement_timeout", milliseconds.to_string()),
                ("idle_in_transaction_session_timeout", milliseconds.to_string()),
                (NOBODY_TAKES.0, NOBODY_TAKES.1.to_owned()),
            ],
        )
    }

    /// A connection for statements that take as long as they take, in transactions that never wait for anything else:
    /// reaping.
    pub(crate) fn sweep_pool(&self) -> PgPool {
        let milliseconds = self.statement_timeout.as_millis();
        self.pool_with(
            1,
            &[("statement_timeout", "0".to_owned()), ("idle_in_transaction_session_timeout", milliseconds.to_string())],
        )
    }

    /// Connections for work that takes as long as it takes: parts of an export, loading.
    pub fn work_pool(&self, connections: u32) -> PgPool {
        self.pool_with(
            connections,
            &[
                ("statement_timeout", "0".to_owned()),
                // A range of keys lies together on disk. With Postgres' default, made for disks that seek, every part
                // of a large type would read all of it.
                ("random_page_cost", "1.1".to_owned()),
            ],
        )
    }

    fn pool_with(&self, connections: u32, settings: &[(&str, String)]) -> PgPool {
        let fixed = [
            // No plan here gains from it, and compiling one costs more than most queries take.
            ("jit", "off"),
            // It would warn that there is nothing to roll back when a connection is given back.
            ("client_min_messages", "error"),
            // A plan for any type would touch all partitions; a plan for one touches one.
            ("plan_cache_mode", "force_custom_plan"),
            // What a killed process was waiting for, or a machine that is gone: Postgres is to notice, and end it.
            ("client_connection_check_interval", "5s"),
            ("tcp_keepalives_idle", "30s"),
            ("tcp_keepalives_interval", "10s"),
            ("tcp_keepalives_count", "3"),
        ];
        let able = ("fhir_bulk_export.able", ABLE.to_string());
        let settings = settings.iter().cloned().chain([able]);
        let options = self
            .options
            .clone()
            .application_name("fhir-bulk-export")
            .options(settings.chain(fixed.map(|(name, value)| (name, value.to_owned()))))
            // Reading a part takes as long as it takes; that is nothing to warn of.
            .disable_statement_logging();
        PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECTING)
            // Who was dropped while a transaction began has left it open, and the next user would be in it, or have the
            // settings of who went before. A connection that died without a word would never answer, and keep its place
            // in the pool for ever.
            .after_release(|connection, _| {
                Box::pin(async move {
                    match tokio::time::timeout(CONNECTING, connection.execute("rollback; reset enable_seqscan")).await {
                        Ok(result) => result.map(|_| true),
                        Err(_) => Err(sqlx::Error::PoolTimedOut),
                    }
                })
            })
            .connect_lazy_with(options)
    }
}

/// A duration as Postgres takes it.
pub(crate) fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}

/// Whether the statement lost to another transaction and is to be tried again: a race for the same resource
/// (unique violation), a deadlock or a serialization failure.
pub(crate) fn lost_a_race(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| matches!(code.as_str(), "23505" | "40P01" | "40001"))
}

/// The SQLSTATE of a database error.
pub(crate) fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}
