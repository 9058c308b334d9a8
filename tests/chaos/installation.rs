//! One installation: a database, three replicas, and each one's way to Postgres.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fhir_bulk_export::database::migrate;
use sqlx::PgPool;

use crate::client::Client;
use crate::diary;
use crate::postgres::Postgres;
use crate::proxy::{Proxy, Way};
use crate::replica::Replica;
use crate::skew;

pub const REPLICAS: usize = 3;
/// Whose clock is off, where that is possible.
pub const SKEWED: usize = 2;
pub const RETENTION: Duration = Duration::from_secs(60);

/// Short, so that much happens in a run. `fallback_poll` stays at its default where pick-up is measured.
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
        let folder = folder().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let pool = postgres.create(name).await;
        migrate(&pool).await.unwrap();
        diary::keep(&pool).await;
        let mut skipped = Vec::new();
        let shim = skew::compile(&folder).inspect_err(|why| skipped.push(format!("a clock that is off ({why})"))).ok();
        let mut replicas = Vec::new();
        for number in 0..REPLICAS {
            let proxy = Proxy::start(&postgres.socket()).await;
            let mut environment = environment(settings);
            environment.push(("DATABASE_URL".to_owned(), proxy.url(name)));
            if let (SKEWED, Some(shim)) = (number, &shim) {
                environment.push(("LD_PRELOAD".to_owned(), shim.display().to_string()));
            }
            let (name, log) = (format!("replica {}", number + 1), folder.join(format!("replica-{}.log", number + 1)));
            replicas.push(Arc::new(Replica::new(name, proxy, environment, log)));
        }
        Self { postgres: Arc::clone(postgres), name, pool, replicas, skipped }
    }

    pub async fn start(&self) {
        for replica in &self.replicas {
            replica.hold().await.start().await;
        }
    }

    pub fn client(&self) -> Client {
        Client::new(&self.replicas)
    }

    pub fn postgres_log(&self) -> PathBuf {
        folder().join("postgres.log")
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

/// Where logs go: emptied at every run.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("chaos")
}
