//! Bytes of one partition on their way from the broker to a worker.
//!
//! Owns the layout: one contiguous buffer and an index of spans, no allocation per event, and
//! cutting by offset without a copy (P3). Does not own what the bytes mean.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use crate::{BufferPool, Generation, Header, OffsetRange, Reservation, Timestamp, TopicPartition};

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    const ABSENT: Self = Self {
        start: u32::MAX,
        end: u32::MAX,
    };

    #[inline]
    fn get(self, buffer: &Bytes) -> Option<&[u8]> {
        (self.start != u32::MAX).then(|| &buffer[self.start as usize..self.end as usize])
    }

    fn share(self, buffer: &Bytes) -> Option<Bytes> {
        (self.start != u32::MAX).then(|| buffer.slice(self.start as usize..self.end as usize))
    }
}

#[derive(Clone, Debug)]
struct Entry {
    offset: i64,
    timestamp: Option<Timestamp>,
    value: Span,
    key: Span,
    headers: Range<u32>,
}

/// Kafka's timestamps of records: the oldest and the newest. Before the first one, the newest lies before the oldest: each is
/// compared by itself for every record, which an `Option` of both is not.
#[derive(Clone, Copy, Debug)]
struct Written {
    oldest: i64,
    newest: i64,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            oldest: i64::MAX,
            newest: i64::MIN,
        }
    }
}

impl Written {
    #[inline]
    fn widen(&mut self, timestamp: Option<Timestamp>) {
        if let Some(timestamp) = timestamp {
            self.oldest = self.oldest.min(timestamp.micros());
            self.newest = self.newest.max(timestamp.micros());
        }
    }

    fn get(self) -> Option<(Timestamp, Timestamp)> {
        let stretch = (self.oldest <= self.newest).then_some((self.oldest, self.newest));
        stretch.map(|(oldest, newest)| {
            (
                Timestamp::from_micros(oldest),
                Timestamp::from_micros(newest),
            )
        })
    }
}

#[derive(Debug)]
struct Shared {
    buffer: Bytes,
    entries: Vec<Entry>,
    headers: Vec<(Box<str>, Span)>,
    written: Written,
    /// Counted for as long as any cut of this batch lives.
    _reservation: Option<Reservation>,
}

/// Records of one partition as fetched, with the range they cover. Cheap to clone and to cut.
///
/// Every record's offset lies in the range; records are in offset order; the range may cover more
/// than the records do (gaps, P1 and P2).
#[derive(Clone, Debug)]
pub struct RawBatch {
    /// The partition.
    pub partition: TopicPartition,
    /// The stretch that is passed when this batch is.
    pub range: OffsetRange,
    /// The assignment under which it was fetched (P27).
    pub generation: Generation,
    /// When intake took it in: the only clock, used to cap watermarks (P24).
    pub received: Timestamp,
    shared: Arc<Shared>,
    visible: Range<usize>,
}

/// One record of a [`RawBatch`], borrowed.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    shared: &'a Shared,
    entry: &'a Entry,
}

impl<'a> RawRecord<'a> {
    /// Its offset.
    #[inline]
    pub fn offset(&self) -> i64 {
        self.entry.offset
    }

    /// The Kafka record's timestamp, when it has one.
    #[inline]
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.entry.timestamp
    }

    /// Its value; `None` for a tombstone.
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.entry.value.get(&self.shared.buffer)
    }

    /// Its key.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.entry.key.get(&self.shared.buffer)
    }

    /// Its value, sharing the batch's buffer.
    pub fn shared_value(&self) -> Option<Bytes> {
        self.entry.value.share(&self.shared.buffer)
    }

    /// Its headers, in order. Allocates: meant for rejects.
    pub fn headers(&self) -> Vec<Header> {
        let span = self.entry.headers.start as usize..self.entry.headers.end as usize;
        self.shared.headers[span]
            .iter()
            .map(|(name, value)| Header {
                name: name.to_string(),
                value: value.get(&self.shared.buffer).map(Bytes::copy_from_slice),
            })
            .collect()
    }
}

