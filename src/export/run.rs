//! One part: rows → lines → chunks → files, in one transaction with the part's completion. Reading, compressing and
//! storing overlap; what is under way is bounded by a few blocks.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection, PgPool, Row};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::part::{Lease, Stage};
use crate::binary::Place;
use crate::binary::ndjson::{Gone, Lines, pipeline};
use crate::binary::store::Files;
use crate::resource::read::Slice;

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
            read_slice(reader, slice, lease.stage, &mut lines, written).await?;
        }
        // Here the lines are dropped, which ends the pipeline.
        Ok(())
    };
    let store = async {
        let mut files = Files::new(Place { job: lease.job, part: lease.ordinal, kind: lease.stage.kind() });
        while let Some(packed) = chunks.recv().await {
            files.write(&mut transaction, packed).await?;
        }
        Ok::<_, Error>(())
    };
    tokio::try_join!(read, store)?;
    compressor.await??;

    lease.complete(&mut transaction, written.load(Ordering::Relaxed), settings.retention).await?;
    transaction.commit().await?;
    Ok(())
}

async fn read_slice(
    reader: &mut PgConnection,
    slice: &Slice,
    stage: Stage,
    lines: &mut Lines,
    written: &AtomicI64,
) -> Result<(), Error> {
    let mut query = match stage {
        Stage::Output => slice.bodies(),
        Stage::Deleted => slice.deletions(),
    };
    let mut rows = query.build().persistent(false).fetch(reader);
    let type_name = slice.resource_type.as_str();
    let mut ended = Ok(());
    while let Some(row) = rows.try_next().await? {
        let text = row.try_get_raw(0)?.as_bytes().map_err(sqlx::Error::Decode)?;
        ended = match stage {
            Stage::Output => lines.push(text, type_name).await,
            Stage::Deleted => {
                let id = String::from_utf8_lossy(text);
                lines.push(deletion(type_name, &id).as_bytes(), "Bundle").await
            }
        };
        if ended.is_err() {
            break;
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
    if ended.is_ok() && stage == Stage::Output {
        ended = lines.end_file(type_name).await;
    }
    // Whoever is gone at the other end has the error; this end only stops.
    ended.or_else(|Gone| Ok(()))
}

/// The line of a deleted resource (rule E14). Neither a type nor an id has anything to escape.
fn deletion(type_name: &str, id: &str) -> String {
    format!(
        r#"{{"resourceType":"Bundle","type":"transaction","entry":[{{"request":{{"method":"DELETE","url":"{type_name}/{id}"}}}}]}}"#
    )
}
