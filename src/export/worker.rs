//! The workers of this process: each waits for work, claims it, runs it and settles it.
//!
//! A worker looks for work when it is woken by NOTIFY, when it has just done some, and now and then. It notes the
//! wake-up **before** it looks, so that a notification between "nothing to do" and "wait" is not lost.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::sleep;
use uuid::Uuid;

use super::announcement::Announcements;
use super::claim::{self, Appetite};
use super::governor::Governor;
use super::lease::{self, Leased, NO_ANSWER, answered};
use super::{Error, deadline, plan};
use crate::config;
use crate::fhir::reference::PatientBases;
use crate::shutdown::{Shutdown, Tasks};

/// A part up to this size is done in moments: the worker kept for planning takes those too.
const SMALL_PART: i64 = 8 << 20;
/// Between two attempts to reach a database that is away; a quarter more or less, so that replicas do not come all at
/// once.
const DATABASE_AWAY: Duration = Duration::from_secs(1);
/// To say what came of an attempt: then it is said once more.
const TELLING: Duration = Duration::from_secs(10);
/// The same when the server is about to end: others see from the lease what has become of it.
const TELLING_AT_THE_END: Duration = Duration::from_secs(3);

/// What a worker needs.
pub(crate) struct Workers {
    /// For short statements: claims, leases, planning. Nobody else's, so that no crowd of clients costs a lease.
    pub(crate) pool: PgPool,
    /// For the parts: two connections for each worker.
    pub(crate) work_pool: PgPool,
    pub(crate) config: config::Export,
    pub(crate) governor: Governor,
    /// Where absolute references to our Patients point.
    pub(crate) patient_bases: PatientBases,
    /// Time from the end of a job until it expires.
    pub(crate) retention: Duration,
}

impl Workers {
    /// Starts them. They end when `shutdown` asks them to.
    pub(crate) fn start(self, announcements: &Announcements, tasks: &Tasks, shutdown: &Shutdown) {
        let workers = Arc::new(self);
        let announced = announcements.work();
        tasks.spawn(announcements.clone().listen(workers.pool.clone(), shutdown.soft.clone()));
        {
            let (workers, stop) = (Arc::clone(&workers), shutdown.soft.clone());
            tasks.spawn(async move { deadline::watch(&workers, stop).await });
        }
        {
            let (workers, announced, stop) = (Arc::clone(&workers), announced.clone(), shutdown.soft.clone());
            tasks.spawn(async move {
                workers.governor.follow(&workers.pool, &workers.config, announced, stop).await;
            });
        }
        for number in 0..workers.config.workers {
            let worker = Worker {
                number,
                id: Uuid::new_v4(),
                shared: Arc::clone(&workers),
                announced: announced.clone(),
                shutdown: shutdown.clone(),
            };
            tasks.spawn(worker.work());
        }
    }
}

struct Worker {
    /// Counts those of this process, from 0.
    number: u16,
    id: Uuid,
    shared: Arc<Workers>,
    announced: watch::Receiver<()>,
    shutdown: Shutdown,
}

/// What a worker found when it looked.
enum Found {
    Work,
    /// Nothing; there may be some after this long at the latest.
    Nothing(Duration),
}

impl Worker {
    async fn work(mut self) {
        let workers = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.soft.cancelled() => return,
                () = workers.governor.admits(self.number) => {}
            }
            self.announced.mark_unchanged();
            match self.work_once().await {
                Ok(Found::Work) => {}
                Ok(Found::Nothing(wait)) => self.wait(wait).await,
                Err(Error::Stopped) => return,
                Err(error) => {
                    tracing::warn!(%error, "a worker cannot use the database");
                    self.pause(DATABASE_AWAY).await;
                }
            }
        }
    }

    /// A quarter less to a quarter more, the same for a worker at all times: the workers of all replicas do not look at
    /// the same moment.
    fn spread(&self, time: Duration) -> Duration {
        time.mul_f64(0.75 + f64::from(self.id.as_bytes()[0]) / 510.0)
    }

    /// Waits for an announcement, or until it is time to look anyway.
    async fn wait(&mut self, time: Duration) {
        let soft = self.shutdown.soft.clone();
        tokio::select! {
            _ = self.announced.changed() => {}
            () = sleep(time) => {}
            () = soft.cancelled() => {}
        }
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = sleep(self.spread(time)) => {}
            () = self.shutdown.soft.cancelled() => {}
        }
    }

    /// One is kept for planning and small parts, so that a small job never waits behind a large one.
    fn appetite(&self) -> Appetite {
        match self.number {
            0 if self.shared.governor.workers() > 1 => Appetite::Small(SMALL_PART),
            _ => Appetite::Any,
        }
    }

    /// Plans a job, or does a part, or tells when to look again.
    async fn work_once(&self) -> Result<Found, Error> {
        let Workers { pool, config, .. } = &*self.shared;
        if let Some(planning) = self.look(plan::claim(pool, config)).await? {
            self.work_on(planning).await?;
            return Ok(Found::Work);
        }
        if let Some(lease) = self.look(claim::claim(pool, self.id, config, self.appetite())).await? {
            self.work_on(lease).await?;
            return Ok(Found::Work);
        }
        let fallback = self.spread(config.fallback_poll);
        let due = self.look(claim::next_due(pool, self.appetite())).await?;
        // A little after it: a lease has run out only when its last moment has passed.
        let due = due.map(|due| due + self.spread(Duration::from_millis(80)));
        Ok(Found::Nothing(due.map_or(fallback, |due| due.min(fallback))))
    }

    /// Looks for something in the ledger, for as long as the server may wait.
    async fn look<T>(&self, statement: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            found = answered(NO_ANSWER, statement) => found,
            () = self.shutdown.hard.cancelled() => Err(Error::Stopped),
        }
    }

    async fn work_on<L: Leased>(&self, leased: L) -> Result<(), Error> {
        let workers = &self.shared;
        if leased.failures() >= i32::from(workers.config.attempts) {
            return answered(NO_ANSWER, lease::give_up(&leased, workers)).await;
        }
        let leased = Arc::new(leased);
        let result = lease::work(&leased, workers, self.shutdown.hard.child_token()).await;
        self.settle(&*leased, result).await
    }

    /// Says what came of it. The database may be what failed, so it is told again and again: until it knows, or somebody
    /// else has taken the lease.
    async fn settle(&self, leased: &impl Leased, result: Result<(), Error>) -> Result<(), Error> {
        let workers = &self.shared;
        loop {
            let tell = async {
                match &result {
                    Ok(()) | Err(Error::LeaseLost) => Ok(()),
                    Err(Error::Stopped) => lease::release(leased, workers).await,
                    Err(error) => lease::fail(leased, workers, error).await,
                }
            };
            let patience = if self.shutdown.hard.is_cancelled() { TELLING_AT_THE_END } else { TELLING };
            match answered(patience, tell).await {
                Ok(()) | Err(Error::LeaseLost) => return Ok(()),
                Err(error) if self.shutdown.soft.is_cancelled() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "cannot tell what came of an attempt");
                    self.pause(DATABASE_AWAY / 2).await;
                }
            }
        }
    }
}
