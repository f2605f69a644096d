//! Which events were late, and how far event time has come (P24).
//!
//! Both are defined in offset order, while workers see batches in any order. So a worker only notes
//! accepted event times, and whoever has all of an epoch settles them here. Pure: the only clock is
//! the moment that came with the batch.

use std::time::Duration;

use alluvium_types::{Lateness, OffsetRange, TableSet, Timestamp, TopicPartition};

#[cfg(test)]
mod tests;

/// Events that are looked at together: mostly none of them can be late.
const AT_ONCE: usize = 1024;

/// The accepted event times of one raw batch, in offset order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedBatch {
    /// The partition.
    pub partition: TopicPartition,
    /// The batch's range; ranges of one partition do not overlap.
    pub range: OffsetRange,
    /// The tables it was folded into.
    pub tables: TableSet,
    /// Accepted event times, microseconds since 1970, in offset order.
    pub event_times: Vec<i64>,
    /// No event moves event time beyond this: when the batch was received, plus `accept.future`.
    pub cap: Timestamp,
    /// Kafka's timestamp of the batch's oldest record, when a record has one.
    pub oldest_record: Option<Timestamp>,
}

impl ObservedBatch {
    /// Bytes this value holds, for the memory budget.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.event_times.capacity() * size_of::<i64>()
    }
}

/// How far event time has come in one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionTimes {
    newest: Option<Timestamp>,
    lifted: Option<Timestamp>,
}

impl PartitionTimes {
    /// Starts from the newest event time that is known; `None`: no event was ever accepted.
    pub fn new(newest: Option<Timestamp>) -> Self {
        Self {
            newest,
            lifted: None,
        }
    }

    /// The partition's watermark is recorded at this, whatever its own events say (P25).
    pub fn lift(&mut self, watermark: Timestamp) {
        self.lifted = self.lifted.max(Some(watermark));
    }

    /// What the newest event makes of the watermark, or what it was lifted to.
    pub fn watermark(&self, max_delay: Duration) -> Option<Timestamp> {
        self.behind(micros(max_delay), self.newest)
    }

    fn behind(&self, max_delay: i64, newest: Option<Timestamp>) -> Option<Timestamp> {
        let own = newest.map(|newest| newest.saturating_add_micros(-max_delay));
        own.max(self.lifted)
    }

    /// The newest accepted event time, capped.
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Passes over batches of this partition, given in any order, in the order of their offsets.
    /// Returns for each of `table_count` tables how many of its events were late, older than the
    /// watermark just before them, and by how much. Leaves `batches` sorted.
    ///
    /// The result does not depend on how the same events are cut into batches.
    pub fn settle(
        &mut self,
        batches: &mut [ObservedBatch],
        max_delay: Duration,
        table_count: usize,
    ) -> Vec<Lateness> {
        let max_delay = micros(max_delay);
        let mut late = vec![Lateness::default(); table_count];
        batches.sort_by_key(|batch| batch.range);
        for batch in batches {
            let mut late_here = Lateness::default();
            for times in batch.event_times.chunks(AT_ONCE) {
                self.pass_over(times, batch.cap, max_delay, &mut late_here);
            }
            for (table, late) in late.iter_mut().enumerate() {
                if batch.tables.contains(table) {
                    late.add(&late_here);
                }
            }
        }
        late
    }

    /// Passes over event times in offset order, and notes in `late` those that were.
    fn pass_over(&mut self, times: &[i64], cap: Timestamp, max_delay: i64, late: &mut Lateness) {
        let (mut first, mut last) = (i64::MAX, i64::MIN);
        for &time in times {
            (first, last) = (first.min(time), last.max(time));
        }
        let (first, last) = (Timestamp::from_micros(first), Timestamp::from_micros(last));
        // As far as event time comes in all of them. Whatever is not behind that by more than the delay is late nowhere.
        let newest = self.newest.max(Some(last.min(cap)));
        let watermark = self.behind(max_delay, newest);
        if watermark.is_none_or(|watermark| first >= watermark) {
            self.newest = newest;
            return;
        }
        for &time in times {
            let time = Timestamp::from_micros(time);
            if let Some(watermark) = self.behind(max_delay, self.newest)
                && time < watermark
            {
                late.note(Duration::from_micros(
                    watermark.micros().abs_diff(time.micros()),
                ));
            }
            self.newest = self.newest.max(Some(time.min(cap)));
        }
    }
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
