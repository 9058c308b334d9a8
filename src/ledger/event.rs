//! What happened, an entry for each: written in the transaction that does it, or before the answer that tells of it. What
//! cannot be written does not happen.

use std::time::Duration;

use futures_util::stream::BoxStream;
use serde_json::{Value, json};
use sqlx::{PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Requester;
use crate::database::code;

/// Between two looks whether nobody is writing,
const PAUSE: Duration = Duration::from_millis(50);
/// and at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What kind of thing (migration 17 says what each is). One that a newer version has written is not taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "kebab-case")]
pub(crate) enum Kind {
    Begin,
    Unrecorded,
    KickOff,
    Manifest,
    Download,
    Sent,
    Delete,
    Denied,
    Erase,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Unrecorded => "unrecorded",
            Self::KickOff => "kick-off",
            Self::Manifest => "manifest",
            Self::Download => "download",
            Self::Sent => "sent",
            Self::Delete => "delete",
            Self::Denied => "denied",
            Self::Erase => "erase",
        }
    }
}

/// What is to be written.
pub(crate) struct Entry<'a> {
    pub(crate) kind: Kind,
    pub(crate) by: &'a Requester,
    pub(crate) job: Uuid,
    pub(crate) file: Option<&'a str>,
    /// Of what was sent: the number of the download.
    pub(crate) download: Option<i64>,
    /// The status of the answer.
    pub(crate) outcome: u16,
    pub(crate) detail: Value,
}

impl<'a> Entry<'a> {
    /// One about an export as a whole.
    pub(crate) fn about_job(kind: Kind, by: &'a Requester, job: Uuid, outcome: u16) -> Self {
        Self { kind, by, job, file: None, download: None, outcome, detail: json!({}) }
    }

    /// Writes it, and gives its number.
    pub(crate) async fn write(&self, executor: impl PgExecutor<'_>) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar!(
            "-- ledger.event.write
            insert into disclosure
                (event, owner_issuer, owner_subject, client, address, job_id, file_id, download, outcome, detail)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
            returning number",
            self.kind.as_str(),
            self.by.owner.issuer,
            self.by.owner.subject,
            self.by.client,
            self.by.address.to_string(),
            self.job,
            self.file,
            self.download,
            i16::try_from(self.outcome).unwrap_or(0),
            self.detail
        )
        .fetch_one(executor)
        .await
    }
}

/// Writes that a patient's data was erased: who it was, and what went.
pub(crate) async fn write_erasure(executor: impl PgExecutor<'_>, detail: Value) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- ledger.event.write_erasure
        insert into disclosure (event, detail) values ('erase', $1)",
        detail
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// What was written.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) number: i64,
    pub(crate) at: OffsetDateTime,
    pub(crate) kind: Kind,
    pub(crate) issuer: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) client: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) job: Option<Uuid>,
    pub(crate) file: Option<String>,
    pub(crate) download: Option<i64>,
    pub(crate) outcome: Option<i16>,
    pub(crate) detail: Value,
}

impl Event {
    /// A number in the details.
    pub(crate) fn amount(&self, name: &str) -> Option<u64> {
        self.detail.get(name)?.as_u64()
    }
}

/// The number up to which nothing more will come, however late who writes commits: who has read so far misses nothing by
/// going on from there. Who writes waits for it, a tenth of a second at most.
pub(crate) async fn settled(pool: &PgPool) -> Result<i64, sqlx::Error> {
    let mut pause = PAUSE;
    loop {
        let settled = sqlx::query_scalar!(
            r#"-- ledger.event.settled
            select disclosure_settled() as "number!""#
        )
        .fetch_one(pool)
        .await;
        match settled {
            // lock_not_available
            Err(error) if code(&error).as_deref() == Some("55P03") => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            settled => return settled,
        }
    }
}

/// The same, before all entries of exports that have not ended: more of their files may come to hold data of a patient.
pub(crate) async fn ended(pool: &PgPool, settled: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- ledger.event.ended
        select least($1, min(number) - 1) as "number!"
        from disclosure join export_job on export_job.id = job_id
        where state in ('accepted', 'running')"#,
        settled
    )
    .fetch_one(pool)
    .await
}

/// Those after one number up to another, since an instant, in their order.
pub(crate) fn list(
    pool: &PgPool,
    after: i64,
    until: i64,
    since: Option<OffsetDateTime>,
) -> BoxStream<'_, Result<Event, sqlx::Error>> {
    sqlx::query_as!(
        Event,
        r#"-- ledger.event.list
        select number, at, event as "kind: Kind", owner_issuer as issuer, owner_subject as subject, client, address,
            job_id as job, file_id as file, download, outcome, detail
        from disclosure
        where number > $1 and number <= $2 and ($3::timestamptz is null or at >= $3)
        order by number"#,
        after,
        until,
        since
    )
    .fetch(pool)
}

/// All about these exports, the ledger itself, and the erasure of this patient (`Patient/<id>`): after one number up to
/// another, since an instant, in their order.
pub(crate) fn about<'a>(
    pool: &'a PgPool,
    jobs: &'a [Uuid],
    patient: &'a str,
    (after, until): (i64, i64),
    since: Option<OffsetDateTime>,
) -> BoxStream<'a, Result<Event, sqlx::Error>> {
    sqlx::query_as!(
        Event,
        r#"-- ledger.event.about
        select number, at, event as "kind: Kind", owner_issuer as issuer, owner_subject as subject, client, address,
            job_id as job, file_id as file, download, outcome, detail
        from disclosure
        where number > $3 and number <= $4 and ($5::timestamptz is null or at >= $5) and (
            job_id = any($1) or event in ('begin', 'unrecorded') or event = 'erase' and detail ->> 'patient' = $2
        )
        order by number"#,
        jobs,
        patient,
        after,
        until,
        since
    )
    .fetch(pool)
}

/// All about one export, in their order.
pub(crate) fn of_job(pool: &PgPool, job: Uuid) -> BoxStream<'_, Result<Event, sqlx::Error>> {
    sqlx::query_as!(
        Event,
        r#"-- ledger.event.of_job
        select number, at, event as "kind: Kind", owner_issuer as issuer, owner_subject as subject, client, address,
            job_id as job, file_id as file, download, outcome, detail
        from disclosure
        where job_id = $1
        order by number"#,
        job
    )
    .fetch(pool)
}

/// When the ledger began.
pub(crate) async fn beginning(pool: &PgPool) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- ledger.event.beginning
        select min(at) from disclosure where event = 'begin'"#
    )
    .fetch_one(pool)
    .await
}

/// When the ledger began, and since an instant the exports whose files are not known: those of versions before it.
pub(crate) fn unrecorded(pool: &PgPool, since: Option<OffsetDateTime>) -> BoxStream<'_, Result<Event, sqlx::Error>> {
    sqlx::query_as!(
        Event,
        r#"-- ledger.event.unrecorded
        select number, at, event as "kind: Kind", owner_issuer as issuer, owner_subject as subject, client, address,
            job_id as job, file_id as file, download, outcome, detail
        from disclosure
        where event = 'begin'
            or event = 'unrecorded' and (
                $1::timestamptz is null or exists (
                    select from disclosure as later where later.job_id = disclosure.job_id and later.at >= $1
                )
            )
        order by number"#,
        since
    )
    .fetch(pool)
}
