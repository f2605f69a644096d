//! Kafka's record batches by their headers: what a fetch response holds, without unpacking it.
//!
//! Owns the header's layout (message format 2), the checksum, and which batches are delivered to a reader of committed
//! records. Does not own what is inside: `unpack` reads that, on a worker. Source: "Record Batch" in Kafka's protocol
//! documentation.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

/// Bytes from a batch's start to its first record.
pub(super) const HEADER: usize = 61;
/// Bytes before the ones that `length` counts.
const LENGTH_END: usize = 12;
/// Where the checksum begins to count.
const SUMMED_FROM: usize = 21;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// What a batch's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) base_offset: i64,
    pub(super) last_offset: i64,
    pub(super) leader_epoch: i32,
    pub(super) codec: Codec,
    /// Milliseconds; what the records' own differences count from.
    pub(super) base_timestamp: i64,
    /// The broker's clock stamped the batch: this holds for every record of it.
    pub(super) log_append_time: Option<i64>,
    pub(super) records: usize,
    producer: i64,
    transactional: bool,
    control: bool,
}

/// Why bytes are not a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotABatch(pub(super) String);

/// A batch of a response: its bytes, checked, and its header.
#[derive(Clone, Debug)]
pub(crate) struct RecordBatch {
    pub(super) header: Header,
    /// From the header's first byte on.
    pub(super) bytes: Bytes,
    /// It holds records for a reader of committed records.
    pub(super) delivered: bool,
}

impl RecordBatch {
    /// The records' bytes, compressed as the header says.
    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }
}

/// What was read from a partition's part of a response.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) batches: Vec<RecordBatch>,
    /// What follows the batches cannot be read.
    pub(super) damage: Option<(i64, NotABatch)>,
}

/// Reads the batches of one partition in one response, up to the first that is cut off or damaged.
///
/// `aborted` are the aborted transactions that touch the response: producer and first offset. `expected` is the
/// offset that was asked for; it names the place of damage.
pub(super) fn read(mut bytes: Bytes, aborted: &[(i64, i64)], expected: i64) -> Contents {
    let mut aborts = Aborts::new(aborted);
    let mut contents = Contents::default();
    let mut next = expected;
    loop {
        match take_batch(&mut bytes) {
            Ok(None) => return contents,
            Ok(Some((header, bytes))) => {
                next = header.last_offset + 1;
                let delivered = aborts.delivers(&header, &bytes);
                contents.batches.push(RecordBatch {
                    header,
                    bytes,
                    delivered,
                });
            }
            Err(reason) => {
                contents.damage = Some((next, reason));
                return contents;
            }
        }
    }
}

/// Takes the next whole batch off `bytes`; `None` when the rest is less than one.
fn take_batch(bytes: &mut Bytes) -> Result<Option<(Header, Bytes)>, NotABatch> {
    if bytes.len() < LENGTH_END + 5 {
        return Ok(None);
    }
    let magic = bytes[16];
    if magic != 2 {
        return Err(NotABatch(format!(
            "message format {magic}; set `drain: portable` to read it"
        )));
    }
    let length = i32_at(bytes, 8);
    let size = usize::try_from(length)
        .ok()
        .filter(|length| *length >= HEADER - LENGTH_END)
        .ok_or_else(|| NotABatch(format!("a record batch of {length} bytes")))?
        + LENGTH_END;
    if bytes.len() < size {
        return Ok(None);
    }
    let batch = bytes.split_to(size);
    let sum = u32::from_be_bytes(array(&batch, 17));
    if crc_fast::crc32_iscsi(&batch[SUMMED_FROM..]) != sum {
        return Err(NotABatch("its checksum does not hold".to_owned()));
    }
    Ok(Some((header(&batch)?, batch)))
}

fn header(bytes: &[u8]) -> Result<Header, NotABatch> {
    let attributes = i16::from_be_bytes(array(bytes, 21));
    let codec = match attributes & 7 {
        0 => Codec::None,
        1 => Codec::Gzip,
        2 => Codec::Snappy,
        3 => Codec::Lz4,
        4 => Codec::Zstd,
        unknown => return Err(NotABatch(format!("compression {unknown} is not known"))),
    };
    let base_offset = i64_at(bytes, 0);
    let past_base = i32_at(bytes, 23);
    let count = i32_at(bytes, 57);
    let records = usize::try_from(count)
        .map_err(|_| NotABatch(format!("a record batch of {count} records")))?;
    let last_offset = base_offset
        .checked_add(past_base.into())
        .filter(|last| past_base >= 0 && *last < i64::MAX && base_offset >= 0)
        .ok_or_else(|| NotABatch(format!("offsets {base_offset} + {past_base}")))?;
    Ok(Header {
        base_offset,
        last_offset,
        leader_epoch: i32_at(bytes, 12),
        codec,
        base_timestamp: i64_at(bytes, 27),
        log_append_time: (attributes & 8 != 0).then(|| i64_at(bytes, 35)),
        records,
        producer: i64_at(bytes, 43),
        transactional: attributes & 16 != 0,
        control: attributes & 32 != 0,
    })
}

/// The transactions that end in an abort, while a response is read in order.
struct Aborts {
    /// Producers by the first offset of their transaction.
    ahead: BTreeMap<i64, Vec<i64>>,
    open: BTreeSet<i64>,
}

impl Aborts {
    fn new(aborted: &[(i64, i64)]) -> Self {
        let mut ahead: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for &(producer, first) in aborted {
            ahead.entry(first).or_default().push(producer);
        }
        Self {
            ahead,
            open: BTreeSet::new(),
        }
    }

    /// Whether a batch's records are delivered; called for every batch in order.
    fn delivers(&mut self, header: &Header, bytes: &[u8]) -> bool {
        while let Some(first) = self.ahead.first_entry()
            && *first.key() <= header.last_offset
        {
            self.open.extend(first.remove());
        }
        if header.control {
            if ends_in_abort(bytes) {
                self.open.remove(&header.producer);
            }
            return false;
        }
        !(header.transactional && self.open.contains(&header.producer))
    }
}

/// Whether a control batch, which is never compressed, holds the marker of an abort: its one record's key is a version
/// and a type, and the type of an abort is 0.
fn ends_in_abort(bytes: &[u8]) -> bool {
    let mut body = &bytes[HEADER..];
    let key = (|| {
        varint(&mut body)?; // the record's length
        body = body.get(1..)?; // attributes
        varint(&mut body)?; // timestamp
        varint(&mut body)?; // offset
        let length = usize::try_from(varint(&mut body)?).ok()?;
        body.get(..length)
    })();
    key.and_then(|key| key.get(2..4)) == Some(&[0, 0])
}

/// Takes a zigzag number of at most ten bytes.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("a range of N bytes is an array of N bytes")
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(array(bytes, at))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(array(bytes, at))
}
