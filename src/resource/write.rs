//! Puts and deletes: closes the current version of a resource and inserts the next.
//!
//! What a version is dated is decided in [`super::clock`].

use std::collections::HashSet;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use super::body::Resource;
use super::clock;
use crate::database::lost_a_race;
use crate::fhir::resource_type::ResourceType;

/// Races for the same resource are lost only to somebody who won, so this many in a row mean something else.
const TRIES: u32 = 20;

/// One change to the store.
#[derive(Debug)]
pub enum Change {
    /// Create the resource, or give it a new version; nothing if it is there with the same content.
    Put(Resource),
    /// End it with a tombstone; nothing if it is not there.
    Delete(ResourceType, String),
}

impl Change {
    /// The type of the resource it is about.
    pub fn resource_type(&self) -> ResourceType {
        match self {
            Self::Put(resource) => resource.resource_type(),
            Self::Delete(resource_type, _) => *resource_type,
        }
    }

    /// The id of the resource it is about.
    pub fn id(&self) -> &str {
        match self {
            Self::Put(resource) => resource.id(),
            Self::Delete(_, id) => id,
        }
    }
}

/// What a batch of changes came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// New versions.
    pub versions: u64,
    /// Puts that changed nothing.
    pub unchanged: u64,
    /// Tombstones.
    pub deleted: u64,
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.versions += other.versions;
        self.unchanged += other.unchanged;
        self.deleted += other.deleted;
    }
}

/// Applies the changes in their order, all or none, in one transaction.
///
/// # Errors
/// When the database refuses; then nothing was changed.
pub async fn write(pool: &PgPool, changes: &[Change]) -> Result<Written, sqlx::Error> {
    let mut tries = 1;
    loop {
        match write_once(pool, changes).await {
            Err(error) if tries < TRIES && lost_a_race(&error) => {
                tokio::time::sleep(Duration::from_millis(u64::from(tries) * 5)).await;
                tries += 1;
            }
            result => return result,
        }
    }
}

async fn write_once(pool: &PgPool, changes: &[Change]) -> Result<Written, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let at = clock::date_versions(&mut transaction).await?;
    let mut written = Written::default();
    for round in rounds(changes) {
        for of_one_type in round {
            written += write_type(&mut transaction, at, &of_one_type).await?;
        }
    }
    transaction.commit().await?;
    Ok(written)
}

/// Cuts the changes so that no resource occurs twice in a round, and a round into its types, in order of name: all
/// writers take their row locks in the same order.
fn rounds(changes: &[Change]) -> Vec<Vec<Vec<&Change>>> {
    let mut rounds: Vec<Vec<&Change>> = vec![Vec::new()];
    let mut seen = HashSet::new();
    for change in changes {
        if !seen.insert((change.resource_type(), change.id())) {
            seen.clear();
            seen.insert((change.resource_type(), change.id()));
            rounds.push(Vec::new());
        }
        if let Some(round) = rounds.last_mut() {
            round.push(change);
        }
    }
    rounds
        .into_iter()
        .map(|mut round| {
            round.sort_by_key(|change| (change.resource_type(), change.id().to_owned()));
            round.chunk_by(|a, b| a.resource_type() == b.resource_type()).map(<[_]>::to_vec).collect()
        })
        .collect()
}

/// The current version of a resource.
struct Current {
    key: i64,
    id: String,
    version_id: i64,
    last_updated: OffsetDateTime,
    body: Option<String>,
    patients: Vec<String>,
    mentions: Vec<String>,
}

/// The rows to insert, column by column.
#[derive(Default)]
struct Rows {
    ids: Vec<String>,
    versions: Vec<i64>,
    updated: Vec<OffsetDateTime>,
    bodies: Vec<Option<String>>,
    patients: Vec<String>,
    mentions: Vec<String>,
}

