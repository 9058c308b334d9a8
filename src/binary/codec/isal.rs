//! The codec on Intel's ISA-L: much faster than zlib-rs, both ways. The only file with unsafe code.
//!
//! # Why its one-shot functions
//!
//! A chunk is compressed with all of its content and all of its room at hand. The one-shot function is made for that:
//! its answer says whether the chunk is whole, and it stores what does not become smaller, so that no chunk is longer
//! than [`longest`].
//!
//! # Why `isal-sys`
//!
//! The safe wrapper, `isal-rs`, ends a stream with every flush, and a chunk must not have a final block. Debian's
//! `libisal-dev` would need a C shim or bindings written by hand, another version of the library on every system, and
//! the library in the image; `isal-sys` brings checked bindings, and a library of one version that is linked in.

#![expect(unsafe_code, reason = "ISA-L is a C library; no safe wrapper of it can flush without ending the stream")]

use std::ffi::c_int;

use isal_sys::igzip_lib as igzip;

use super::{Codec, DeflateError, InflateError};

/// The lowest level that fits the codes to the content; those above take more work than they save room.
const LEVEL: u32 = 1;
/// The memory that ISA-L recommends at this level.
const WORKSPACE: usize = igzip::ISAL_DEF_LVL1_DEFAULT as usize;
/// Two answers.
const COMPRESSED: c_int = igzip::COMP_OK as c_int;
const INPUT_ENDS: c_int = igzip::ISAL_END_INPUT as c_int;
/// The longest stored block, and what stands before it.
const STORED: usize = 65_535;
const STORED_HEADER: usize = 5;

/// Compresses and inflates with ISA-L.
pub(in crate::binary) struct Isal {
    stream: Box<igzip::isal_zstream>,
    /// Tables and symbols of the block under way; of wide integers, so that its C structures are aligned.
    workspace: Vec<u128>,
}

/// ISA-L's answer when something is wrong; its `igzip_lib.h` has the list.
#[derive(Debug, thiserror::Error)]
#[error("ISA-L answers {0}")]
struct Answer(c_int);

/// The most bytes a chunk can have: all of its content in stored blocks.
fn longest(content: usize) -> usize {
    content + content.div_ceil(STORED) * STORED_HEADER
}

impl Codec for Isal {
    fn new() -> Self {
        // SAFETY: the struct is integers, arrays of them and raw pointers, of which zeros are valid values.
        let mut stream = unsafe { Box::<igzip::isal_zstream>::new_zeroed().assume_init() };
        // SAFETY: the pointer is to a whole stream that is ours alone; the function only writes its fields.
        unsafe { igzip::isal_deflate_init(&raw mut *stream) };
        stream.level = LEVEL;
        stream.flush = igzip::FULL_FLUSH as u16;
        stream.gzip_flag = igzip::IGZIP_DEFLATE as u16;
        Self { stream, workspace: vec![0; WORKSPACE.div_ceil(size_of::<u128>())] }
    }

    fn deflate(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), DeflateError> {
        out.clear();
        if content.is_empty() {
            return Ok(());
        }
        let room = longest(content.len());
        out.reserve(room);
        let stream = &mut *self.stream;
        // SAFETY: the stream was initialised in `new`; the function only writes its fields.
        unsafe { igzip::isal_deflate_reset(&raw mut *stream) };
        stream.next_in = content.as_ptr().cast_mut();
        stream.avail_in = length(content.len()).map_err(DeflateError)?;
        stream.next_out = out.as_mut_ptr();
        stream.avail_out = length(room).map_err(DeflateError)?;
        stream.level_buf = self.workspace.as_mut_ptr().cast();
        stream.level_buf_size = length(size_of_val(&self.workspace[..])).map_err(DeflateError)?;
        // SAFETY: the stream is initialised, and its three buffers are set just above, from live allocations of at
        // least the lengths that stand beside them: `content`, which is only read; the room that was reserved in `out`;
        // the workspace, which is as large as the level demands and aligned for its structures. The borrows keep them
        // apart and alive during the call, and no pointer is used after it. What the stream points to otherwise are
        // constants of the library.
        let answer = unsafe { igzip::isal_deflate_stateless(&raw mut *stream) };
        let written = stream.total_out as usize;
        if answer != COMPRESSED || stream.avail_in != 0 || written > room {
            return Err(DeflateError(Answer(answer).into()));
        }
        // SAFETY: the capacity is at least `room`, and so many bytes were written from its beginning.
        unsafe { out.set_len(written) };
        Ok(())
    }

    fn inflate(chunk: &[u8], bytes: usize) -> Result<Vec<u8>, InflateError> {
        let mut out = Vec::with_capacity(bytes);
        // SAFETY: the struct is integers, arrays and unions of them and raw pointers, of which zeros are valid values.
        let mut state = unsafe { Box::<igzip::inflate_state>::new_zeroed().assume_init() };
        // SAFETY: the pointer is to a whole state that is ours alone; the function only writes its fields.
        unsafe { igzip::isal_inflate_init(&raw mut *state) };
        state.next_in = chunk.as_ptr().cast_mut();
        state.avail_in = length(chunk.len()).map_err(InflateError::Data)?;
        state.next_out = out.as_mut_ptr();
        state.avail_out = length(bytes).map_err(InflateError::Data)?;
        // SAFETY: the state is initialised, and its two buffers are set just above, from live allocations of at least
        // the lengths that stand beside them: `chunk`, which is only read, and the capacity of `out`. Whatever the
        // chunk holds, the function stays within them: it counts down both lengths, and refuses to look back past the
        // place where the output began. No pointer is used after the call.
        let answer = unsafe { igzip::isal_inflate_stateless(&raw mut *state) };
        match answer {
            // The good end: where no block was the final one, there could be more.
            INPUT_ENDS => {}
            ..=-1 => return Err(InflateError::Data(Answer(answer).into())),
            // A final block, or more content than there should be.
            _ => return Err(InflateError::Length),
        }
        let between_blocks = state.block_state == igzip::isal_block_state_ISAL_BLOCK_NEW_HDR;
        if state.avail_in != 0 || state.avail_out != 0 || !between_blocks {
            return Err(InflateError::Length);
        }
        // SAFETY: the capacity is at least `bytes`, and none of them is left to write.
        unsafe { out.set_len(bytes) };
        Ok(out)
    }
}

/// A length as ISA-L wants it.
fn length(bytes: usize) -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
    Ok(u32::try_from(bytes)?)
}
