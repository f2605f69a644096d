//! What Kafka still has of what tables were made from.
//!
//! Owns the questions to the broker, and the refusals that its answers are the reason for. Does not own the reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use alluvium_source::{log_bounds, partition_counts, topic_ids};
use alluvium_types::{TopicId, TopicPartition};

use super::{Refusal, Verify, VerifyError, prepared::Prepared};

/// How long the broker may take to answer a question about all partitions.
const BROKER_PATIENCE: Duration = Duration::from_secs(20);

/// What the broker says of the topics of some tables.
#[derive(Debug, Default)]
pub(super) struct Log {
    counts: BTreeMap<Arc<str>, Option<i32>>,
    ids: BTreeMap<Arc<str>, TopicId>,
    bounds: BTreeMap<TopicPartition, (i64, i64)>,
}

impl Log {
    /// Asks for everything that refusals depend on.
    pub(super) fn ask(verify: &Verify, tables: &[Prepared]) -> Result<Self, VerifyError> {
        let partitions: BTreeSet<&TopicPartition> = tables
            .iter()
            .flat_map(|table| table.account.stretches().keys())
            .collect();
        let topics = topics(partitions.iter().copied());
        if topics.is_empty() {
            return Ok(Self::default());
        }
        let failed = |source| verify.source(source);
        let broker = &verify.broker;
        let counts = partition_counts(broker, &topics, BROKER_PATIENCE).map_err(failed)?;
        let ids = topic_ids(broker, &topics, BROKER_PATIENCE).map_err(failed)?;
        let is_there = |partition: &&TopicPartition| {
            let count = counts.get(&partition.topic).copied().flatten();
            count.is_some_and(|count| partition.partition < count)
        };
        let there: Vec<TopicPartition> = partitions.into_iter().filter(is_there).cloned().collect();
        let bounds = log_bounds(broker, &there, BROKER_PATIENCE).map_err(failed)?;
        Ok(Self {
            counts,
            ids,
            bounds,
        })
    }

    /// Why the log does not have what a table was made from.
    pub(super) fn refusal(&self, table: &Prepared) -> Option<Refusal> {
        let stretches = table.account.stretches();
        for topic in topics(stretches.keys()) {
            if self.counts.get(&topic).copied().flatten().is_none() {
                return Some(Refusal::NoTopic { topic });
            }
        }
        if let Some(refusal) = other_topic(table, &self.ids) {
            return Some(refusal);
        }
        stretches.keys().find_map(|partition| {
            // Of what was never read nothing need be there.
            let read = table.account.read_of(partition);
            let (first, last) = read.first().zip(read.last())?;
            let partition = partition.clone();
            let Some(&(low, end)) = self.bounds.get(&partition) else {
                return Some(Refusal::NoPartition { partition });
            };
            let (start, recorded) = (first.start(), last.end());
            match low > start {
                true => Some(Refusal::Retention {
                    partition,
                    start,
                    low,
                }),
                false => (end < recorded).then_some(Refusal::LogEnds {
                    partition,
                    recorded,
                    end,
                }),
            }
        })
    }
}

/// The ids that the topics of some tables have now.
pub(super) fn ids_of<'t>(
    verify: &Verify,
    tables: impl Iterator<Item = &'t Prepared>,
) -> Result<BTreeMap<Arc<str>, TopicId>, VerifyError> {
    let topics = topics(tables.flat_map(|table| table.account.stretches().keys()));
    match topics.is_empty() {
        true => Ok(BTreeMap::new()),
        false => topic_ids(&verify.broker, &topics, BROKER_PATIENCE)
            .map_err(|source| verify.source(source)),
    }
}

/// The first topic of a table that is known to be another one than it has read (P18).
pub(super) fn other_topic(table: &Prepared, ids: &BTreeMap<Arc<str>, TopicId>) -> Option<Refusal> {
    let recorded = &table.reader.checkpoint().topics;
    let topics = topics(table.account.stretches().keys());
    topics.into_iter().find_map(|topic| {
        let (&recorded, &found) = recorded.get(&topic).zip(ids.get(&topic))?;
        (recorded != found).then_some(Refusal::OtherTopic {
            topic,
            recorded,
            found,
        })
    })
}

fn topics<'p>(partitions: impl Iterator<Item = &'p TopicPartition>) -> Vec<Arc<str>> {
    let topics: BTreeSet<Arc<str>> = partitions
        .map(|partition| partition.topic.clone())
        .collect();
    topics.into_iter().collect()
}
