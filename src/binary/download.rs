//! A file on its way to a client: in one of three representations, whole or a range of it, fetched and sent chunk by
//! chunk. No database connection is held while the client is slow.

use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::timeout;

use super::Binary;
use super::codec::{Chosen, Codec, InflateError};
use super::gzip;
use super::store::{find_chunk, hold, read_chunk};
use crate::fhir::instant;
use crate::ledger;

/// How often a download says that it is under way; a hold lasts longer than this.
const HOLD_EVERY: Duration = Duration::from_secs(15);

/// What a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Representation {
    /// NDJSON, compressed: the stored bytes.
    Gzip,
    /// NDJSON as it is.
    Identity,
    /// A FHIR Binary resource with the NDJSON in base64 (rules F10, F20).
    FhirJson,
}

impl Representation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Identity => "identity",
            Self::FhirJson => "fhir+json",
        }
    }
}

/// A chunk that has not come for so long never will: the connection to the database is dead.
const NO_ANSWER: Duration = Duration::from_secs(45);

/// Why a download broke off; the client sees a connection that ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Inflate(#[from] InflateError),
    #[error("a chunk is missing or has another length than it was written with")]
    Missing,
    #[error("the database does not answer")]
    NoAnswer(#[from] tokio::time::error::Elapsed),
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// One download. A representation is a head, the chunks in their order, and a tail; what is sent is a range of it, and
/// no piece outside the range is fetched.
pub(crate) struct Download {
    pool: PgPool,
    binary: Binary,
    representation: Representation,
    grace: Duration,
    /// Where the chunks lie in the representation.
    chunks: Range<u64>,
    /// Which bytes of the representation are sent.
    range: Range<u64>,
    /// None before the first.
    next: Option<Piece>,
    /// Where the next piece begins in the representation.
    at: u64,
    held: Option<Instant>,
    /// Content that does not make a whole base64 group yet: at most two bytes.
    rest: Vec<u8>,
}

/// What a representation is made of.
#[derive(Clone, Copy)]
enum Piece {
    Head,
    Chunk(i32),
    Tail,
}

impl Download {
    /// The whole of a representation.
    pub(crate) fn new(pool: PgPool, binary: Binary, representation: Representation, grace: Duration) -> Self {
        let mut download = Self {
            pool,
            binary,
            representation,
            grace,
            chunks: 0..0,
            range: 0..0,
            next: None,
            at: 0,
            held: None,
            rest: Vec::new(),
        };
        let head = download.head().len() as u64;
        download.chunks = head..head + download.chunks_length();
        download.range.end = download.chunks.end + download.tail_length();
        download
    }

    /// Only these bytes of it, of which none may be behind the end. Not for a FHIR resource: where a chunk lies in
    /// base64 depends on those before it.
    pub(crate) fn part(mut self, range: RangeInclusive<u64>) -> Self {
        debug_assert!(self.representation != Representation::FhirJson, "a resource is sent as a whole");
        self.range = *range.start()..range.end() + 1;
        self
    }

    /// The exact length of what is sent.
    pub(crate) fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The same, for the ledger of disclosures.
    pub(crate) fn range(&self) -> ledger::Range {
        ledger::Range {
            job: self.binary.job,
            file: self.binary.id.clone(),
            representation: self.representation.as_str(),
            from: self.range.start,
            bytes: self.length(),
            of: self.chunks.end + self.tail_length(),
        }
    }

    /// What is sent, piece by piece.
    pub(crate) fn stream(self) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
        futures_util::stream::unfold(self, |mut download| async move {
            let piece = timeout(NO_ANSWER, download.piece()).await.unwrap_or_else(|late| Err(late.into()));
            if let Err(error) = &piece {
                tracing::error!(binary.id = download.binary.id, %error, "a download broke off");
                // Nothing comes after that.
                download.range.end = download.at;
            }
            piece.transpose().map(|piece| (piece, download))
        })
    }

    /// What of the next piece is in the range; none when all of the range is sent.
    async fn piece(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.at >= self.range.end {
            return Ok(None);
        }
        let next = match self.next {
            Some(next) => next,
            None => self.seek().await?,
        };
        let piece = match next {
            Piece::Head => {
                self.next = Some(Piece::Chunk(0));
                self.head()
            }
            Piece::Chunk(ordinal) => self.chunk(ordinal).await?,
            Piece::Tail if self.at == self.chunks.end => self.tail(),
            Piece::Tail => return Err(Broken::Missing),
        };
        let within = |at: u64| usize::try_from(at.saturating_sub(self.at)).unwrap_or(usize::MAX).min(piece.len());
        let wanted = within(self.range.start)..within(self.range.end);
        self.at += piece.len() as u64;
        Ok(Some(piece.slice(wanted)))
    }

    /// Goes to the piece in which the range begins.
    async fn seek(&mut self) -> Result<Piece, Broken> {
        let (piece, at) = match self.range.start {
            start if start < self.chunks.start => (Piece::Head, 0),
            start if start == self.chunks.start => (Piece::Chunk(0), start),
            start if start < self.chunks.end => {
                let is_deflated = self.representation == Representation::Gzip;
                let byte = start - self.chunks.start;
                let found = find_chunk(&self.pool, &self.binary, byte, is_deflated).await?;
                let found = found.ok_or(Broken::Missing)?;
                (Piece::Chunk(found.ordinal), self.chunks.start + found.offset.unsigned_abs())
            }
            _ => (Piece::Tail, self.chunks.end),
        };
        self.at = at;
        Ok(piece)
    }

    /// What stands before the chunks.
    fn head(&self) -> Bytes {
        match self.representation {
            Representation::Gzip => Bytes::from_static(&gzip::HEADER),
            Representation::Identity => Bytes::new(),
            Representation::FhirJson => Bytes::from(self.envelope().0),
        }
    }

    /// The length of what the chunks give; in base64 without the group that the tail completes.
    fn chunks_length(&self) -> u64 {
        let bytes = self.binary.bytes.unsigned_abs();
        match self.representation {
            Representation::Gzip => self.binary.deflated_bytes.unsigned_abs(),
            Representation::Identity => bytes,
            Representation::FhirJson => bytes / 3 * 4,
        }
    }

    async fn chunk(&mut self, ordinal: i32) -> Result<Bytes, Broken> {
        self.hold().await?;
        let stored = read_chunk(&self.pool, &self.binary, ordinal).await?.ok_or(Broken::Missing)?;
        let is_last = stored.end_bytes == self.binary.bytes;
        self.next = Some(if is_last { Piece::Tail } else { Piece::Chunk(ordinal + 1) });
        if self.representation == Representation::Gzip {
            return Ok(stored.data.into());
        }
        let bytes = usize::try_from(stored.end_bytes - stored.offset_bytes).map_err(|_| InflateError::Length)?;
        let mut rest = std::mem::take(&mut self.rest);
        let is_json = self.representation == Representation::FhirJson;
        // A few milliseconds of work: too long for a thread that serves connections.
        let (piece, rest) = tokio::task::spawn_blocking(move || {
            let content = Chosen::inflate(&stored.data, bytes)?;
            if !is_json {
                return Ok((Bytes::from(content), rest));
            }
            rest.extend_from_slice(&content);
            let left = rest.split_off(rest.len() / 3 * 3);
            Ok::<_, InflateError>((Bytes::from(STANDARD.encode(&rest)), left))
        })
        .await??;
        self.rest = rest;
        Ok(piece)
    }

    /// What stands behind the chunks, when they are sent.
    fn tail(&self) -> Bytes {
        match self.representation {
            Representation::Gzip => {
                // The column holds a u32.
                let crc32 = u32::try_from(self.binary.crc32).unwrap_or_default();
                Bytes::copy_from_slice(&gzip::trailer(crc32, self.binary.bytes.unsigned_abs()))
            }
            Representation::Identity => Bytes::new(),
            Representation::FhirJson => Bytes::from(STANDARD.encode(&self.rest) + &self.envelope().1),
        }
    }

    fn tail_length(&self) -> u64 {
        match self.representation {
            Representation::Gzip => gzip::TRAILER,
            Representation::Identity => 0,
            Representation::FhirJson => {
                let is_cut = !self.binary.bytes.unsigned_abs().is_multiple_of(3);
                self.envelope().1.len() as u64 + if is_cut { 4 } else { 0 }
            }
        }
    }

    /// Keeps the reaper away while the client reads on; a client that stalls asks for nothing and loses the hold.
    async fn hold(&mut self) -> Result<(), Broken> {
        if self.held.is_none_or(|held| held.elapsed() >= HOLD_EVERY) {
            self.held = Some(Instant::now());
            hold(&self.pool, &self.binary.id, self.grace).await?;
        }
        Ok(())
    }

    /// What stands before and after the data in a FHIR Binary resource (rules A24, A25).
    fn envelope(&self) -> (String, String) {
        let binary = &self.binary;
        let extension = |name: &str, value: &str| -> Value {
            json!({ "url": format!("https://hapifhir.org/NamingSystem/{name}"), "valueString": value })
        };
        let mut extensions = Vec::new();
        if let Some(export_id) = &binary.export_id {
            extensions.push(extension("bulk-export-identifier", export_id));
        }
        extensions.push(extension("bulk-export-job-id", &binary.job.to_string()));
        extensions.push(extension("bulk-export-binary-resource-type", &binary.resource_type));
        let resource = json!({
            "resourceType": "Binary",
            "id": binary.id,
            "meta": {
                "extension": extensions,
                "versionId": "1",
                "lastUpdated": instant::format(binary.created_at),
                "profile": ["http://hl7.org/fhir/StructureDefinition/Binary"],
            },
            "contentType": "application/fhir+ndjson",
            "securityContext": { "identifier": { "value": binary.subject } },
        });
        let mut before = resource.to_string();
        before.pop();
        before.push_str(r#","data":""#);
        (before, r#""}"#.to_owned())
    }
}
