//! Records out of record batches, on the worker that folds them.
//!
//! Owns the record's layout. Does not own batches' headers nor the compressions.

use std::ops::{ControlFlow, Range};

use alluvium_types::{
    BufferPool, Damaged, MemoryBudget, OffsetRange, Packed, Piece, RawBatchBuilder, Timestamp,
};

use super::{
    codec::{self, Unpacked, Unpacking},
    record_batch::{Header, RecordBatch, varint},
};

/// Record batches of one partition that follow each other in its log, as the broker sent them.
#[derive(Debug)]
pub(crate) struct PackedBatches {
    pub(crate) batches: Vec<RecordBatch>,
    /// The most unpacked bytes of one piece, about; a single record may be larger (P30).
    pub(crate) piece_bytes: usize,
    pub(crate) buffers: BufferPool,
    pub(crate) memory: MemoryBudget,
}

/// About the most unpacked bytes of one piece. A record batch is unpacked, indexed and decoded in parts that fit into a
/// core's second cache, because a record batch of a mebibyte does not.
const PART: usize = 256 << 10;

impl Packed for PackedBatches {
    fn unpack(
        &self,
        range: OffsetRange,
        each: &mut dyn FnMut(Piece) -> ControlFlow<()>,
    ) -> Result<(), Damaged> {
        let mut wanted = self
            .batches
            .iter()
            .filter(|batch| {
                batch.header.last_offset >= range.start() && batch.header.base_offset < range.end()
            })
            .peekable();
        let enough = self.piece_bytes.min(PART);
        // The last step of a piece may reach beyond what is enough. A buffer that has to grow for it has a size that nobody
        // takes again.
        let mut room = enough + codec::STEP;
        let mut unpacked = Unpacked::over(self.buffers.take_used(room));
        let mut open: Option<Open<'_>> = None;
        let mut start = range.start();
        let mut usual = 0;
        while start < range.end() {
            let mut parts = Vec::new();
            let mut full = false;
            while !full {
                let mut batch = match open.take() {
                    Some(batch) => batch,
                    None => match wanted.next() {
                        Some(batch) => Open::begin(batch, &mut unpacked)?,
                        None => break,
                    },
                };
                let ended = batch
                    .fill(&mut unpacked, enough, parts.is_empty())
                    .map_err(|text| damaged(batch.header, text))?;
                full = !ended || unpacked.len() >= enough;
                parts.push((batch, unpacked.len(), ended));
            }
            let filled = unpacked.len();
            room = room.max(filled);
            // A little more than the last time, since records are of about one size.
            let mut records =
                RawBatchBuilder::over(unpacked.take(), &self.buffers, usual + usual / 8);
            let mut read = 0;
            let mut end = range.end();
            for (mut batch, until, mut ended) in parts {
                read = batch
                    .index(read..until, ended, range, &mut records)
                    .and_then(|at| {
                        ended = ended || batch.ends_here(&mut unpacked)?;
                        Ok(at)
                    })
                    .map_err(|text| damaged(batch.header, text))?;
                // A piece covers what it has read, and the last one covers the rest of the range.
                if !ended {
                    end = batch.last + 1;
                    open = Some(batch);
                } else if wanted.peek().is_some() {
                    end = batch.header.last_offset + 1;
                }
            }
            let end = end.clamp(start, range.end());
            if end < range.end() {
                unpacked.go_on(self.buffers.take_used(room), &records.bytes()[read..filled]);
            }
            if start < end {
                usual = records.len();
                let reservation = self.memory.reserve(records.size());
                let piece = Piece {
                    records,
                    range: OffsetRange::new(start, end).expect("pieces follow each other"),
                    reservation: Some(reservation),
                };
                if each(piece).is_break() {
                    return Ok(());
                }
                start = end;
            }
        }
        Ok(())
    }
}

fn damaged(header: &Header, text: impl Into<String>) -> Damaged {
    Damaged {
        offset: header.base_offset,
        end: header.last_offset + 1,
        text: text.into(),
    }
}

const CUT_OFF: &str = "a record is cut off";
const NOT_IN_ORDER: &str = "its records' offsets are not in order";
const MORE_BYTES: &str = "bytes follow its last record";

/// A record batch that is being read.
struct Open<'b> {
    header: &'b Header,
    unpacking: Unpacking<'b>,
    /// Records that were read.
    read: usize,
    /// The offset of the last one.
    last: i64,
}

impl<'b> Open<'b> {
    fn begin(batch: &'b RecordBatch, unpacked: &mut Unpacked) -> Result<Self, Damaged> {
        let header = &batch.header;
        let unpacking = Unpacking::of(header.codec, batch.body(), unpacked)
            .map_err(|text| damaged(header, text))?;
        Ok(Self {
            header,
            unpacking,
            read: 0,
            last: header.base_offset - 1,
        })
    }

