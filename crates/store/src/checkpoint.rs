//! What a table records about its source, and the names it records it under.
//!
//! Owns the application ids of `txn` actions and the reading of them. Does not own when they are written.

use std::{collections::BTreeMap, sync::Arc};

use alluvium_types::{OffsetRange, Timestamp, TopicId, TopicPartition};

use crate::action::Txn;

/// Everything a table records about its partitions at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The next offset to read.
    pub offsets: BTreeMap<TopicPartition, i64>,
    /// Where the watermark stands, for partitions that have one.
    pub watermarks: BTreeMap<TopicPartition, Timestamp>,
    /// How many partitions each topic has (P16).
    pub partition_counts: BTreeMap<Arc<str>, i32>,
    /// Which topic of its name the offsets belong to, where that could be known (P18).
    pub topics: BTreeMap<Arc<str>, TopicId>,
    /// Under which leader of its partition the record before the offset was written, where that could be known (P18).
    pub leader_epochs: BTreeMap<TopicPartition, i32>,
    /// The version of the dead letters up to which all were replayed into this table; `None`: none ever was (P23).
    pub replayed: Option<i64>,
}

/// What an epoch means to a snapshot (P7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every range starts where its partition is recorded.
    Commit,
    /// Every range ends at or before the recorded offset.
    Done,
    /// Anything else: drop what is in flight and start again from the table.
    Overtaken(Overtaken),
}

/// The first range that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overtaken {
    /// Its partition.
    pub partition: TopicPartition,
    /// The offset that the table records; `None`: none was ever recorded (P15).
    pub recorded: Option<i64>,
    /// The range.
    pub range: OffsetRange,
}

impl std::fmt::Display for Overtaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            partition,
            recorded,
            range,
        } = self;
        match recorded {
            Some(recorded) => write!(
                f,
                "partition {partition} is recorded at {recorded}, this range is {range}"
            ),
            None => write!(
                f,
                "partition {partition} has no recorded start, this range is {range}"
            ),
        }
    }
}

impl Checkpoint {
    pub(crate) fn from_txns(names: &Names, txns: &BTreeMap<String, i64>) -> Self {
        let mut checkpoint = Self::default();
        let mut epochs = Vec::new();
        for (id, &value) in txns {
            match names.parse(id) {
                Some(Recorded::Offset(partition)) => {
                    checkpoint.offsets.insert(partition, value);
                }
                Some(Recorded::Watermark(partition)) => {
                    let watermark = Timestamp::from_micros(value);
                    checkpoint.watermarks.insert(partition, watermark);
                }
                Some(Recorded::Partitions(topic)) => {
                    let count = i32::try_from(value).unwrap_or(i32::MAX);
                    checkpoint.partition_counts.insert(topic, count);
                }
                Some(Recorded::Topic(topic)) => {
                    let id = TopicId::from_number(value);
                    checkpoint.topics.insert(topic, id);
                }
                Some(Recorded::LeaderEpoch(partition)) => epochs.push((partition, value)),
                Some(Recorded::Replayed) => checkpoint.replayed = Some(value),
                None => {}
            }
        }
        for (partition, value) in epochs {
            let offset = checkpoint.offsets.get(&partition);
            if let Some(epoch) = offset.and_then(|&offset| leader_epoch_at(offset, value)) {
                checkpoint.leader_epochs.insert(partition, epoch);
            }
        }
        checkpoint
    }

    /// Judges an epoch as a whole (P7). Empty ranges are not part of it (P4).
    pub fn judge(&self, ranges: &BTreeMap<TopicPartition, OffsetRange>) -> Verdict {
        let mut wanted = ranges.iter().filter(|(_, range)| !range.is_empty());
        let recorded = |partition| self.offsets.get(partition).copied();
        if wanted
            .clone()
            .all(|(partition, range)| recorded(partition) == Some(range.start()))
        {
            return Verdict::Commit;
        }
        if wanted
            .clone()
            .all(|(partition, range)| recorded(partition).is_some_and(|at| at >= range.end()))
        {
            return Verdict::Done;
        }
        let (partition, range) = wanted
            .find(|(partition, range)| recorded(partition) != Some(range.start()))
            .expect("not every range starts where it is recorded");
        Verdict::Overtaken(Overtaken {
            partition: partition.clone(),
            recorded: recorded(partition),
            range: *range,
        })
    }

    /// The smallest watermark of all partitions of all topics; `None` while one of them has none (P26).
    pub fn watermark(&self) -> Option<Timestamp> {
        let mut smallest = None;
        for (topic, &count) in &self.partition_counts {
            for partition in 0..count {
                let partition = TopicPartition::new(topic.clone(), partition);
                let watermark = *self.watermarks.get(&partition)?;
                smallest =
                    Some(smallest.map_or(watermark, |least: Timestamp| least.min(watermark)));
            }
        }
        smallest
    }
}

/// The application ids of one pipeline: `alluvium/<pipeline>/<topic>/<partition>` and what hangs below them.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: String,
}

