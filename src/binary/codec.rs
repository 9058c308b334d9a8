//! How chunks are made, and made whole again: one trait, and two codecs for it.
//!
//! A chunk is a run of raw deflate blocks (RFC 1951) that ends on a byte boundary; nothing in it refers to anything
//! before it, and no block is the final one. So chunks can be read one by one, and put one after the other.
//!
//! # Why two codecs
//!
//! Compression is most of what an export computes. ISA-L does it for a fraction of the work, but needs an assembler and
//! the autotools to be built, which nobody should need for a first try: it is the feature `isal`, on in the image.
//! Either codec reads what the other wrote, so the processes at one database need not be built alike.

#[cfg(feature = "isal")]
mod isal;
#[cfg(any(test, not(feature = "isal")))]
mod zlib;

/// The codec of this build.
#[cfg(feature = "isal")]
pub(super) use isal::Isal as Chosen;
/// The codec of this build.
#[cfg(not(feature = "isal"))]
pub(super) use zlib::Zlib as Chosen;

/// Makes chunks and reads them.
pub(super) trait Codec: Sized {
    /// One that compresses chunk after chunk: what it holds is large.
    fn new() -> Self;

    /// Compresses one chunk into `out`, which is emptied first.
    fn deflate(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), DeflateError>;

    /// Inflates one chunk, whose content is known to have `bytes` bytes.
    fn inflate(chunk: &[u8], bytes: usize) -> Result<Vec<u8>, InflateError>;
}

/// A chunk could not be made.
#[derive(Debug, thiserror::Error)]
#[error("a chunk could not be compressed: {0}")]
pub(crate) struct DeflateError(Box<dyn std::error::Error + Send + Sync>);

impl From<std::io::Error> for DeflateError {
    fn from(error: std::io::Error) -> Self {
        Self(error.into())
    }
}

