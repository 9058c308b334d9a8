//! The server: builds everything, runs it, and ends it. The only place that knows all the parts.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::{AuthMode, Config};
use crate::database::{self, Database, DiskReserve};
use crate::export::announcement::Announcements;
use crate::export::governor::Governor;
use crate::export::worker::Workers;
use crate::fhir::reference::PatientBases;
use crate::http::tls::{self, Renewal};
use crate::http::{self, App, Downloads, Polls};
use crate::identity::{self, Authenticator};
use crate::ledger::Ledger;
use crate::reaper::Reaper;
use crate::resource::index;
use crate::shutdown::{Shutdown, Signals, Tasks};

/// For ending the connections to a database that may be away.
const GOODBYE: Duration = Duration::from_secs(2);

/// Between two attempts to make the indexes that are missing.
const INDEX_AGAIN: Duration = Duration::from_secs(30);

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// The issuers of tokens are not set up correctly.
    #[error("{0}")]
    Identity(String),
    /// The certificate of the FHIR API cannot be used.
    #[error("http.tls: {0}")]
    Tls(#[from] tls::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A defect: a task without which the server is none has panicked.
    #[error("a task died, and the server ended because of it; the log says which")]
    TaskDied,
    /// The operating system refused something.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<identity::Error> for Error {
    fn from(error: identity::Error) -> Self {
        Self::Identity(error.to_string())
    }
}

/// A server that listens, and is not running yet.
pub(crate) struct Server {
    database: Database,
    /// Connections of the API.
    pool: PgPool,
    config: Config,
    api: TcpListener,
    operator: TcpListener,
    tls: Option<(TlsAcceptor, Renewal)>,
    authenticator: Authenticator,
    signals: Signals,
    /// The FHIR base as clients see it.
    pub(crate) base: String,
}

impl Server {
    /// Listens. The schema is to be up to date.
    pub(crate) async fn bind(config: Config, database: Database) -> Result<Self, Error> {
        let tls = tls::from_files(&config.http.tls)?;
        let api = listen(config.http.listen).await?;
        let operator = listen(config.operator.listen).await?;
        let base = match &config.http.public_base_url {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("{}://{}/fhir", if tls.is_some() { "https" } else { "http" }, api.local_addr()?),
        };
        let pool = database.pool();
        let auth = &config.auth;
        let authenticator = match auth.mode {
            AuthMode::None => Authenticator::anonymous(),
            AuthMode::Token => Authenticator::token(auth.issuers.clone(), auth.leeway)?.and_clients(
                auth.clients.clone(),
                &base,
                &pool,
                auth.leeway,
            )?,
        };
        // Before anybody is told that the server is there.
        let signals = Signals::catch()?;
        Ok(Self { database, pool, config, api, operator, tls, authenticator, signals, base })
    }

    /// The address of the FHIR API.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.api.local_addr()
    }

    /// The address of `/healthz` and `/readyz`.
    pub(crate) fn operator_address(&self) -> std::io::Result<SocketAddr> {
        self.operator.local_addr()
    }

    /// Runs until SIGTERM or SIGINT, and ends in good order.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let Self { database, pool, config, api, operator, tls, authenticator, signals, base } = self;
        let shutdown = Shutdown::default();
        let useless = Arc::new(Notify::new());
        let announcements = Announcements::new();
        let ledger = Arc::new(Ledger::new(pool.clone()));
        let app = Arc::new(App {
            pool: pool.clone(),
            authenticator,
            base,
            disk: DiskReserve::new(&config.database, &database),
            ledger: Arc::clone(&ledger),
            polls: Polls::new(),
            downloads: Downloads::new(&config.http),
            useless: Arc::clone(&useless),
            announcements: announcements.clone(),
            statement: OnceLock::new(),
            stopping: shutdown.soft.clone(),
            config: config.clone(),
        });

        let tasks = Tasks::new(shutdown.clone());
        let workers = Workers {
            pool: database.short_pool(u32::from(config.export.workers) + 2),
            work_pool: database.work_pool(u32::from(config.export.workers) * 2),
            retention: config.retention.files,
            governor: Governor::new(&config.export),
            patient_bases: PatientBases::from(config.store.patient_bases),
            config: config.export,
        };
        workers.start(&announcements, &tasks, &shutdown);
        let reaper = Reaper { pool: database.sweep_pool(), retention: config.retention };
        tasks.spawn(reaper.run(useless, shutdown.soft.clone()));
        // Requests are denied until the last connection has ended.
        let (recording, entries, stop_recording) =
            (Tasks::new(shutdown.clone()), Arc::clone(&ledger), CancellationToken::new());
        let stop = stop_recording.clone();
        recording.spawn(async move { entries.run(stop).await });
        tasks.spawn(complete_indexes(database.sweep_pool(), shutdown.soft.clone()));
        let fhir = http::router(Arc::clone(&app));
        let (acceptor, renewal) = tls.unzip();
        if let Some(renewal) = renewal {
            tasks.spawn(renewal.run(shutdown.soft.clone()));
        }
        tasks.spawn(http::serve::serve(api, fhir, acceptor, config.http.clone(), shutdown.clone()));

        // Probes are answered until all else has ended.
        let probes = http::operator::router(app);
        let until_end = Shutdown::default();
        let probing = tokio::spawn(http::serve::serve(operator, probes, None, config.http.clone(), until_end.clone()));

        tokio::spawn(signals.shut_down(shutdown, config.http.shutdown_grace));
        let mut all_well = tasks.all_ended().await;
        stop_recording.cancel();
        all_well &= recording.all_ended().await;
        ledger.close().await;
        until_end.soft.cancel();
        until_end.hard.cancel();
        if let Err(error) = probing.await {
            tracing::warn!(%error, "the operator's listener");
        }
        // It says goodbye, to whom it can.
        let _ = tokio::time::timeout(GOODBYE, pool.close()).await;
        tracing::info!("stopped");
        if all_well { Ok(()) } else { Err(Error::TaskDied) }
    }
}

/// Makes the indexes that a migration has left to be made; another replica may be at it, or be lost over it.
async fn complete_indexes(pool: PgPool, stop: CancellationToken) {
    loop {
        let made = tokio::select! {
            made = index::complete(&pool) => made,
            () = stop.cancelled() => return,
        };
        match made {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot make an index"),
        }
        tokio::select! {
            () = tokio::time::sleep(INDEX_AGAIN) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// A line for the person or script that started the command, on standard output.
pub(crate) fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody may be reading any more.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
