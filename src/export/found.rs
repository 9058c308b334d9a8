//! What the searches of an export have found (rule G9: chains, `_has`): Type/id of each, noted by the parts that find it and
//! committed with them. Nothing that depends on it is judged before all of them are done.

use std::collections::{HashMap, HashSet};

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::collected::{self, Collected};
use crate::fhir::resource_type::ResourceType;
use crate::search::Lookup;

/// So much is remembered of what was asked for, and so much is known without asking at most: neighbours mostly share their
/// patient.
const KNOWN: usize = 65_536;
/// So much is asked for in one statement.
const ASKED: usize = 16_384;

/// What was found, by the number of the search and the type.
pub(super) type Batch = collected::Batch<(i32, ResourceType)>;
/// Collects what is found.
pub(super) type Finds = Collected<(i32, ResourceType)>;

/// Stores what is not known yet: found before by this part, or by one that is done. What others find at this moment is
/// stored twice rather than waited for.
pub(super) async fn store(connection: &mut PgConnection, job: Uuid, batch: Batch) -> Result<(), sqlx::Error> {
    let (mut searches, mut types, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for ((search, resource_type), found) in batch {
        ids.extend(found);
        searches.resize(ids.len(), search);
        types.resize(ids.len(), resource_type.as_str().to_owned());
    }
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
        &searches,
        &types,
        &ids
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
    /// What is to be asked for.
    wanted: HashSet<Lookup>,
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
        Self { pool, job, known: HashMap::new(), wanted: HashSet::new(), extent: Extent::Nothing }
    }

    /// Whether it was found, if that is known.
    pub(super) fn get(&self, lookup: &Lookup) -> Option<bool> {
        self.known.get(lookup).copied().or((self.extent == Extent::All).then_some(false))
    }

    /// Notes what is to be asked for, each once.
    pub(super) fn want(&mut self, lookups: Vec<Lookup>) {
        self.wanted.extend(lookups);
    }

    /// Whether so much is to be asked for that no more may wait for it.
    pub(super) fn wants_much(&self) -> bool {
        self.wanted.len() >= KNOWN
    }

    /// Learns whether what is wanted was found.
    pub(super) async fn learn(&mut self) -> Result<(), sqlx::Error> {
        let wanted: Vec<Lookup> = self.wanted.drain().collect();
        if self.extent == Extent::Nothing {
            self.learn_all_if_little().await?;
        }
        if self.extent == Extent::Some {
            for wanted in wanted.chunks(ASKED) {
                self.look_up(wanted).await?;
            }
        }
        Ok(())
    }

    /// Makes room, if much is known.
    pub(super) fn make_room(&mut self) {
        if self.extent == Extent::Some && self.known.len() > KNOWN {
            self.known.clear();
        }
    }

    async fn learn_all_if_little(&mut self) -> Result<(), sqlx::Error> {
        if !self.is_little().await? {
            self.extent = Extent::Some;
            return Ok(());
        }
        let found = sqlx::query!(
            "-- export.found.all
            select search, resource_type, resource_id from export_found where job_id = $1 and search >= 0",
            self.job
        )
        .fetch_all(self.pool)
        .await?;
        self.known.extend(found.into_iter().filter_map(|row| {
            let (search, resource_type) = (usize::try_from(row.search).ok()?, ResourceType::parse(&row.resource_type)?);
            Some((Lookup { search, resource_type, id: row.resource_id }, true))
        }));
        self.extent = Extent::All;
        Ok(())
    }

    /// Whether all that was found may be known at a time.
    async fn is_little(&self) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar!(
            r#"-- export.found.is_little
            select count(*) < $2 as "is_little!"
            from (select from export_found where job_id = $1 and search >= 0 limit $2) as found"#,
            self.job,
            i64::try_from(KNOWN).unwrap_or(i64::MAX)
        )
        .fetch_one(self.pool)
        .await
    }

    async fn look_up(&mut self, wanted: &[Lookup]) -> Result<(), sqlx::Error> {
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
            &wanted.iter().map(number).collect::<Vec<_>>(),
            &wanted.iter().map(|lookup| lookup.resource_type.as_str().to_owned()).collect::<Vec<_>>(),
            &wanted.iter().map(|lookup| lookup.id.clone()).collect::<Vec<_>>()
        )
        .fetch_all(self.pool)
        .await?;
        self.known.extend(wanted.iter().cloned().zip(found));
        Ok(())
    }
}
