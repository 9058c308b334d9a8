//! Puts and deletes: closes the current version of a resource and inserts the next.
//!
//! What a version is dated is decided in `resource::clock`.

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

/// Why a transaction was not committed.
#[derive(Debug)]
enum Undone {
    /// Another writer was faster with one of the resources: what was read is not what is there now.
    Overtaken,
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Undone {
    fn from(error: sqlx::Error) -> Self {
        if lost_a_race(&error) { Self::Overtaken } else { Self::Database(error) }
    }
}

/// Applies the changes in their order, all or none, in one transaction.
///
/// # Errors
/// When the database refuses; then nothing was changed.
pub async fn write(pool: &PgPool, changes: &[Change]) -> Result<Written, sqlx::Error> {
    for tries in 1..TRIES {
        match write_once(pool, changes).await {
            Ok(written) => return Ok(written),
            Err(Undone::Overtaken) => tokio::time::sleep(Duration::from_millis(u64::from(tries) * 5)).await,
            Err(Undone::Database(error)) => return Err(error),
        }
    }
    Err(sqlx::Error::Protocol(format!("other writers were faster {TRIES} times")))
}

async fn write_once(pool: &PgPool, changes: &[Change]) -> Result<Written, Undone> {
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
    targets: Option<Vec<String>>,
}

/// The rows to insert, column by column.
#[derive(Default)]
struct Rows<'a> {
    ids: Vec<&'a str>,
    versions: Vec<i64>,
    updated: Vec<OffsetDateTime>,
    bodies: Vec<Option<String>>,
    patients: Vec<String>,
    mentions: Vec<String>,
    targets: Vec<Option<String>>,
}

impl<'a> Rows<'a> {
    fn push(&mut self, id: &'a str, version_id: i64, updated: OffsetDateTime, content: Content<'_>) {
        self.ids.push(id);
        self.versions.push(version_id);
        self.updated.push(updated);
        self.bodies.push(content.body);
        // Ids have no blanks, so a list of them travels as one text: arrays of arrays cannot be unnested.
        self.patients.push(content.patients.join(" "));
        self.mentions.push(content.mentions.join(" "));
        self.targets.push(content.targets.map(|targets| targets.join(" ")));
    }
}

/// What a version holds.
struct Content<'a> {
    /// None in a tombstone.
    body: Option<String>,
    patients: &'a [String],
    mentions: &'a [String],
    targets: Option<&'a [String]>,
}

impl<'a> Content<'a> {
    fn of(resource: &'a Resource, version_id: i64, updated: OffsetDateTime) -> Self {
        Self {
            body: Some(resource.body(version_id, updated)),
            patients: resource.patients(),
            mentions: resource.mentions(),
            targets: resource.targets(),
        }
    }

    /// A tombstone belongs to the patients of the version it ends, and is about the same.
    fn tombstone_of(current: &'a Current) -> Self {
        Self {
            body: None,
            patients: &current.patients,
            mentions: &current.mentions,
            targets: current.targets.as_deref(),
        }
    }
}

/// Writes changes to one type, no resource twice among them.
async fn write_type(connection: &mut PgConnection, at: OffsetDateTime, changes: &[&Change]) -> Result<Written, Undone> {
    let Some(resource_type) = changes.first().map(|change| change.resource_type()) else {
        return Ok(Written::default());
    };
    let created = create(connection, resource_type, at, changes).await?;
    let mut written = Written { versions: created.len() as u64, ..Written::default() };
    let others: Vec<&Change> = changes.iter().copied().filter(|change| !created.contains(change.id())).collect();
    if !others.is_empty() {
        written += supersede(connection, resource_type, at, &others).await?;
    }
    Ok(written)
}

/// Inserts as first versions what is not there yet, and gives the ids of that. Most that is loaded is new: to try is
/// cheaper than to look first.
async fn create(
    connection: &mut PgConnection,
    resource_type: ResourceType,
    at: OffsetDateTime,
    changes: &[&Change],
) -> Result<HashSet<String>, sqlx::Error> {
    let mut rows = Rows::default();
    for change in changes {
        if let Change::Put(resource) = change {
            rows.push(resource.id(), 1, at, Content::of(resource, 1, at));
        }
    }
    Ok(insert(connection, resource_type, &rows).await?.into_iter().collect())
}

