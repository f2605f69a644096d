//! What happens inside a rebalance: the committer withdraws, then the table says where to start.
//!
//! Runs on the intake thread, in the consumer's callback, and therefore with a deadline (P17, P27).
//! Owns the hand-over between callback, committer and intake. Does not own the recorded offsets: the
//! committer reads them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use alluvium_source::{Assignments, Recorded};
use alluvium_types::{AssignmentGeneration, Generation, TableSet, TopicId, TopicPartition};
use crossbeam_channel::{RecvTimeoutError, SendTimeoutError, Sender, bounded};

use crate::{host::Host, message::ToCommitter};

/// How far the committer has followed the generation.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    generation: Mutex<Generation>,
    changed: Condvar,
}

impl Acknowledged {
    /// The committer has withdrawn everything older than `generation` and starts no commit for it.
    pub(crate) fn set(&self, generation: Generation) {
        let mut held = self
            .generation
            .lock()
            .expect("nobody panics while holding this lock");
        *held = (*held).max(generation);
        self.changed.notify_all();
    }

    /// Whether the committer follows `generation`; if not, waits for news of it, at most for `patience`.
    pub(crate) fn wait(&self, generation: Generation, patience: Duration) -> bool {
        let held = self
            .generation
            .lock()
            .expect("nobody panics while holding this lock");
        if *held >= generation {
            return true;
        }
        let (held, _) = self
            .changed
            .wait_timeout(held, patience)
            .expect("nobody panics while holding this lock");
        *held >= generation
    }
}

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

/// The callback's side.
pub(crate) struct Rebalance {
    pub(crate) generation: AssignmentGeneration,
    pub(crate) acknowledged: Arc<Acknowledged>,
    pub(crate) committer: Sender<ToCommitter>,
    /// Read by intake after the callback returned; both run on the same thread.
    pub(crate) standings: Arc<Mutex<Standings>>,
    pub(crate) host: Arc<dyn Host>,
}

impl Assignments for Rebalance {
    fn revoked(&self, deadline: Instant) {
        let generation = self.generation.current();
        let followed = self.host.until(deadline, |patience| {
            let patience = self.host.wait(patience);
            self.acknowledged.wait(generation, patience).then_some(())
        });
        if followed.is_none() {
            tracing::warn!(
                "a commit is still under way while partitions move; the table decides whether it counts"
            );
        }
    }

    fn starts(
        &self,
        partitions: &[TopicPartition],
        deadline: Instant,
    ) -> Option<BTreeMap<TopicPartition, Recorded>> {
        let (reply, answer) = bounded(1);
        let mut request = Some(ToCommitter::Starts {
            partitions: partitions.to_vec(),
            generation: self.generation.current(),
            reply,
        });
        // A committer that is gone, or that could not read the offsets, gives no answer; nobody waits for it.
        let sent = self.host.until(deadline, |patience| {
            match self.host.send(&self.committer, request.take()?, patience) {
                Ok(()) => Some(true),
                Err(SendTimeoutError::Disconnected(_)) => Some(false),
                Err(SendTimeoutError::Timeout(back)) => {
                    request = Some(back);
                    None
                }
            }
        });
        sent.filter(|&sent| sent)?;
        let answered = self.host.until(deadline, |patience| {
            match self.host.receive(&answer, patience) {
                Ok(standings) => Some(Some(standings)),
                Err(RecvTimeoutError::Disconnected) => Some(None),
                Err(RecvTimeoutError::Timeout) => None,
            }
        });
        let standings = answered.flatten()?;
        let starts = standings.recorded();
        *self
            .standings
            .lock()
            .expect("nobody panics while holding this lock") = standings;
        Some(starts)
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
