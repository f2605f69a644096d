//! What is made of librdkafka's word that a log was cut off.
//!
//! Owns how often it was said, and when it counts. Does not own how a leader is asked (`drain`), nor what a halt leads to.

use std::{collections::BTreeMap, time::Instant};

use alluvium_types::TopicPartition;

/// What librdkafka has said of logs that were cut off (P18).
///
/// It has said so without cause, too, about a place that it took for its own and never was (`PartitionQueue::consume`); and what is true of one
/// assignment it can say in a later one. So everything is assigned afresh, and it has to ask about the recorded offset; what it says again and again counts.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// By partition, until it is read on.
    open: BTreeMap<TopicPartition, Doubt>,
    /// Since the last assignment.
    pub(crate) is_new: bool,
    /// Leaders are not asked before.
    pub(crate) ask_again_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Doubt {
    /// How often it was said.
    count: u32,
    /// The words.
    text: String,
}

impl Doubts {
    /// A log counts as cut off when that was said so often.
    const ENOUGH: u32 = 3;

    /// Whether that was often enough; if not, the next assignment is to tell.
    pub(crate) fn add(&mut self, partition: &TopicPartition, text: &str) -> bool {
        let doubt = self.open.entry(partition.clone()).or_default();
        doubt.count = doubt.count.saturating_add(1);
        text.clone_into(&mut doubt.text);
        let is_enough = doubt.count >= Self::ENOUGH;
        self.is_new |= !is_enough;
        is_enough
    }

    pub(crate) fn of(&self, partition: &TopicPartition) -> Option<&str> {
        self.open.get(partition).map(|doubt| &*doubt.text)
    }

    /// It is read on.
    pub(crate) fn settle(&mut self, partition: &TopicPartition) {
        if !self.open.is_empty() {
            self.open.remove(partition);
        }
    }

    /// Whether nothing is open.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// Only of these anything will be heard.
    pub(crate) fn retain(&mut self, partitions: &[TopicPartition]) {
        self.open
            .retain(|partition, _| partitions.contains(partition));
    }
}
