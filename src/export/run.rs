//! One part: rows → lines → chunks → files, in one transaction with the part's completion. Reading, compressing and
//! storing overlap; what is under way is bounded by a few blocks.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection, PgPool, Row};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::part::{Lease, Stage};
use crate::binary::ndjson::{Gone, Lines, pipeline};
use crate::binary::store::Files;
use crate::binary::{Place, Unwritten};
use crate::resource::read::Slice;

/// The type of the lines that tell of deletions.
const DELETIONS: &str = "Bundle";

/// What every part is run with.
pub(super) struct Settings {
    pub(super) file_target: u64,
    pub(super) retention: Duration,
}

/// Runs a part to its commit. `written` counts as it goes; `stop` ends it at once, and nothing of it is left.
pub(super) async fn run(
    pool: &PgPool,
    lease: &Lease,
    settings: &Settings,
    written: &AtomicI64,
    stop: &CancellationToken,
) -> Result<(), Error> {
    // Two sessions: one reads while the other's transaction stores. Neither goes back to the pool in the middle of
    // something: the next user would have to read what is left, or inherit the transaction.
    let mut reader = pool.acquire().await?;
    let mut writer = pool.acquire().await?;
    let result = tokio::select! {
        result = run_on(&mut reader, &mut writer, lease, settings, written) => result,
        () = stop.cancelled() => Err(Error::Stopped),
    };
    if result.is_err() {
        drop((reader.detach(), writer.detach()));
    }
    result
}

async fn run_on(
    reader: &mut PgConnection,
    writer: &mut PgConnection,
    lease: &Lease,
    settings: &Settings,
    written: &AtomicI64,
) -> Result<(), Error> {
    lease.name_session(reader).await?;
    lease.name_session(writer).await?;
    let mut transaction = writer.begin().await?;
    let (mut lines, mut chunks, compressor) = pipeline(settings.file_target);

    let read = async move {
        for slice in &lease.slices {
            if let Err(stopped) = read_slice(reader, slice, lease.stage, &mut lines, written).await {
                return stopped.into_result();
            }
        }
        // Deletions of all types share their files.
        lines.end_file(DELETIONS).await.or_else(|Gone| Ok(()))
        // Here the lines are dropped, which ends the pipeline.
    };
    let store = async {
        let mut files = Files::new(Place { job: lease.job, part: lease.ordinal, kind: lease.stage.kind() });
        while let Some(packed) = chunks.recv().await {
            files.write(&mut transaction, packed).await?;
        }
        Ok::<_, Error>(files.resources())
    };
    let ((), stored) = tokio::try_join!(read, store)?;
    compressor.await.map_err(Unwritten::from)?.map_err(Unwritten::from)?;

    let read = written.load(Ordering::Relaxed);
    if stored != read {
        return Err(Error::Incomplete { read, stored });
    }
    lease.complete(&mut transaction, stored, settings.retention).await?;
    transaction.commit().await?;
    Ok(())
}

/// Why reading ended early.
enum Stopped {
    Database(sqlx::Error),
    /// The other end of the pipeline is gone, and says why itself.
    Gone,
}

impl Stopped {
    fn into_result(self) -> Result<(), Error> {
        match self {
            Self::Database(error) => Err(error.into()),
            Self::Gone => Ok(()),
        }
    }
}

impl From<sqlx::Error> for Stopped {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Gone> for Stopped {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

async fn read_slice(
    reader: &mut PgConnection,
    slice: &Slice,
    stage: Stage,
    lines: &mut Lines,
    written: &AtomicI64,
) -> Result<(), Stopped> {
    let mut query = match stage {
        Stage::Output => slice.bodies(),
        Stage::Deleted => slice.deletions(),
    };
    let mut rows = query.build().persistent(false).fetch(reader);
    let type_name = slice.resource_type.as_str();
    while let Some(row) = rows.try_next().await? {
        let text = row.try_get_raw(0)?.as_bytes().map_err(sqlx::Error::Decode)?;
        match stage {
            Stage::Output => lines.push(text, type_name).await?,
            Stage::Deleted => {
                let id = String::from_utf8_lossy(text);
                lines.push(deletion(type_name, &id).as_bytes(), DELETIONS).await?;
            }
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
    if stage == Stage::Output {
        lines.end_file(type_name).await?;
    }
    Ok(())
}

/// The line of a deleted resource (rule E14). Neither a type nor an id has anything to escape.
fn deletion(type_name: &str, id: &str) -> String {
    format!(
        r#"{{"resourceType":"Bundle","type":"transaction","entry":[{{"request":{{"method":"DELETE","url":"{type_name}/{id}"}}}}]}}"#
    )
}
