//! One ordinary gzip stream out of chunks that can also be read one by one (RFC 1952).
//!
//! Header, chunks, an empty final block and the trailer are one gzip member; not a series of members, since some
//! clients stop at the end of the first. What a chunk is, and how it is made: `codec`.

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
