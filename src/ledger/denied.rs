//! Requests that were denied: counted in memory and written a few seconds later, so that garbage fills neither the disk
//! nor the time of the database, and what is somebody else's takes as long to deny as what never was.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use sqlx::PgPool;

use crate::identity::Owner;

/// So many attempts are told apart, beyond which all are one for each status.
const MOST: usize = 1_000;
/// So many more with every write: some six thousand rows an hour, whatever comes.
const MORE: usize = 8;

/// What attempts have in common that are counted together. Nothing of it is the caller's choice but the address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    /// None of all that are not told apart.
    pub(crate) by: Option<By>,
    pub(crate) status: u16,
}

/// Whose attempt, and at what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct By {
    pub(crate) address: IpAddr,
    /// If the token was good.
    pub(crate) owner: Option<Owner>,
    pub(crate) method: String,
    /// The route, with `{…}` for what varies: never what was asked for.
    pub(crate) route: String,
}

/// Those that are not written yet.
pub(super) struct Denied(Mutex<Counts>);

struct Counts {
    attempts: HashMap<Attempt, i64>,
    /// How many more are told apart.
    room: usize,
}

impl Default for Denied {
    fn default() -> Self {
        Self(Mutex::new(Counts { attempts: HashMap::new(), room: MOST }))
    }
}

impl Denied {
    pub(super) fn count(&self, attempt: Attempt) {
        self.lock().add(attempt, 1);
    }

    /// Writes them all; what cannot be written is kept for the next time.
    pub(super) async fn write(&self, pool: &PgPool) {
        let attempts = self.lock().take();
        if attempts.is_empty() {
            return;
        }
        if let Err(error) = insert(pool, &attempts).await {
            tracing::error!(%error, "denied requests cannot be written to the ledger of disclosures; tried again");
            let mut counts = self.lock();
            attempts.into_iter().for_each(|(attempt, count)| counts.add(attempt, count));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        // What a panic left behind is no worse than what was there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn add(&mut self, attempt: Attempt, count: i64) {
        if let Some(counted) = self.attempts.get_mut(&attempt) {
            *counted += count;
        } else if attempt.by.is_none() || self.room > 0 {
            self.room = self.room.saturating_sub(usize::from(attempt.by.is_some()));
            self.attempts.insert(attempt, count);
        } else {
            self.add(Attempt { by: None, ..attempt }, count);
        }
    }

    fn take(&mut self) -> Vec<(Attempt, i64)> {
        self.room = (self.room + MORE).min(MOST);
        self.attempts.drain().collect()
    }
}

async fn insert(pool: &PgPool, attempts: &[(Attempt, i64)]) -> Result<(), sqlx::Error> {
    let column = |of: fn(&By) -> Option<String>| -> Vec<Option<String>> {
        attempts.iter().map(|(attempt, _)| attempt.by.as_ref().and_then(of)).collect()
    };
    let statuses: Vec<i16> = attempts.iter().map(|(attempt, _)| i16::try_from(attempt.status).unwrap_or(0)).collect();
    let counts: Vec<i64> = attempts.iter().map(|(_, count)| *count).collect();
    sqlx::query!(
        "-- ledger.denied.insert
        insert into disclosure (event, outcome, address, owner_issuer, owner_subject, detail)
        select 'denied', outcome, address, issuer, subject,
            jsonb_strip_nulls(jsonb_build_object('count', count, 'method', method, 'route', route))
        from unnest($1::smallint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
            as attempt (outcome, count, address, issuer, subject, method, route)",
        &statuses,
        &counts,
        &column(|by| Some(by.address.to_string())) as &[Option<String>],
        &column(|by| by.owner.as_ref().map(|owner| owner.issuer.clone())) as &[Option<String>],
        &column(|by| by.owner.as_ref().map(|owner| owner.subject.clone())) as &[Option<String>],
        &column(|by| Some(by.method.clone())) as &[Option<String>],
        &column(|by| Some(by.route.clone())) as &[Option<String>]
    )
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: u32, status: u16) -> Attempt {
        let (method, route) = ("GET".to_owned(), "/fhir/Binary/{id}".to_owned());
        Attempt { by: Some(By { address: IpAddr::from(address.to_be_bytes()), owner: None, method, route }), status }
    }

    #[test]
    fn past_the_limit_attempts_are_counted_together() {
        let denied = Denied::default();
        let flood = |status| (0..5_000).for_each(|address| denied.count(from(address, status)));
        flood(401);
        flood(404);
        let attempts: HashMap<_, _> = denied.lock().take().into_iter().collect();
        assert_eq!(attempts.len(), MOST + 2);
        assert_eq!(attempts[&Attempt { by: None, status: 401 }], 4_000);
        assert_eq!(attempts[&Attempt { by: None, status: 404 }], 5_000);
        // And there is not at once room for as many again.
        flood(401);
        assert_eq!(denied.lock().take().len(), MORE + 1);
        assert_eq!(denied.lock().take(), []);
    }
}
