//! Lines on their way into files: collects them into blocks, ends a file when it is large enough, and compresses
//! block by block on a thread of its own, while the next rows are read and the last chunk is stored.

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::codec::{Chosen, Codec, DeflateError};

/// NDJSON in one chunk.
pub(crate) const BLOCK: usize = 1 << 20;
/// Messages under way between two stages: what bounds the memory.
const UNDER_WAY: usize = 2;

/// From the lines to the compressor.
enum Raw {
    Block(Vec<u8>),
    /// The file ends here.
    End {
        resource_type: String,
        resources: i64,
    },
}

/// From the compressor to the store.
#[derive(Debug)]
pub(crate) enum Packed {
    Chunk(Chunk),
    End(End),
}

/// One chunk of the file under way.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) data: Vec<u8>,
    /// Length of its NDJSON.
    pub(crate) bytes: i64,
}

/// The file under way is whole.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) resource_type: String,
    pub(crate) resources: i64,
    pub(crate) crc32: u32,
    pub(crate) sha256: [u8; 32],
}

/// The end of the pipeline into which lines go. Memory is bounded by blocks, not by lines: a long line is cut.
pub(crate) struct Lines {
    block: Vec<u8>,
    resources: i64,
    bytes: u64,
    file_target: u64,
    blocks: mpsc::Sender<Raw>,
    empty: mpsc::Receiver<Vec<u8>>,
}

/// The store is gone: it says why itself.
#[derive(Debug)]
pub(crate) struct Gone;

/// Starts a pipeline: lines in, chunks out. The thread ends when the lines are dropped, or the receiver is.
pub(crate) fn pipeline(
    file_target: u64,
) -> (Lines, mpsc::Receiver<Packed>, tokio::task::JoinHandle<Result<(), DeflateError>>) {
    let (blocks, raw) = mpsc::channel(UNDER_WAY);
    let (packed, chunks) = mpsc::channel(UNDER_WAY);
    let (emptied, empty) = mpsc::channel(UNDER_WAY + 2);
    let compressor = tokio::task::spawn_blocking(move || compress(raw, &packed, &emptied));
    let lines = Lines { block: Vec::with_capacity(BLOCK), resources: 0, bytes: 0, file_target, blocks, empty };
    (lines, chunks, compressor)
}

impl Lines {
    /// Adds a line; a file that has reached its size ends with it.
    pub(crate) async fn push(&mut self, line: &[u8], resource_type: &str) -> Result<(), Gone> {
        self.append(line).await?;
        self.append(b"\n").await?;
        self.resources += 1;
        if self.bytes >= self.file_target {
            self.end_file(resource_type).await?;
        }
        Ok(())
    }

    /// Ends the file under way, if there is one: a file holds one type, and none is empty (rule E15).
    pub(crate) async fn end_file(&mut self, resource_type: &str) -> Result<(), Gone> {
        if self.resources == 0 {
            return Ok(());
        }
        if !self.block.is_empty() {
            self.send_block().await?;
        }
        let end = Raw::End { resource_type: resource_type.to_owned(), resources: self.resources };
        (self.resources, self.bytes) = (0, 0);
        self.blocks.send(end).await.map_err(|_| Gone)
    }

    async fn append(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = BLOCK - self.block.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK {
                self.send_block().await?;
            }
        }
        Ok(())
    }

    async fn send_block(&mut self) -> Result<(), Gone> {
        let empty = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BLOCK));
        let full = std::mem::replace(&mut self.block, empty);
        self.blocks.send(Raw::Block(full)).await.map_err(|_| Gone)
    }
}

fn compress(
    mut raw: mpsc::Receiver<Raw>,
    packed: &mpsc::Sender<Packed>,
    emptied: &mpsc::Sender<Vec<u8>>,
) -> Result<(), DeflateError> {
    let mut codec = Chosen::new();
    let mut scratch = Vec::new();
    let (mut crc32, mut sha256) = (crc32fast::Hasher::new(), Sha256::new());
    while let Some(message) = raw.blocking_recv() {
        let message = match message {
            Raw::Block(mut block) => {
                crc32.update(&block);
                sha256.update(&block);
                codec.deflate(&block, &mut scratch)?;
                let bytes = i64::try_from(block.len()).unwrap_or(i64::MAX);
                block.clear();
                // When the way back is full, there are enough of them.
                let _ = emptied.try_send(block);
                Packed::Chunk(Chunk { data: scratch.clone(), bytes })
            }
            Raw::End { resource_type, resources } => Packed::End(End {
                resource_type,
                resources,
                crc32: std::mem::take(&mut crc32).finalize(),
                sha256: sha256.finalize_reset().into(),
            }),
        };
        if packed.blocking_send(message).is_err() {
            break;
        }
    }
    Ok(())
}