/// A chunk is not what was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InflateError {
    #[error("a chunk is not deflated data: {0}")]
    Data(Box<dyn std::error::Error + Send + Sync>),
    #[error("a chunk has another length than it was written with")]
    Length,
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    #[cfg(feature = "isal")]
    use super::isal::Isal;
    use super::zlib::Zlib;
    use super::*;
    use crate::binary::gzip;

    /// Checks every codec that writes with every one that reads.
    macro_rules! each_pair {
        ($check:ident($($argument:expr),*)) => {
            $check::<Zlib, Zlib>($($argument),*);
            #[cfg(feature = "isal")]
            {
                $check::<Isal, Isal>($($argument),*);
                $check::<Isal, Zlib>($($argument),*);
                $check::<Zlib, Isal>($($argument),*);
            }
        };
    }

    /// Checks every codec that reads.
    macro_rules! each_reader {
        ($check:ident($($argument:expr),*)) => {
            $check::<Zlib>($($argument),*);
            #[cfg(feature = "isal")]
            $check::<Isal>($($argument),*);
        };
    }

    /// Noise, few letters, one byte again and again, lines: whatever compresses well or not at all, in any order.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40_000),
            proptest::collection::vec(0u8..4, 0..100_000),
            (prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0usize..150_000).prop_map(|(byte, n)| vec![byte; n]),
            (any::<u32>(), 0usize..500).prop_map(|(id, n)| {
                (0..n)
                    .map(|i| format!("{{\"resourceType\":\"Patient\",\"id\":\"{id}-{i}\"}}\n"))
                    .collect::<String>()
                    .into()
            }),
        ];
        proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
    }

    fn chunks_make_one_gzip_stream<W: Codec, R: Codec>(content: &[u8], cut: usize) {
        let mut writer = W::new();
        let mut stream = gzip::HEADER.to_vec();
        let mut chunk = Vec::new();
        for piece in content.chunks(cut) {
            writer.deflate(piece, &mut chunk).unwrap();
            // Literals of the fixed code have at most nine bits.
            assert!(chunk.len() <= piece.len() * 9 / 8 + 64, "{} of {}", chunk.len(), piece.len());
            assert!(R::inflate(&chunk, piece.len()).unwrap() == piece);
            stream.extend_from_slice(&chunk);
        }
        stream.extend(gzip::trailer(crc32fast::hash(content), content.len() as u64));
        let mut read = Vec::new();
        let mut decoder = GzDecoder::new(&stream[..]);
        decoder.read_to_end(&mut read).unwrap();
        assert!(read == content);
        assert!(decoder.into_inner().is_empty(), "one member, nothing behind it");
    }

    fn damage_is_an_error_or_keeps_the_length<W: Codec, R: Codec>(content: &[u8], at: usize, xor: u8) {
        let mut chunk = Vec::new();
        W::new().deflate(content, &mut chunk).unwrap();
        let at = at % chunk.len().max(1);
        if let Some(byte) = chunk.get_mut(at) {
            *byte ^= xor;
        }
        for bytes in [0, content.len() / 2, content.len(), content.len() + 1] {
            if let Ok(read) = R::inflate(&chunk, bytes) {
                assert_eq!(read.len(), bytes);
            }
        }
        chunk.truncate(at);
        if let Ok(read) = R::inflate(&chunk, content.len()) {
            assert_eq!(read.len(), content.len());
        }
    }

    fn noise_is_an_error_or_has_the_length<R: Codec>(noise: &[u8], bytes: usize) {
        if let Ok(read) = R::inflate(noise, bytes) {
            assert_eq!(read.len(), bytes);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn chunks_are_one_gzip_stream_and_each_inflates_alone(content in content(), cut in 1usize..200_000) {
            // Not thousands of chunks.
            let cut = cut.max(content.len() / 40);
            each_pair!(chunks_make_one_gzip_stream(&content, cut));
        }

        #[test]
        fn a_damaged_chunk_is_refused_or_keeps_its_length(content in content(), at in any::<usize>(), xor in 1u8..) {
            each_pair!(damage_is_an_error_or_keeps_the_length(&content, at, xor));
        }

        #[test]
        fn noise_is_refused_or_has_the_length(
            noise in proptest::collection::vec(any::<u8>(), 0..2_000),
            bytes in 0usize..100_000,
        ) {
            each_reader!(noise_is_an_error_or_has_the_length(&noise, bytes));
        }
    }

    #[test]
    fn chunks_of_unusual_lengths() {
        let noise: Vec<u8> = (0u32..300_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for bytes in [0, 1, 2, 3, 7, 8, 9, 100, 65_534, 65_535, 65_536, 131_070, 131_071, 300_000] {
            each_pair!(chunks_make_one_gzip_stream(&noise[..bytes], 1 << 20));
            each_pair!(chunks_make_one_gzip_stream(&vec![0; bytes], 1 << 20));
            each_pair!(chunks_make_one_gzip_stream(&vec![0xff; bytes], 1 << 20));
            each_pair!(chunks_make_one_gzip_stream(&vec![b'a'; bytes], 1 << 20));
        }
    }

    #[test]
    fn a_chunk_can_be_empty() {
        fn check<W: Codec, R: Codec>() {
            let mut chunk = vec![1, 2, 3];
            W::new().deflate(b"", &mut chunk).unwrap();
            assert_eq!(R::inflate(&chunk, 0).unwrap(), b"");
            assert!(R::inflate(&chunk, 1).is_err());
            assert_eq!(R::inflate(b"", 0).unwrap(), b"");
        }
        each_pair!(check());
    }

    #[test]
    fn a_chunk_of_another_length_is_refused() {
        fn check<W: Codec, R: Codec>() {
            let mut chunk = Vec::new();
            for content in [[7; 5_000], std::array::from_fn(|n| (n * n % 251) as u8)] {
                W::new().deflate(&content, &mut chunk).unwrap();
                assert!(matches!(R::inflate(&chunk, 4_999), Err(InflateError::Length)));
                assert!(matches!(R::inflate(&chunk, 5_001), Err(InflateError::Length)));
                assert!(R::inflate(&chunk[..chunk.len() / 2], 5_000).is_err());
                chunk.push(6);
                assert!(R::inflate(&chunk, 5_000).is_err(), "something behind the last block");
            }
        }
        each_pair!(check());
    }

    #[test]
    fn a_chunk_with_a_final_block_is_refused() {
        fn check<W: Codec, R: Codec>() {
            let mut chunk = Vec::new();
            W::new().deflate(&[7; 5_000], &mut chunk).unwrap();
            chunk.extend([3, 0]);
            assert!(matches!(R::inflate(&chunk, 5_000), Err(InflateError::Length)));
        }
        each_pair!(check());
    }

    #[test]
    fn what_is_not_deflated_data_is_refused() {
        fn check<R: Codec>() {
            // The reserved kind of block; a stored block whose length is not confirmed; a look before the beginning.
            for wrong in [&[0b110][..], &[0, 5, 0, 5, 0, 1, 2, 3, 4, 5], &[0x02, 0x02, 0, 0, 0, 0]] {
                assert!(matches!(R::inflate(wrong, 100), Err(InflateError::Data(_))), "{wrong:?}");
            }
        }
        each_reader!(check());
    }
}
