//! The rows of files and their chunks: written in the transaction of their part, read chunk by chunk.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::ndjson::{Chunk, End, FileSize, Packed, pipeline};
use super::{Binary, Kind, Place, Unwritten, Volume};
use crate::database::interval;
use crate::ledger::file::{self, DisclosedFile};

/// What the server has to say, as an OperationOutcome.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) line: String,
    /// The Patients whose data it tells of, if any, with a blank between each two.
    pub(crate) patients: String,
}

/// Writes the files of one part, one after the other.
pub(crate) struct Files {
    place: Place,
    /// The id of the file under way.
    id: String,
    ordinal: i32,
    chunks: i32,
    bytes: i64,
    deflated_bytes: i64,
    /// Lines of the files that are whole.
    resources: i64,
}

impl Files {
    pub(crate) fn new(place: Place) -> Self {
        Self { place, id: random_id(), ordinal: 0, chunks: 0, bytes: 0, deflated_bytes: 0, resources: 0 }
    }

    /// How many lines the files written so far hold: resources, and headers of blocks.
    pub(crate) fn resources(&self) -> i64 {
        self.resources
    }

    /// Stores what comes out of the pipeline.
    pub(crate) async fn write(&mut self, transaction: &mut PgConnection, packed: Packed) -> Result<(), sqlx::Error> {
        match packed {
            Packed::Chunk(chunk) => self.write_chunk(transaction, &chunk).await,
            Packed::End(end) => self.write_file(transaction, &end).await,
        }
    }

    /// Writes one more file: what the server has to say, an OperationOutcome a line.
    pub(crate) async fn write_outcomes(
        &mut self,
        transaction: &mut PgConnection,
        lines: &[Outcome],
    ) -> Result<(), Unwritten> {
        const OUTCOME: &str = "OperationOutcome";
        self.place.kind = Kind::Outcome;
        let (mut sink, mut chunks, compressor) = pipeline(FileSize::ONE);
        let feed = async move {
            for Outcome { line, patients } in lines {
                sink.push(line.as_bytes(), patients, OUTCOME).await?;
            }
            sink.end_file(OUTCOME).await
        };
        let store = async {
            while let Some(packed) = chunks.recv().await {
                self.write(transaction, packed).await?;
            }
            Ok::<_, sqlx::Error>(())
        };
        // Where feeding stops early, storing says why.
        let (_, stored) = tokio::join!(feed, store);
        stored?;
        compressor.await??;
        Ok(())
    }

    async fn write_chunk(&mut self, transaction: &mut PgConnection, chunk: &Chunk) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "-- binary.store.chunk
            insert into binary_chunk (volume, binary_id, ordinal, offset_bytes, offset_deflated, data)
            values ($1, $2, $3, $4, $5, $6)",
            self.place.volume as Volume,
            self.id,
            self.chunks,
            self.bytes,
            self.deflated_bytes,
            chunk.data
        )
        .execute(transaction)
        .await?;
        self.chunks += 1;
        self.bytes += chunk.bytes;
        self.deflated_bytes += i64::try_from(chunk.data.len()).unwrap_or(i64::MAX);
        Ok(())
    }

    async fn write_file(&mut self, transaction: &mut PgConnection, end: &End) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "-- binary.store.file
            insert into binary_file
                (id, job_id, part, ordinal, kind, resource_type, resources, bytes, crc32, sha256, deflated_bytes,
                continues)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            self.id,
            self.place.job,
            self.place.part,
            self.ordinal,
            self.place.kind.as_str(),
            end.resource_type,
            end.resources,
            self.bytes,
            i64::from(end.crc32),
            &end.sha256[..],
            self.deflated_bytes,
            end.continues
        )
        .execute(&mut *transaction)
        .await?;
        let file = DisclosedFile {
            id: &self.id,
            job: self.place.job,
            kind: self.place.kind.as_str(),
            resource_type: &end.resource_type,
            resources: end.resources,
            bytes: self.bytes,
            patients: &end.patients,
        };
        file::note(transaction, &file).await?;
        let resources = self.resources + end.resources;
        *self = Self { ordinal: self.ordinal + 1, resources, ..Self::new(self.place) };
        Ok(())
    }
}

/// 32 random hexadecimal digits: 122 bits of chance.
fn random_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// A chunk as it lies, and where its NDJSON begins and ends in the file's.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) data: Vec<u8>,
    pub(super) offset_bytes: i64,
    pub(super) end_bytes: i64,
}

/// The chunk of this number; none behind the last.
pub(super) async fn read_chunk(pool: &PgPool, binary: &Binary, ordinal: i32) -> Result<Option<Stored>, sqlx::Error> {
    sqlx::query_as!(
        Stored,
        r#"-- binary.store.read
        select data, offset_bytes, coalesce(
                (select offset_bytes from binary_chunk where volume = $4 and binary_id = $1 and ordinal = $2 + 1), $3
            ) as "end_bytes!"
        from binary_chunk where volume = $4 and binary_id = $1 and ordinal = $2"#,
        binary.id,
        ordinal,
        binary.bytes,
        binary.volume as Volume
    )
    .fetch_optional(pool)
    .await
}

/// Which chunk a byte lies in.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) ordinal: i32,
    /// Where the chunk begins, counted as the byte is.
    pub(super) offset: i64,
}

/// The chunk in which this byte lies, counted in the chunks as they lie (`is_deflated`) or in their NDJSON. Reads no
/// data.
pub(super) async fn find_chunk(
    pool: &PgPool,
    binary: &Binary,
    byte: u64,
    is_deflated: bool,
) -> Result<Option<Found>, sqlx::Error> {
    sqlx::query_as!(
        Found,
        r#"-- binary.store.find
        select ordinal, "offset" as "offset!"
        from binary_chunk
        cross join lateral (values (case when $3 then offset_deflated else offset_bytes end)) as counted ("offset")
        where volume = $4 and binary_id = $1 and "offset" <= $2
        order by ordinal desc limit 1"#,
        binary.id,
        i64::try_from(byte).unwrap_or(i64::MAX),
        is_deflated,
        binary.volume as Volume
    )
    .fetch_optional(pool)
    .await
}

/// Holds a file that is being downloaded against the reaper, for a minute or so, and never longer than `grace` past
/// its time: until its job expires, or ends without a manifest.
pub(super) async fn hold(pool: &PgPool, id: &str, grace: Duration) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- binary.store.hold
        update binary_file as file
        set held_until = least(
            clock_timestamp() + interval '1 minute',
            case state when 'completed' then expires_at else finished_at end + $2
        )
        from export_job as job
        where file.id = $1 and job.id = file.job_id",
        id,
        interval(grace)
    )
    .execute(pool)
    .await?;
    Ok(())
}
