//! The rows of an export: the state of one type in a range of keys, at one instant, or its history until then. The one
//! place whose SQL is put together from pieces; every value is bound.

use std::ops::Range;

use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use sqlx::{AssertSqlSafe, PgConnection, PgExecutor, PgPool, Postgres, QueryBuilder, Row};
use time::OffsetDateTime;

use super::associated::{About, Owner};
use super::cohort::{Access, push_targets};
use super::narrow;
use crate::database::code;
use crate::fhir::resource_type::ResourceType;
use crate::search::Narrowed;

/// A body of more bytes than this is read in pieces of so many, so that memory is bounded whatever its size.
pub(super) const PIECE: i32 = 1 << 20;
/// Where a version mentions more Patients than this, so many come at once.
const PATIENTS: i32 = 10_000;

/// What an export asks of every type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// The transaction time: the instant whose state is read.
    pub(crate) at: OffsetDateTime,
    /// Only what changed after this instant (rule G2).
    pub(crate) since: Option<OffsetDateTime>,
    /// Only what changed before this instant (rule G3).
    pub(crate) until: Option<OffsetDateTime>,
    /// All versions that were superseded after this instant, not only those that were current (rule G15).
    pub(crate) history: Option<OffsetDateTime>,
}

impl Window {
    /// The state at the transaction time, whenever anything changed.
    pub(crate) fn whenever(self) -> Self {
        Self { since: None, until: None, history: None, ..self }
    }

    /// What was superseded at this instant or before is not read.
    pub(super) fn oldest(self) -> OffsetDateTime {
        self.history.unwrap_or(self.at)
    }
}

/// Part of the store.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub(crate) resource_type: ResourceType,
    pub(crate) keys: Range<i64>,
    pub(crate) window: Window,
    pub(crate) access: Access,
    /// If only Provenances of what comes out do.
    pub(crate) about: Option<About>,
    /// Where the resources are that come out, as far as a filter tells.
    pub(crate) narrowed: Narrowed,
}

impl Slice {
    /// Selects the resources in this slice: the body, null where it is long; the key, with which it is then read in
    /// [`pieces`](Slice::pieces); and the Patients each is about, as one text, null where they are many. In no particular
    /// order: an order would cost a sort, and no client may rely on one.
    pub(crate) fn bodies_and_patients(&self) -> QueryBuilder<Postgres> {
        let mut query =
            QueryBuilder::new("-- resource.read.bodies_and_patients\nselect case when octet_length(body) <= ");
        query.push_bind(PIECE).push(" then body end, key, ");
        if self.looks_up_patients() {
            push_text(&mut query, "ids");
            query.push(" from (select body, key, ");
            self.push_patients(&mut query);
            query.push(" as ids");
            self.push_rows(&mut query, false);
            // `offset 0`: whom it is about is looked up once.
            query.push(" offset 0) as version");
        } else {
            push_text(&mut query, "resource.mentions");
            self.push_rows(&mut query, false);
        }
        query
    }

    /// Reads a long body in pieces, which come in their order as long as Postgres sees no reason for another: the reader
    /// checks it. The subquery takes it out of its storage once; `offset 0` keeps
    /// Postgres from doing that again for every piece.
    pub(crate) fn pieces<'c>(
        &self,
        connection: &'c mut PgConnection,
        key: i64,
    ) -> BoxStream<'c, Result<Piece, sqlx::Error>> {
        sqlx::query_as!(
            Piece,
            r#"-- resource.read.pieces
            select octet_length(whole.bytes) as "of!", start - 1 as "offset!",
                substring(whole.bytes from start for $3) as "bytes!"
            from
                (select convert_to(body, 'UTF8') as bytes from resource where resource_type = $1 and key = $2 offset 0)
                    as whole,
                generate_series(1, octet_length(whole.bytes), $3) as start"#,
            self.resource_type.as_str(),
            key,
            PIECE
        )
        .fetch(connection)
    }

    /// Reads the Patients that a version is about, a text of many after the other: of a Group there may be a million.
    pub(crate) async fn patients(
        &self,
        connection: &mut PgConnection,
        key: i64,
        mut each: impl FnMut(&str),
    ) -> Result<(), sqlx::Error> {
        let mut query = QueryBuilder::new("-- resource.read.patients\nselect array_to_string(ids[start : start + ");
        query.push_bind(PATIENTS).push(" - 1], ' ') from (select ");
        self.push_patients(&mut query);
        query.push(" as ids from resource where resource_type = ").push_bind(self.resource_type.as_str());
        query.push(" and key = ").push_bind(key).push(" offset 0) as version, ");
        query.push("generate_series(1, cardinality(ids), ").push_bind(PATIENTS).push(") as start");
        let mut rows = query.build().persistent(false).fetch(connection);
        while let Some(row) = rows.try_next().await? {
            each(row.try_get(0)?);
        }
        Ok(())
    }

    /// Selects the resources in this slice that were deleted in the window: id, key, and the Patients that the version
    /// before was about, as one text, or null where they are many.
    pub(crate) fn deletions(&self) -> QueryBuilder<Postgres> {
        let mut query = QueryBuilder::new("-- resource.read.deletions\nselect id, key, ");
        query.push("case when cardinality(mentions) <= ").push_bind(PATIENTS).push(" then array_to_string(");
        self.push_patients(&mut query);
        query.push(", ' ') end");
        self.push_rows(&mut query, true);
        query
    }

    /// Whether more Patients count than a row mentions.
    fn looks_up_patients(&self) -> bool {
        self.resource_type == ResourceType::PROVENANCE && self.access.is_of_some()
    }

    /// The ids of the Patients that the row under way is about: all that it mentions. A Provenance in an export of some
    /// patients may mention nobody, and comes for the sake of those to whom belongs what it is about (rule H10): they count,
    /// too. Elsewhere they are not looked up: it would make the export of Provenances ten times as expensive.
    fn push_patients(&self, query: &mut QueryBuilder<Postgres>) {
        query.push("resource.mentions");
        if self.looks_up_patients() {
            query.push(" || array(select unnest(version.patients) from ");
            push_targets(query, self.window.at);
            query.push(")");
        }
    }

    fn push_rows(&self, query: &mut QueryBuilder<Postgres>, deleted: bool) {
        let (access, resource_type, window) = (self.access.of(self.resource_type), self.resource_type, self.window);
        match &self.about {
            Some(about) if resource_type == ResourceType::PROVENANCE && !deleted => {
                access.or_everything().push_rows(query, resource_type, window.at, &self.keys);
                push_conditions(query, resource_type, window.whenever(), Access::Everything, false);
                about.push(query, window, Owner::Cohort(access));
            }
            _ => {
                access.push_rows(query, resource_type, window.at, &self.keys);
                push_conditions(query, resource_type, window, access, deleted);
                if !deleted {
                    narrow::push(query, &self.narrowed, resource_type, &self.keys, window);
                }
            }
        }
    }
}

