//! One partition's record batches between the broker's answers and the takers.
//!
//! Owns what to ask next, what waits, and where the partition's leader is. Does not own the position that counts: that is
//! the partition's.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use alluvium_types::{OffsetRange, TopicId};
use bytes::Bytes;
use kafka_protocol::messages::fetch_response::PartitionData;
use uuid::Uuid;

use super::record_batch::{self, RecordBatch};
use crate::Recorded;

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) leader: i32,
    pub(super) epoch: i32,
}

/// The wait after an answer that did not help.
const REST: Duration = Duration::from_millis(100);

/// What is known and what waits of one partition.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(super) placement: Option<Placement>,
    /// The topic's id as first seen under this assignment; nil where the broker has none.
    topic: Uuid,
    /// Which topic of its name the recorded offset belongs to.
    recorded: Option<TopicId>,
    /// The next offset to ask for.
    next: i64,
    /// The leader's epoch of the last batch that was read; -1: none.
    last_epoch: i32,
    /// How many bytes to ask for.
    max_bytes: i32,
    waiting: VecDeque<RecordBatch>,
    bytes: usize,
    damage: Option<(i64, String)>,
    rest_until: Option<Instant>,
}

/// Batches that were taken, and the stretch they cover.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) range: OffsetRange,
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// Under which leader the last of it was written.
    pub(crate) leader_epoch: Option<i32>,
}

impl Feed {
    pub(crate) fn starting_at(recorded: Recorded, max_bytes: i32) -> Self {
        Self {
            placement: None,
            topic: Uuid::nil(),
            recorded: recorded.topic,
            next: recorded.offset,
            last_epoch: recorded.leader_epoch.unwrap_or(-1),
            max_bytes,
            waiting: VecDeque::new(),
            bytes: 0,
            damage: None,
            rest_until: None,
        }
    }

    /// The topic's id; nil where the broker has none, or has not said it yet.
    pub(super) fn topic(&self) -> Uuid {
        self.topic
    }

    /// Takes in the id that the broker gives the topic. Returns it if it is another topic than the one whose offset is
    /// recorded, or than the one that was read (P18).
    pub(super) fn another(&mut self, id: Uuid) -> Option<TopicId> {
        let (most, least) = id.as_u64_pair();
        // Without an id nothing shows.
        let found = TopicId::from_halves(most, least)?;
        let is_new = TopicId::is_another(self.recorded, Some(found));
        if self.topic.is_nil() && !is_new {
            self.topic = id;
        }
        (is_new || self.topic != id).then_some(found)
    }

