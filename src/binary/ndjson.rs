//! Lines on their way into files: collects them into blocks, ends a file when it is large enough, and compresses
//! block by block on a thread of its own, while the next rows are read and the last chunk is stored.

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::codec::{Chosen, Codec, DeflateError};
#[cfg(doc)]
use crate::ledger::patients::MANY;
use crate::ledger::patients::{PatientSet, Patients};

/// NDJSON in one chunk.
pub(crate) const BLOCK: usize = 1 << 20;
/// Messages under way between two stages: what bounds the memory.
const UNDER_WAY: usize = 2;

/// How large files become, in bytes of NDJSON. However large it may be, a file also ends with the line, or with the block, with
/// which it holds data of [`MANY`] Patients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSize {
    /// A file ends with the line that reaches it, or with the block that does.
    pub(crate) target: u64,
    /// A file ends within a block, before a line that would take it beyond this. It is at most the maximum.
    pub(crate) split: u64,
    /// A file ends before a line that would take it beyond this; only a line that is longer by itself does that.
    pub(crate) max: u64,
}

impl FileSize {
    /// One file, however large, of lines that are about nobody.
    pub(super) const ONE: Self = Self { target: u64::MAX, split: u64::MAX, max: u64::MAX };
}

/// From the lines to the compressor.
enum Raw {
    Block(Vec<u8>),
    /// The file ends here.
    End {
        resource_type: String,
        resources: i64,
        continues: bool,
        patients: Patients,
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
    /// The block in which it ends goes on in the next one.
    pub(crate) continues: bool,
    pub(crate) crc32: u32,
    pub(crate) sha256: [u8; 32],
    /// Whose data is in it.
    pub(crate) patients: PatientSet,
}

/// The end of the pipeline into which lines go. Memory is bounded by blocks, not by lines: a long line is cut; and by the
/// patients of a file, of whom there are not many more than [`MANY`].
pub(crate) struct Lines {
    block: Vec<u8>,
    resources: i64,
    bytes: u64,
    size: FileSize,
    /// Whose data is in the file under way.
    patients: Patients,
    /// Of the block of lines under way, if they come in blocks.
    header: Option<Header>,
    added: Added,
    blocks: mpsc::Sender<Raw>,
    empty: mpsc::Receiver<Vec<u8>>,
}

/// The first line of a block, which stands again in each further file of it.
struct Header {
    line: Vec<u8>,
    /// To whom it refers.
    patient: String,
    /// In the file under way.
    is_written: bool,
}

/// What the lines that were pushed do not tell of themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Added {
    /// Lines that were longer than a file may be.
    pub(crate) oversized: i64,
    /// Headers of blocks that were written.
    pub(crate) headers: i64,
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
    let lines = Lines {
        block: Vec::with_capacity(BLOCK),
        resources: 0,
        bytes: 0,
        size,
        patients: Patients::default(),
        header: None,
        added: Added::default(),
        blocks,
        empty,
    };
    (lines, chunks, compressor)
}

impl Lines {
    /// Adds a line; a file that has reached its size ends with it.
    pub(crate) async fn push(&mut self, line: &[u8], patients: &str, resource_type: &str) -> Result<(), Gone> {
        self.begin_line(line.len() as u64, resource_type).await?;
        self.is_about(patients);
        self.append(line).await?;
        self.end_line(resource_type).await
    }

    /// Begins a block of a patient: the lines that follow stand under this one. Without any it is not written.
    pub(crate) fn begin_block(&mut self, header: String, patient: String) {
        let mut line = header.into_bytes();
        line.push(b'\n');
        self.header = Some(Header { line, patient, is_written: false });
    }

    /// Ends the block under way; a file that has reached its size ends with it.
    pub(crate) async fn end_block(&mut self, resource_type: &str) -> Result<(), Gone> {
        self.header = None;
        if self.is_full() { self.end_file(resource_type).await } else { Ok(()) }
    }

    /// Begins a line of so many bytes, which come in pieces.
    pub(crate) async fn begin_line(&mut self, bytes: u64, resource_type: &str) -> Result<(), Gone> {
        let with_end = bytes.saturating_add(1);
        let length = |header: &Header| header.line.len() as u64;
        let header = self.header.as_ref().map_or(0, length);
        let due = self.header.as_ref().filter(|header| !header.is_written).map_or(0, length);
        let limit = if self.header.is_some() { self.size.split } else { self.size.max };
        if with_end.saturating_add(header) > self.size.max {
            self.added.oversized += 1;
        }
        if self.bytes.saturating_add(due).saturating_add(with_end) > limit {
            self.end_file(resource_type).await?;
        }
        self.write_header().await
    }

