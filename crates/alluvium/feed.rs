//! Sends generated clicks to a topic, at a rate, and never further ahead of a reader than told.
//!
//! Owns the loop and the arithmetic of holding back. Does not own the events, nor who the reader is.

use std::{collections::BTreeMap, num::NonZeroU64, thread, time::Duration};

use alluvium_source::{EventProducer, SourceError};

use crate::{
    clicks::{Clicks, Ledger},
    pace::Pace,
};

/// Events between two looks at the clock and the reader.
const CHUNK: u64 = 256;
/// How long to wait for the reader before asking again.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How long sent events may take to arrive.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);
/// What a record weighs beside key and payload.
const RECORD_OVERHEAD: u64 = 20;

/// How far each partition's reader is behind, as the sender knows.
#[derive(Debug)]
pub(crate) struct HoldBack {
    most_bytes: u64,
    partitions: Vec<Sent>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    /// The log's end before the first record was sent.
    base: i64,
    records: u64,
    bytes: u64,
    /// The next offset of the reader.
    reached: i64,
}

impl Sent {
    /// Records not yet read, times what a record of this partition weighs on average.
    fn outstanding(&self) -> u64 {
        let end = self.base + self.records as i64;
        let records = u64::try_from(end - self.reached).unwrap_or(0);
        let weight = self.bytes.checked_div(self.records).unwrap_or_default();
        records * weight
    }
}

impl HoldBack {
    /// At most `most_bytes` unread in any partition. `bounds` are first offset and end of each partition's log.
    pub(crate) fn new(most_bytes: u64, bounds: &[(i64, i64)]) -> Self {
        let partitions = bounds
            .iter()
            .map(|&(low, end)| Sent {
                base: end,
                reached: low,
                ..Sent::default()
            })
            .collect();
        Self {
            most_bytes,
            partitions,
        }
    }

    fn count(&mut self, partition: usize, bytes: u64) {
        let sent = &mut self.partitions[partition];
        sent.records += 1;
        sent.bytes += bytes;
    }

    /// The reader's next offsets; what it does not name stays as it was.
    fn learn(&mut self, reached: &BTreeMap<i32, i64>) {
        for (partition, sent) in self.partitions.iter_mut().enumerate() {
            if let Some(&offset) = reached.get(&(partition as i32)) {
                sent.reached = sent.reached.max(offset);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.partitions
            .iter()
            .any(|sent| sent.outstanding() > self.most_bytes)
    }
}

/// What the loop is doing when it reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Sending at its rate.
    Sending,
    /// Waiting for the reader.
    HeldBack,
}

/// The reader's next offsets, by partition.
pub(crate) type AskReader<'a> = &'a mut dyn FnMut() -> Result<BTreeMap<i32, i64>, SourceError>;

/// A stream of clicks on its way to a topic.
pub(crate) struct Feed {
    /// The events.
    pub(crate) clicks: Clicks,
    /// Where they go.
    pub(crate) producer: EventProducer,
    /// The topic's number of partitions, positive; a user's events go to one of them.
    pub(crate) partitions: i32,
    /// How far the reader may be behind; `None`: it does not matter.
    pub(crate) hold_back: Option<HoldBack>,
    /// How fast.
    pub(crate) rate: Option<NonZeroU64>,
}

impl Feed {
    /// Sends `events` (`None`: without end) until `stop` says so, and returns the ledger of what has arrived.
    /// `ask` is asked where the reader is, and `report` is told after each chunk.
    ///
    /// # Errors
    /// When an event cannot be delivered, or the reader's offsets cannot be had.
    pub(crate) fn run(
        mut self,
        events: Option<NonZeroU64>,
        stop: &dyn Fn() -> bool,
        ask: AskReader<'_>,
        report: &mut dyn FnMut(&Ledger, Doing),
    ) -> Result<Ledger, SourceError> {
        let mut ledger = Ledger::default();
        let mut pace = Pace::new(self.rate);
        // A chunk lasts no longer than a twentieth of a second.
        let chunk = self
            .rate
            .map_or(CHUNK, |rate| (rate.get() / 20).clamp(1, CHUNK));
        let mut left = events.map_or(u64::MAX, NonZeroU64::get);
        while left > 0 && !stop() {
            pace.wait(stop);
            let size = chunk.min(left);
            for _ in 0..size {
                self.send(&mut ledger)?;
            }
            left -= size;
            pace.count(size);
            report(&ledger, Doing::Sending);
            if self.wait_for_reader(stop, ask, &mut || report(&ledger, Doing::HeldBack))? {
                pace.restart();
            }
        }
        self.producer.flush(FLUSH_PATIENCE)?;
        Ok(ledger)
    }

    fn send(&mut self, ledger: &mut Ledger) -> Result<(), SourceError> {
        let Some(event) = self.clicks.next() else {
            return Ok(());
        };
        let partition = partition_of(event.key.as_bytes(), self.partitions);
        self.producer.send(
            Some(partition),
            Some(event.key.as_bytes()),
            &event.payload,
            Some(event.timestamp),
        )?;
        if let Some(hold_back) = &mut self.hold_back {
            let bytes = event.key.len() + event.payload.len();
            hold_back.count(partition as usize, bytes as u64 + RECORD_OVERHEAD);
        }
        ledger.enter(&event);
        Ok(())
    }

    /// Waits until the reader is near enough; returns whether that took any time.
    fn wait_for_reader(
        &mut self,
        stop: &dyn Fn() -> bool,
        ask: AskReader<'_>,
        report: &mut dyn FnMut(),
    ) -> Result<bool, SourceError> {
        let Some(hold_back) = &mut self.hold_back else {
            return Ok(false);
        };
        let mut waited = false;
        while hold_back.is_over() && !stop() {
            hold_back.learn(&ask()?);
            if hold_back.is_over() {
                waited = true;
                report();
                thread::sleep(ASK_AGAIN);
            }
        }
        Ok(waited)
    }
}

/// The partition of a key: the same in every run, whatever the client's partitioner.
pub(crate) fn partition_of(key: &[u8], partitions: i32) -> i32 {
    // FNV-1a (Fowler, Noll, Vo), 32 bits.
    let hash = key.iter().fold(0x811c_9dc5_u32, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (hash % partitions as u32) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_partition_holds_back() {
        let mut hold_back = HoldBack::new(1000, &[(0, 5), (100, 100)]);
        for _ in 0..5 {
            hold_back.count(0, 100);
            hold_back.count(1, 150);
        }
        // Partition 0: ten records of 100 bytes are unread, five of them older than the sender.
        assert!(!hold_back.is_over());
        hold_back.count(0, 100);
        assert!(hold_back.is_over());
        hold_back.learn(&BTreeMap::from([(0, 2)]));
        assert!(!hold_back.is_over());
        for _ in 0..2 {
            hold_back.count(1, 150);
        }
        assert!(hold_back.is_over(), "1050 bytes are unread in partition 1");
        hold_back.learn(&BTreeMap::from([(1, 101), (0, 0)]));
        assert!(!hold_back.is_over());
    }

    #[test]
    fn keys_spread_over_all_partitions() {
        let mut counts = [0; 8];
        for user in 0..8000 {
            counts[partition_of(format!("u-{user:06}").as_bytes(), 8) as usize] += 1;
        }
        assert!(
            counts.iter().all(|&count| (700..1300).contains(&count)),
            "{counts:?}"
        );
    }
}
