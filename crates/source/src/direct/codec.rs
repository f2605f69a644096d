//! The four compressions of Kafka's record batches, into a buffer that is used again.
//!
//! Owns the framing that Kafka's clients put around the compressed bytes, and the bound on what comes out (P30). Does not
//! own the algorithms.

use std::io::Read;

use super::record_batch::Codec;

/// The most bytes that one record batch may hold, unpacked. Brokers take a mebibyte of compressed bytes by default, so
/// this leaves room for a ratio of 128, and a batch beyond it stands still with a message instead of taking all memory.
pub(super) const MOST_UNPACKED: usize = 128 << 20;

/// A buffer that is filled from its front. What lies behind is of an earlier use.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    buffer: Vec<u8>,
    filled: usize,
    /// Where the batch that is being unpacked begins.
    batch: usize,
}

impl Unpacked {
    pub(super) fn over(buffer: Vec<u8>) -> Self {
        Self {
            buffer,
            filled: 0,
            batch: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.filled
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.buffer.truncate(self.filled);
        self.buffer
    }

    /// Room for `bytes` more.
    fn room(&mut self, bytes: usize) -> Result<(), String> {
        let needed = self.filled + bytes;
        if needed - self.batch > MOST_UNPACKED {
            return Err(format!(
                "it holds more than {} MiB once unpacked",
                MOST_UNPACKED >> 20
            ));
        }
        // What is there already need not be cleared.
        if self.buffer.len() < needed {
            if self.buffer.capacity() < needed {
                let more = needed + needed / 4 - self.buffer.len();
                self.buffer.reserve_exact(more);
            }
            self.buffer.resize(needed, 0);
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.room(bytes.len())?;
        self.buffer[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok(())
    }

    /// Appends all of `reader`.
    fn append_all(&mut self, mut reader: impl Read) -> Result<(), String> {
        const STEP: usize = 64 << 10;
        loop {
            // A quarter of a megabyte at most is asked for beyond the limit's check.
            self.room(STEP)?;
            match reader.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Ok(()),
                Ok(count) => self.filled += count,
                Err(cause) => return Err(cause.to_string()),
            }
        }
    }
}

/// Appends what `body` holds.
///
/// # Errors
/// Why it cannot be unpacked. The buffer then holds part of it.
pub(super) fn unpack(codec: Codec, body: &[u8], into: &mut Unpacked) -> Result<(), String> {
    into.batch = into.filled;
    match codec {
        Codec::None => into.append(body),
        Codec::Gzip => into.append_all(flate2::bufread::MultiGzDecoder::new(body)),
        Codec::Snappy => snappy(body, into),
        Codec::Lz4 => lz4(body, into),
        Codec::Zstd => {
            let reader = zstd::stream::read::Decoder::with_buffer(body)
                .map_err(|cause| cause.to_string())?;
            into.append_all(reader)
        }
    }
}

/// What Java's producers write around snappy's blocks; others write one bare block.
const XERIAL: &[u8] = b"\x82SNAPPY\0";
/// The magic, a version and a compatible version.
const XERIAL_HEADER: usize = 16;

fn snappy(body: &[u8], into: &mut Unpacked) -> Result<(), String> {
    if !body.starts_with(XERIAL) {
        return snappy_block(body, into);
    }
    let mut rest = body.get(XERIAL_HEADER..).ok_or(CUT_OFF)?;
    while !rest.is_empty() {
        let size = take_u32(&mut rest, u32::from_be_bytes)? as usize;
        let block = rest.get(..size).ok_or(CUT_OFF)?;
        rest = &rest[size..];
        snappy_block(block, into)?;
    }
    Ok(())
}

fn snappy_block(block: &[u8], into: &mut Unpacked) -> Result<(), String> {
    let size = snap::raw::decompress_len(block).map_err(|cause| cause.to_string())?;
    into.room(size)?;
    let filled = snap::raw::Decoder::new()
        .decompress(block, &mut into.buffer[into.filled..into.filled + size])
        .map_err(|cause| cause.to_string())?;
    into.filled += filled;
    Ok(())
}

const CUT_OFF: &str = "the compressed bytes are cut off";
const LZ4_MAGIC: u32 = 0x184D_2204;
/// How far back a block may refer when blocks are linked.
const LZ4_WINDOW: usize = 64 << 10;

/// Frames of LZ4, block by block straight into the buffer: the frame reader of the library copies every byte twice more.
/// Checksums of frames are passed over, because the record batch has one of its own.
fn lz4(mut body: &[u8], into: &mut Unpacked) -> Result<(), String> {
    while !body.is_empty() {
        body = lz4_frame(body, into)?;
    }
    Ok(())
}

fn lz4_frame<'b>(body: &'b [u8], into: &mut Unpacked) -> Result<&'b [u8], String> {
    let mut rest = body;
    if take_u32(&mut rest, u32::from_le_bytes)? != LZ4_MAGIC {
        return Err("it does not begin as an LZ4 frame does".to_owned());
    }
    let (&[flags, sizes], after) = rest.split_first_chunk().ok_or(CUT_OFF)?;
    if flags >> 6 != 1 || flags & 1 != 0 {
        return Err(format!(
            "an LZ4 frame with flags {flags:#x} is not supported"
        ));
    }
    let independent = flags & 0x20 != 0;
    let block_sums = flags & 0x10 != 0;
    let content_size = flags & 0x08 != 0;
    let content_sum = flags & 0x04 != 0;
    let largest: i32 = match (sizes >> 4) & 7 {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        unknown => return Err(format!("LZ4 block size {unknown} is not known")),
    };
    // The content's size if it is given, and the header's own checksum.
    rest = after
        .get(if content_size { 9 } else { 1 }..)
        .ok_or(CUT_OFF)?;
    let start = into.filled;
    loop {
        let word = take_u32(&mut rest, u32::from_le_bytes)?;
        if word == 0 {
            break;
        }
        let size = (word & 0x7fff_ffff) as usize;
        let block = rest.get(..size).ok_or(CUT_OFF)?;
        rest = rest
            .get(size + if block_sums { 4 } else { 0 }..)
            .ok_or(CUT_OFF)?;
        if word & 0x8000_0000 != 0 {
            into.append(block)?;
            continue;
        }
        into.room(largest as usize)?;
        let (before, room) = into.buffer.split_at_mut(into.filled);
        let room = &mut room[..largest as usize];
        into.filled += if independent {
            // The original in C takes two thirds of the time, and has no safe way to name what came before.
            lz4::block::decompress_to_buffer(block, Some(largest), room)
                .map_err(|cause| cause.to_string())?
        } else {
            let window = &before[start.max(before.len().saturating_sub(LZ4_WINDOW))..];
            lz4_flex::block::decompress_into_with_dict(block, room, window)
                .map_err(|cause| cause.to_string())?
        };
    }
    rest.get(if content_sum { 4 } else { 0 }..)
        .ok_or_else(|| CUT_OFF.to_owned())
}

fn take_u32(bytes: &mut &[u8], read: fn([u8; 4]) -> u32) -> Result<u32, String> {
    let (word, rest) = bytes.split_first_chunk().ok_or(CUT_OFF)?;
    *bytes = rest;
    Ok(read(*word))
}

#[cfg(test)]
mod tests;
