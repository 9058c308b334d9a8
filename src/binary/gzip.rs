//! One ordinary gzip stream out of chunks that can also be read one by one (RFC 1951, RFC 1952).
//!
//! A chunk is a run of raw deflate blocks that ends with a full flush: on a byte boundary, and with nothing after it
//! referring to anything before. Header, chunks, an empty final block and the trailer are one gzip member; not a
//! series of members, since some clients stop at the end of the first.

use flate2::{
    Compress, CompressError, Compression, Decompress, DecompressError, FlushCompress, FlushDecompress, Status,
};

/// No name, no time, unknown system: the same content has the same bytes.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty block with the final bit.
const END: [u8; 2] = [3, 0];
/// The length of the end of the stream.
pub(super) const TRAILER: u64 = END.len() as u64 + 8;

/// The end of the stream: CRC-32 and length (modulo 2^32) of the content.
pub(super) fn trailer(crc32: u32, bytes: u64) -> [u8; 10] {
    let [c0, c1, c2, c3] = crc32.to_le_bytes();
    let [n0, n1, n2, n3, ..] = bytes.to_le_bytes();
    [END[0], END[1], c0, c1, c2, c3, n0, n1, n2, n3]
}

/// Makes chunks; used again for every chunk, since what it holds is large.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Self {
        Self(Compress::new(Compression::fast(), false))
    }

    /// Compresses one chunk into `out`, which is emptied first.
    pub(super) fn chunk(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), CompressError> {
        out.clear();
        self.0.reset();
        out.reserve(content.len() / 4 + 1024);
        loop {
            let read = usize::try_from(self.0.total_in()).unwrap_or(usize::MAX);
            let rest = content.get(read..).unwrap_or_default();
            self.0.compress_vec(rest, out, FlushCompress::Full)?;
            // The flush is complete when it leaves room: else there is more to come.
            if out.len() < out.capacity() {
                return Ok(());
            }
            out.reserve(out.capacity());
        }
    }
}

/// Inflates one chunk, whose content is known to have `bytes` bytes.
pub(super) fn inflate(chunk: &[u8], bytes: usize) -> Result<Vec<u8>, InflateError> {
    // One more than there should be, so that too much is seen.
    let mut out = Vec::with_capacity(bytes + 1);
    let mut inflater = Decompress::new(false);
    let status = inflater.decompress_vec(chunk, &mut out, FlushDecompress::Sync)?;
    let is_whole = out.len() == bytes && inflater.total_in() == chunk.len() as u64;
    if is_whole && status != Status::StreamEnd { Ok(out) } else { Err(InflateError::Length) }
}

/// A chunk is not what was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InflateError {
    #[error("a chunk is not deflated data: {0}")]
    Data(#[from] DecompressError),
    #[error("a chunk has another length than it was written with")]
    Length,
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    fn content() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![proptest::collection::vec(any::<u8>(), 0..40_000), proptest::collection::vec(0u8..4, 0..200_000),]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn chunks_make_one_gzip_stream_and_each_inflates_alone(
            content in content(),
            cut in 1usize..70_000,
        ) {
            let mut deflater = Deflater::new();
            let mut stream = HEADER.to_vec();
            let mut chunk = Vec::new();
            for piece in content.chunks(cut) {
                deflater.chunk(piece, &mut chunk).unwrap();
                prop_assert_eq!(&inflate(&chunk, piece.len()).unwrap()[..], piece);
                stream.extend_from_slice(&chunk);
            }
            stream.extend(trailer(crc32fast::hash(&content), content.len() as u64));
            let mut read = Vec::new();
            let mut decoder = GzDecoder::new(&stream[..]);
            decoder.read_to_end(&mut read).unwrap();
            prop_assert_eq!(read, content);
            prop_assert!(decoder.into_inner().is_empty(), "one member, nothing behind it");
        }
    }

    #[test]
    fn a_damaged_chunk_is_refused() {
        let mut chunk = Vec::new();
        Deflater::new().chunk(&[7; 5_000], &mut chunk).unwrap();
        assert!(inflate(&chunk, 4_999).is_err());
        assert!(inflate(&chunk, 5_001).is_err());
        assert!(inflate(&chunk[..chunk.len() / 2], 5_000).is_err());
    }
}
