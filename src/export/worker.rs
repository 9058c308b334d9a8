//! The workers of this process: each waits for work, claims it, runs it and settles it.
//!
//! A worker looks for work when it is woken by NOTIFY, when it has just done some, and now and then. It notes the
//! wake-up **before** it looks, so that a notification between "nothing to do" and "wait" is not lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::part::{self, Appetite, Lease};
use super::run::run;
use super::{Error, WORK, plan};
use crate::config;
use crate::shutdown::Shutdown;

/// A part up to this size is done in moments: the worker kept for planning takes those too.
const SMALL_PART: i64 = 8 << 20;
/// Between two attempts to reach a database that is away.
const DATABASE_AWAY: Duration = Duration::from_secs(1);

/// What a worker needs.
pub(crate) struct Workers {
    /// For short statements: claims, leases.
    pub(crate) pool: PgPool,
    /// For one connection that listens: never through a transaction pooler.
    pub(crate) listen_pool: PgPool,
    /// For the parts: two connections for each worker.
    pub(crate) work_pool: PgPool,
    pub(crate) config: config::Export,
    /// Time from the end of a job until it expires.
    pub(crate) retention: Duration,
}

impl Workers {
    /// Starts them. They end when `shutdown` asks them to.
    pub(crate) fn start(self, tasks: &TaskTracker, shutdown: &Shutdown) {
        let workers = Arc::new(self);
        let (announce, announced) = watch::channel(());
        tasks.spawn(listen(workers.listen_pool.clone(), announce, shutdown.soft.clone()));
        for number in 0..workers.config.workers {
            let worker = Worker {
                id: Uuid::new_v4(),
                shared: Arc::clone(&workers),
                // One is kept for planning and small parts, so that a small job never waits behind a large one.
                appetite: match number {
                    0 if workers.config.workers > 1 => Appetite::Small(SMALL_PART),
                    _ => Appetite::Any,
                },
                announced: announced.clone(),
                shutdown: shutdown.clone(),
            };
            tasks.spawn(worker.work());
        }
    }
}

/// Passes on that there is work, or that there may be: after a lost connection nobody knows what was missed.
async fn listen(pool: PgPool, announce: watch::Sender<()>, stop: CancellationToken) {
    let listening = async {
        loop {
            if let Err(error) = listen_until_lost(&pool, &announce).await {
                tracing::warn!(%error, "cannot listen for work");
                tokio::time::sleep(DATABASE_AWAY).await;
            }
        }
    };
    tokio::select! {
        () = listening => {}
        () = stop.cancelled() => {}
    }
}

async fn listen_until_lost(pool: &PgPool, announce: &watch::Sender<()>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(WORK).await?;
    announce.send_replace(());
    while listener.try_recv().await?.is_some() {
        announce.send_replace(());
    }
    Ok(())
}

struct Worker {
    id: Uuid,
    shared: Arc<Workers>,
    appetite: Appetite,
    announced: watch::Receiver<()>,
    shutdown: Shutdown,
}

impl Worker {
    async fn work(mut self) {
        while !self.shutdown.soft.is_cancelled() {
            self.announced.mark_unchanged();
            match self.work_once().await {
                Ok(true) => {}
                Ok(false) => self.wait().await,
                Err(error) => {
                    tracing::warn!(%error, "a worker cannot reach the database");
                    self.pause(DATABASE_AWAY).await;
                }
            }
        }
    }

    /// Waits for an announcement, or until it is time to look anyway.
    async fn wait(&mut self) {
        // Spread out, so that the workers of all replicas do not look at the same moment.
        let spread = 0.9 + 0.2 * f64::from(self.id.as_bytes()[0]) / 255.0;
        let poll = self.shared.config.fallback_poll.mul_f64(spread);
        let soft = self.shutdown.soft.clone();
        tokio::select! {
            _ = self.announced.changed() => {}
            () = tokio::time::sleep(poll) => {}
            () = soft.cancelled() => {}
        }
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.shutdown.soft.cancelled() => {}
        }
    }

    /// Plans a job, or does a part; whether there was anything to do.
    async fn work_once(&self) -> Result<bool, Error> {
        let Workers { pool, config, retention, .. } = &*self.shared;
        if let Some(planning) = plan::claim(pool, config).await? {
            planning.run(pool, config, *retention).await?;
            return Ok(true);
        }
        match part::claim(pool, self.id, config, self.appetite).await? {
            Some(lease) if lease.is_hopeless(config.attempts) => {
                lease.give_up(pool, "its worker was lost", *retention).await?;
                Ok(true)
            }
            Some(lease) => {
                let result = self.run_leased(&lease).await;
                self.settle(&lease, result).await?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Runs the part and renews its lease from beside it, never from within.
    async fn run_leased(&self, lease: &Lease) -> Result<(), Error> {
        let stop = self.shutdown.hard.child_token();
        let _stop_when_done = stop.clone().drop_guard();
        let written = AtomicI64::new(0);
        let running = run(&self.shared.work_pool, lease, self.shared.retention, &written, &stop);
        tokio::pin!(running);
        tokio::select! {
            result = &mut running => result,
            lost = self.renew_until_lost(lease, &written) => {
                stop.cancel();
                // It may have been committed a moment before.
                match running.await {
                    Err(Error::Stopped) => Err(lost),
                    result => result,
                }
            }
        }
    }

    /// Renews the lease every second, or every third of it if that is shorter. A database that is away for less than
    /// the lease does no harm.
    async fn renew_until_lost(&self, lease: &Lease, written: &AtomicI64) -> Error {
        let time = self.shared.config.lease;
        let every = (time / 3).min(Duration::from_secs(1));
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(every).await;
            match lease.renew(&self.shared.pool, time, written.load(Ordering::Relaxed)).await {
                Ok(()) => renewed = tokio::time::Instant::now(),
                Err(Error::LeaseLost) => return Error::LeaseLost,
                Err(error) if renewed.elapsed() >= time => return error,
                Err(error) => tracing::warn!(%error, "cannot renew a lease"),
            }
        }
    }

    async fn settle(&self, lease: &Lease, result: Result<(), Error>) -> Result<(), Error> {
        let Workers { pool, config, retention, .. } = &*self.shared;
        match result {
            Ok(()) => Ok(()),
            Err(Error::LeaseLost) => {
                tracing::info!(job.id = %lease.job, part = lease.ordinal, "stopped a part that is no longer ours");
                Ok(())
            }
            Err(Error::Stopped) => lease.release(pool).await,
            Err(error) => lease.fail(pool, &error, config, *retention).await,
        }
    }
}
