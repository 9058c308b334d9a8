//! All that the store has of a patient: every version and every tombstone that mentions them (`resource.mentions`), wherever
//! it stands, and the Provenances of these. What is erased leaves nothing behind, not even a tombstone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;

use super::clock;
use super::prune::remove;
use super::read::partition;
use crate::fhir::resource_type::ResourceType;

/// Rows removed by one statement.
const BATCH: usize = 5_000;
/// For transactions that see what was deleted; those of exports' parts may take longer.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(500);

/// The versions that mention a patient.
#[derive(Debug, Default)]
pub(crate) struct Mentions(Vec<Mention>);

/// One of them.
#[derive(Debug)]
struct Mention {
    resource_type: String,
    key: i64,
    id: String,
    version_id: i64,
    /// No other version comes after it.
    is_last: bool,
    deleted: bool,
    /// It mentions no other patient.
    is_alone: bool,
    /// What the resource is now does not mention the patient: it stays.
    remains: bool,
}

impl Mention {
    /// `Type/id`
    fn resource(&self) -> String {
        format!("{}/{}", self.resource_type, self.id)
    }

    /// It is what the resource is now.
    fn is_current(&self) -> bool {
        self.is_last && !self.deleted
    }

    fn is_provenance(&self) -> bool {
        self.resource_type == ResourceType::PROVENANCE.as_str()
    }
}

impl Mentions {
    /// Those there are at a transaction time that is taken now, and that time. Nothing else finds them all: this reads the
    /// whole store, but for the bodies.
    pub(crate) async fn find(pool: &PgPool, patient: &str) -> Result<(Self, OffsetDateTime), sqlx::Error> {
        let (transaction, taken) = clock::take_transaction_time(pool).await?;
        transaction.commit().await?;
        let found = Self::after(pool, patient, None).await?;
        Ok((Self(found), taken.at))
    }

    async fn after(
        executor: impl PgExecutor<'_>,
        patient: &str,
        after: Option<OffsetDateTime>,
    ) -> Result<Vec<Mention>, sqlx::Error> {
        sqlx::query_as!(
            Mention,
            r#"-- resource.erase.find
            select resource_type, key, id, version_id, superseded_at = 'infinity' as "is_last!", deleted,
                mentions = array[$1]::text[] as "is_alone!", exists (
                    select from resource as now
                    where now.resource_type = resource.resource_type and now.id = resource.id
                        and now.superseded_at = 'infinity' and not now.deleted and not now.mentions @> array[$1]::text[]
                ) as "remains!"
            from resource
            where mentions @> array[$1]::text[] and ($2::timestamptz is null or last_updated > $2)"#,
            patient,
            after
        )
        .fetch_all(executor)
        .await
    }

    /// Adds what has come after a transaction time. The transaction is to have the writers' lock.
    pub(crate) async fn complete(
        &mut self,
        transaction: &mut PgConnection,
        patient: &str,
        after: OffsetDateTime,
    ) -> Result<(), sqlx::Error> {
        let later = Self::after(&mut *transaction, patient, Some(after)).await?;
        self.0.extend(later);
        self.add_provenances(transaction, patient).await
    }

    /// Adds the Provenances of what goes as a whole: they tell where data of the patient comes from. One that is of other
    /// data, too, is not about this patient alone.
    async fn add_provenances(&mut self, transaction: &mut PgConnection, patient: &str) -> Result<(), sqlx::Error> {
        let gone: HashSet<String> = self.0.iter().filter(|mention| !mention.remains).map(Mention::resource).collect();
        for targets in gone.iter().cloned().collect::<Vec<_>>().chunks(BATCH) {
            let provenances = sqlx::query!(
                r#"-- resource.erase.provenances
                select key, id, version_id, superseded_at = 'infinity' as "is_last!", deleted, mentions,
                    coalesce(resource.targets, provenance_targets(resource.body)) as "targets!"
                from resource
                where resource_type = 'Provenance'
                    and coalesce(resource.targets, provenance_targets(resource.body)) && $1"#,
                targets
            )
            .fetch_all(&mut *transaction)
            .await?;
            // Of those that were found by what they mention this tells more.
            let again: HashSet<i64> = provenances.iter().map(|provenance| provenance.key).collect();
            self.0.retain(|mention| !(mention.is_provenance() && again.contains(&mention.key)));
            self.0.extend(provenances.into_iter().map(|provenance| Mention {
                resource_type: ResourceType::PROVENANCE.as_str().to_owned(),
                key: provenance.key,
                id: provenance.id,
                version_id: provenance.version_id,
                is_last: provenance.is_last,
                deleted: provenance.deleted,
                is_alone: provenance.targets.iter().all(|target| gone.contains(target))
                    && provenance.mentions.iter().all(|mentioned| mentioned == patient),
                remains: false,
            }));
        }
        Ok(())
    }

