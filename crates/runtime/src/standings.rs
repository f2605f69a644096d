//! Where the tables of a pipeline stand when partitions are assigned.
//!
//! Owns what follows from that: where each partition starts, and which tables want a record. Does not own how it travels
//! (`assignment`), nor what is recorded (store).

use std::{collections::BTreeMap, sync::Arc};

use alluvium_source::Recorded;
use alluvium_types::{TableSet, TopicId, TopicPartition};

/// Where each table stands in each assigned partition (P19), and which topics these are of (P18).
#[derive(Clone, Debug, Default)]
pub(crate) struct Standings {
    tables: Vec<BTreeMap<TopicPartition, i64>>,
    topics: BTreeMap<Arc<str>, TopicId>,
    /// Under which leader the record before an offset was written, where that is recorded (P18).
    leader_epochs: BTreeMap<(TopicPartition, i64), i32>,
}

impl Standings {
    pub(crate) fn new(
        tables: Vec<BTreeMap<TopicPartition, i64>>,
        topics: BTreeMap<Arc<str>, TopicId>,
        leader_epochs: BTreeMap<(TopicPartition, i64), i32>,
    ) -> Self {
        Self {
            tables,
            topics,
            leader_epochs,
        }
    }

    /// The smallest recorded offset of every partition, with what is recorded of it.
    pub(crate) fn recorded(&self) -> BTreeMap<TopicPartition, Recorded> {
        self.starts()
            .into_iter()
            .map(|(partition, offset)| {
                let place = (partition, offset);
                let recorded = Recorded {
                    offset,
                    topic: self.topics.get(&place.0.topic).copied(),
                    leader_epoch: self.leader_epochs.get(&place).copied(),
                };
                (place.0, recorded)
            })
            .collect()
    }

    /// The smallest recorded offset of every partition.
    pub(crate) fn starts(&self) -> BTreeMap<TopicPartition, i64> {
        let mut starts = BTreeMap::new();
        for (partition, &offset) in self.tables.iter().flatten() {
            starts
                .entry(partition.clone())
                .and_modify(|start: &mut i64| *start = offset.min(*start))
                .or_insert(offset);
        }
        starts
    }

    /// The tables that want records of `partition` from `offset` on, and the next offset at which that
    /// changes: there a batch must be cut (P19).
    pub(crate) fn wanted(
        &self,
        partition: &TopicPartition,
        offset: i64,
    ) -> (TableSet, Option<i64>) {
        let mut wanted = TableSet::default();
        let mut cut: Option<i64> = None;
        for (position, table) in self.tables.iter().enumerate() {
            match table.get(partition) {
                Some(&recorded) if recorded > offset => {
                    cut = Some(cut.map_or(recorded, |cut| cut.min(recorded)));
                }
                Some(_) => wanted = wanted.with(position),
                None => {}
            }
        }
        (wanted, cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_where_a_table_begins_to_want_it() {
        let partition = TopicPartition::new("t", 0);
        let at = |offset| BTreeMap::from([(partition.clone(), offset)]);
        let id = TopicId::from_number(7);
        let topics = BTreeMap::from([(partition.topic.clone(), id)]);
        let epochs = [(10, 3), (25, 4)].map(|(at, epoch)| ((partition.clone(), at), epoch));
        let standings = Standings::new(vec![at(10), at(25), at(10)], topics, epochs.into());
        assert_eq!(standings.starts(), at(10));
        let recorded = Recorded {
            offset: 10,
            topic: Some(id),
            leader_epoch: Some(3),
        };
        assert_eq!(standings.recorded()[&partition], recorded);
        let both = TableSet::default().with(0).with(2);
        assert_eq!(standings.wanted(&partition, 10), (both, Some(25)));
        assert_eq!(standings.wanted(&partition, 25), (TableSet::all(3), None));
    }
}