/// A list of ids as one text with a blank between each two. Mostly there is one, of which no list need be made.
fn push_text(query: &mut QueryBuilder<Postgres>, ids: &'static str) {
    query.push(format_args!("case cardinality({ids}) when 1 then {ids}[1] when 0 then '' else "));
    query.push(format_args!("case when cardinality({ids}) <= ")).push_bind(PATIENTS);
    query.push(format_args!(" then array_to_string({ids}, ' ') end end"));
}

/// A piece of a long body.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The length of the whole body.
    pub(crate) of: i32,
    /// Where in it this piece begins.
    pub(crate) offset: i32,
    pub(crate) bytes: Vec<u8>,
}

/// The state at an instant, or the history until then, as one predicate that goes on from others. Deletions are part of
/// the state only.
pub(super) fn push_conditions(
    query: &mut QueryBuilder<Postgres>,
    resource_type: ResourceType,
    window: Window,
    access: Access,
    deleted: bool,
) {
    query.push(" and resource_type = ").push_bind(resource_type.as_str());
    query.push(" and last_updated <= ").push_bind(window.at);
    query.push(" and superseded_at > ").push_bind(if deleted { window.at } else { window.oldest() });
    query.push(if deleted { " and deleted" } else { " and not deleted" });
    if let Some(since) = window.since {
        // Nobody has ever been told of what a new member has not got any more.
        let access = if deleted { Access::Everything } else { access };
        access.push_since(query, resource_type, window.at, since);
    }
    if let Some(until) = window.until {
        query.push(" and last_updated < ").push_bind(until);
    }
}

/// Those of these ids under which no resource of this type is there at an instant.
pub(crate) async fn unknown(
    executor: impl PgExecutor<'_>,
    resource_type: ResourceType,
    ids: &[&str],
    at: OffsetDateTime,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- resource.read.unknown
        select wanted as "wanted!" from unnest($2::text[]) as wanted
        where not exists (
            select from resource
            where resource_type = $1 and id = wanted and last_updated <= $3 and not deleted
                -- Two conditions, for there is an index for each.
                and (superseded_at = 'infinity' or (superseded_at > $3 and superseded_at < 'infinity'))
        )"#,
        resource_type.as_str(),
        ids as &[&str],
        at
    )
    .fetch_all(executor)
    .await
}

/// The partition of a type; made of an R4 type name, so it needs no quotes.
pub(super) fn partition(resource_type: ResourceType) -> String {
    format!("resource_{}", resource_type.as_str().to_ascii_lowercase())
}

/// Renews the statistics of a type, which decide between scanning a key range and scanning everything. Not while an index
/// of the type is being made: each would wait for the other. Autovacuum does it later.
pub(super) async fn analyze(pool: &PgPool, resource_type: ResourceType) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query("-- resource.read.patience\nset local lock_timeout = '1s'").execute(&mut *transaction).await?;
    let statement = format!("analyze {}", partition(resource_type));
    match sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await {
        Ok(_) => transaction.commit().await,
        // lock_not_available
        Err(error) if code(&error).as_deref() == Some("55P03") => transaction.rollback().await,
        Err(error) => Err(error),
    }
}