    /// Bytes that wait to be taken.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next offset that will be asked for.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    pub(super) fn ask(&self, placement: Placement) -> super::session::Ask {
        super::session::Ask {
            offset: self.next,
            max_bytes: self.max_bytes,
            leader_epoch: placement.epoch,
            last_epoch: self.last_epoch,
        }
    }

    /// Whether there is anything to ask for now.
    pub(super) fn asks(&self, now: Instant) -> bool {
        self.damage.is_none() && self.rest_until.is_none_or(|until| now >= until)
    }

    pub(super) fn rest(&mut self, now: Instant) {
        self.rest_until = Some(now + REST);
    }

    /// The leader has to be looked up again.
    pub(super) fn lost(&mut self, now: Instant) {
        self.placement = None;
        self.rest(now);
    }

    /// Takes in what a broker sent without an error. `false`: bytes came that do not hold one whole batch.
    pub(super) fn receive(&mut self, data: &mut PartitionData) -> bool {
        let bytes = data.records.take().unwrap_or_default();
        let size = bytes.len();
        let aborted: Vec<(i64, i64)> = data
            .aborted_transactions
            .iter()
            .flatten()
            .map(|transaction| (transaction.producer_id.0, transaction.first_offset))
            .collect();
        self.read(bytes, &aborted) || size == 0
    }

    fn read(&mut self, bytes: Bytes, aborted: &[(i64, i64)]) -> bool {
        let contents = record_batch::read(bytes, aborted, self.next);
        let mut moved = false;
        for batch in contents.batches {
            if batch.header.last_offset < self.next {
                continue;
            }
            moved = true;
            self.next = batch.header.last_offset + 1;
            self.last_epoch = self.last_epoch.max(batch.header.leader_epoch);
            self.bytes += batch.bytes.len();
            self.waiting.push_back(batch);
        }
        if let Some((offset, reason)) = contents.damage {
            self.damage = Some((offset.max(self.next), reason.0));
            return true;
        }
        if !moved {
            // One batch is larger than what was asked for, and the broker does not send it whole by itself.
            self.max_bytes = self.max_bytes.saturating_mul(2);
        }
        moved
    }

    /// What cannot be read, once everything before it is taken.
    pub(crate) fn damage(&self) -> Option<&(i64, String)> {
        self.damage.as_ref().filter(|_| self.waiting.is_empty())
    }

    /// Whether what waits begins at or behind `offset`.
    pub(crate) fn waits_from(&self, offset: i64) -> bool {
        self.waiting
            .front()
            .is_some_and(|batch| batch.header.base_offset >= offset)
    }

    /// Takes batches from `position` on, of about `max_bytes`, none of them at or behind `stop`; `None` when the
    /// position does not move.
    pub(crate) fn take(
        &mut self,
        position: i64,
        max_bytes: usize,
        stop: Option<i64>,
    ) -> Option<Taken> {
        let mut batches = Vec::new();
        let (mut end, mut records, mut bytes) = (position, 0, 0);
        let mut leader_epoch = None;
        while let Some(batch) = self.waiting.front() {
            let header = &batch.header;
            let size = batch.bytes.len();
            if stop.is_some_and(|stop| header.base_offset >= stop)
                || !batches.is_empty() && bytes + size > max_bytes
            {
                break;
            }
            let (base, last, count) = (header.base_offset, header.last_offset, header.records);
            let epoch = header.leader_epoch;
            let batch = self.waiting.pop_front().expect("it is at the front");
            self.bytes -= size;
            if last < end {
                continue;
            }
            if batch.delivered {
                let span = usize::try_from(last + 1 - base.max(end)).unwrap_or(usize::MAX);
                records += count.min(span);
                bytes += size;
                batches.push(batch);
            }
            // Also over what is not delivered: markers, aborted records, holes of compaction (P2).
            end = last + 1;
            leader_epoch = Some(epoch).filter(|epoch| *epoch >= 0);
        }
        let range = OffsetRange::new(position, end).expect("the end only grew");
        (!range.is_empty()).then_some(Taken {
            batches,
            range,
            records,
            bytes,
            leader_epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::record_batch::HEADER, *};

    fn id(number: u64) -> Uuid {
        Uuid::from_u64_pair(number, number)
    }

    fn feed(recorded: Option<Uuid>) -> Feed {
        let topic = recorded.and_then(|id| {
            let (most, least) = id.as_u64_pair();
            TopicId::from_halves(most, least)
        });
        let recorded = Recorded {
            topic,
            ..Recorded::at(7)
        };
        Feed::starting_at(recorded, 1 << 20)
    }

    /// A batch of `count` offsets from `base` on, as the protocol has it, with no bytes of records.
    fn batch(base: i64, count: i32) -> Vec<u8> {
        let length = i32::try_from(HEADER - 12).unwrap();
        let mut bytes = [
            &base.to_be_bytes()[..],
            &length.to_be_bytes(),
            &[0; 4],
            &[2],
        ]
        .concat();
        let none = -1_i64;
        let summed = [
            &[0; 2][..],
            &(count - 1).to_be_bytes(),
            &[0; 16],
            &none.to_be_bytes(),
            &[0; 6],
            &count.to_be_bytes(),
        ]
        .concat();
        bytes.extend(crc_fast::crc32_iscsi(&summed).to_be_bytes());
        bytes.extend(summed);
        assert_eq!(bytes.len(), HEADER);
        bytes
    }

    #[test]
    fn what_is_taken_ends_before_the_stop() {
        for (stop, end) in [
            (None, Some(13)),
            (Some(13), Some(13)),
            (Some(10), Some(10)),
            (Some(7), None),
        ] {
            let mut feed = feed(None);
            let records = [batch(7, 3), batch(10, 3)].concat();
            let mut data = PartitionData::default().with_records(Some(records.into()));
            assert!(feed.receive(&mut data));
            let taken = feed.take(7, 1 << 20, stop);
            assert_eq!(taken.map(|taken| taken.range.end()), end, "{stop:?}");
        }
    }

    #[test]
    fn damage_is_told_when_everything_before_it_is_taken() {
        let mut feed = feed(None);
        let mut records = [batch(7, 3), batch(10, 3)].concat();
        *records.last_mut().unwrap() ^= 1;
        let mut data = PartitionData::default().with_records(Some(records.into()));
        assert!(feed.receive(&mut data));
        assert_eq!(feed.damage(), None);
        assert_eq!(feed.take(7, 1 << 20, None).unwrap().range.end(), 10);
        let (offset, reason) = feed.damage().unwrap();
        assert_eq!((*offset, reason.contains("checksum")), (10, true));
        assert!(!feed.asks(Instant::now()), "nothing behind it is asked for");
    }

    #[test]
    fn after_an_answer_that_did_not_help_it_rests() {
        let mut feed = feed(None);
        let now = Instant::now();
        assert!(feed.asks(now));
        feed.rest(now);
        assert!(!feed.asks(now));
        assert!(feed.asks(now + REST));
    }

    #[test]
    fn the_broker_is_told_under_which_leader_the_record_before_was_written() {
        let placement = Placement {
            leader: 1,
            epoch: 4,
        };
        for leader_epoch in [None, Some(3)] {
            let recorded = Recorded {
                leader_epoch,
                ..Recorded::at(7)
            };
            let ask = Feed::starting_at(recorded, 1 << 20).ask(placement);
            assert_eq!(ask.last_epoch, leader_epoch.unwrap_or(-1));
        }
    }

    #[test]
    fn only_the_recorded_topic_is_read_and_only_the_first_that_was_seen() {
        for recorded in [None, Some(id(8))] {
            let mut feed = feed(recorded);
            assert_eq!(feed.another(Uuid::nil()), None, "a broker without ids");
            assert!(feed.topic().is_nil());
            for again in [id(8), id(8), Uuid::nil()] {
                assert_eq!(feed.another(again), None);
                assert_eq!(feed.topic(), id(8));
            }
            let found = TopicId::from_halves(16, 16);
            assert_eq!(feed.another(id(16)), found, "while it is read");
            assert_eq!(feed.topic(), id(8));
        }
        let mut feed = feed(Some(id(8)));
        let found = TopicId::from_halves(16, 16);
        assert_eq!(feed.another(id(16)), found, "while nobody read");
        assert!(feed.topic().is_nil());
    }
}
