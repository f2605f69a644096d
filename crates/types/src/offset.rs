//! Where a reader stands in a partition, and the stretch a piece of work covers.
//!
//! Owns the half-open range (P1) and the arithmetic on it. Does not own the decision what to do
//! with a range that does not fit: that is the store's judgement (P7).

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// One partition of one Kafka topic. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A stretch `[start, end)` of one partition; `end` is the next offset to read (P1).
///
/// `start <= end` always holds. Gaps between the records inside are normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(i64, i64)", into = "(i64, i64)")]
pub struct OffsetRange {
    start: i64,
    end: i64,
}

/// Why two offsets, or two ranges, do not make a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The end lies before the start.
    #[error("an offset range cannot end at {end} before it starts at {start}")]
    Inverted {
        /// Start of the refused range.
        start: i64,
        /// End of the refused range.
        end: i64,
    },
    /// The second range does not start where the first one ends.
    #[error("a range that starts at {start} does not continue one that ends at {end}")]
    Torn {
        /// End of the first range.
        end: i64,
        /// Start of the second.
        start: i64,
    },
}

impl OffsetRange {
    /// Makes `[start, end)`.
    ///
    /// # Errors
    /// [`RangeError::Inverted`] when `end < start`.
    pub fn new(start: i64, end: i64) -> Result<Self, RangeError> {
        if end < start {
            return Err(RangeError::Inverted { start, end });
        }
        Ok(Self { start, end })
    }

    /// The empty range at `offset`.
    pub fn empty_at(offset: i64) -> Self {
        Self {
            start: offset,
            end: offset,
        }
    }

    /// First offset of the stretch.
    pub fn start(self) -> i64 {
        self.start
    }

    /// The next offset to read after it.
    pub fn end(self) -> i64 {
        self.end
    }

    /// Whether it covers nothing. An empty range is not part of an epoch (P4).
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `offset` lies in it.
    pub fn contains(self, offset: i64) -> bool {
        self.start <= offset && offset < self.end
    }

    /// The union of this range and the one that continues it.
    ///
    /// # Errors
    /// [`RangeError::Torn`] when `next` starts elsewhere than at this range's end.
    pub fn join(self, next: Self) -> Result<Self, RangeError> {
        if next.start != self.end {
            return Err(RangeError::Torn {
                end: self.end,
                start: next.start,
            });
        }
        Ok(Self {
            start: self.start,
            end: next.end,
        })
    }

    /// Cuts at `offset` (P3): what lies before, and what lies from there on. An offset outside
    /// the range leaves one side empty.
    pub fn cut(self, offset: i64) -> (Self, Self) {
        let at = offset.clamp(self.start, self.end);
        (
            Self {
                start: self.start,
                end: at,
            },
            Self {
                start: at,
                end: self.end,
            },
        )
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

impl TryFrom<(i64, i64)> for OffsetRange {
    type Error = RangeError;

    fn try_from((start, end): (i64, i64)) -> Result<Self, RangeError> {
        Self::new(start, end)
    }
}

impl From<OffsetRange> for (i64, i64) {
    fn from(range: OffsetRange) -> Self {
        (range.start, range.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cut_range_joins_again(start in 0i64..1000, length in 0i64..1000, at in -10i64..2100) {
            let whole = OffsetRange::new(start, start + length).unwrap();
            let (left, right) = whole.cut(at);
            prop_assert_eq!(left.join(right), Ok(whole));
            for offset in start - 1..=start + length {
                prop_assert_eq!(whole.contains(offset), left.contains(offset) || right.contains(offset));
                prop_assert!(!(left.contains(offset) && right.contains(offset)));
            }
        }
    }

    #[test]
    fn ranges_that_do_not_chain_are_refused() {
        let first = OffsetRange::new(0, 5).unwrap();
        assert_eq!(
            first.join(OffsetRange::new(6, 9).unwrap()),
            Err(RangeError::Torn { end: 5, start: 6 })
        );
        assert_eq!(
            OffsetRange::new(3, 2),
            Err(RangeError::Inverted { start: 3, end: 2 })
        );
    }
}
