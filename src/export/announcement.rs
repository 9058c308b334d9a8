//! What processes tell each other through Postgres: that there may be work, and that a job has ended. Who waits for either
//! looks now and then all the same: after a lost connection nobody knows what was missed.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{PgConnection, PgPool};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Error;
use super::lease::{NO_ANSWER, answered};

/// The channel. Every announcement on it is one of work; with the id of a job it is one of its end, too.
pub(super) const CHANNEL: &str = "export_work";
/// Between two attempts to listen to a database that is away.
const DATABASE_AWAY: Duration = Duration::from_secs(1);
/// How often the listening connection is tried: a dead one would say nothing for ever.
const STILL_THERE: Duration = Duration::from_secs(30);
/// Ends that somebody may be behind with; past them it is as if all had ended.
const BEHIND: usize = 64;

/// Wakes the workers of all replicas when the transaction is committed.
pub(super) async fn announce_work(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    announce(connection, "").await
}

/// Tells who waits for the end of a job. It wakes the workers, too: a job that waits because of `export.max_running` may
/// have its turn now.
pub(super) async fn announce_end(connection: &mut PgConnection, job: Uuid) -> Result<(), sqlx::Error> {
    announce(connection, &job.to_string()).await
}

async fn announce(connection: &mut PgConnection, what: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"-- export.announcement.announce
        select pg_notify($1, $2) as "nothing: ()""#,
        CHANNEL,
        what
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Passes on within this process what is announced.
#[derive(Debug, Clone)]
pub(crate) struct Announcements {
    work: watch::Sender<()>,
    ends: broadcast::Sender<Uuid>,
}

impl Announcements {
    pub(crate) fn new() -> Self {
        Self { work: watch::Sender::new(()), ends: broadcast::Sender::new(BEHIND) }
    }

    /// Changes when there may be work.
    pub(super) fn work(&self) -> watch::Receiver<()> {
        self.work.subscribe()
    }

    /// The end of this job, if it is announced from now on.
    pub(crate) fn end_of(&self, job: Uuid) -> End {
        End { job, ends: self.ends.subscribe() }
    }

    /// Listens until it is stopped.
    pub(crate) async fn listen(self, pool: PgPool, stop: CancellationToken) {
        let listening = async {
            loop {
                if let Err(error) = self.listen_until_lost(&pool).await {
                    tracing::warn!(%error, "cannot listen for work");
                    sleep(DATABASE_AWAY).await;
                }
            }
        };
        tokio::select! {
            () = listening => {}
            () = stop.cancelled() => {}
        }
    }

    async fn listen_until_lost(&self, pool: &PgPool) -> Result<(), Error> {
        // A pool of its own: the place of a connection that died without a word is not given back.
        let options = (*pool.connect_options()).clone();
        let own = PgPoolOptions::new().max_connections(1).acquire_timeout(STILL_THERE).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&own).await?;
        listener.listen(CHANNEL).await?;
        self.pass_on("");
        loop {
            match timeout(STILL_THERE, listener.try_recv()).await {
                Ok(received) => match received? {
                    Some(notification) => self.pass_on(notification.payload()),
                    None => return Ok(()),
                },
                Err(_) => answered(NO_ANSWER, is_there(&mut listener)).await?,
            };
        }
    }

    fn pass_on(&self, what: &str) {
        self.work.send_replace(());
        if let Ok(job) = what.parse() {
            // Nobody may be waiting.
            let _ = self.ends.send(job);
        }
    }
}

async fn is_there(listener: &mut PgListener) -> Result<(), Error> {
    sqlx::query("-- export.announcement.listening\nselect 1").execute(listener).await?;
    Ok(())
}

/// Somebody's wait for the end of a job.
#[derive(Debug)]
pub(crate) struct End {
    job: Uuid,
    ends: broadcast::Receiver<Uuid>,
}

impl End {
    /// Waits until the job may have ended.
    pub(crate) async fn announced(&mut self) {
        loop {
            match self.ends.recv().await {
                Ok(job) if job != self.job => {}
                Ok(_) | Err(RecvError::Lagged(_)) => return,
                // Nothing is announced any more.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_announced(end: &mut End) -> bool {
        timeout(Duration::from_millis(20), end.announced()).await.is_ok()
    }

    #[tokio::test]
    async fn an_end_is_told_to_those_who_wait_for_it() {
        let announcements = Announcements::new();
        let mut work = announcements.work();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        announcements.pass_on(&one.to_string());
        let mut ends = [announcements.end_of(one), announcements.end_of(one), announcements.end_of(other)];
        assert!(!is_announced(&mut ends[0]).await, "it was announced before");
        work.mark_unchanged();
        announcements.pass_on("");
        assert!(!is_announced(&mut ends[0]).await, "there is work, and no end");
        assert!(work.has_changed().unwrap());
        announcements.pass_on(&one.to_string());
        assert!(is_announced(&mut ends[0]).await && is_announced(&mut ends[1]).await);
        assert!(!is_announced(&mut ends[2]).await);
    }

    #[tokio::test]
    async fn who_is_behind_takes_it_that_all_have_ended() {
        let announcements = Announcements::new();
        let mut end = announcements.end_of(Uuid::from_u128(1));
        for other in 2..200 {
            announcements.pass_on(&Uuid::from_u128(other).to_string());
        }
        assert!(is_announced(&mut end).await);
    }
}
