//! The codec of a build without features: flate2 on zlib-rs, all Rust.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Codec, DeflateError, InflateError};

/// Compresses and inflates with zlib-rs.
pub(in crate::binary) struct Zlib(Compress);

impl Codec for Zlib {
    fn new() -> Self {
        Self(Compress::new(Compression::fast(), false))
    }

    fn deflate(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), DeflateError> {
        out.clear();
        self.0.reset();
        out.reserve(content.len() / 4 + 1024);
        loop {
            let read = usize::try_from(self.0.total_in()).unwrap_or(usize::MAX);
            let rest = content.get(read..).unwrap_or_default();
            self.0.compress_vec(rest, out, FlushCompress::Full).map_err(|error| DeflateError(error.into()))?;
            // The flush is complete when it leaves room: else there is more to come.
            if out.len() < out.capacity() {
                return Ok(());
            }
            out.reserve(out.capacity());
        }
    }

    fn inflate(chunk: &[u8], bytes: usize) -> Result<Vec<u8>, InflateError> {
        // One more than there should be, so that too much is seen.
        let mut out = Vec::with_capacity(bytes + 1);
        let mut inflater = Decompress::new(false);
        let status = inflater
            .decompress_vec(chunk, &mut out, FlushDecompress::Sync)
            .map_err(|error| InflateError::Data(error.into()))?;
        let is_whole = out.len() == bytes && inflater.total_in() == chunk.len() as u64;
        if is_whole && status != Status::StreamEnd { Ok(out) } else { Err(InflateError::Length) }
    }
}
