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

    /// The watermark of an assigned partition as its events made it, or as it is recorded.
    pub(crate) fn own(&self, partition: &TopicPartition) -> Option<Timestamp> {
        let owned = self.owned.get(partition)?;
        owned.times.watermark(self.rule.max_delay)
    }

    /// Takes in what is recorded now. What an idle partition is lifted to holds for its own events, too: they are late behind
    /// it, as they would be for whoever reads the partition next.
    pub(crate) fn recorded(&mut self, recorded: &BTreeMap<TopicPartition, Timestamp>) {
        for (partition, &watermark) in recorded {
            if let Some(owned) = self.owned.get_mut(partition) {
                owned.times.lift(watermark);
            }
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alluvium_engine::ObservedBatch;
    use alluvium_plan::Accept;
    use alluvium_types::{OffsetRange, TableSet};

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * SECOND)
    }

    fn late(watermarks: &mut Watermarks, partition: &TopicPartition, second: i64) -> u64 {
        let batch = ObservedBatch {
            partition: partition.clone(),
            range: OffsetRange::new(0, 1).unwrap(),
            tables: TableSet::all(1),
            event_times: vec![second * SECOND],
            cap: at(1_000_000),
            oldest_record: None,
        };
        let delay = watermarks.rule.max_delay;
        let times = watermarks.times(partition, Instant::now()).unwrap();
        times.settle(&mut [batch], delay, 1)[0].events()
    }

    #[test]
    fn an_idle_partitions_events_are_late_for_whoever_reads_them() {
        let rule = EventTime {
            column: 0,
            max_delay: Duration::from_secs(10),
            idle_after: Duration::from_secs(60),
            accept: Accept {
                past: None,
                future: Duration::from_secs(3600),
            },
        };
        let [idle, active] = [0, 1].map(|number| TopicPartition::new("clicks", number));
        let known = BTreeMap::from([(idle.clone(), Some(at(100))), (active.clone(), None)]);
        let start = Instant::now();
        let mut ran_on = Watermarks::new(rule.clone());
        ran_on.assign(known, start);
        assert_eq!(late(&mut ran_on, &active, 510), 0);

        let partitions = [idle.clone(), active.clone()];
        let recorded = BTreeMap::from([(idle.clone(), at(100))]);
        let now = Instant::now() + Duration::from_secs(59);
        assert_eq!(
            ran_on.due(&partitions, &recorded, now, at(0))[&idle],
            at(100)
        );
        ran_on.owned.get_mut(&idle).unwrap().last_event = now - Duration::from_secs(60);
        let due = ran_on.due(&partitions, &recorded, now, at(0));
        assert_eq!((due[&idle], due[&active]), (at(500), at(500)));

        // Not before it is recorded: until then nobody else knows.
        assert_eq!(ran_on.own(&idle), Some(at(100)));
        ran_on.recorded(&due);
        assert_eq!(ran_on.own(&idle), Some(at(500)));
        let mut restarted = Watermarks::new(rule);
        let recorded = due.into_iter().map(|(name, mark)| (name, Some(mark)));
        restarted.assign(recorded.collect(), now);
        for second in [499, 500, 300] {
            let by_both = [&mut ran_on, &mut restarted].map(|one| late(one, &idle, second));
            assert_eq!(by_both, [u64::from(second < 500); 2], "{second}");
        }
    }
}
