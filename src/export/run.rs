//! One part: rows → lines → chunks → files, in one transaction with the part's completion. Reading, compressing and
//! storing overlap; what is under way is bounded by a few blocks.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use sqlx::{Connection, PgConnection, Row, ValueRef};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::block::read_blocks;
use super::found::{self, Finds, Known};
use super::gate::{Asked, Gate};
use super::governor::Paced;
use super::part::{Lease, Rows, Stage};
use super::referenced::{self, Collector};
use super::remark::remark;
use super::seek::seek;
use super::sink::{Sink, Stopped};
use super::waiting::Waiting;
use super::worker::Workers;
use crate::binary::Unwritten;
use crate::binary::ndjson::pipeline;
use crate::binary::store::{Files, Outcome};
use crate::fhir::outcome::IssueType;
use crate::resource::read::{Piece, Slice};
use crate::search::Context;

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
    lease.name_sessions([reader, writer]).await?;
    match lease.stage {
        Stage::Search => seek(reader, writer, workers, lease).await,
        _ => put_out(reader, writer, workers, lease).await,
    }
}

async fn put_out(
    reader: &mut PgConnection,
    writer: &mut PgConnection,
    workers: &Workers,
    lease: &Lease,
) -> Result<(), Error> {
    let rows = lease.rows(reader).await?;
    let mut files = Files::new(lease.place(writer).await?);
    let mut transaction = writer.begin().await?;
    let (lines, mut chunks, compressor) = pipeline(lease.file_size);
    let (references, mut batches) = lease.referenced.clone().map(Collector::of).unzip();
    let (finds, mut found) = (!lease.noted.is_empty()).then(Finds::new).unzip();
    let context = Context { at: lease.window.at, bases: workers.patient_bases.clone() };
    let mut sink = Sink {
        gate: Gate::of(context, Known::of(&workers.pool, lease.job)),
        waiting: Waiting::default(),
        lines,
        references,
        finds,
        examined: &lease.examined,
        paced: Paced::new(&workers.governor),
    };

    let read = async move {
        match read_rows(reader, lease, &rows, &mut sink).await {
            Ok(()) | Err(Stopped::Gone) => Ok((sink.lines.added(), sink.gate)),
            Err(Stopped::Database(error)) => Err(Error::from(error)),
        }
        // Here the sink is dropped, which ends the pipeline.
    };
    let store = async {
        loop {
            tokio::select! {
                Some(packed) = chunks.recv() => files.write(&mut transaction, packed).await?,
                Some(batch) = next(&mut batches) => referenced::store(&mut transaction, lease.job, batch).await?,
                Some(batch) = next(&mut found) => found::store(&mut transaction, lease.job, batch).await?,
                else => return Ok::<_, Error>(()),
            }
        }
    };
    let ((added, gate), ()) = tokio::try_join!(read, store)?;
    compressor.await.map_err(Unwritten::from)?.map_err(Unwritten::from)?;

    let put_out = lease.examined.load(Ordering::Relaxed) - gate.left_out() + added.headers;
    let stored = files.resources();
    if stored != put_out {
        return Err(Error::Incomplete { put_out, stored });
    }
    let mut remarks = gate.into_remarks();
    remarks.extend((added.oversized > 0).then(|| too_long(lease, added.oversized)));
    if !remarks.is_empty() {
        files.write_outcomes(&mut transaction, &remarks).await?;
    }
    lease.complete(&mut transaction, stored, workers.retention).await?;
    transaction.commit().await?;
    Ok(())
}

/// The next batch of what is collected, if anything is.
async fn next<T>(batches: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    batches.as_mut()?.recv().await
}

/// What the client is told when its limit could not be kept: to leave resources out would be worse (rule G13).
fn too_long(lease: &Lease, resources: i64) -> Outcome {
    let text = format!(
        "_maximumFileSize: {resources} resources among {} are longer than {} bytes; each is alone in its file.",
        lease.resource_types.join(", "),
        lease.file_size.max
    );
    remark(IssueType::TooLong, text)
}

async fn read_rows(reader: &mut PgConnection, lease: &Lease, rows: &Rows, sink: &mut Sink<'_>) -> Result<(), Stopped> {
    let slices = match rows {
        Rows::ByType(slices) => slices,
        Rows::ByPatient(compartments) => return read_blocks(reader, compartments, |of| lease.asked(of), sink).await,
    };
    for slice in slices {
        match lease.stage {
            Stage::Deleted => read_deletions(reader, slice, sink).await?,
            _ => read_resources(reader, slice, &lease.asked(slice.resource_type), sink).await?,
        }
    }
    if let Some(references) = &mut sink.references {
        references.pass_on().await?;
    }
    if let Some(finds) = &mut sink.finds {
        finds.pass_on().await?;
    }
    // Deletions of all types share their files.
    sink.end_file(DELETIONS).await
}

