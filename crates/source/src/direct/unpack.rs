//! Records out of record batches, on the worker that folds them.
//!
//! Owns the record's layout. Does not own batches' headers nor the compressions.

use std::ops::{ControlFlow, Range};

use alluvium_types::{
    BufferPool, Damaged, MemoryBudget, OffsetRange, Packed, Piece, RawBatchBuilder, Timestamp,
};

use super::{
    codec::{self, Unpacked},
    record_batch::{Header, RecordBatch, varint},
};

/// Record batches of one partition that follow each other in its log, as the broker sent them.
#[derive(Debug)]
pub(crate) struct PackedBatches {
    pub(crate) batches: Vec<RecordBatch>,
    /// About the most unpacked bytes of one piece; a single record batch may be larger (P30).
    pub(crate) piece_bytes: usize,
    pub(crate) buffers: BufferPool,
    pub(crate) memory: MemoryBudget,
}

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
        let mut start = range.start();
        while start < range.end() {
            let mut unpacked = Unpacked::over(self.buffers.take_used(self.piece_bytes));
            let mut parts: Vec<(&Header, Range<usize>)> = Vec::new();
            // Batches that follow each other are of about one size. One that does not fit would let the buffer grow into
            // a size that nobody takes again.
            let mut next = 0;
            while unpacked.len() + next <= self.piece_bytes
                && let Some(batch) = wanted.next()
            {
                let from = unpacked.len();
                codec::unpack(batch.header.codec, batch.body(), &mut unpacked)
                    .map_err(|text| damaged(&batch.header, text))?;
                next = unpacked.len() - from;
                parts.push((&batch.header, from..unpacked.len()));
            }
            let end = match (wanted.peek(), parts.last()) {
                // The piece covers what it has read; the last one covers the rest of the range.
                (Some(_), Some((last, _))) => last.last_offset + 1,
                (Some(_), None) | (None, _) => range.end(),
            };
            let count = parts
                .iter()
                .map(|(header, _)| header.records)
                .sum::<usize>();
            // A header's count is the producer's word: a wrong one must not make room for millions.
            let mut records = RawBatchBuilder::over(
                unpacked.finish(),
                &self.buffers,
                count.min(self.piece_bytes),
            );
            let piece = OffsetRange::new(start, end).expect("batches follow each other");
            for (header, place) in parts {
                index(header, place, piece, &mut records).map_err(|text| damaged(header, text))?;
            }
            let reservation = self.memory.reserve(records.size());
            let piece = Piece {
                records,
                range: piece,
                reservation: Some(reservation),
            };
            if each(piece).is_break() {
                return Ok(());
            }
            start = end;
        }
        Ok(())
    }
}

fn damaged(header: &Header, text: impl Into<String>) -> Damaged {
    Damaged {
        offset: header.base_offset,
        text: text.into(),
    }
}

const CUT_OFF: &str = "a record is cut off";

/// Indexes the records that stand in `place` of the builder's buffer, as far as they lie in `range`.
fn index(
    header: &Header,
    place: Range<usize>,
    range: OffsetRange,
    records: &mut RawBatchBuilder,
) -> Result<(), &'static str> {
    let mut at = place.start;
    let mut last = header.base_offset - 1;
    for _ in 0..header.records {
        let record = Record::read(&records.bytes()[..place.end], at).ok_or(CUT_OFF)?;
        at = record.end;
        let offset = header
            .base_offset
            .checked_add(record.offset_past_base)
            .filter(|offset| *offset > last && *offset <= header.last_offset)
            .ok_or("its records' offsets are not in order")?;
        last = offset;
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
        return Err("bytes follow its last record");
    }
    Ok(())
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
    /// The record that begins at `at`; `None` when it does not end in `buffer`.
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
    #[inline]
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
    #[inline]
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