impl RawBatch {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.visible.len()
    }

    /// Whether it holds no record. Its range may be more than empty all the same.
    pub fn is_empty(&self) -> bool {
        self.visible.is_empty()
    }

    /// Bytes of its buffer and index, shared with other cuts of the same batch.
    pub fn size(&self) -> usize {
        self.shared.buffer.len() + self.shared.entries.len() * size_of::<Entry>()
    }

    /// Kafka's timestamps of its records, from the oldest to the newest; `None`: none has one.
    pub fn written(&self) -> Option<(Timestamp, Timestamp)> {
        if self.len() == self.shared.entries.len() {
            return self.shared.written.get();
        }
        let mut written = Written::default();
        for record in self.records() {
            written.widen(record.timestamp());
        }
        written.get()
    }

    /// The records, in offset order.
    #[inline]
    pub fn records(&self) -> impl ExactSizeIterator<Item = RawRecord<'_>> {
        self.shared.entries[self.visible.clone()]
            .iter()
            .map(|entry| RawRecord {
                shared: &self.shared,
                entry,
            })
    }

    /// The record at `position`, counted from 0.
    ///
    /// # Panics
    /// When there is no such record.
    #[inline]
    pub fn record(&self, position: usize) -> RawRecord<'_> {
        RawRecord {
            shared: &self.shared,
            entry: &self.shared.entries[self.visible.clone()][position],
        }
    }

    /// Cuts at `offset` (P3), sharing the bytes: the part before, and the part from there on.
    pub fn cut(self, offset: i64) -> (Self, Self) {
        let (before, after) = self.range.cut(offset);
        let visible = &self.shared.entries[self.visible.clone()];
        let at = self.visible.start + visible.partition_point(|entry| entry.offset < offset);
        let left = Self {
            range: before,
            visible: self.visible.start..at,
            ..self.clone()
        };
        let right = Self {
            range: after,
            visible: at..self.visible.end,
            ..self
        };
        (left, right)
    }
}

/// Gathers records of one partition into a [`RawBatch`]: one copy a record, into one buffer.
#[derive(Debug, Default)]
pub struct RawBatchBuilder {
    buffer: Vec<u8>,
    entries: Vec<Entry>,
    headers: Vec<(Box<str>, Span)>,
    written: Written,
    /// Where the buffer goes afterwards.
    pool: Option<BufferPool>,
}

impl RawBatchBuilder {
    /// The most bytes one batch may hold, so that spans fit into 32 bits.
    pub const MAX_BYTES: usize = u32::MAX as usize - 1;

    /// An empty batch with room for so many records of `bytes` in all, in a buffer of `pool`.
    pub fn from_pool(pool: &BufferPool, records: usize, bytes: usize) -> Self {
        Self {
            buffer: pool.take(bytes),
            entries: Vec::with_capacity(records),
            headers: Vec::new(),
            written: Written::default(),
            pool: Some(pool.clone()),
        }
    }

    /// Bytes that it takes: room in a buffer of a pool counts whole, used or not.
    pub fn size(&self) -> usize {
        let buffer = match self.pool {
            Some(_) => self.buffer.capacity(),
            None => self.buffer.len(),
        };
        buffer + self.entries.len() * size_of::<Entry>()
    }

