//! The private Postgres of a run: durable, with its cost and its own limit.

use std::fs;
use std::path::Path;

use fhir_bulk_export::database::{Database as Connector, LocalPostgres, migrate};
use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::process::cpu_seconds_of_tree;
use crate::{Result, Timed, timed};

pub struct Postgres {
    local: LocalPostgres,
    pid: u32,
}

/// One database in it.
pub struct Database {
    url: String,
    options: PgConnectOptions,
    pub pool: PgPool,
}

impl Postgres {
    /// Starts it, with its data in this folder.
    pub fn start(folder: &Path) -> Result<Self> {
        let local = LocalPostgres::join(folder)?;
        let pid_file = fs::read_to_string(local.data_dir().join("postgres/postmaster.pid"))?;
        let pid = pid_file.lines().next().unwrap_or_default().trim().parse()?;
        Ok(Self { local, pid })
    }

    /// CPU seconds of all its processes so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        Ok(cpu_seconds_of_tree(self.pid)?)
    }

    /// An empty database of the current schema.
    pub async fn create(&self, name: &str) -> Result<Database> {
        let mut admin = PgConnection::connect_with(&self.local.options()).await?;
        sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut admin).await?;
        let options = self.local.options().database(name);
        migrate(&Connector::at(options.clone()).work_pool(1)).await?;
        let pool = PgPoolOptions::new().max_connections(4).connect_lazy_with(options.clone());
        Ok(Database { url: self.local.url(name), options, pool })
    }
}

impl Database {
    pub fn url(&self) -> &str {
        &self.url
    }

    /// As autovacuum leaves a store that has come to rest.
    pub async fn settle(&self) -> Result<()> {
        sqlx::query("vacuum (analyze)").execute(&self.pool).await?;
        sqlx::query("checkpoint").execute(&self.pool).await?;
        Ok(())
    }

    /// Bytes of write-ahead log so far.
    pub async fn wal_bytes(&self) -> Result<f64> {
        self.number("select (pg_current_wal_insert_lsn() - '0/0')::float8").await
    }

    /// Bytes of NDJSON in the store.
    pub async fn ndjson_bytes(&self) -> Result<f64> {
        self.number(
            "select coalesce(sum(octet_length(body) + 1), 0)::float8 from resource where superseded_at = 'infinity'",
        )
        .await
    }

    /// Bytes of compressed files.
    pub async fn stored_bytes(&self) -> Result<f64> {
        self.number("select coalesce(sum(octet_length(data)), 0)::float8 from binary_chunk").await
    }

    /// Bytes on disk of the whole database.
    pub async fn on_disk(&self) -> Result<f64> {
        self.number("select pg_database_size(current_database())::float8").await
    }

    pub async fn number(&self, query: &'static str) -> Result<f64> {
        Ok(sqlx::query_scalar(query).fetch_one(&self.pool).await?)
    }

    /// The limit: all bodies read with COPY by so many connections, each on a thread of its own, and dropped.
    pub async fn copy_everything(&self, connections: u32) -> Result<Timed<f64>> {
        let select = "select body from resource where superseded_at = 'infinity' and not deleted";
        let mut statements = vec![vec![format!("copy ({select}) to stdout (format binary)")]];
        if connections > 1 {
            statements = self.shares(connections).await?;
        }
        let readers: Vec<_> = statements.into_iter().map(|statements| (self.options.clone(), statements)).collect();
        timed(async move {
            let threads: Vec<_> = readers
                .into_iter()
                .map(|(options, statements)| tokio::task::spawn_blocking(move || read(&options, &statements)))
                .collect();
            let mut bytes = 0.0;
            for thread in threads {
                bytes += thread.await??;
            }
            Ok(bytes)
        })
        .await
    }

    /// The statements of each connection: of every type its share of the pages, which lie as they were loaded.
    async fn shares(&self, connections: u32) -> Result<Vec<Vec<String>>> {
        let types: Vec<(String, f64)> = sqlx::query_as(
            "select inhrelid::regclass::text, (pg_relation_size(inhrelid) / 8192)::float8 from pg_inherits
             where inhparent = 'resource'::regclass and pg_relation_size(inhrelid) > 0 order by 1",
        )
        .fetch_all(&self.pool)
        .await?;
        let statement = |(partition, pages): &(String, f64), number: u32| {
            let page = |number: u32| (pages * f64::from(number) / f64::from(connections)).floor();
            let to = if number + 1 == connections { f64::from(u32::MAX) } else { page(number + 1) };
            format!(
                "copy (select body from {partition} where superseded_at = 'infinity' and not deleted
                 and ctid >= '({},0)' and ctid < '({to},0)') to stdout (format binary)",
                page(number)
            )
        };
        let share = |number| types.iter().map(|of_type| statement(of_type, number)).collect();
        Ok((0..connections).map(share).collect())
    }
}

fn read(options: &PgConnectOptions, statements: &[String]) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = PgConnection::connect_with(options).await?;
        let mut bytes = 0;
        for statement in statements {
            let mut rows = connection.copy_out_raw(statement).await?;
            while let Some(row) = rows.try_next().await? {
                bytes += row.len();
            }
        }
        connection.close().await?;
        Ok(bytes as f64)
    })
}
