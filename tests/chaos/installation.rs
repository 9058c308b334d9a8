//! One installation: a database, three replicas, and each one's way to Postgres.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fhir_bulk_export::database::migrate;
use sqlx::{AssertSqlSafe, PgPool};

use crate::client::Client;
use crate::diary;
use crate::postgres::Postgres;
use crate::proxy::{Proxy, Way};
use crate::replica::Replica;
use crate::skew;

pub const REPLICAS: usize = NAMES.len();
const NAMES: [&str; 3] = ["replica_1", "replica_2", "replica_3"];
/// Whose clock is off, where that is possible.
pub const SKEWED: usize = 2;
pub const LEASE: Duration = Duration::from_secs(2);
pub const RETENTION: Duration = Duration::from_secs(60);

const PATIENCE: Duration = Duration::from_secs(30);

/// Short, so that much happens in a run.
const SETTINGS: [(&str, &str); 13] = [
    ("http.listen", "127.0.0.1:0"),
    ("http.shutdown_grace", "1s"),
    ("http.request_timeout", "10s"),
    ("operator.listen", "127.0.0.1:0"),
    ("export.lease", "2s"),
    ("export.fallback_poll", "1s"),
    ("export.workers", "3"),
    ("export.file_target", "256KiB"),
    ("export.max_running_per_owner", "50"),
    ("retention.files", "60s"),
    ("retention.download_grace", "5s"),
    ("retention.sweep", "500ms"),
    ("log.filter", "fhir_bulk_export=debug,info"),
];

pub struct Installation {
    pub postgres: Arc<Postgres>,
    pub name: &'static str,
    pub pool: PgPool,
    pub replicas: Vec<Arc<Replica>>,
    /// What could not be done here, and why.
    pub skipped: Vec<String>,
}

impl Installation {
    /// An empty database with its diary, and replicas that do not run yet.
    pub async fn new(postgres: &Arc<Postgres>, name: &'static str, settings: &[(&str, &str)]) -> Self {
        let folder = postgres.logs.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let pool = postgres.create(name, &NAMES).await;
        migrate(&pool).await.unwrap();
        diary::keep(&pool).await;
        let mut skipped = Vec::new();
        let shim = skew::compile(&folder).inspect_err(|why| skipped.push(format!("a clock that is off ({why})"))).ok();
        let mut replicas = Vec::new();
        for (number, replica) in NAMES.into_iter().enumerate() {
            let proxy = Proxy::start(&postgres.socket()).await;
            let mut environment = environment(settings);
            environment.push(("DATABASE_URL".to_owned(), proxy.url(replica, name)));
            if let (SKEWED, Some(shim)) = (number, &shim) {
                environment.push(("LD_PRELOAD".to_owned(), shim.display().to_string()));
            }
            let log = folder.join(replica).with_extension("log");
            replicas.push(Arc::new(Replica::new(replica, proxy, environment, log)));
        }
        Self { postgres: Arc::clone(postgres), name, pool, replicas, skipped }
    }

    /// Starts all replicas. Gives the memory that a fresh one has, in bytes.
    pub async fn start(&self) -> u64 {
        let mut idle = 0;
        for replica in &self.replicas {
            replica.hold().await.start().await;
            idle = idle.max(replica.memory().await.unwrap_or_default());
        }
        idle
    }

    /// The replica that works on a part of this job, once there is one.
    pub async fn worker_on(&self, job: &str) -> &Replica {
        self.at_work("application_name like 'export ' || replace($1, '-', '') || ' %'", job).await
    }

    /// The replica that waits for the writers to plan a job, once there is one.
    pub async fn planner(&self) -> &Replica {
        self.at_work("query like '%' || $1 || '%' and state = 'active'", "resource.clock.plan").await
    }

    /// Waits until there are such rows.
    pub async fn wait_for(&self, from: &'static str, argument: &str) {
        let query = format!("select exists (select from {from})");
        let asked = Instant::now();
        let is_there =
            || sqlx::query_scalar::<_, bool>(AssertSqlSafe(query.as_str())).bind(argument).fetch_one(&self.pool);
        while !is_there().await.unwrap() {
            assert!(asked.elapsed() < PATIENCE, "there is none in {from}, {argument}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn at_work(&self, condition: &'static str, argument: &str) -> &Replica {
        let query = format!(
            "select usename from pg_stat_activity where {condition}
            and datname = current_database() and application_name <> 'chaos'"
        );
        let asked = Instant::now();
        loop {
            let name: Option<String> = sqlx::query_scalar(AssertSqlSafe(query.as_str()))
                .bind(argument)
                .fetch_optional(&self.pool)
                .await
                .unwrap();
            if let Some(replica) = name.and_then(|name| self.replicas.iter().find(|replica| replica.name == name)) {
                return replica;
            }
            assert!(asked.elapsed() < PATIENCE, "no replica is at work: {query}, {argument}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn client(&self) -> Client {
        Client::new(&self.replicas)
    }

    /// Ends all faults that last.
    pub fn open_ways(&self) {
        for replica in &self.replicas {
            replica.proxy.set(Way::Open);
        }
    }

    /// Whether the replica whose clock should be off says another time than we do; none where that was skipped.
    pub async fn clock_is_off(&self) -> Option<bool> {
        if self.skipped.iter().any(|what| what.contains("clock")) {
            return None;
        }
        let response = reqwest::get(format!("{}/metadata", self.replicas[SKEWED].base()?)).await.ok()?;
        let date = response.headers().get("date")?.to_str().ok()?;
        let ahead = httpdate::parse_http_date(date).ok()?.duration_since(std::time::SystemTime::now());
        Some(ahead.is_ok_and(|ahead| ahead > Duration::from_secs(skew::HOURS * 3600 - 60)))
    }

    pub async fn stop(self) {
        for replica in &self.replicas {
            replica.hold().await.kill().await;
        }
        self.pool.close().await;
    }
}

fn environment(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let variable = |key: &str| format!("BULK_EXPORT__{}", key.to_ascii_uppercase().replace('.', "__"));
    SETTINGS.iter().chain(settings).map(|(key, value)| (variable(key), (*value).to_owned())).collect()
}
