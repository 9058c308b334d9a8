//! All that the store has of a patient: every version and every tombstone that mentions them (`resource.mentions`), wherever
//! it stands, and the Provenances of these. What is erased leaves nothing behind, not even a tombstone.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use time::OffsetDateTime;

use super::clock;
use super::prune::remove;
use super::read::partition;
use crate::fhir::resource_type::ResourceType;

/// Rows removed by one statement.
const BATCH: usize = 5_000;

/// The versions that mention a patient.
#[derive(Debug, Default)]
pub(crate) struct Mentions(Vec<Mention>);

/// One of them.
#[derive(Debug)]
struct Mention {
    resource_type: String,
    key: i64,
    id: String,
    /// It is what the resource is now.
    is_current: bool,
    /// It mentions no other patient.
    is_alone: bool,
}

impl Mention {
    /// `Type/id`
    fn resource(&self) -> String {
        format!("{}/{}", self.resource_type, self.id)
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
        let found = sqlx::query_as!(
            Mention,
            r#"-- resource.erase.find
            select resource_type, key, id, superseded_at = 'infinity' and not deleted as "is_current!",
                mentions = array[$1]::text[] as "is_alone!"
            from resource where mentions @> array[$1]::text[]"#,
            patient
        )
        .fetch_all(pool)
        .await?;
        Ok((Self(found), taken.at))
    }

    /// Adds the Provenances of those found: they tell where data of the patient comes from. One that is of another patient's
    /// data, too, is not about this one alone.
    async fn add_provenances(&mut self, transaction: &mut PgConnection, patient: &str) -> Result<(), sqlx::Error> {
        let found: HashSet<String> = self.0.iter().map(Mention::resource).collect();
        for targets in found.iter().cloned().collect::<Vec<_>>().chunks(BATCH) {
            let provenances = sqlx::query!(
                r#"-- resource.erase.provenances
                select key, id, superseded_at = 'infinity' and not deleted as "is_current!", mentions,
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
                is_current: provenance.is_current,
                is_alone: provenance.targets.iter().all(|target| found.contains(target))
                    && provenance.mentions.iter().all(|mentioned| mentioned == patient),
            }));
        }
        Ok(())
    }

    /// Adds what has come after a transaction time, and lets no more come while the transaction lasts.
    pub(crate) async fn complete(
        &mut self,
        transaction: &mut PgConnection,
        patient: &str,
        after: OffsetDateTime,
    ) -> Result<(), sqlx::Error> {
        clock::keep_writers_out(transaction).await?;
        let later = sqlx::query_as!(
            Mention,
            r#"-- resource.erase.later
            select resource_type, key, id, superseded_at = 'infinity' and not deleted as "is_current!",
                mentions = array[$1]::text[] as "is_alone!"
            from resource where mentions @> array[$1]::text[] and last_updated > $2"#,
            patient,
            after
        )
        .fetch_all(&mut *transaction)
        .await?;
        self.0.extend(later);
        self.add_provenances(transaction, patient).await
    }

    /// Current resources that tell of other patients, too: `Type/id` of each.
    pub(crate) fn shared(&self) -> BTreeSet<String> {
        let shared = self.0.iter().filter(|mention| mention.is_current && !mention.is_alone);
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
        Ok(deleted)
    }
}

/// Takes what was deleted out of the tables of these types; until then it lies in them, though nobody sees it.
pub(crate) async fn vacuum(pool: &PgPool, types: &BTreeSet<ResourceType>) -> Result<(), sqlx::Error> {
    for resource_type in types {
        let vacuum = format!("-- resource.erase.vacuum\nvacuum {}", partition(*resource_type));
        sqlx::query(AssertSqlSafe(vacuum)).execute(pool).await?;
    }
    Ok(())
}
