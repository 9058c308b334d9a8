//! One part: rows → lines → chunks → files, in one transaction with the part's completion. Reading, compressing and
//! storing overlap; what is under way is bounded by a few blocks.

use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection, Row, ValueRef};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::governor::Paced;
use super::part::{Lease, Stage};
use super::remark::remark;
use super::worker::Workers;
use crate::binary::Unwritten;
use crate::binary::ndjson::{Gone, Lines, pipeline};
use crate::binary::store::Files;
use crate::fhir::outcome::IssueType;
use crate::resource::read::Slice;

/// The type of the lines that tell of deletions.
const DELETIONS: &str = "Bundle";

/// Runs a part to its commit. `stop` ends it at once, and nothing of it is left.
pub(super) async fn run(workers: &Workers, lease: &Lease, stop: &CancellationToken) -> Result<(), Error> {
    let pool = &workers.work_pool;
    // Two sessions: one reads while the other's transaction stores. Neither goes back to the pool in the middle of
    // something: the next user would have to read what is left, or inherit the transaction.
    let sessions = async { Ok::<_, sqlx::Error>((pool.acquire().await?, pool.acquire().await?)) };
    let (mut reader, mut writer) = tokio::select! {
        sessions = sessions => sessions?,
        () = stop.cancelled() => return Err(Error::Stopped),
    };
    let result = tokio::select! {
        result = run_on(&mut reader, &mut writer, workers, lease) => result,
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
    workers: &Workers,
    lease: &Lease,
) -> Result<(), Error> {
    let slices = lease.slices()?;
    lease.name_sessions([reader, writer]).await?;
    let mut files = Files::new(lease.place(writer).await?);
    let mut transaction = writer.begin().await?;
    let (lines, mut chunks, compressor) = pipeline(lease.file_size);
    let mut sink = Sink { lines, read: &lease.written, paced: Paced::new(&workers.governor) };

    let read = async move {
        match read_slices(reader, lease.stage, &slices, &mut sink).await {
            Ok(()) => Ok(sink.lines.oversized()),
            Err(Stopped::Database(error)) => Err(Error::from(error)),
            Err(Stopped::Gone) => Ok(0),
        }
        // Here the sink is dropped, which ends the pipeline.
    };
    let store = async {
        while let Some(packed) = chunks.recv().await {
            files.write(&mut transaction, packed).await?;
        }
        Ok::<_, Error>(())
    };
    let (oversized, ()) = tokio::try_join!(read, store)?;
    compressor.await.map_err(Unwritten::from)?.map_err(Unwritten::from)?;

    let (read, stored) = (lease.written.load(Ordering::Relaxed), files.resources());
    if stored != read {
        return Err(Error::Incomplete { read, stored });
    }
    if oversized > 0 {
        files.write_outcomes(&mut transaction, &[too_long(lease, oversized)]).await?;
    }
    lease.complete(&mut transaction, stored, workers.retention).await?;
    transaction.commit().await?;
    Ok(())
}

/// What the client is told when its limit could not be kept: to leave resources out would be worse (rule G13).
fn too_long(lease: &Lease, resources: i64) -> String {
    let text = format!(
        "_maximumFileSize: {resources} resources among {} are longer than {} bytes; each is alone in its file.",
        lease.resource_types.join(", "),
        lease.file_size.max
    );
    remark(IssueType::TooLong, text)
}

/// Why reading ended early.
enum Stopped {
    Database(sqlx::Error),
    /// The other end of the pipeline is gone, and says why itself.
    Gone,
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

/// Where what is read goes.
struct Sink<'a> {
    lines: Lines,
    /// Counts the resources.
    read: &'a AtomicI64,
    paced: Paced<'a>,
}

impl Sink<'_> {
    async fn push(&mut self, line: &[u8], resource_type: &str) -> Result<(), Gone> {
        self.lines.push(line, resource_type).await?;
        self.read.fetch_add(1, Ordering::Relaxed);
        self.paced.read(line.len()).await;
        Ok(())
    }
}

async fn read_slices(
    reader: &mut PgConnection,
    stage: Stage,
    slices: &[Slice],
    sink: &mut Sink<'_>,
) -> Result<(), Stopped> {
    for slice in slices {
        match stage {
            Stage::Output => read_resources(reader, slice, sink).await?,
            Stage::Deleted => read_deletions(reader, slice, sink).await?,
        }
    }
    // Deletions of all types share their files.
    Ok(sink.lines.end_file(DELETIONS).await?)
}

async fn read_resources(reader: &mut PgConnection, slice: &Slice, sink: &mut Sink<'_>) -> Result<(), Stopped> {
    let type_name = slice.resource_type.as_str();
    let mut long = Vec::new();
    let mut query = slice.bodies();
    let mut rows = query.build().persistent(false).fetch(&mut *reader);
    while let Some(row) = rows.try_next().await? {
        let body = row.try_get_raw(0)?;
        if body.is_null() {
            long.push(row.try_get(1)?);
            continue;
        }
        sink.push(body.as_bytes().map_err(sqlx::Error::Decode)?, type_name).await?;
    }
    drop(rows);
    for key in long {
        read_in_pieces(reader, slice, key, sink).await?;
    }
    Ok(sink.lines.end_file(type_name).await?)
}

/// A long resource, never in memory as a whole.
async fn read_in_pieces(
    reader: &mut PgConnection,
    slice: &Slice,
    key: i64,
    sink: &mut Sink<'_>,
) -> Result<(), Stopped> {
    let type_name = slice.resource_type.as_str();
    let mut pieces = slice.pieces(reader, key);
    let (mut read, mut length) = (0, None);
    while let Some(piece) = pieces.try_next().await? {
        if length.is_none() {
            length = Some(piece.of);
            sink.lines.begin_line(u64::from(piece.of.unsigned_abs()), type_name).await?;
        }
        if piece.offset != read {
            return Err(out_of_order().into());
        }
        sink.lines.append(&piece.bytes).await?;
        sink.paced.read(piece.bytes.len()).await;
        read += i32::try_from(piece.bytes.len()).unwrap_or(i32::MAX);
    }
    if length != Some(read) {
        return Err(out_of_order().into());
    }
    sink.lines.end_line(type_name).await?;
    sink.read.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn out_of_order() -> sqlx::Error {
    sqlx::Error::Protocol("the pieces of a resource do not make a whole".to_owned())
}

async fn read_deletions(reader: &mut PgConnection, slice: &Slice, sink: &mut Sink<'_>) -> Result<(), Stopped> {
    let type_name = slice.resource_type.as_str();
    let mut query = slice.deletions();
    let mut rows = query.build().persistent(false).fetch(reader);
    while let Some(row) = rows.try_next().await? {
        let id: &str = row.try_get(0)?;
        sink.push(deletion(type_name, id).as_bytes(), DELETIONS).await?;
    }
    Ok(())
}

/// The line of a deleted resource (rule E14). Neither a type nor an id has anything to escape.
fn deletion(type_name: &str, id: &str) -> String {
    format!(
        r#"{{"resourceType":"Bundle","type":"transaction","entry":[{{"request":{{"method":"DELETE","url":"{type_name}/{id}"}}}}]}}"#
    )
}
