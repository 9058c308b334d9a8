//! Resources that come out because others refer to them (`include.referenced`; rules H1, H8, B18): those of types
//! outside the Patient compartment, one step from what is put out. The parts that put it out note what it refers to; when
//! all of them are done, the parts of the stage `referenced` put that out, each resource once.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::collected::{self, BATCH, Collected};
use crate::binary::ndjson::Gone;
use crate::fhir::reference;
use crate::fhir::resource_type::ResourceType;
use crate::resource::body::References;

/// What of the references in a part's resources counts.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) types: BTreeSet<ResourceType>,
    /// An absolute reference below this base is to a resource of ours.
    pub(super) base: String,
}

/// References that were found.
pub(super) type Batch = collected::Batch<ResourceType>;

/// Collects the references in what a part puts out.
pub(super) struct Collector {
    wanted: Wanted,
    references: References,
    collected: Collected<ResourceType>,
}

impl Collector {
    /// A collector, and where its batches come out.
    pub(super) fn of(wanted: Wanted) -> (Self, mpsc::Receiver<Batch>) {
        let (collected, batches) = Collected::new();
        (Self { wanted, references: References::default(), collected }, batches)
    }

    /// Reads the next piece of what is put out.
    pub(super) async fn read(&mut self, piece: &[u8]) -> Result<(), Gone> {
        for piece in piece.chunks(BATCH) {
            let Self { wanted, references, collected } = self;
            references.read(piece, |text| {
                if let Some((resource_type, id)) = reference::own(text, &wanted.base)
                    && wanted.types.contains(&resource_type)
                {
                    collected.add(resource_type, id);
                }
            });
            collected.pass_on_if_much().await?;
        }
        Ok(())
    }

    /// Passes on what was found so far.
    pub(super) async fn pass_on(&mut self) -> Result<(), Gone> {
        self.collected.pass_on().await
    }
}

/// Stores what is not known yet: found before by this part, or by one that is done. What others find at this moment is
/// stored twice rather than waited for.
pub(super) async fn store(connection: &mut PgConnection, job: Uuid, batch: Batch) -> Result<(), sqlx::Error> {
    let (mut types, mut ids) = (Vec::new(), Vec::new());
    for (resource_type, found) in batch {
        ids.extend(found);
        types.resize(ids.len(), resource_type.as_str().to_owned());
    }
    sqlx::query!(
        "-- export.referenced.store
        insert into export_reference (job_id, resource_type, resource_id)
        select $1, resource_type, resource_id from unnest($2::text[], $3::text[]) as found (resource_type, resource_id)
        where not exists (
            select from export_reference as known
            where known.job_id = $1 and known.resource_type = found.resource_type
                and known.resource_id = found.resource_id
            -- Looked up one by one, whatever Postgres believes of the table.
            offset 0
        )",
        job,
        &types,
        &ids
    )
    .execute(connection)
    .await?;
    Ok(())
}