    /// Where a block or its next file begins.
    async fn write_header(&mut self) -> Result<(), Gone> {
        let Some(mut header) = self.header.take() else { return Ok(()) };
        if !header.is_written {
            self.append(&header.line).await?;
            self.patients.add(&header.patient);
            self.resources += 1;
            self.added.headers += 1;
            header.is_written = true;
        }
        self.header = Some(header);
        Ok(())
    }

    /// Says who the line under way is about: ids of Patients with a blank between each two.
    pub(crate) fn is_about(&mut self, patients: &str) {
        self.patients.add(patients);
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

    /// Ends the line under way; a file that has reached its size ends with it, unless it is one of a block.
    pub(crate) async fn end_line(&mut self, resource_type: &str) -> Result<(), Gone> {
        self.append(b"\n").await?;
        self.resources += 1;
        if self.header.is_none() && self.is_full() {
            self.end_file(resource_type).await?;
        }
        Ok(())
    }

    /// Whether the file under way is to end where one may.
    fn is_full(&self) -> bool {
        self.bytes >= self.size.target || self.patients.are_many()
    }

    /// What has been noted and added so far.
    pub(crate) fn added(&self) -> Added {
        self.added
    }

    /// Ends the file under way, if there is one: unless it is organised, a file holds one type; and none is empty
    /// (rule E15).
    pub(crate) async fn end_file(&mut self, resource_type: &str) -> Result<(), Gone> {
        if self.resources == 0 {
            return Ok(());
        }
        if !self.block.is_empty() {
            self.send_block().await?;
        }
        let continues = self.header.as_mut().is_some_and(|header| std::mem::take(&mut header.is_written));
        let patients = std::mem::take(&mut self.patients);
        let end = Raw::End { resource_type: resource_type.to_owned(), resources: self.resources, continues, patients };
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
            Raw::End { resource_type, resources, continues, patients } => Packed::End(End {
                resource_type,
                resources,
                continues,
                crc32: std::mem::take(&mut crc32).finalize(),
                sha256: sha256.finalize_reset().into(),
                patients: patients.encode()?,
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
        continues: bool,
    }

    impl File {
        fn lines(&self) -> Vec<&[u8]> {
            self.content.split_inclusive(|byte| *byte == b'\n').collect()
        }
    }

    /// What comes out of lines, which stand in blocks under these headers where there are any.
    fn files(blocks: &[(Option<String>, Vec<Vec<u8>>)], size: FileSize) -> (Vec<File>, Added) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut sink, mut chunks, compressor) = pipeline(size);
            let feed = async move {
                for (header, lines) in blocks {
                    if let Some(header) = header {
                        sink.begin_block(header.clone(), header.clone());
                    }
                    for line in lines {
                        sink.push(line, "", "Basic").await.unwrap();
                    }
                    if header.is_some() {
                        sink.end_block("Basic").await.unwrap();
                    }
                }
                sink.end_file("Basic").await.unwrap();
                sink.added()
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
                            files.push(File { content, resources: end.resources, continues: end.continues });
                        }
                    }
                }
                assert!(content.is_empty(), "nothing is left without a file");
                files
            };
            let (added, files) = tokio::join!(feed, collect);
            compressor.await.unwrap().unwrap();
            (files, added)
        })
    }

    /// What comes out of lines that are about so many new Patients each, in blocks of so many lines; how many Patients each file
    /// is about.
    fn patients_of_files(counts: &[usize], block: Option<usize>) -> Vec<i32> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut sink, mut chunks, compressor) = pipeline(FileSize::ONE);
            let feed = async move {
                let mut next = 0;
                for lines in counts.chunks(block.unwrap_or(counts.len())) {
                    if block.is_some() {
                        sink.begin_block("header".to_owned(), "p0".to_owned());
                    }
                    for count in lines {
                        let ids: Vec<String> = (next..next + count).map(|n| format!("p{n}")).collect();
                        next += count;
                        sink.push(b"{}", &ids.join(" "), "Basic").await.unwrap();
                    }
                    if block.is_some() {
                        sink.end_block("Basic").await.unwrap();
                    }
                }
                sink.end_file("Basic").await.unwrap();
            };
            let collect = async {
                let mut patients = Vec::new();
                while let Some(packed) = chunks.recv().await {
                    if let Packed::End(end) = packed {
                        assert!(!end.continues);
                        patients.push(end.patients.count);
                    }
                }
                patients
            };
            let ((), patients) = tokio::join!(feed, collect);
            compressor.await.unwrap().unwrap();
            patients
        })
    }

    // However large a client wants it
    #[test]
    fn a_file_ends_when_it_is_about_many_patients() {
        let counts = [300_000, 200_000, 499_999, 0, 1, 7];
        assert_eq!(patients_of_files(&counts, None), [500_000, 500_000, 7]);
        assert_eq!(patients_of_files(&counts, Some(3)), [999_999, 9]);
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
            let size = FileSize { target: target.min(max), split: max, max };
            let (files, added) = files(&[(None, lines.clone())], size);
            let whole: Vec<u8> = lines.iter().flat_map(|line| [&line[..], b"\n"].concat()).collect();
            prop_assert!(files.iter().flat_map(|file| file.content.iter().copied()).eq(whole));
            for file in &files {
                let count = file.content.iter().filter(|byte| **byte == b'\n').count();
                prop_assert!(count > 0 && file.resources == count as i64);
                prop_assert!(file.content.ends_with(b"\n"));
                prop_assert!(file.content.len() as u64 <= max || count == 1);
                prop_assert!(!file.continues);
            }
            // Each but the last is full: it has reached its size, or the next line would not have fitted.
            for pair in files.windows(2) {
                let next = pair[1].content.iter().position(|byte| *byte == b'\n').unwrap() as u64 + 1;
                let bytes = pair[0].content.len() as u64;
                prop_assert!(bytes >= size.target || bytes + next > max);
            }
            let too_long = lines.iter().filter(|line| line.len() as u64 + 1 > max).count();
            prop_assert_eq!(added, Added { oversized: too_long as i64, headers: 0 });
        }

        // F9, E8, G13
        #[test]
        fn a_block_stands_under_its_header_and_is_split_only_where_it_must_be(
            blocks in proptest::collection::vec(proptest::collection::vec(1usize..2_000, 0..12), 0..20),
            target in 1u64..12_000,
            (split, max) in (1u64..20_000, prop_oneof![Just(u64::MAX), 1u64..20_000]),
        ) {
            let size = FileSize { target: target.min(split).min(max), split: split.min(max), max };
            let blocks: Vec<_> = blocks.into_iter().enumerate().map(|(n, lengths)| {
                let name = char::from(b'a' + u8::try_from(n).unwrap());
                let lines: Vec<_> = lengths.into_iter().map(|length| vec![name as u8; length]).collect();
                (Some(format!("#{name}")), lines)
            }).collect();
            let (files, added) = files(&blocks, size);
            // Without the headers, every line once and in order.
            let pushed: Vec<_> = blocks.iter().flat_map(|(_, lines)| lines).collect();
            let whole: Vec<u8> = pushed.iter().flat_map(|line| [&line[..], b"\n"].concat()).collect();
            let all: Vec<&[u8]> = files.iter().flat_map(File::lines).collect();
            prop_assert_eq!(all.iter().filter(|line| line[0] != b'#').copied().collect::<Vec<_>>().concat(), whole);
            prop_assert_eq!(all.iter().filter(|line| line[0] == b'#').count() as i64, added.headers);
            let too_long = pushed.iter().filter(|line| line.len() as u64 + 4 > max).count();
            prop_assert_eq!(added.oversized, too_long as i64);
            let mut met = std::collections::BTreeSet::new();
            let mut is_continued = None;
            for file in &files {
                let lines = file.lines();
                prop_assert_eq!(file.resources, lines.len() as i64);
                prop_assert!(file.content.len() as u64 <= size.split || lines.len() == 2);
                let mut under = None;
                for (n, line) in lines.iter().enumerate() {
                    if line[0] == b'#' {
                        prop_assert!(lines.get(n + 1).is_some_and(|next| next[0] == line[1]), "no header is alone");
                        let goes_on = n == 0 && is_continued == Some(line[1]);
                        prop_assert!(met.insert(line[1]) || goes_on, "one block each");
                        under = Some(line[1]);
                    }
                    prop_assert!(line[0] == b'#' || under == Some(line[0]), "every line stands under its header");
                }
                prop_assert!(is_continued.is_none() || is_continued == Some(lines[0][1]));
                is_continued = under.filter(|_| file.continues);
            }
            prop_assert_eq!(is_continued, None);
            for pair in files.windows(2) {
                let [header, next] = [pair[1].lines()[0], pair[1].lines()[1]].map(|line| line.len() as u64);
                let bytes = pair[0].content.len() as u64;
                if pair[0].continues {
                    prop_assert!(bytes + next > size.split, "it could have gone on");
                } else {
                    prop_assert!(bytes >= size.target || bytes + header + next > size.split);
                }
            }
        }
    }
}