    /// Unpacks until there is `enough`; `true` when the batch has ended. If it stands `alone` in the buffer, there is at
    /// least one whole record then.
    fn fill(
        &mut self,
        unpacked: &mut Unpacked,
        enough: usize,
        alone: bool,
    ) -> Result<bool, String> {
        while unpacked.len() < enough || alone && Record::read(unpacked.bytes(), 0).is_none() {
            if !self.unpacking.step(unpacked)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Indexes the whole records that stand in `place` of the builder's buffer, as far as they lie in `range`, and returns
    /// where the next one begins. `ended`: nothing of the batch comes behind.
    fn index(
        &mut self,
        place: Range<usize>,
        ended: bool,
        range: OffsetRange,
        records: &mut RawBatchBuilder,
    ) -> Result<usize, String> {
        let header = self.header;
        let mut at = place.start;
        while self.read < header.records {
            let Some(record) = Record::read(&records.bytes()[..place.end], at) else {
                if ended {
                    return Err(CUT_OFF.to_owned());
                }
                return Ok(at);
            };
            at = record.end;
            let offset = header
                .base_offset
                .checked_add(record.offset_past_base)
                .filter(|offset| *offset > self.last && *offset <= header.last_offset)
                .ok_or(NOT_IN_ORDER)?;
            self.last = offset;
            self.read += 1;
            // The batch that holds the asked offset comes whole, and a batch can be cut between two tables' starts.
            if !range.contains(offset) {
                continue;
            }
            let millis = header
                .log_append_time
                .unwrap_or_else(|| header.base_timestamp.wrapping_add(record.time_past_base));
            let timestamp = (millis >= 0).then(|| Timestamp::from_millis(millis));
            if record.headers == 0 {
                records.index(offset, timestamp, record.key, record.value, []);
            } else {
                let headers = read_headers(records.bytes(), &record).ok_or(CUT_OFF)?;
                records.index(offset, timestamp, record.key, record.value, headers);
            }
        }
        if at != place.end {
            return Err(MORE_BYTES.to_owned());
        }
        Ok(at)
    }

    /// Whether its last record was read, and nothing follows.
    fn ends_here(&mut self, unpacked: &mut Unpacked) -> Result<bool, String> {
        if self.read < self.header.records {
            // No offset is left for what has to come.
            return match self.last < self.header.last_offset {
                true => Ok(false),
                false => Err(NOT_IN_ORDER.to_owned()),
            };
        }
        while self.unpacking.step(unpacked)? {
            if unpacked.len() > 0 {
                return Err(MORE_BYTES.to_owned());
            }
        }
        Ok(true)
    }
}

/// Where a record's parts stand in the buffer.
struct Record {
    time_past_base: i64,
    offset_past_base: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: usize,
    /// Where the first header begins.
    headers_at: usize,
    end: usize,
}

impl Record {
    /// The record that begins at `at`; `None` when it does not end in `buffer`. Inlined, so that its parts stay in registers.
    #[inline(always)]
    fn read(buffer: &[u8], at: usize) -> Option<Self> {
        let mut cursor = Cursor { buffer, at };
        let length = usize::try_from(cursor.varint()?).ok()?;
        let end = cursor
            .at
            .checked_add(length)
            .filter(|end| *end <= buffer.len())?;
        cursor.buffer = &buffer[..end];
        cursor.at += 1; // attributes, of which none is in use
        let time_past_base = cursor.varint()?;
        let offset_past_base = cursor.varint()?;
        let key = cursor.bytes()?;
        let value = cursor.bytes()?;
        let headers = usize::try_from(cursor.varint()?).ok()?;
        Some(Self {
            time_past_base,
            offset_past_base,
            key,
            value,
            headers,
            headers_at: cursor.at,
            end,
        })
    }
}

type PlacedHeader = (Box<str>, Option<Range<usize>>);

fn read_headers(buffer: &[u8], record: &Record) -> Option<Vec<PlacedHeader>> {
    let mut cursor = Cursor {
        buffer: &buffer[..record.end],
        at: record.headers_at,
    };
    let mut headers = Vec::new();
    for _ in 0..record.headers {
        let name = String::from_utf8_lossy(&buffer[cursor.bytes()??]).into();
        headers.push((name, cursor.bytes()?));
    }
    Some(headers)
}

struct Cursor<'b> {
    buffer: &'b [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline(always)]
    fn varint(&mut self) -> Option<i64> {
        // Most numbers are one byte or two.
        let rest = self.buffer.get(self.at..)?;
        match *rest {
            [first, ..] if first < 0x80 => {
                self.at += 1;
                let value = u64::from(first);
                Some((value >> 1) as i64 ^ -((value & 1) as i64))
            }
            [first, second, ..] if second < 0x80 => {
                self.at += 2;
                let value = u64::from(first & 0x7f) | u64::from(second) << 7;
                Some((value >> 1) as i64 ^ -((value & 1) as i64))
            }
            _ => {
                let mut left = rest;
                let value = varint(&mut left)?;
                self.at += rest.len() - left.len();
                Some(value)
            }
        }
    }

    /// A length and so many bytes. The inner `None` is null.
    #[inline(always)]
    fn bytes(&mut self) -> Option<Option<Range<usize>>> {
        let length = self.varint()?;
        if length == -1 {
            return Some(None);
        }
        let end = self
            .at
            .checked_add(usize::try_from(length).ok()?)
            .filter(|end| *end <= self.buffer.len())?;
        let place = self.at..end;
        self.at = end;
        Some(Some(place))
    }
}

#[cfg(test)]
mod tests;
