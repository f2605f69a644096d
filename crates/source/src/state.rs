//! What the callbacks inside a rebalance, the requests of our own and the drain share.
//!
//! Owns the present assignment as data. Does not own the steps from one to the next.

use std::time::Instant;

use alluvium_types::{Generation, TopicPartition};

use crate::{Halt, notice::Notice, partition::Partition};

/// Partitions that the group gave us and whose starts are not known.
#[derive(Debug)]
pub(crate) struct Unstarted {
    pub(crate) generation: Generation,
    pub(crate) partitions: Vec<TopicPartition>,
    pub(crate) again_at: Instant,
}

/// What the callbacks and the drain share. Both run on the thread that owns the drain.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) generation: Generation,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) unstarted: Option<Unstarted>,
    pub(crate) closing: bool,
}

impl State {
    /// A partition that halted out of range and whose log's ends were not asked for yet.
    pub(crate) fn unexplained(&self) -> Option<(TopicPartition, i64)> {
        self.partitions
            .iter()
            .find(|partition| partition.is_unexplained())
            .map(|partition| (partition.name.clone(), partition.position()))
    }

    /// Tells why a partition halted: as `better` says, else in the broker's words.
    pub(crate) fn explain(&mut self, name: &TopicPartition, better: Option<Halt>) {
        let found = self
            .partitions
            .iter_mut()
            .find(|partition| partition.name == *name);
        if let Some(halt) = found.and_then(|partition| partition.explain(better)) {
            self.notices.push(Notice::Halted {
                partition: name.clone(),
                halt,
            });
        }
    }
}
