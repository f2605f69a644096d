//! The watermarks of a pipeline's partitions, as the committer records them (P24–P26).
//!
//! Owns the rule for idle partitions. Does not own lateness (engine) or the record (store).

use std::{collections::BTreeMap, time::Instant};

use alluvium_engine::PartitionTimes;
use alluvium_plan::EventTime;
use alluvium_types::{Timestamp, TopicPartition, Window};

use crate::clock::micros;

/// One assigned partition.
#[derive(Debug)]
struct Owned {
    times: PartitionTimes,
    /// The newest event time that its recorded watermark stands for.
    begun: Option<Timestamp>,
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
                    begun: newest,
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

    /// The newest time of the events that came since the partitions were assigned.
    pub(crate) fn newest_read(&self) -> Option<Timestamp> {
        let newest = |owned: &Owned| {
            let newest = owned.times.newest();
            newest.filter(|_| newest > owned.begun)
        };
        self.owned.values().filter_map(newest).max()
    }

    /// The newest time that events had or recorded watermarks stand for.
    pub(crate) fn newest_known(&self) -> Option<Timestamp> {
        let newest = |owned: &Owned| owned.times.newest();
        self.owned.values().filter_map(newest).max()
    }

    /// How far `clock` closes windows while nobody sends anything: no further than the end of the last one that has begun by then.
    /// A clock that runs ahead must not make events late of windows that nobody has begun, nor must one event of a far
    /// future let it. `stored` has the first and the last window of each file, `read` the newest that may be in no file yet.
    pub(crate) fn closed_by(
        &self,
        clock: Timestamp,
        stored: &[(Window, Window)],
        read: Option<Window>,
    ) -> Option<Timestamp> {
        let behind = micros(self.rule.max_delay).saturating_add(micros(self.rule.idle_after));
        let until = clock.saturating_add_micros(-behind);
        let begun = stored.iter().filter_map(|(first, last)| {
            if last.start <= until {
                return Some(last.end);
            }
            // Which of its windows is the last by then, only its rows tell.
            (first.start <= until).then_some(until)
        });
        let read = read.filter(|window| window.start <= until);
        let end = begun.chain(read.map(|window| window.end)).max()?;
        Some(end.min(until))
    }

    /// What to record for the assigned partitions of a table whose snapshot records `recorded` and
    /// knows `partitions`, and of which the clock closes windows up to `closed` (P25). Nothing is ever lowered, and what one
    /// table records holds for all.
    pub(crate) fn due(
        &mut self,
        partitions: &[TopicPartition],
        recorded: &BTreeMap<TopicPartition, Timestamp>,
        closed: Option<Timestamp>,
        now: Instant,
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
            closed
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

    fn rule() -> EventTime {
        EventTime {
            column: 0,
            max_delay: Duration::from_secs(10),
            idle_after: Duration::from_secs(60),
            accept: Accept {
                past: None,
                future: Duration::from_secs(3600),
            },
        }
    }

    #[test]
    fn a_clock_closes_the_windows_that_there_are_and_no_others() {
        let partition = TopicPartition::new("clicks", 0);
        let partitions = [partition.clone()];
        let start = Instant::now();
        let mut watermarks = Watermarks::new(rule());
        watermarks.assign(BTreeMap::from([(partition.clone(), Some(at(100)))]), start);
        let recorded = BTreeMap::from([(partition.clone(), at(100))]);
        let mut due = |closed, seconds| {
            let now = start + Duration::from_secs(seconds);
            watermarks.due(&partitions, &recorded, closed, now)[&partition]
        };
        assert_eq!(due(Some(at(330)), 59), at(100), "not idle yet");
        assert_eq!(due(Some(at(330)), 60), at(330));
        assert_eq!(due(Some(at(30)), 60), at(100), "nothing is lowered");
        assert_eq!(due(None, 60), at(100));

        let window = |start| Window {
            start: at(start),
            end: at(start + 60),
        };
        let file = |first, last| (window(first), window(last));
        let closed =
            |files: &[(Window, Window)], clock| watermarks.closed_by(at(clock), files, None);
        let files = [file(120, 540), file(300, 480)];
        // By a right clock, before and behind the last window's end; by one that is days ahead, and one that is behind.
        assert_eq!(closed(&files, 610), Some(at(540)));
        assert_eq!(closed(&files, 650), Some(at(580)));
        assert_eq!(closed(&files, 900), Some(at(600)));
        assert_eq!(closed(&files, 300_000), Some(at(600)));
        assert_eq!(closed(&files, 189), None);
        assert_eq!(
            closed(&files[..1], 400),
            Some(at(330)),
            "one of its windows"
        );
        // Where there is no window there is nothing to close.
        assert_eq!(closed(&[], 900), None);
        // An event of a far future opens a window of that time, and none before it.
        let future = [files[0], file(9_000_000, 9_000_000)];
        assert_eq!(closed(&future, 300_000), Some(at(600)));
        for (start, until) in [(600, 660), (1200, 600)] {
            let until = (Some(at(until)), Some(window(start)));
            assert_eq!(watermarks.closed_by(at(1_269), &files, until.1), until.0);
        }
        // What a recorded watermark stands for is no event that a window could be open for.
        let newest = |of: &Watermarks| (of.newest_read(), of.newest_known());
        assert_eq!(newest(&watermarks), (None, Some(at(110))));
        assert_eq!(late(&mut watermarks, &partition, 111), 0);
        assert_eq!(newest(&watermarks), (Some(at(111)), Some(at(111))));
    }

    #[test]
    fn another_servers_partition_holds_back_for_as_long_as_its_record_moves() {
        let [own, foreign, silent] = [0, 1, 2].map(|number| TopicPartition::new("clicks", number));
        let start = Instant::now();
        let mut watermarks = Watermarks::new(rule());
        watermarks.assign(BTreeMap::from([(own.clone(), Some(at(100)))]), start);
        let mut due = |partitions: &[TopicPartition], mark, seconds| {
            let recorded = BTreeMap::from([(own.clone(), at(100)), (foreign.clone(), at(mark))]);
            let now = start + Duration::from_secs(seconds);
            let due = watermarks.due(partitions, &recorded, Some(at(600)), now);
            due[&own]
        };
        let both = [own.clone(), foreign.clone()];
        assert_eq!(due(&both, 200, 0), at(100), "nothing is idle");
        assert_eq!(due(&both, 300, 59), at(100));
        assert_eq!(due(&both, 300, 60), at(300), "the other moved a second ago");
        assert_eq!(due(&both, 300, 118), at(300));
        assert_eq!(due(&both, 300, 119), at(600), "both are idle");
        // One of which nothing is recorded, and that is seen for the first time, may have any event.
        let all = [own.clone(), foreign.clone(), silent];
        assert_eq!(due(&all, 300, 120), at(100));
    }

    #[test]
    fn an_idle_partitions_events_are_late_for_whoever_reads_them() {
        let rule = rule();
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
            ran_on.due(&partitions, &recorded, None, now)[&idle],
            at(100)
        );
        ran_on.owned.get_mut(&idle).unwrap().last_event = now - Duration::from_secs(60);
        let due = ran_on.due(&partitions, &recorded, None, now);
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
