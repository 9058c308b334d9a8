//! What the searches of an export have found (rule G9: chains, `_has`): Type/id of each, noted by the parts that find it and
//! committed with them. Nothing that depends on it is judged before all of them are done.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{PgConnection, PgPool};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::binary::ndjson::Gone;
use crate::fhir::resource_type::ResourceType;
use crate::search::Lookup;

/// What was found is stored when it takes so much memory, about, …
const BATCH: usize = 1 << 20;
/// … of which this is what one takes besides its id.
const AROUND: usize = 64;
/// So much is known at a time of what was found: neighbours mostly share their patient.
const KNOWN: usize = 65_536;

/// What was found, each once.
pub(super) struct Batch {
    searches: Vec<i32>,
    types: Vec<String>,
    ids: Vec<String>,
}

/// Collects what is found.
pub(super) struct Finds {
    found: BTreeMap<(i32, ResourceType), HashSet<String>>,
    bytes: usize,
    batches: mpsc::Sender<Batch>,
}

impl Finds {
    /// A collector, and where its batches come out.
    pub(super) fn new() -> (Self, mpsc::Receiver<Batch>) {
        let (batches, received) = mpsc::channel(1);
        (Self { found: BTreeMap::new(), bytes: 0, batches }, received)
    }

    /// Notes a resource that the search of this number has found.
    pub(super) async fn note(&mut self, search: i32, resource_type: ResourceType, id: String) -> Result<(), Gone> {
        let bytes = id.len() + AROUND;
        if self.found.entry((search, resource_type)).or_default().insert(id) {
            self.bytes += bytes;
        }
        if self.bytes >= BATCH { self.pass_on().await } else { Ok(()) }
    }

    /// Passes on what was found so far.
    pub(super) async fn pass_on(&mut self) -> Result<(), Gone> {
        if self.found.is_empty() {
            return Ok(());
        }
        let mut batch = Batch { searches: Vec::new(), types: Vec::new(), ids: Vec::new() };
        for ((search, resource_type), ids) in std::mem::take(&mut self.found) {
            batch.ids.extend(ids);
            batch.searches.resize(batch.ids.len(), search);
            batch.types.resize(batch.ids.len(), resource_type.as_str().to_owned());
        }
        self.bytes = 0;
        self.batches.send(batch).await.map_err(|_| Gone)
    }
}

/// Stores what is not known yet: found before by this part, or by one that is done. What others find at this moment is
/// stored twice rather than waited for.
pub(super) async fn store(connection: &mut PgConnection, job: Uuid, batch: &Batch) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- export.found.store
        insert into export_found (job_id, search, resource_type, resource_id)
        select $1, search, resource_type, resource_id
        from unnest($2::int[], $3::text[], $4::text[]) as found (search, resource_type, resource_id)
        where not exists (
            select from export_found as known
            where known.job_id = $1 and known.search = found.search and known.resource_type = found.resource_type
                and known.resource_id = found.resource_id
            -- Looked up one by one, whatever Postgres believes of the table.
            offset 0
        )",
        job,
        &batch.searches,
        &batch.types,
        &batch.ids
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What a part knows of what was found: all, if that is little; else what it has asked for lately.
pub(super) struct Known<'a> {
    pool: &'a PgPool,
    job: Uuid,
    known: HashMap<Lookup, bool>,
    extent: Extent,
}

/// How much is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Nobody has asked.
    Nothing,
    /// What is not known was not found.
    All,
    Some,
}

impl<'a> Known<'a> {
    pub(super) fn of(pool: &'a PgPool, job: Uuid) -> Self {
        Self { pool, job, known: HashMap::new(), extent: Extent::Nothing }
    }

    /// Whether it was found, if that is known.
    pub(super) fn get(&self, lookup: &Lookup) -> Option<bool> {
        self.known.get(lookup).copied().or((self.extent == Extent::All).then_some(false))
    }

    /// Makes room for what one resource may depend on. Not while it is judged: that would never end.
    pub(super) fn make_room(&mut self) {
        if self.extent == Extent::Some && self.known.len() >= KNOWN {
            self.known.clear();
        }
    }

    /// Learns whether these were found.
    pub(super) async fn learn(&mut self, lookups: Vec<Lookup>) -> Result<(), sqlx::Error> {
        if self.extent == Extent::Nothing {
            self.learn_all_if_little().await?;
        }
        if self.extent == Extent::Some { self.look_up(lookups).await } else { Ok(()) }
    }

    async fn learn_all_if_little(&mut self) -> Result<(), sqlx::Error> {
        let found = sqlx::query!(
            "-- export.found.all
            select search, resource_type, resource_id from export_found where job_id = $1 and search >= 0 limit $2",
            self.job,
            i64::try_from(KNOWN).unwrap_or(i64::MAX)
        )
        .fetch_all(self.pool)
        .await?;
        if found.len() == KNOWN {
            self.extent = Extent::Some;
            return Ok(());
        }
        self.known.extend(found.into_iter().filter_map(|row| {
            let (search, resource_type) = (usize::try_from(row.search).ok()?, ResourceType::parse(&row.resource_type)?);
            Some((Lookup { search, resource_type, id: row.resource_id }, true))
        }));
        self.extent = Extent::All;
        Ok(())
    }

    async fn look_up(&mut self, lookups: Vec<Lookup>) -> Result<(), sqlx::Error> {
        let number = |lookup: &Lookup| i32::try_from(lookup.search).unwrap_or(i32::MAX);
        let found = sqlx::query_scalar!(
            r#"-- export.found.learn
            select exists (
                select from export_found as found
                where found.job_id = $1 and found.search = wanted.search and found.resource_type = wanted.resource_type
                    and found.resource_id = wanted.resource_id
                offset 0
            ) as "found!"
            from unnest($2::int[], $3::text[], $4::text[])
                with ordinality as wanted (search, resource_type, resource_id, ordinal)
            order by ordinal"#,
            self.job,
            &lookups.iter().map(number).collect::<Vec<_>>(),
            &lookups.iter().map(|lookup| lookup.resource_type.as_str().to_owned()).collect::<Vec<_>>(),
            &lookups.iter().map(|lookup| lookup.id.clone()).collect::<Vec<_>>()
        )
        .fetch_all(self.pool)
        .await?;
        self.known.extend(lookups.into_iter().zip(found));
        Ok(())
    }
}
