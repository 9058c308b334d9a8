//! The indexes by which the resources of a patient are found, of each type of the Patient compartment: by patient, past
//! versions by id, and Provenances by what they are about. A migration makes those of types that are as good as empty;
//! here the others are made, while everybody goes on.

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use super::read::partition;
use crate::fhir::compartment;
use crate::fhir::resource_type::ResourceType;

/// The advisory lock of who makes indexes: two at once would wait for each other.
const INDEX_LOCK: i64 = 0x0066_6869_7200_0004;

/// An index, and how it is made.
struct Index {
    name: String,
    /// `on … using …`
    definition: String,
}

fn all() -> impl Iterator<Item = Index> {
    let of_type = compartment::types().map(partition).flat_map(|table| {
        [
            Index {
                name: format!("{table}_patients"),
                definition: format!("on {table} using gin (patients) with (fastupdate = off)"),
            },
            Index {
                name: format!("{table}_past"),
                definition: format!("on {table} (id) where superseded_at < 'infinity'"),
            },
        ]
    });
    let table = partition(ResourceType::PROVENANCE);
    let of_targets = Index {
        name: format!("{table}_targets"),
        definition: format!(
            "on {table} using gin (coalesce(targets, provenance_targets(body))) with (fastupdate = off)"
        ),
    };
    of_type.chain([of_targets])
}

/// Whether all are there and can be used.
pub(crate) async fn are_complete(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let names: Vec<String> = all().map(|index| index.name).collect();
    sqlx::query_scalar!(
        r#"-- resource.index.are_complete
        select count(*) = cardinality($1::text[]) as "complete!" from unnest($1::text[]) as name
        join pg_index on indexrelid = to_regclass(name) and indisvalid"#,
        &names
    )
    .fetch_one(connection)
    .await
}

/// Makes those that are missing, one after the other, unless somebody else does; whether all are there then. The pool must
/// let a statement take as long as it takes.
pub(crate) async fn complete(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    if are_complete(&mut connection).await? {
        return Ok(true);
    }
    // A connection of our own, so that the lock goes with it, whatever happens.
    let mut connection = connection.detach();
    let is_ours = sqlx::query_scalar!(
        r#"-- resource.index.lock
        select pg_try_advisory_lock($1) as "ours!""#,
        INDEX_LOCK
    )
    .fetch_one(&mut connection)
    .await?;
    if is_ours {
        make_missing(&mut connection).await?;
    }
    connection.close().await?;
    Ok(is_ours)
}

async fn make_missing(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    for Index { name, definition } in all() {
        let is_valid = sqlx::query_scalar!(
            r#"-- resource.index.is_valid
            select indisvalid from pg_index where indexrelid = to_regclass($1)"#,
            name
        )
        .fetch_optional(&mut *connection)
        .await?;
        if is_valid == Some(true) {
            continue;
        }
        // One that is not valid is what has become of an attempt that was cut off.
        for statement in [
            format!("drop index concurrently if exists {name}"),
            format!("create index concurrently {name} {definition}"),
        ] {
            sqlx::query(AssertSqlSafe(statement)).persistent(false).execute(&mut *connection).await?;
        }
        tracing::info!(index = name, "made an index");
    }
    Ok(())
}