    /// The bytes gathered so far.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Records gathered so far.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no record was gathered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends a record. Offsets must grow.
    ///
    /// # Panics
    /// When `offset` does not lie beyond the last one, or the batch outgrows
    /// [`Self::MAX_BYTES`].
    pub fn push<'h>(
        &mut self,
        offset: i64,
        timestamp: Option<Timestamp>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) {
        assert!(
            self.entries.last().is_none_or(|last| last.offset < offset),
            "records arrive in offset order"
        );
        let first_header = self.headers.len() as u32;
        for (name, bytes) in headers {
            let span = self.append(bytes);
            self.headers.push((name.into(), span));
        }
        let entry = Entry {
            offset,
            timestamp,
            key: self.append(key),
            value: self.append(value),
            headers: first_header..self.headers.len() as u32,
        };
        self.entries.push(entry);
        self.written.widen(timestamp);
    }

    /// A batch over bytes that stand in `buffer` already, a buffer of `pool`; [`index`](Self::index) says what is a
    /// record.
    ///
    /// # Panics
    /// When the buffer is larger than [`Self::MAX_BYTES`].
    pub fn over(buffer: Vec<u8>, pool: &BufferPool, records: usize) -> Self {
        assert!(
            buffer.len() <= Self::MAX_BYTES,
            "a raw batch stays far below 4 GiB"
        );
        Self {
            buffer,
            entries: Vec::with_capacity(records),
            headers: Vec::new(),
            written: Written::default(),
            pool: Some(pool.clone()),
        }
    }

    /// Appends a record whose bytes stand in the buffer at these places. Offsets must grow.
    ///
    /// # Panics
    /// When `offset` does not lie beyond the last one, or a place beyond the buffer.
    #[inline]
    pub fn index(
        &mut self,
        offset: i64,
        timestamp: Option<Timestamp>,
        key: Option<Range<usize>>,
        value: Option<Range<usize>>,
        headers: impl IntoIterator<Item = (Box<str>, Option<Range<usize>>)>,
    ) {
        assert!(
            self.entries.last().is_none_or(|last| last.offset < offset),
            "records arrive in offset order"
        );
        let first_header = self.headers.len() as u32;
        for (name, place) in headers {
            let span = self.span(place);
            self.headers.push((name, span));
        }
        let entry = Entry {
            offset,
            timestamp,
            key: self.span(key),
            value: self.span(value),
            headers: first_header..self.headers.len() as u32,
        };
        self.entries.push(entry);
        self.written.widen(timestamp);
    }

    #[inline]
    fn span(&self, place: Option<Range<usize>>) -> Span {
        let Some(place) = place else {
            return Span::ABSENT;
        };
        assert!(
            place.start <= place.end && place.end <= self.buffer.len(),
            "a record lies in its batch's buffer"
        );
        Span {
            start: place.start as u32,
            end: place.end as u32,
        }
    }

    fn append(&mut self, bytes: Option<&[u8]>) -> Span {
        let Some(bytes) = bytes else {
            return Span::ABSENT;
        };
        let start = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        assert!(
            self.buffer.len() <= Self::MAX_BYTES,
            "a raw batch stays far below 4 GiB"
        );
        Span {
            start: start as u32,
            end: self.buffer.len() as u32,
        }
    }

    /// Ends the batch: it covers `range`, and `reservation` counts its bytes until the last cut
    /// of it is dropped.
    ///
    /// # Panics
    /// When a record lies outside `range`.
    pub fn finish(
        self,
        partition: TopicPartition,
        range: OffsetRange,
        generation: Generation,
        received: Timestamp,
        reservation: Option<Reservation>,
    ) -> RawBatch {
        assert!(
            self.entries
                .first()
                .is_none_or(|first| range.contains(first.offset))
                && self
                    .entries
                    .last()
                    .is_none_or(|last| range.contains(last.offset)),
            "every record lies in its batch's range"
        );
        let buffer = match self.pool {
            Some(pool) => pool.share(self.buffer, None),
            None => self.buffer.into(),
        };
        RawBatch {
            partition,
            range,
            generation,
            received,
            visible: 0..self.entries.len(),
            shared: Arc::new(Shared {
                buffer,
                entries: self.entries,
                headers: self.headers,
                written: self.written,
                _reservation: reservation,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryBudget;

    fn batch(offsets: &[i64], range: (i64, i64), budget: &MemoryBudget) -> RawBatch {
        let mut builder = RawBatchBuilder::default();
        for &offset in offsets {
            let value = format!("v{offset}");
            builder.push(
                offset,
                Some(Timestamp::from_millis(offset)),
                Some(b"k"),
                (offset % 2 == 0).then_some(value.as_bytes()),
                [("h", Some(b"x".as_slice())), ("n", None)],
            );
        }
        let reservation = budget.reserve(builder.size());
        builder.finish(
            TopicPartition::new("t", 0),
            OffsetRange::new(range.0, range.1).unwrap(),
            Generation(1),
            Timestamp::default(),
            Some(reservation),
        )
    }

    #[test]
    fn a_cut_shares_bytes_and_covers_every_record_once() {
        let budget = MemoryBudget::new(1 << 20);
        let whole = batch(&[3, 4, 8, 9], (2, 12), &budget);
        let millis = Timestamp::from_millis;
        assert_eq!(whole.written(), Some((millis(3), millis(9))));
        for at in 0..15 {
            let (left, right) = whole.clone().cut(at);
            for part in [&left, &right] {
                let times: Vec<_> = part
                    .records()
                    .filter_map(|record| record.timestamp())
                    .collect();
                let ends = times.iter().min().zip(times.iter().max());
                assert_eq!(
                    part.written(),
                    ends.map(|(oldest, newest)| (*oldest, *newest))
                );
            }
            assert_eq!(left.range.join(right.range), Ok(whole.range));
            let offsets: Vec<_> = left
                .records()
                .chain(right.records())
                .map(|record| record.offset())
                .collect();
            assert_eq!(offsets, [3, 4, 8, 9]);
            assert!(
                left.records()
                    .all(|record| left.range.contains(record.offset()))
            );
            assert!(
                right
                    .records()
                    .all(|record| right.range.contains(record.offset()))
            );
        }
        let (_, right) = whole.cut(8);
        assert_eq!(right.record(0).value(), Some(b"v8".as_slice()));
        assert_eq!(right.record(1).value(), None);
        assert_eq!(right.record(0).headers()[1].value, None);
        assert!(budget.used() > 0);
        drop(right);
        assert_eq!(budget.used(), 0);
    }
}
