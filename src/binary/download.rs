//! A file on its way to a client: in one of three representations, fetched and sent chunk by chunk. No database
//! connection is held while the client is slow.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::Binary;
use super::gzip::{self, InflateError};
use super::store::{hold, read_chunk};
use crate::fhir::instant;

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

/// Why a download broke off; the client sees a connection that ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Inflate(#[from] InflateError),
    #[error("a chunk is missing")]
    Missing,
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// One download.
pub(crate) struct Download {
    pool: PgPool,
    binary: Binary,
    representation: Representation,
    grace: Duration,
    next: Step,
    held: Option<Instant>,
    /// Content that does not make a whole base64 group yet: at most two bytes.
    rest: Vec<u8>,
    sent: i64,
}

/// What is to be sent next.
enum Step {
    Start,
    Chunk(i32),
    Done,
}

impl Download {
    pub(crate) fn new(pool: PgPool, binary: Binary, representation: Representation, grace: Duration) -> Self {
        Self { pool, binary, representation, grace, next: Step::Start, held: None, rest: Vec::new(), sent: 0 }
    }

    /// The exact length of what is sent.
    pub(crate) fn length(&self) -> u64 {
        let bytes = self.binary.bytes.unsigned_abs();
        match self.representation {
            Representation::Gzip => self.binary.deflated_bytes.unsigned_abs() + gzip::FRAME,
            Representation::Identity => bytes,
            Representation::FhirJson => {
                let (before, after) = self.envelope();
                (before.len() + after.len()) as u64 + bytes.div_ceil(3) * 4
            }
        }
    }

    /// What is sent, piece by piece.
    pub(crate) fn stream(self) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
        futures_util::stream::unfold(self, |mut download| async move {
            let piece = download.piece().await;
            if let Err(error) = &piece {
                tracing::error!(binary.id = download.binary.id, %error, "a download broke off");
                download.next = Step::Done;
            }
            piece.transpose().map(|piece| (piece, download))
        })
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Broken> {
        match self.next {
            Step::Start => {
                self.next = Step::Chunk(0);
                Ok(Some(self.start()))
            }
            Step::Chunk(ordinal) => self.chunk(ordinal).await.map(Some),
            Step::Done => Ok(None),
        }
    }

    fn start(&self) -> Bytes {
        match self.representation {
            Representation::Gzip => Bytes::from_static(&gzip::HEADER),
            Representation::Identity => Bytes::new(),
            Representation::FhirJson => Bytes::from(self.envelope().0),
        }
    }

    async fn chunk(&mut self, ordinal: i32) -> Result<Bytes, Broken> {
        self.hold().await?;
        if self.sent == self.binary.bytes {
            self.next = Step::Done;
            return Ok(self.end());
        }
        let stored = read_chunk(&self.pool, &self.binary, ordinal).await?.ok_or(Broken::Missing)?;
        self.sent += stored.bytes;
        self.next = Step::Chunk(ordinal + 1);
        if self.representation == Representation::Gzip {
            return Ok(stored.data.into());
        }
        let bytes = usize::try_from(stored.bytes).map_err(|_| InflateError::Length)?;
        let mut rest = std::mem::take(&mut self.rest);
        let is_json = self.representation == Representation::FhirJson;
        // A few milliseconds of work: too long for a thread that serves connections.
        let (piece, rest) = tokio::task::spawn_blocking(move || {
            let content = gzip::inflate(&stored.data, bytes)?;
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

    fn end(&self) -> Bytes {
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
