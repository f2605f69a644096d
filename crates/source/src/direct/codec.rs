//! The four compressions of Kafka's record batches, into a buffer that is used again.
//!
//! Owns the framing that Kafka's clients put around the compressed bytes, and the bound on what comes out (P30). Does not
//! own the algorithms.

use std::{io::Read, mem};

use super::record_batch::Codec;

/// The most bytes that one record batch may hold, unpacked. Brokers take a mebibyte of compressed bytes by default, so
/// this leaves room for a ratio of 128, and a batch beyond it stands still with a message instead of taking all memory.
pub(super) const MOST_UNPACKED: usize = 128 << 20;

/// About so many bytes are unpacked in one step, where the compression allows it: what has just been written is then
/// read from a core's own cache.
pub(super) const STEP: usize = 64 << 10;

/// A buffer that is filled from its front. What lies behind is of an earlier use.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    buffer: Vec<u8>,
    filled: usize,
    /// What the batch that is being unpacked has brought so far.
    of_batch: usize,
}

impl Unpacked {
    pub(super) fn over(buffer: Vec<u8>) -> Self {
        Self {
            buffer,
            ..Self::default()
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    pub(super) fn len(&self) -> usize {
        self.filled
    }

    /// Takes the buffer out, with what lies behind: cut off, it would have to be cleared for the next use.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.filled = 0;
        mem::take(&mut self.buffer)
    }

    /// Goes on in another buffer, with `rest` at its front.
    pub(super) fn go_on(&mut self, buffer: Vec<u8>, rest: &[u8]) {
        self.buffer = buffer;
        self.filled = 0;
        self.widen(rest.len());
        self.buffer[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    /// Room for `bytes` more of a batch.
    fn room(&mut self, bytes: usize) -> Result<(), String> {
        if self.of_batch + bytes > MOST_UNPACKED {
            return Err(format!(
                "it holds more than {} MiB once unpacked",
                MOST_UNPACKED >> 20
            ));
        }
        self.widen(bytes);
        Ok(())
    }

    fn widen(&mut self, bytes: usize) {
        let needed = self.filled + bytes;
        // What is there already need not be cleared.
        if self.buffer.len() < needed {
            if self.buffer.capacity() < needed {
                let more = needed + needed / 4 - self.buffer.len();
                self.buffer.reserve_exact(more);
            }
            self.buffer.resize(needed, 0);
        }
    }

    fn fill(&mut self, bytes: usize) {
        self.filled += bytes;
        self.of_batch += bytes;
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.room(bytes.len())?;
        self.buffer[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.fill(bytes.len());
        Ok(())
    }

    /// Appends what `reader` has next.
    fn append_from(&mut self, reader: &mut impl Read) -> Result<bool, String> {
        self.room(STEP)?;
        let room = &mut self.buffer[self.filled..self.filled + STEP];
        let count = reader.read(room).map_err(|cause| cause.to_string())?;
        self.fill(count);
        Ok(count > 0)
    }
}

/// The way through one batch's bytes.
pub(super) struct Unpacking<'b>(Form<'b>);

enum Form<'b> {
    Plain(&'b [u8]),
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'b [u8]>>),
    /// One block; `None` once it is through.
    Snappy(Option<&'b [u8]>),
    Xerial(&'b [u8]),
    Lz4(&'b [u8], Option<Frame>),
    Zstd(Box<zstd::stream::read::Decoder<'static, &'b [u8]>>),
}

impl<'b> Unpacking<'b> {
    /// Begins with a batch.
    ///
    /// # Errors
    /// Why it cannot be unpacked.
    pub(super) fn of(codec: Codec, body: &'b [u8], into: &mut Unpacked) -> Result<Self, String> {
        into.of_batch = 0;
        Ok(Self(match codec {
            Codec::None => Form::Plain(body),
            Codec::Gzip => Form::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(body))),
            Codec::Snappy if body.starts_with(XERIAL) => {
                Form::Xerial(body.get(XERIAL_HEADER..).ok_or(CUT_OFF)?)
            }
            Codec::Snappy => Form::Snappy(Some(body)),
            Codec::Lz4 => Form::Lz4(body, None),
            Codec::Zstd => {
                let reader = zstd::stream::read::Decoder::with_buffer(body);
                Form::Zstd(Box::new(reader.map_err(|cause| cause.to_string())?))
            }
        }))
    }

    /// Appends the next bytes to `into`; `false` when there are none.
    ///
    /// # Errors
    /// Why it cannot be unpacked. The buffer then holds part of it.
    pub(super) fn step(&mut self, into: &mut Unpacked) -> Result<bool, String> {
        match &mut self.0 {
            Form::Plain(rest) => {
                let (next, after) = rest.split_at(rest.len().min(STEP));
                *rest = after;
                into.append(next)?;
                Ok(!next.is_empty())
            }
            Form::Gzip(reader) => into.append_from(reader),
            Form::Zstd(reader) => into.append_from(reader),
            Form::Snappy(block) => match block.take() {
                None => Ok(false),
                Some(block) => snappy_block(block, into).map(|()| true),
            },
            Form::Xerial([]) => Ok(false),
            Form::Xerial(rest) => {
                let size = take_u32(rest, u32::from_be_bytes)? as usize;
                let block = rest.get(..size).ok_or(CUT_OFF)?;
                *rest = &rest[size..];
                snappy_block(block, into).map(|()| true)
            }
            Form::Lz4(rest, frame) => lz4_step(rest, frame, into),
        }
    }
}

/// What Java's producers write around snappy's blocks; others write one bare block.
const XERIAL: &[u8] = b"\x82SNAPPY\0";
/// The magic, a version and a compatible version.
const XERIAL_HEADER: usize = 16;

fn snappy_block(block: &[u8], into: &mut Unpacked) -> Result<(), String> {
    let size = snap::raw::decompress_len(block).map_err(|cause| cause.to_string())?;
    into.room(size)?;
    let filled = snap::raw::Decoder::new()
        .decompress(block, &mut into.buffer[into.filled..into.filled + size])
        .map_err(|cause| cause.to_string())?;
    into.fill(filled);
    Ok(())
}

const CUT_OFF: &str = "the compressed bytes are cut off";
const LZ4_MAGIC: u32 = 0x184D_2204;
/// How far back a block may refer when blocks are linked.
const LZ4_WINDOW: usize = 64 << 10;

/// What an LZ4 frame says of itself.
struct Frame {
    /// Blocks do not refer to those before them.
    independent: bool,
    block_sums: bool,
    content_sum: bool,
    /// The most bytes that a block holds.
    largest: usize,
    /// Where its first block begins in the buffer, if blocks are linked.
    start: usize,
}

/// Takes the next block of frames of LZ4, straight into the buffer: the frame reader of the library copies every byte
/// twice more. Linked blocks come all together, since they refer to each other. Checksums of frames are passed over,
/// because the record batch has one of its own.
fn lz4_step(
    rest: &mut &[u8],
    frame: &mut Option<Frame>,
    into: &mut Unpacked,
) -> Result<bool, String> {
    let start = into.filled;
    loop {
        let Some(current) = frame else {
            if rest.is_empty() {
                return Ok(into.filled > start);
            }
            *frame = Some(Frame::begin(rest, into.filled)?);
            continue;
        };
        let word = take_u32(rest, u32::from_le_bytes)?;
        if word == 0 {
            *rest = rest
                .get(if current.content_sum { 4 } else { 0 }..)
                .ok_or(CUT_OFF)?;
            *frame = None;
            continue;
        }
        let size = (word & 0x7fff_ffff) as usize;
        let block = rest.get(..size).ok_or(CUT_OFF)?;
        *rest = rest
            .get(size + if current.block_sums { 4 } else { 0 }..)
            .ok_or(CUT_OFF)?;
        if word & 0x8000_0000 != 0 {
            into.append(block)?;
        } else {
            current.unpack(block, into)?;
        }
        if current.independent {
            return Ok(true);
        }
    }
}

impl Frame {
    /// Takes a frame's header.
    fn begin(rest: &mut &[u8], start: usize) -> Result<Self, String> {
        if take_u32(rest, u32::from_le_bytes)? != LZ4_MAGIC {
            return Err("it does not begin as an LZ4 frame does".to_owned());
        }
        let (&[flags, sizes], after) = rest.split_first_chunk().ok_or(CUT_OFF)?;
        if flags >> 6 != 1 || flags & 1 != 0 {
            return Err(format!(
                "an LZ4 frame with flags {flags:#x} is not supported"
            ));
        }
        let content_size = flags & 0x08 != 0;
        let largest = match (sizes >> 4) & 7 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            unknown => return Err(format!("LZ4 block size {unknown} is not known")),
        };
        // The content's size if it is given, and the header's own checksum.
        *rest = after
            .get(if content_size { 9 } else { 1 }..)
            .ok_or(CUT_OFF)?;
        Ok(Self {
            independent: flags & 0x20 != 0,
            block_sums: flags & 0x10 != 0,
            content_sum: flags & 0x04 != 0,
            largest,
            start,
        })
    }

    /// Appends what a block holds.
    fn unpack(&self, block: &[u8], into: &mut Unpacked) -> Result<(), String> {
        into.room(self.largest)?;
        let (before, room) = into.buffer.split_at_mut(into.filled);
        let room = &mut room[..self.largest];
        let filled = if self.independent {
            // The original in C takes two thirds of the time, and has no safe way to name what came before.
            let largest = i32::try_from(self.largest).ok();
            lz4::block::decompress_to_buffer(block, largest, room)
                .map_err(|cause| cause.to_string())?
        } else {
            let window = &before[self.start.max(before.len().saturating_sub(LZ4_WINDOW))..];
            lz4_flex::block::decompress_into_with_dict(block, room, window)
                .map_err(|cause| cause.to_string())?
        };
        into.fill(filled);
        Ok(())
    }
}

fn take_u32(bytes: &mut &[u8], read: fn([u8; 4]) -> u32) -> Result<u32, String> {
    let (word, rest) = bytes.split_first_chunk().ok_or(CUT_OFF)?;
    *bytes = rest;
    Ok(read(*word))
}

#[cfg(test)]
mod tests;