enum Recorded {
    Offset(TopicPartition),
    Watermark(TopicPartition),
    Partitions(Arc<str>),
    Topic(Arc<str>),
    LeaderEpoch(TopicPartition),
    Replayed,
}

/// So many low bits of a recorded leader epoch are those of the offset that it belongs to.
const OFFSET_BITS: u32 = 40;
const OFFSET_MASK: i64 = (1 << OFFSET_BITS) - 1;

/// The leader epoch of a recorded number, if that belongs to `offset`. A writer that does not know leader epochs moves offsets
/// alone, and a number that stayed behind would say of the next offset what holds for a former one.
fn leader_epoch_at(offset: i64, value: i64) -> Option<i32> {
    let is_of_it = value & OFFSET_MASK == offset & OFFSET_MASK;
    is_of_it.then(|| i32::try_from(value >> OFFSET_BITS).ok())?
}

impl Names {
    pub(crate) fn of_pipeline(pipeline: &str) -> Self {
        Self {
            prefix: format!("alluvium/{pipeline}/"),
        }
    }

    pub(crate) fn of_dead_letters(pipeline: &str) -> Self {
        Self {
            prefix: format!("alluvium/{pipeline}/dead_letters/"),
        }
    }

    pub(crate) fn offset(&self, partition: &TopicPartition, next: i64) -> Txn {
        Txn {
            app_id: format!("{}{partition}", self.prefix),
            version: next,
        }
    }

    pub(crate) fn watermark(&self, partition: &TopicPartition, watermark: Timestamp) -> Txn {
        Txn {
            app_id: format!("{}{partition}/watermark", self.prefix),
            version: watermark.micros(),
        }
    }

    pub(crate) fn partitions(&self, topic: &str, count: i32) -> Txn {
        Txn {
            app_id: format!("{}{topic}/partitions", self.prefix),
            version: count.into(),
        }
    }

    pub(crate) fn topic(&self, topic: &str, id: TopicId) -> Txn {
        Txn {
            app_id: format!("{}{topic}/id", self.prefix),
            version: id.number(),
        }
    }

    /// Under which leader the record before `offset` was written; `None` for a number of leaders that no cluster reaches.
    pub(crate) fn leader_epoch(
        &self,
        partition: &TopicPartition,
        epoch: i32,
        offset: i64,
    ) -> Option<Txn> {
        let high = i64::from(epoch).checked_mul(1 << OFFSET_BITS)?;
        Some(Txn {
            app_id: format!("{}{partition}/leader_epoch", self.prefix),
            version: high | (offset & OFFSET_MASK),
        })
    }

    /// That it is not known under which leader the record before `offset` was written.
    pub(crate) fn no_leader_epoch(&self, partition: &TopicPartition, offset: i64) -> Txn {
        Txn {
            app_id: format!("{}{partition}/leader_epoch", self.prefix),
            version: !offset & OFFSET_MASK,
        }
    }

    pub(crate) fn replayed(&self, version: i64) -> Txn {
        Txn {
            app_id: format!("{}replay", self.prefix),
            version,
        }
    }

    fn parse(&self, id: &str) -> Option<Recorded> {
        let words: Vec<&str> = id.strip_prefix(&self.prefix)?.split('/').collect();
        match words[..] {
            ["replay"] => Some(Recorded::Replayed),
            [topic, "partitions"] => Some(Recorded::Partitions(topic.into())),
            [topic, "id"] => Some(Recorded::Topic(topic.into())),
            [topic, number] => partition(topic, number).map(Recorded::Offset),
            [topic, number, "watermark"] => partition(topic, number).map(Recorded::Watermark),
            [topic, number, "leader_epoch"] => partition(topic, number).map(Recorded::LeaderEpoch),
            _ => None,
        }
    }
}

fn partition(topic: &str, number: &str) -> Option<TopicPartition> {
    Some(TopicPartition::new(topic, number.parse().ok()?))
}

/// Reads `topic/number`, as [`TopicPartition`] prints.
pub(crate) fn parse_partition(text: &str) -> Option<TopicPartition> {
    let (topic, number) = text.rsplit_once('/')?;
    partition(topic, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_epoch_holds_for_its_offset_only() {
        let (names, partition) = (Names::of_pipeline("p"), TopicPartition::new("t", 3));
        let recorded = |offset: i64, epoch: Txn| {
            let offset = names.offset(&partition, offset);
            let txns = [offset, epoch].map(|txn| (txn.app_id, txn.version));
            let checkpoint = Checkpoint::from_txns(&names, &BTreeMap::from(txns));
            checkpoint.leader_epochs.get(&partition).copied()
        };
        for (epoch, offset) in [(0, 0), (7, 12), (7, 1 << 50), (1 << 22, 5)] {
            let txn = names.leader_epoch(&partition, epoch, offset).unwrap();
            assert_eq!(recorded(offset, txn.clone()), Some(epoch));
            assert_eq!(recorded(offset + 1, txn), None);
        }
        assert_eq!(names.leader_epoch(&partition, i32::MAX, 1), None);
        assert_eq!(recorded(5, names.no_leader_epoch(&partition, 5)), None);
    }
}
