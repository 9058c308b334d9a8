//! Lines on their way into files: collects them into blocks, ends a file when it is large enough, and compresses
//! block by block on a thread of its own, while the next rows are read and the last chunk is stored.

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::codec::{Chosen, Codec, DeflateError};

/// NDJSON in one chunk.
pub(crate) const BLOCK: usize = 1 << 20;
/// Messages under way between two stages: what bounds the memory.
const UNDER_WAY: usize = 2;

/// How large files become, in bytes of NDJSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSize {
    /// A file ends with the line that reaches it.
    pub(crate) target: u64,
    /// A file ends before a line that would take it beyond this; only a line that is longer by itself does that.
    pub(crate) max: u64,
}

impl FileSize {
    /// One file, however large.
    pub(super) const ONE: Self = Self { target: u64::MAX, max: u64::MAX };
}

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
    size: FileSize,
    /// Lines that are longer than a file may be.
    oversized: i64,
    blocks: mpsc::Sender<Raw>,
    empty: mpsc::Receiver<Vec<u8>>,
}

/// The store is gone: it says why itself.
#[derive(Debug)]
pub(crate) struct Gone;

/// Starts a pipeline: lines in, chunks out. The thread ends when the lines are dropped, or the receiver is.
pub(crate) fn pipeline(
    size: FileSize,
) -> (Lines, mpsc::Receiver<Packed>, tokio::task::JoinHandle<Result<(), DeflateError>>) {
    let (blocks, raw) = mpsc::channel(UNDER_WAY);
    let (packed, chunks) = mpsc::channel(UNDER_WAY);
    let (emptied, empty) = mpsc::channel(UNDER_WAY + 2);
    let compressor = tokio::task::spawn_blocking(move || compress(raw, &packed, &emptied));
    let lines = Lines { block: Vec::with_capacity(BLOCK), resources: 0, bytes: 0, size, oversized: 0, blocks, empty };
    (lines, chunks, compressor)
}

impl Lines {
    /// Adds a line; a file that has reached its size ends with it.
    pub(crate) async fn push(&mut self, line: &[u8], resource_type: &str) -> Result<(), Gone> {
        self.begin_line(line.len() as u64, resource_type).await?;
        self.append(line).await?;
        self.end_line(resource_type).await
    }

    /// Begins a line of so many bytes, which come in pieces.
    pub(crate) async fn begin_line(&mut self, bytes: u64, resource_type: &str) -> Result<(), Gone> {
        let with_end = bytes.saturating_add(1);
        if with_end > self.size.max {
            self.oversized += 1;
        }
        if self.bytes.saturating_add(with_end) > self.size.max {
            self.end_file(resource_type).await?;
        }
        Ok(())
    }

    /// Adds to the line under way.
    pub(crate) async fn append(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
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

    /// Ends the line under way; a file that has reached its size ends with it.
    pub(crate) async fn end_line(&mut self, resource_type: &str) -> Result<(), Gone> {
        self.append(b"\n").await?;
        self.resources += 1;
        if self.bytes >= self.size.target {
            self.end_file(resource_type).await?;
        }
        Ok(())
    }

    /// How many lines so far were longer than a file may be.
    pub(crate) fn oversized(&self) -> i64 {
        self.oversized
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec::{Chosen, Codec};
    use super::*;

    /// A file as it comes out.
    struct File {
        content: Vec<u8>,
        resources: i64,
    }

    fn files(lines: &[Vec<u8>], size: FileSize) -> (Vec<File>, i64) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut sink, mut chunks, compressor) = pipeline(size);
            let feed = async move {
                for line in lines {
                    sink.push(line, "Basic").await.unwrap();
                }
                sink.end_file("Basic").await.unwrap();
                sink.oversized()
            };
            let collect = async {
                let (mut files, mut content) = (Vec::new(), Vec::new());
                while let Some(packed) = chunks.recv().await {
                    match packed {
                        Packed::Chunk(chunk) => {
                            let bytes = usize::try_from(chunk.bytes).unwrap();
                            content.extend(Chosen::inflate(&chunk.data, bytes).unwrap());
                        }
                        Packed::End(end) => {
                            let content = std::mem::take(&mut content);
                            assert_eq!(end.crc32, crc32fast::hash(&content));
                            assert_eq!(end.sha256[..], Sha256::digest(&content)[..]);
                            files.push(File { content, resources: end.resources });
                        }
                    }
                }
                assert!(content.is_empty(), "nothing is left without a file");
                files
            };
            let (oversized, files) = tokio::join!(feed, collect);
            compressor.await.unwrap().unwrap();
            (files, oversized)
        })
    }

    fn lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let line = prop_oneof![20 => 1usize..2_000, 1 => 1usize..3_000_000];
        proptest::collection::vec(line.prop_map(|bytes| vec![b'x'; bytes]), 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        // E15, G13
        #[test]
        fn files_hold_every_line_once_and_keep_their_size(
            lines in lines(),
            target in 1u64..3_000_000,
            max in prop_oneof![Just(u64::MAX), 1u64..3_000_000],
        ) {
            let size = FileSize { target: target.min(max), max };
            let (files, oversized) = files(&lines, size);
            let whole: Vec<u8> = lines.iter().flat_map(|line| [&line[..], b"\n"].concat()).collect();
            prop_assert!(files.iter().flat_map(|file| file.content.iter().copied()).eq(whole));
            for file in &files {
                let count = file.content.iter().filter(|byte| **byte == b'\n').count();
                prop_assert!(count > 0 && file.resources == count as i64);
                prop_assert!(file.content.ends_with(b"\n"));
                prop_assert!(file.content.len() as u64 <= max || count == 1);
            }
            // Each but the last is full: it has reached its size, or the next line would not have fitted.
            for pair in files.windows(2) {
                let next = pair[1].content.iter().position(|byte| *byte == b'\n').unwrap() as u64 + 1;
                let bytes = pair[0].content.len() as u64;
                prop_assert!(bytes >= size.target || bytes + next > max);
            }
            let too_long = lines.iter().filter(|line| line.len() as u64 + 1 > max).count();
            prop_assert_eq!(oversized, too_long as i64);
        }
    }
}
