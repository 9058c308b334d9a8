//! Resources that come out because others refer to them (`include.referenced`; rules H1, H8, B18): those of types
//! outside the Patient compartment, one step from what is put out. The parts that put it out note what it refers to; when
//! all of them are done, the parts of the stage `referenced` put that out, each resource once.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use sqlx::PgConnection;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::binary::ndjson::Gone;
use crate::fhir::reference;
use crate::fhir::resource_type::ResourceType;
use crate::resource::body::References;

/// References are stored when they take so much memory, about, …
const BATCH: usize = 1 << 20;
/// … of which this is what one takes besides its id.
const AROUND: usize = 64;

/// What of the references in a part's resources counts.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) types: BTreeSet<ResourceType>,
    /// An absolute reference below this base is to a resource of ours.
    pub(super) base: String,
}

/// References that were found, each once.
pub(super) struct Batch {
    types: Vec<String>,
    ids: Vec<String>,
}

/// Collects them from what a part puts out.
pub(super) struct Collector {
    wanted: Wanted,
    references: References,
    found: BTreeMap<ResourceType, HashSet<String>>,
    bytes: usize,
    batches: mpsc::Sender<Batch>,
}

impl Collector {
    /// A collector, and where its batches come out.
    pub(super) fn of(wanted: Wanted) -> (Self, mpsc::Receiver<Batch>) {
        let (batches, received) = mpsc::channel(1);
        let found = BTreeMap::new();
        (Self { wanted, references: References::default(), found, bytes: 0, batches }, received)
    }

    /// Reads the next piece of what is put out.
    pub(super) async fn read(&mut self, piece: &[u8]) -> Result<(), Gone> {
        for piece in piece.chunks(BATCH) {
            let Self { wanted, references, found, bytes, .. } = self;
            references.read(piece, |text| {
                if let Some((resource_type, id)) = reference::own(text, &wanted.base)
                    && wanted.types.contains(&resource_type)
                {
                    let ids = found.entry(resource_type).or_default();
                    if !ids.contains(id) {
                        ids.insert(id.to_owned());
                        *bytes += id.len() + AROUND;
                    }
                }
            });
            if self.bytes >= BATCH {
                self.pass_on().await?;
            }
        }
        Ok(())
    }

    /// Passes on what was found so far.
    pub(super) async fn pass_on(&mut self) -> Result<(), Gone> {
        if self.found.is_empty() {
            return Ok(());
        }
        let mut batch = Batch { types: Vec::new(), ids: Vec::new() };
        for (resource_type, ids) in std::mem::take(&mut self.found) {
            batch.types.resize(batch.types.len() + ids.len(), resource_type.as_str().to_owned());
            batch.ids.extend(ids);
        }
        self.bytes = 0;
        self.batches.send(batch).await.map_err(|_| Gone)
    }
}

/// Stores what is not known yet: found before by this part, or by one that is done. What others find at this moment is
/// stored twice rather than waited for.
pub(super) async fn store(connection: &mut PgConnection, job: Uuid, batch: &Batch) -> Result<(), sqlx::Error> {
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
        &batch.types,
        &batch.ids
    )
    .execute(connection)
    .await?;
    Ok(())
}
