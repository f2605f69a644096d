//! The watermarks of a pipeline's partitions, as the committer records them (P24–P26).
//!
//! Owns the rule for idle partitions. Does not own lateness (engine) or the record (store).

use std::{collections::BTreeMap, time::Instant};

use alluvium_engine::PartitionTimes;
use alluvium_plan::EventTime;
use alluvium_types::{Timestamp, TopicPartition};

use crate::clock::micros;

/// One assigned partition.
#[derive(Debug)]
struct Owned {
    times: PartitionTimes,
    last_event: Instant,
}

/// A partition of another process, as its recorded watermark shows it.
#[derive(Debug)]
struct Foreign {
    recorded: Option<Timestamp>,
    changed: Instant,
}

/// All partitions of one pipeline as this process knows them.
#[derive(Debug)]
pub(crate) struct Watermarks {
    rule: EventTime,
    owned: BTreeMap<TopicPartition, Owned>,
    foreign: BTreeMap<TopicPartition, Foreign>,
}

impl Watermarks {
    pub(crate) fn new(rule: EventTime) -> Self {
        Self {
            rule,
            owned: BTreeMap::new(),
            foreign: BTreeMap::new(),
        }
    }

    /// Starts anew from what is recorded: `recorded` holds every assigned partition.
    pub(crate) fn assign(
        &mut self,
        recorded: BTreeMap<TopicPartition, Option<Timestamp>>,
        now: Instant,
    ) {
        let delay = micros(self.rule.max_delay);
        self.owned = recorded
            .into_iter()
            .map(|(partition, watermark)| {
                let newest = watermark.map(|mark| mark.saturating_add_micros(delay));
                let owned = Owned {
                    times: PartitionTimes::new(newest),
                    last_event: now,
                };
                (partition, owned)
            })
            .collect();
        self.foreign.clear();
    }

    /// The event times of one partition, to settle lateness with; `None`: it is not assigned.
    pub(crate) fn times(
        &mut self,
        partition: &TopicPartition,
        now: Instant,
    ) -> Option<&mut PartitionTimes> {
        let owned = self.owned.get_mut(partition)?;
        owned.last_event = now;
        Some(&mut owned.times)
    }

    /// The watermark of an assigned partition as its events made it.
    pub(crate) fn own(&self, partition: &TopicPartition) -> Option<Timestamp> {
        let newest = self.owned.get(partition)?.times.newest()?;
        Some(newest.saturating_add_micros(-micros(self.rule.max_delay)))
    }

    /// The newest event time of all assigned partitions.
    pub(crate) fn newest(&self) -> Option<Timestamp> {
        self.owned
            .values()
            .filter_map(|owned| owned.times.newest())
            .max()
    }

    /// What to record for the assigned partitions of a table whose snapshot records `recorded` and
    /// knows `partitions` (P25). Nothing is ever lowered.
    pub(crate) fn due(
        &mut self,
        partitions: &[TopicPartition],
        recorded: &BTreeMap<TopicPartition, Timestamp>,
        now: Instant,
        clock: Timestamp,
    ) -> BTreeMap<TopicPartition, Timestamp> {
        self.look_at_foreign(partitions, recorded, now);
        let idle_after = self.rule.idle_after;
        let is_idle = |last: Instant| now.saturating_duration_since(last) >= idle_after;
        let mark = |partition: &TopicPartition| {
            let recorded = recorded.get(partition).copied();
            self.own(partition).max(recorded)
        };

        let active: Vec<Option<Timestamp>> = partitions
            .iter()
            .filter(|partition| match self.owned.get(partition) {
                Some(owned) => !is_idle(owned.last_event),
                None => self
                    .foreign
                    .get(partition)
                    .is_none_or(|foreign| !is_idle(foreign.changed)),
            })
            .map(mark)
            .collect();
        let lifted = if active.is_empty() {
            Some(clock.saturating_add_micros(
                -micros(self.rule.max_delay).saturating_add(micros(idle_after)),
            ))
        } else if active.iter().all(Option::is_some) {
            active.into_iter().flatten().min()
        } else {
            None
        };

        self.owned
            .iter()
            .filter_map(|(partition, owned)| {
                let own = mark(partition);
                let value = if is_idle(owned.last_event) {
                    own.max(lifted)
                } else {
                    own
                };
                Some((partition.clone(), value?))
            })
            .collect()
    }

    fn look_at_foreign(
        &mut self,
        partitions: &[TopicPartition],
        recorded: &BTreeMap<TopicPartition, Timestamp>,
        now: Instant,
    ) {
        for partition in partitions {
            if self.owned.contains_key(partition) {
                continue;
            }
            let seen = recorded.get(partition).copied();
            let foreign = self.foreign.entry(partition.clone()).or_insert(Foreign {
                recorded: seen,
                changed: now,
            });
            if foreign.recorded != seen {
                *foreign = Foreign {
                    recorded: seen,
                    changed: now,
                };
            }
        }
    }
}
