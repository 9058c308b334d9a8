//! Who may start an export now: a kick-off that is sent twice starts one, and unfinished jobs are limited.

use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::announcement::announce_work;
use super::request::{ExportRequest, REQUIRES};
use crate::config;
use crate::identity::Owner;
use crate::ledger::Requester;
use crate::ledger::brief::brief;
use crate::ledger::event::{Entry, Kind};

/// How a kick-off is answered that was accepted.
const ACCEPTED: u16 = 202;
/// The advisory lock under which kick-offs are counted.
const ADMISSION_LOCK: i64 = 0x0066_6869_7200_0002;
/// Who has the lock keeps all others from starting exports: one that is frozen then is cut off after this long.
const HOLDS_MS: &str = "2000";

/// What somebody wants to start.
pub(crate) struct KickOff<'a> {
    pub(crate) by: &'a Requester,
    pub(crate) request: &'a ExportRequest,
    /// The owner's name for it: sent again, it means the job that was started then.
    pub(crate) key: Option<&'a str>,
}

/// Why a kick-off was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAccepted {
    #[error("you have {0} exports that are not finished, which is the limit; wait for one, or cancel one with DELETE")]
    OwnerLimit(u32),
    #[error("{0} exports are waiting already, which is the limit; try again later")]
    QueueLimit(u32),
    #[error("the key was used for another request, or with other rights")]
    KeyInUse,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Stores the job and wakes the workers; of a kick-off that was sent before, gives the job that is there.
pub(crate) async fn submit(
    pool: &PgPool,
    kick_off: &KickOff<'_>,
    limits: &config::Export,
) -> Result<Uuid, NotAccepted> {
    let mut transaction = pool.begin().await?;
    sqlx::query!(
        "-- export.admission.patience
        select set_config('idle_in_transaction_session_timeout', $1, true)",
        HOLDS_MS
    )
    .fetch_one(&mut *transaction)
    .await?;
    keep_others_out(&mut transaction).await?;
    // The same kick-off may have been under way when it was looked for without the lock.
    if let Some(id) = started_before(&mut *transaction, kick_off).await? {
        return Ok(id);
    }
    check_limits(&mut transaction, &kick_off.by.owner, limits).await?;
    free_key(&mut transaction, kick_off).await?;
    let id = insert(&mut transaction, kick_off).await?;
    note(&mut transaction, kick_off, id).await?;
    announce_work(&mut transaction).await?;
    transaction.commit().await?;
    tracing::info!(job.id = %id, "accepted an export");
    Ok(id)
}

/// Lets nobody else start an export until the end of the transaction.
pub(crate) async fn keep_others_out(transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"-- export.admission.lock
        select pg_advisory_xact_lock($1) as "nothing: ()""#,
        ADMISSION_LOCK
    )
    .execute(transaction)
    .await?;
    Ok(())
}

/// The job that the same kick-off has started before, whatever has become of it, until it expires.
pub(crate) async fn started_before(
    executor: impl PgExecutor<'_>,
    KickOff { by, request, key }: &KickOff<'_>,
) -> Result<Option<Uuid>, NotAccepted> {
    let (Some(key), owner) = (*key, &by.owner) else { return Ok(None) };
    let started = sqlx::query!(
        r#"-- export.admission.started_before
        select id, request as "request: Json<ExportRequest>" from export_job
        where owner_issuer = $1 and owner_subject = $2 and idempotency_key = $3
            and (expires_at is null or expires_at > clock_timestamp())"#,
        owner.issuer,
        owner.subject,
        key
    )
    .fetch_optional(executor)
    .await?;
    match started {
        None => Ok(None),
        Some(job) if job.request.0 == **request => {
            tracing::info!(job.id = %job.id, "a kick-off was sent again");
            Ok(Some(job.id))
        }
        Some(_) => Err(NotAccepted::KeyInUse),
    }
}

async fn check_limits(
    connection: &mut PgConnection,
    owner: &Owner,
    limits: &config::Export,
) -> Result<(), NotAccepted> {
    let unfinished = sqlx::query!(
        r#"-- export.admission.unfinished
        select
            count(*) filter (where owner_issuer = $1 and owner_subject = $2) as "of_owner!",
            count(*) filter (where state = 'accepted') as "waiting!"
        from export_job where state in ('accepted', 'running')"#,
        owner.issuer,
        owner.subject
    )
    .fetch_one(connection)
    .await?;
    if unfinished.of_owner >= i64::from(limits.max_running_per_owner) {
        return Err(NotAccepted::OwnerLimit(limits.max_running_per_owner));
    }
    if unfinished.waiting >= i64::from(limits.max_queued) {
        return Err(NotAccepted::QueueLimit(limits.max_queued));
    }
    Ok(())
}

/// Takes the key from a job that has expired and is only still there because the reaper has not come by.
async fn free_key(connection: &mut PgConnection, KickOff { by, key, .. }: &KickOff<'_>) -> Result<(), sqlx::Error> {
    let (Some(key), owner) = (*key, &by.owner) else { return Ok(()) };
    sqlx::query!(
        "-- export.admission.free_key
        update export_job set idempotency_key = null
        where owner_issuer = $1 and owner_subject = $2 and idempotency_key = $3 and expires_at <= clock_timestamp()",
        owner.issuer,
        owner.subject,
        key
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert(
    connection: &mut PgConnection,
    KickOff { by, request, key }: &KickOff<'_>,
) -> Result<Uuid, sqlx::Error> {
    let (id, owner) = (Uuid::new_v4(), &by.owner);
    sqlx::query!(
        "-- export.admission.insert
        insert into export_job (id, owner_issuer, owner_subject, request, idempotency_key, requires, state)
        values ($1, $2, $3, $4, $5, $6, 'accepted')",
        id,
        owner.issuer,
        owner.subject,
        Json(request) as _,
        *key,
        REQUIRES
    )
    .execute(connection)
    .await?;
    Ok(id)
}

/// Writes down who asked for what, as it was understood.
async fn note(connection: &mut PgConnection, kick_off: &KickOff<'_>, id: Uuid) -> Result<(), sqlx::Error> {
    let detail = brief(json!(kick_off.request));
    let entry = Entry { detail, ..Entry::about_job(Kind::KickOff, kick_off.by, id, ACCEPTED) };
    entry.write(connection).await?;
    Ok(())
}