    /// Current resources that tell of other patients, too: `Type/id` of each.
    pub(crate) fn shared(&self) -> BTreeSet<String> {
        let shared = self.0.iter().filter(|mention| mention.is_current() && !mention.is_alone);
        shared.map(Mention::resource).collect()
    }

    /// Whether all of it is about this patient alone.
    pub(crate) fn are_alone(&self) -> bool {
        self.0.iter().all(|mention| mention.is_alone)
    }

    pub(crate) fn types(&self) -> BTreeSet<ResourceType> {
        self.0.iter().filter_map(|mention| ResourceType::parse(&mention.resource_type)).collect()
    }

    /// Deletes them; gives how many there were.
    pub(crate) async fn delete(&self, transaction: &mut PgConnection) -> Result<u64, sqlx::Error> {
        let mut keys: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for mention in &self.0 {
            keys.entry(&mention.resource_type).or_default().push(mention.key);
        }
        let mut deleted = 0;
        for (resource_type, keys) in keys {
            for batch in keys.chunks(BATCH) {
                deleted += remove(&mut *transaction, resource_type, batch).await?;
            }
        }
        self.close(transaction).await?;
        Ok(deleted)
    }

    /// Where earlier versions stay, which are about others, they end with a tombstone that mentions nobody: the next version
    /// counts on from it.
    async fn close(&self, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        let at = clock::date_versions(&mut *transaction).await?;
        let last: Vec<&Mention> = self.0.iter().filter(|mention| mention.is_last).collect();
        for last in last.chunks(BATCH) {
            sqlx::query!(
                "-- resource.erase.close
                insert into resource (resource_type, id, version_id, last_updated, deleted, patients, mentions)
                select resource_type, id, version_id + 1, $4, true, '{}', '{}'
                from unnest($1::text[], $2::text[], $3::bigint[]) as erased (resource_type, id, version_id)
                where exists (
                    select from resource as earlier
                    where earlier.resource_type = erased.resource_type and earlier.id = erased.id
                )",
                &last.iter().map(|mention| mention.resource_type.clone()).collect::<Vec<_>>(),
                &last.iter().map(|mention| mention.id.clone()).collect::<Vec<_>>(),
                &last.iter().map(|mention| mention.version_id).collect::<Vec<_>>(),
                at
            )
            .execute(&mut *transaction)
            .await?;
        }
        Ok(())
    }
}

/// The number of this transaction, by which it can be told when nobody sees any more what was before it.
pub(crate) async fn number(transaction: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- resource.erase.number
        select pg_current_xact_id()::xid::text as "number!""#
    )
    .fetch_one(transaction)
    .await
}

/// Takes what a transaction has deleted out of the tables of these types, and out of their statistics; until then it lies
/// there, though nobody finds it. False if somebody has had a transaction open for so long that it must stay for now.
pub(crate) async fn vacuum(pool: &PgPool, types: &BTreeSet<ResourceType>, number: &str) -> Result<bool, sqlx::Error> {
    let started = Instant::now();
    let mut is_past = is_past(pool, number).await?;
    while !is_past && started.elapsed() < PATIENCE {
        tokio::time::sleep(AGAIN).await;
        is_past = self::is_past(pool, number).await?;
    }
    for resource_type in types {
        let vacuum = format!("-- resource.erase.vacuum\nvacuum (analyze) {}", partition(*resource_type));
        sqlx::query(AssertSqlSafe(vacuum)).execute(pool).await?;
    }
    Ok(is_past)
}

/// Whether everybody of whom we may know it sees what was after this transaction.
async fn is_past(pool: &PgPool, number: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- resource.erase.is_past
        select not exists (
            select from pg_stat_activity
            where datname = current_database() and age(backend_xmin) >= age($1::text::xid)
        ) as "is_past!""#,
        number
    )
    .fetch_one(pool)
    .await
}
