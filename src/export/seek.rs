//! A part of the stage `search`: reads what there is of its types at the transaction time, but for what the indexes
//! leave out, and notes what the searches of the export's filters find by it. It puts out nothing but what it could not read.

use std::sync::atomic::Ordering;

use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection, Row};

use super::Error;
use super::found::{self, Finds};
use super::governor::Paced;
use super::part::Lease;
use super::run::read_whole;
use super::sink::Stopped;
use super::unreadable::Unreadable;
use super::worker::Workers;
use crate::binary::store::Files;
use crate::resource::read::Slice;
use crate::search::{Context, Search};

/// Looks at resources for the sake of what they tell of others.
struct Seeker<'a> {
    lease: &'a Lease,
    context: Context,
    /// All searches of the export: the number of one is its place.
    searches: Vec<Search>,
    finds: Finds,
    unreadable: Unreadable,
    paced: Paced<'a>,
}

/// Runs such a part to its commit.
pub(super) async fn seek(
    reader: &mut PgConnection,
    writer: &mut PgConnection,
    workers: &Workers,
    lease: &Lease,
) -> Result<(), Error> {
    let slices = lease.slices(reader).await?;
    let mut files = Files::new(lease.place(writer).await?);
    let mut transaction = writer.begin().await?;
    let (finds, mut batches) = Finds::new();
    let mut seeker = Seeker {
        lease,
        context: Context { at: lease.window.at, bases: workers.patient_bases.clone() },
        searches: lease.filters.searches(),
        finds,
        unreadable: Unreadable::that_are("not found"),
        paced: Paced::new(&workers.governor),
    };
    let read = async move {
        match seeker.read_slices(reader, &slices).await {
            Err(Stopped::Database(error)) => Err(Error::from(error)),
            Ok(()) | Err(Stopped::Gone) => Ok(seeker.unreadable),
        }
        // Here the collector is dropped, which ends storing.
    };
    let store = async {
        while let Some(batch) = batches.recv().await {
            found::store(&mut transaction, lease.job, batch).await?;
        }
        Ok::<_, Error>(())
    };
    let (unreadable, ()) = tokio::try_join!(read, store)?;
    let remarks = unreadable.into_remarks();
    if !remarks.is_empty() {
        files.write_outcomes(&mut transaction, &remarks).await?;
    }
    lease.complete(&mut transaction, files.resources(), workers.retention).await?;
    transaction.commit().await?;
    Ok(())
}

impl Seeker<'_> {
    async fn read_slices(&mut self, reader: &mut PgConnection, slices: &[Slice]) -> Result<(), Stopped> {
        for slice in slices {
            self.read(reader, slice).await?;
        }
        Ok(self.finds.pass_on().await?)
    }

    async fn read(&mut self, reader: &mut PgConnection, slice: &Slice) -> Result<(), Stopped> {
        let mut long = Vec::new();
        let mut query = slice.bodies_and_patients();
        let mut rows = query.build().persistent(false).fetch(&mut *reader);
        while let Some(row) = rows.try_next().await? {
            match (row.try_get(0)?, row.try_get(2)?) {
                (Some(body), Some(patients)) => {
                    self.look_at(slice, body, patients).await?;
                    self.paced.read(body.len()).await;
                }
                _ => long.push(row.try_get(1)?),
            }
        }
        drop(rows);
        for key in long {
            let body = read_whole(reader, slice, key, &mut self.paced).await?;
            let body = str::from_utf8(&body).map_err(|error| sqlx::Error::Decode(error.into()))?;
            let mut patients = String::new();
            slice.patients(reader, key, |some| patients.extend([some, " "])).await?;
            self.look_at(slice, body, &patients).await?;
        }
        Ok(())
    }

    async fn look_at(&mut self, slice: &Slice, body: &str, patients: &str) -> Result<(), Stopped> {
        let mut unreadable = None;
        let mut is_untold = false;
        for (number, search) in (0_i32..).zip(&self.searches) {
            if search.resource_type() != slice.resource_type {
                continue;
            }
            match search.finds(body, &self.context) {
                Ok(found) => {
                    for (resource_type, id) in found {
                        self.finds.add((number, resource_type), &id);
                    }
                    self.finds.pass_on_if_much().await?;
                }
                // It is told once, whatever reads it.
                Err(reason) if self.lease.filters.is_by_client(search) => unreadable = unreadable.or(Some(reason)),
                Err(_) => is_untold = true,
            }
        }
        match unreadable {
            Some(reason) => self.unreadable.note(body, patients, &reason),
            None if is_untold => self.unreadable.count(),
            None => {}
        }
        self.lease.examined.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