/// Gives a next version to what is there.
async fn supersede(
    connection: &mut PgConnection,
    resource_type: ResourceType,
    at: OffsetDateTime,
    changes: &[&Change],
) -> Result<Written, Undone> {
    let current = lock_current(connection, resource_type, changes).await?;
    let find = |id: &str| {
        let index = current.binary_search_by(|current| current.id.as_str().cmp(id)).ok()?;
        current.get(index)
    };
    let missing = changes.iter().map(|change| change.id()).filter(|id| find(id).is_none()).collect::<Vec<_>>();
    if any_current(connection, resource_type, &missing).await? {
        return Err(Undone::Overtaken);
    }
    let mut written = Written::default();
    let (mut closed_keys, mut closed_at) = (Vec::new(), Vec::new());
    let mut rows = Rows::default();
    for change in changes {
        // What is not there cannot be deleted.
        let Some(current) = find(change.id()) else { continue };
        let version_id = current.version_id + 1;
        let updated = at.max(current.last_updated + Duration::from_millis(1));
        let content = match change {
            Change::Put(resource) if is_unchanged(resource, current) => {
                written.unchanged += 1;
                continue;
            }
            Change::Put(resource) => {
                written.versions += 1;
                Content::of(resource, version_id, updated)
            }
            Change::Delete(..) if current.body.is_some() => {
                written.deleted += 1;
                Content::tombstone_of(current)
            }
            Change::Delete(..) => continue,
        };
        rows.push(change.id(), version_id, updated, content);
        closed_keys.push(current.key);
        closed_at.push(updated);
    }
    close(connection, resource_type, &closed_keys, &closed_at).await?;
    let inserted = insert(connection, resource_type, &rows).await?;
    if inserted.len() != rows.ids.len() {
        return Err(Undone::Overtaken);
    }
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
        select key, id, version_id, last_updated, body, patients, mentions,
            case when resource_type = 'Provenance' then coalesce(targets, provenance_targets(body)) end as targets
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

/// Whether one of these has a current version. One that was not seen while it was locked has got a newer version from
/// another writer in the meantime: a row that is replaced while a statement waits for it is not found again.
async fn any_current(
    connection: &mut PgConnection,
    resource_type: ResourceType,
    ids: &[&str],
) -> Result<bool, sqlx::Error> {
    if ids.is_empty() {
        return Ok(false);
    }
    sqlx::query_scalar!(
        r#"-- resource.write.any_current
        select exists (
            select from resource where resource_type = $1 and id = any($2) and superseded_at = 'infinity'
        ) as "any!""#,
        resource_type.as_str(),
        ids as &[&str]
    )
    .fetch_one(connection)
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

/// Inserts the rows whose resources have no current version, and gives the ids of those.
async fn insert(
    connection: &mut PgConnection,
    resource_type: ResourceType,
    rows: &Rows<'_>,
) -> Result<Vec<String>, sqlx::Error> {
    if rows.ids.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar!(
        "-- resource.write.insert
        insert into resource (resource_type, id, version_id, last_updated, deleted, body, patients, mentions, targets)
        select $1, id, version_id, last_updated, body is null, body,
            string_to_array(patients, ' '), string_to_array(mentions, ' '), string_to_array(targets, ' ')
        from unnest($2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[])
            as row (id, version_id, last_updated, body, patients, mentions, targets)
        on conflict (resource_type, id) where superseded_at = 'infinity' do nothing
        returning id",
        resource_type.as_str(),
        &rows.ids as &[&str],
        &rows.versions,
        &rows.updated,
        &rows.bodies as &[Option<String>],
        &rows.patients,
        &rows.mentions,
        &rows.targets as &[Option<String>]
    )
    .fetch_all(connection)
    .await
}
