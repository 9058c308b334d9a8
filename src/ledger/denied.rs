//! Requests that were denied: counted in memory and written a few seconds later, so that garbage fills neither the disk
//! nor the time of the database, and what is somebody else's takes as long to deny as what never was.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use sqlx::PgPool;

use crate::identity::Owner;

/// So many attempts are told apart, beyond which all are one for each status: of those whose owner is known, and as many of
/// strangers, so that no flood of the one hides the others.
const MOST: usize = 1_000;
/// So many more with every write: some six thousand rows an hour of either, whatever comes.
const MORE: usize = 8;
/// The part of an IPv6 address that says whose network it is: whoever has one has all addresses in it.
const NETWORK: u128 = !(u64::MAX as u128);

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
    /// How many more are told apart: of those with an owner,
    room_of_owners: usize,
    /// and of strangers.
    room_of_strangers: usize,
}

impl Default for Denied {
    fn default() -> Self {
        Self(Mutex::new(Counts { attempts: HashMap::new(), room_of_owners: MOST, room_of_strangers: MOST }))
    }
}

impl By {
    /// From where: of a stranger by IPv6 the network.
    fn place(&self) -> String {
        match self.address {
            IpAddr::V6(address) if self.owner.is_none() => format!("{address}/64"),
            address => address.to_string(),
        }
    }

    /// Strangers are told apart by it.
    fn with_place(mut self) -> Self {
        if let (IpAddr::V6(address), None) = (self.address, &self.owner) {
            self.address = Ipv6Addr::from_bits(address.to_bits() & NETWORK).into();
        }
        self
    }
}

impl Denied {
    pub(super) fn count(&self, Attempt { by, status }: Attempt) {
        self.lock().add(Attempt { by: by.map(By::with_place), status });
    }

    /// Writes them all; what cannot be written is kept for the next time.
    pub(super) async fn write(&self, pool: &PgPool) {
        let attempts = self.lock().take();
        if attempts.is_empty() {
            return self.lock().make_room();
        }
        match insert(pool, &attempts).await {
            Ok(()) => self.lock().make_room(),
            Err(error) => {
                tracing::error!(%error, "denied requests cannot be written to the ledger of disclosures; tried again");
                self.lock().put_back(attempts);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        // What a panic left behind is no worse than what was there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn add(&mut self, attempt: Attempt) {
        if let Some(counted) = self.attempts.get_mut(&attempt) {
            *counted += 1;
        } else if let Some(room) = self.room_of(&attempt) {
            if *room == 0 {
                return self.add(Attempt { by: None, ..attempt });
            }
            *room -= 1;
            self.attempts.insert(attempt, 1);
        } else {
            self.attempts.insert(attempt, 1);
        }
    }

    /// What it takes a place of, if it is told apart.
    fn room_of(&mut self, attempt: &Attempt) -> Option<&mut usize> {
        let has_owner = attempt.by.as_ref()?.owner.is_some();
        Some(if has_owner { &mut self.room_of_owners } else { &mut self.room_of_strangers })
    }

    fn take(&mut self) -> Vec<(Attempt, i64)> {
        self.attempts.drain().collect()
    }

    /// What could not be written has its places already; what has come again meanwhile has taken a second one.
    fn put_back(&mut self, attempts: Vec<(Attempt, i64)>) {
        for (attempt, count) in attempts {
            if self.attempts.contains_key(&attempt)
                && let Some(room) = self.room_of(&attempt)
            {
                *room += 1;
            }
            *self.attempts.entry(attempt).or_default() += count;
        }
    }

    /// Once all is written.
    fn make_room(&mut self) {
        for room in [&mut self.room_of_owners, &mut self.room_of_strangers] {
            *room = (*room + MORE).min(MOST);
        }
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
        &column(|by| Some(by.place())) as &[Option<String>],
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

    fn by(address: IpAddr, owner: Option<&str>) -> By {
        let owner = owner.map(|subject| Owner { issuer: "i".to_owned(), subject: subject.to_owned() });
        By { address, owner, method: "GET".to_owned(), route: "/fhir/Binary/{id}".to_owned() }
    }

    fn from(address: u32, status: u16) -> Attempt {
        Attempt { by: Some(by(IpAddr::from(address.to_be_bytes()), None)), status }
    }

    /// As a write does that succeeds.
    fn written(denied: &Denied) -> HashMap<Attempt, i64> {
        let mut counts = denied.lock();
        let attempts = counts.take();
        counts.make_room();
        attempts.into_iter().collect()
    }

    fn flood(denied: &Denied, status: u16) {
        (0..5_000).for_each(|address| denied.count(from(address, status)));
    }

    #[test]
    fn past_the_limit_attempts_are_counted_together() {
        let denied = Denied::default();
        flood(&denied, 401);
        flood(&denied, 404);
        let attempts = written(&denied);
        assert_eq!(attempts.len(), MOST + 2);
        assert_eq!(attempts[&Attempt { by: None, status: 401 }], 4_000);
        assert_eq!(attempts[&Attempt { by: None, status: 404 }], 5_000);
        // And there is not at once room for as many again.
        flood(&denied, 401);
        assert_eq!(written(&denied).len(), MORE + 1);
        assert_eq!(written(&denied).len(), 0);
    }

    #[test]
    fn what_could_not_be_written_takes_no_more_room_than_before() {
        let denied = Denied::default();
        flood(&denied, 401);
        for _ in 0..50 {
            let mut counts = denied.lock();
            let attempts = counts.take();
            // One comes again while it is written.
            counts.room_of_strangers += 1;
            counts.add(from(7, 401));
            counts.put_back(attempts);
            assert_eq!(counts.room_of_strangers, 1);
            counts.room_of_strangers = 0;
        }
        let attempts = written(&denied);
        assert_eq!(attempts.len(), MOST + 1);
        assert_eq!((attempts[&from(7, 401)], attempts[&Attempt { by: None, status: 401 }]), (51, 4_000));
    }

    #[test]
    fn no_flood_of_strangers_hides_a_known_caller() {
        let denied = Denied::default();
        flood(&denied, 401);
        let known = Attempt { by: Some(by(IpAddr::from([10, 0, 0, 1]), Some("bob"))), status: 403 };
        denied.count(known.clone());
        assert_eq!(written(&denied)[&known], 1);
    }

    #[test]
    fn a_stranger_has_a_network_and_a_known_caller_an_address() {
        let denied = Denied::default();
        for address in ["2001:db8:1:2::7", "2001:db8:1:2:ffff::8", "2001:db8:1:3::7"] {
            for owner in [None, Some("bob")] {
                denied.count(Attempt { by: Some(by(address.parse().unwrap(), owner)), status: 401 });
            }
        }
        let mut places: Vec<_> =
            written(&denied).into_iter().map(|(attempt, count)| (attempt.by.unwrap().place(), count)).collect();
        places.sort();
        let expected = [
            ("2001:db8:1:2::/64", 2),
            ("2001:db8:1:2::7", 1),
            ("2001:db8:1:2:ffff::8", 1),
            ("2001:db8:1:3::/64", 1),
            ("2001:db8:1:3::7", 1),
        ];
        assert_eq!(places, expected.map(|(place, count)| (place.to_owned(), count)));
    }
}
