//! What a source hands out: records already, or still packed as the broker sent them.
//!
//! Owns the range, which is known either way, and cutting by offset (P3). Does not own how packed bytes are unpacked:
//! that is the source's [`Packed`], called on a worker, so that the one thread that reads stays free to read.

use std::{fmt, ops::ControlFlow, sync::Arc};

use crate::{
    Generation, OffsetRange, RawBatch, RawBatchBuilder, Reservation, Timestamp, TopicPartition,
};

/// Bytes that a source can turn into records later, on another thread.
pub trait Packed: fmt::Debug + Send + Sync + 'static {
    /// Hands out the records whose offsets lie in `range`, in order, in pieces that chain and together cover `range`
    /// (P1, P2), until `each` breaks off.
    ///
    /// # Errors
    /// [`Damaged`] when bytes cannot be read. Pieces handed out before may reach beyond the offset that it names, so
    /// whoever took them drops them and stops there the next time.
    fn unpack(
        &self,
        range: OffsetRange,
        each: &mut dyn FnMut(Piece) -> ControlFlow<()>,
    ) -> Result<(), Damaged>;
}

/// A stretch of unpacked records.
#[derive(Debug)]
pub struct Piece {
    /// The records.
    pub records: RawBatchBuilder,
    /// The stretch of the log they cover.
    pub range: OffsetRange,
    /// Counts their bytes.
    pub reservation: Option<Reservation>,
}

/// Bytes that are not what the log's format says. Reading them again brings the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the records at offset {offset} cannot be read: {text}")]
pub struct Damaged {
    /// The first offset that cannot be read.
    pub offset: i64,
    /// The offset behind the last one.
    pub end: i64,
    /// What is wrong.
    pub text: String,
}

/// Why a [`FetchedBatch`] was not read to its end.
#[derive(Debug)]
pub enum ReadError<E> {
    /// The bytes cannot be read.
    Damaged(Damaged),
    /// Whoever takes the records refused.
    Taker(E),
}

#[derive(Clone, Debug)]
enum Contents {
    Records(RawBatch),
    Packed(Arc<dyn Packed>),
}

/// A stretch of one partition's log as a source hands it out. Cheap to clone and to cut.
#[derive(Clone, Debug)]
pub struct FetchedBatch {
    /// The partition.
    pub partition: TopicPartition,
    /// The stretch that is passed when this batch is.
    pub range: OffsetRange,
    /// The assignment under which it was fetched (P27).
    pub generation: Generation,
    /// When intake took it in: the only clock, used to cap watermarks (P24).
    pub received: Timestamp,
    /// Under which leader of the partition its last offset was written; `None`: not known (P18).
    pub leader_epoch: Option<i32>,
    /// Records, as far as headers tell, and bytes as fetched.
    size: (usize, usize),
    contents: Contents,
}

impl From<RawBatch> for FetchedBatch {
    fn from(batch: RawBatch) -> Self {
        Self {
            partition: batch.partition.clone(),
            range: batch.range,
            generation: batch.generation,
            received: batch.received,
            leader_epoch: None,
            size: (batch.len(), batch.size()),
            contents: Contents::Records(batch),
        }
    }
}

impl FetchedBatch {
    /// A batch that is unpacked where it is read. `size` is the number of records, as far as it can be told from
    /// outside, and of bytes as they are.
    pub fn packed(
        partition: TopicPartition,
        range: OffsetRange,
        generation: Generation,
        received: Timestamp,
        size: (usize, usize),
        packed: Arc<dyn Packed>,
    ) -> Self {
        Self {
            partition,
            range,
            generation,
            received,
            leader_epoch: None,
            size,
            contents: Contents::Packed(packed),
        }
    }

    /// The same, its last offset written under this leader.
    pub fn written_under(self, leader_epoch: Option<i32>) -> Self {
        Self {
            leader_epoch,
            ..self
        }
    }

    /// Number of records. For a packed batch as far as its headers tell: a cut does not change it.
    pub fn records(&self) -> usize {
        self.size.0
    }

    /// Bytes as fetched, shared with other cuts of the same batch.
    pub fn bytes(&self) -> usize {
        self.size.1
    }

    /// Cuts at `offset` (P3), sharing the bytes: the part before, and the part from there on.
    pub fn cut(self, offset: i64) -> (Self, Self) {
        match self.contents {
            Contents::Records(batch) => {
                let (before, after) = batch.cut(offset);
                (
                    before.into(),
                    Self::from(after).written_under(self.leader_epoch),
                )
            }
            Contents::Packed(_) => {
                let (before, after) = self.range.cut(offset);
                let left = Self {
                    range: before,
                    leader_epoch: None,
                    ..self.clone()
                };
                (
                    left,
                    Self {
                        range: after,
                        ..self
                    },
                )
            }
        }
    }

    /// Hands out its records, in one raw batch or several that chain and cover its range.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] when the bytes cannot be read, [`ReadError::Taker`] with the first error of `each`.
    pub fn read<E>(
        self,
        mut each: impl FnMut(RawBatch) -> Result<(), E>,
    ) -> Result<(), ReadError<E>> {
        let packed = match self.contents {
            Contents::Records(batch) => return each(batch).map_err(ReadError::Taker),
            Contents::Packed(packed) => packed,
        };
        let mut refused = None;
        packed
            .unpack(self.range, &mut |piece| {
                let batch = piece.records.finish(
                    self.partition.clone(),
                    piece.range,
                    self.generation,
                    self.received,
                    piece.reservation,
                );
                match each(batch) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        refused = Some(error);
                        ControlFlow::Break(())
                    }
                }
            })
            .map_err(ReadError::Damaged)?;
        refused.map_or(Ok(()), |error| Err(ReadError::Taker(error)))
    }
}
