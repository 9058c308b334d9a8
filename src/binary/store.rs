//! The rows of files and their chunks: written in the transaction of their part, read chunk by chunk, removed in
//! small transactions.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::ndjson::{Chunk, End, Packed, pipeline};
use super::{Binary, Place, Unwritten};
use crate::database::interval;

/// Chunks removed in one transaction.
const REMOVED_AT_ONCE: i64 = 64;

/// Writes the files of one part, one after the other.
pub(crate) struct Files {
    place: Place,
    /// The id of the file under way.
    id: String,
    ordinal: i32,
    chunks: i32,
    bytes: i64,
    deflated_bytes: i64,
    /// Of the files that are whole.
    resources: i64,
}

impl Files {
    pub(crate) fn new(place: Place) -> Self {
        Self { place, id: random_id(), ordinal: 0, chunks: 0, bytes: 0, deflated_bytes: 0, resources: 0 }
    }

    /// How many resources the files written so far hold.
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

    async fn write_chunk(&mut self, transaction: &mut PgConnection, chunk: &Chunk) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "-- binary.store.chunk
            insert into binary_chunk (binary_id, ordinal, offset_bytes, offset_deflated, data)
            values ($1, $2, $3, $4, $5)",
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
                (id, job_id, part, ordinal, kind, resource_type, resources, bytes, crc32, sha256, deflated_bytes)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
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
            self.deflated_bytes
        )
        .execute(transaction)
        .await?;
        let resources = self.resources + end.resources;
        *self = Self { ordinal: self.ordinal + 1, resources, ..Self::new(self.place) };
        Ok(())
    }
}

/// 32 random hexadecimal digits: 122 bits of chance.
fn random_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Writes one small file of lines that are there already.
pub(crate) async fn write_small(
    transaction: &mut PgConnection,
    place: Place,
    resource_type: &str,
    lines: &[String],
) -> Result<(), Unwritten> {
    let (mut sink, mut chunks, compressor) = pipeline(u64::MAX);
    let resource_type = resource_type.to_owned();
    let lines = lines.to_vec();
    let feed = async move {
        for line in &lines {
            sink.push(line.as_bytes(), &resource_type).await?;
        }
        sink.end_file(&resource_type).await
    };
    let store = async {
        let mut files = Files::new(place);
        while let Some(packed) = chunks.recv().await {
            files.write(transaction, packed).await?;
        }
        Ok::<_, sqlx::Error>(())
    };
    let (_, stored) = tokio::join!(feed, store);
    stored?;
    compressor.await??;
    Ok(())
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
                (select offset_bytes from binary_chunk where binary_id = $1 and ordinal = $2 + 1), $3
            ) as "end_bytes!"
        from binary_chunk where binary_id = $1 and ordinal = $2"#,
        binary.id,
        ordinal,
        binary.bytes
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
    id: &str,
    byte: u64,
    is_deflated: bool,
) -> Result<Option<Found>, sqlx::Error> {
    sqlx::query_as!(
        Found,
        r#"-- binary.store.find
        select ordinal, "offset" as "offset!"
        from binary_chunk
        cross join lateral (values (case when $3 then offset_deflated else offset_bytes end)) as counted ("offset")
        where binary_id = $1 and "offset" <= $2
        order by ordinal desc limit 1"#,
        id,
        i64::try_from(byte).unwrap_or(i64::MAX),
        is_deflated
    )
    .fetch_optional(pool)
    .await
}

/// Holds a file that is being downloaded against the reaper, for a minute or so, and never longer than `grace` past
/// its time.
pub(super) async fn hold(pool: &PgPool, id: &str, grace: Duration) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- binary.store.hold
        update binary_file as file
        set held_until = least(clock_timestamp() + interval '1 minute', job.expires_at + $2)
        from export_job as job
        where file.id = $1 and job.id = file.job_id",
        id,
        interval(grace)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Removes the files of a job but those that are held; gives how many bytes of chunks went, and whether all did.
pub(crate) async fn remove_files(pool: &PgPool, job: Uuid) -> Result<(i64, bool), sqlx::Error> {
    let ids = sqlx::query_scalar!(
        "-- binary.store.removable
        select id from binary_file
        where job_id = $1 and (held_until is null or held_until <= clock_timestamp())",
        job
    )
    .fetch_all(pool)
    .await?;
    let mut bytes = 0;
    for id in &ids {
        bytes += remove_chunks(pool, id).await?;
        sqlx::query!("-- binary.store.remove\ndelete from binary_file where id = $1", id).execute(pool).await?;
    }
    let left = sqlx::query_scalar!(
        r#"-- binary.store.left
        select exists (select from binary_file where job_id = $1) as "left!""#,
        job
    )
    .fetch_one(pool)
    .await?;
    Ok((bytes, !left))
}

async fn remove_chunks(pool: &PgPool, id: &str) -> Result<i64, sqlx::Error> {
    let mut bytes = 0;
    loop {
        let removed = sqlx::query!(
            r#"-- binary.store.remove_chunks
            with removed as (
                delete from binary_chunk
                where binary_id = $1 and ordinal in (
                    select ordinal from binary_chunk where binary_id = $1 order by ordinal desc limit $2
                )
                returning octet_length(data) as bytes
            )
            select count(*) as "chunks!", coalesce(sum(bytes), 0)::bigint as "bytes!" from removed"#,
            id,
            REMOVED_AT_ONCE
        )
        .fetch_one(pool)
        .await?;
        bytes += removed.bytes;
        if removed.chunks < REMOVED_AT_ONCE {
            return Ok(bytes);
        }
    }
}