async fn write_type(
    connection: &mut PgConnection,
    at: OffsetDateTime,
    changes: &[&Change],
) -> Result<Written, sqlx::Error> {
    let Some(resource_type) = changes.first().map(|change| change.resource_type()) else {
        return Ok(Written::default());
    };
    let current = lock_current(connection, resource_type, changes).await?;
    let mut written = Written::default();
    let (mut closed_keys, mut closed_at) = (Vec::new(), Vec::new());
    let mut rows = Rows::default();
    for change in changes {
        let current = current
            .binary_search_by(|current| current.id.as_str().cmp(change.id()))
            .ok()
            .and_then(|index| current.get(index));
        let version_id = current.map_or(1, |current| current.version_id + 1);
        let last_updated = current.map_or(at, |current| at.max(current.last_updated + Duration::from_millis(1)));
        match (change, current) {
            (Change::Put(resource), Some(current)) if is_unchanged(resource, current) => {
                written.unchanged += 1;
                continue;
            }
            (Change::Put(resource), _) => {
                written.versions += 1;
                rows.bodies.push(Some(resource.body(version_id, last_updated)));
                rows.patients.push(resource.patients().join(" "));
                rows.mentions.push(resource.mentions().join(" "));
            }
            (Change::Delete(..), Some(current)) if current.body.is_some() => {
                written.deleted += 1;
                rows.bodies.push(None);
                rows.patients.push(current.patients.join(" "));
                rows.mentions.push(current.mentions.join(" "));
            }
            (Change::Delete(..), _) => continue,
        }
        rows.ids.push(change.id().to_owned());
        rows.versions.push(version_id);
        rows.updated.push(last_updated);
        if let Some(current) = current {
            closed_keys.push(current.key);
            closed_at.push(last_updated);
        }
    }
    close(connection, resource_type, &closed_keys, &closed_at).await?;
    insert(connection, resource_type, &rows).await?;
    Ok(written)
}

/// Equal but for `meta.versionId`, `meta.lastUpdated` and white space: as a version of the same number and date it
/// would have the very same body.
fn is_unchanged(resource: &Resource, current: &Current) -> bool {
    current.body.as_ref().is_some_and(|body| *body == resource.body(current.version_id, current.last_updated))
}

async fn lock_current(
    connection: &mut PgConnection,
    resource_type: ResourceType,
    changes: &[&Change],
) -> Result<Vec<Current>, sqlx::Error> {
    let ids: Vec<String> = changes.iter().map(|change| change.id().to_owned()).collect();
    sqlx::query_as!(
        Current,
        r#"-- resource.write.current
        select key, id, version_id, last_updated, body, patients, mentions
        from resource
        where resource_type = $1 and id = any($2) and superseded_at = 'infinity'
        order by id
        for update"#,
        resource_type.as_str(),
        &ids
    )
    .fetch_all(connection)
    .await
}

async fn close(
    connection: &mut PgConnection,
    resource_type: ResourceType,
    keys: &[i64],
    at: &[OffsetDateTime],
) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "-- resource.write.close
        update resource set superseded_at = closed.at
        from unnest($2::bigint[], $3::timestamptz[]) as closed (key, at)
        where resource.resource_type = $1 and resource.key = closed.key",
        resource_type.as_str(),
        keys,
        at
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert(connection: &mut PgConnection, resource_type: ResourceType, rows: &Rows) -> Result<(), sqlx::Error> {
    if rows.ids.is_empty() {
        return Ok(());
    }
    // Ids have no blanks, so a list of them travels as one text: arrays of arrays cannot be unnested.
    sqlx::query!(
        "-- resource.write.insert
        insert into resource (resource_type, id, version_id, last_updated, deleted, body, patients, mentions)
        select $1, id, version_id, last_updated, body is null, body,
            string_to_array(patients, ' '), string_to_array(mentions, ' ')
        from unnest($2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[])
            as row (id, version_id, last_updated, body, patients, mentions)",
        resource_type.as_str(),
        &rows.ids,
        &rows.versions,
        &rows.updated,
        &rows.bodies as &[Option<String>],
        &rows.patients,
        &rows.mentions
    )
    .execute(connection)
    .await?;
    Ok(())
}