async fn read_resources(
    reader: &mut PgConnection,
    slice: &Slice,
    asked: &Arc<Asked>,
    sink: &mut Sink<'_>,
) -> Result<(), Stopped> {
    let type_name = slice.resource_type.as_str();
    let mut long = Vec::new();
    let mut query = slice.bodies_and_patients();
    let mut rows = query.build().persistent(false).fetch(&mut *reader);
    while let Some(row) = rows.try_next().await? {
        let (body, patients) = (row.try_get_raw(0)?, row.try_get_raw(2)?);
        if body.is_null() || patients.is_null() {
            long.push(row.try_get(1)?);
            continue;
        }
        let body = body.as_bytes().map_err(sqlx::Error::Decode)?;
        let patients = patients.as_str().map_err(sqlx::Error::Decode)?;
        sink.put(Cow::Borrowed(body), Cow::Borrowed(patients), asked, type_name).await?;
        sink.paced.read(body.len()).await;
    }
    drop(rows);
    for key in long {
        if asked.is_nothing() {
            read_in_pieces(reader, slice, key, sink).await?;
        } else {
            let body = read_whole(reader, slice, key, &mut sink.paced).await?;
            let mut patients = String::new();
            slice.patients(reader, key, |some| patients.extend([some, " "])).await?;
            sink.put(Cow::Owned(body), Cow::Owned(patients), asked, type_name).await?;
        }
    }
    sink.end_file(type_name).await
}

/// A resource that is long, or about many Patients: never in memory as a whole.
async fn read_in_pieces(
    reader: &mut PgConnection,
    slice: &Slice,
    key: i64,
    sink: &mut Sink<'_>,
) -> Result<(), Stopped> {
    let type_name = slice.resource_type.as_str();
    let mut pieces = Pieces::of(slice, reader, key);
    while let Some(piece) = pieces.next(&mut sink.paced).await? {
        if piece.offset == 0 {
            sink.begin_line(u64::from(piece.of.unsigned_abs()), type_name).await?;
        }
        sink.append(&piece.bytes).await?;
    }
    drop(pieces);
    slice.patients(reader, key, |some| sink.lines.is_about(some)).await?;
    Ok(sink.end_line(type_name).await?)
}

/// A long resource that is to be cut, or judged: how long it will be, and whether it comes at all, must be known before its
/// line begins, and its end decides. So a worker has one of them in memory at a time, which is at most
/// `store.max_resource`; what is cut of it is no copy.
pub(super) async fn read_whole(
    reader: &mut PgConnection,
    slice: &Slice,
    key: i64,
    paced: &mut Paced<'_>,
) -> Result<Vec<u8>, sqlx::Error> {
    let mut body = Vec::new();
    let mut pieces = Pieces::of(slice, reader, key);
    while let Some(piece) = pieces.next(paced).await? {
        if piece.offset == 0 {
            body.reserve_exact(piece.of.unsigned_abs() as usize);
        }
        body.extend_from_slice(&piece.bytes);
    }
    Ok(body)
}

/// The pieces of a long body, each after the one before it.
struct Pieces<'c> {
    pieces: BoxStream<'c, Result<Piece, sqlx::Error>>,
    read: i32,
    /// The length of the whole.
    of: Option<i32>,
}

impl<'c> Pieces<'c> {
    fn of(slice: &Slice, reader: &'c mut PgConnection, key: i64) -> Self {
        Self { pieces: slice.pieces(reader, key), read: 0, of: None }
    }

    async fn next(&mut self, paced: &mut Paced<'_>) -> Result<Option<Piece>, sqlx::Error> {
        let piece = self.pieces.try_next().await?;
        match &piece {
            Some(piece) if piece.offset == self.read => {
                paced.read(piece.bytes.len()).await;
                self.of = Some(piece.of);
                self.read += i32::try_from(piece.bytes.len()).unwrap_or(i32::MAX);
            }
            None if self.of == Some(self.read) => {}
            _ => return Err(sqlx::Error::Protocol("the pieces of a resource do not make a whole".to_owned())),
        }
        Ok(piece)
    }
}

async fn read_deletions(reader: &mut PgConnection, slice: &Slice, sink: &mut Sink<'_>) -> Result<(), Stopped> {
    let type_name = slice.resource_type.as_str();
    let mut about_many = Vec::new();
    let mut query = slice.deletions();
    let mut rows = query.build().persistent(false).fetch(&mut *reader);
    while let Some(row) = rows.try_next().await? {
        let line = deletion(type_name, row.try_get(0)?);
        let Some(patients) = row.try_get(2)? else {
            about_many.push((row.try_get(1)?, line));
            continue;
        };
        sink.push(line.as_bytes(), patients, DELETIONS).await?;
        sink.paced.read(line.len()).await;
    }
    drop(rows);
    for (key, line) in about_many {
        sink.begin_line(line.len() as u64, DELETIONS).await?;
        slice.patients(reader, key, |some| sink.lines.is_about(some)).await?;
        sink.append(line.as_bytes()).await?;
        sink.end_line(DELETIONS).await?;
    }
    Ok(())
}

/// The line of a deleted resource (rule E14). Neither a type nor an id has anything to escape.
fn deletion(type_name: &str, id: &str) -> String {
    format!(
        r#"{{"resourceType":"Bundle","type":"transaction","entry":[{{"request":{{"method":"DELETE","url":"{type_name}/{id}"}}}}]}}"#
    )
}
