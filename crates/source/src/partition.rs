//! One assigned partition: its queue, its position, and the batches cut from it.
//!
//! Owns the position, the only one that counts: librdkafka's own is never read. Does not own the
//! assignment, nor what a halt leads to.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use alluvium_types::{
    BufferPool, Damaged, ErrorClass, FetchedBatch, Generation, MemoryBudget, OffsetRange,
    RawBatchBuilder, Timestamp, TopicId, TopicPartition,
};
use rdkafka::error::RDKafkaErrorCode;

use crate::{
    Halt, Recorded,
    direct::{feed::Feed, unpack::PackedBatches},
    doubts::Doubts,
    error::classify,
    native::{Message, PartitionQueue},
    notice::Notice,
};

/// Where one assigned partition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// The partition.
    pub partition: TopicPartition,
    /// The next offset to be taken.
    pub position: i64,
    /// Where the log ends, as the last fetch saw it. At most a second old; never below `position`.
    pub log_end: Option<i64>,
    /// Where the part of the log ends that can be read: before the first open transaction. A
    /// `log_end` that grows away from it means a transaction hangs, not that reading is slow.
    pub stable_end: Option<i64>,
    /// When the leader last told where the log ends, or that nothing had changed. Old: it cannot be reached, or nothing is asked
    /// while what came has not been taken.
    pub heard: Option<Instant>,
    /// Where the log begins.
    pub low: Option<i64>,
    /// Why nothing is taken from it any more.
    pub halted: Option<Halt>,
}

/// The log's ends as a fetch response tells them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogEnds {
    pub(crate) low: Option<i64>,
    pub(crate) stable: Option<i64>,
    pub(crate) high: Option<i64>,
    pub(crate) heard: Option<Instant>,
}

/// What a take is made of besides the partition itself.
pub(crate) struct Taking<'a> {
    pub(crate) max_bytes: usize,
    pub(crate) now: Timestamp,
    pub(crate) generation: Generation,
    pub(crate) memory: &'a MemoryBudget,
    pub(crate) buffers: &'a BufferPool,
    /// Where bytes begin that a worker could not unpack.
    pub(crate) damaged: &'a BTreeMap<TopicPartition, Damaged>,
    pub(crate) notices: &'a mut Vec<Notice>,
    /// Where nothing can be assigned afresh there are none.
    pub(crate) doubts: Option<&'a mut Doubts>,
}

impl Taking<'_> {
    fn settle(&mut self, partition: &TopicPartition) {
        if let Some(doubts) = &mut self.doubts {
            doubts.settle(partition);
        }
    }
}

/// Where a partition's records come from.
#[derive(Debug)]
enum Inflow {
    /// Nowhere: nobody recorded a start for it.
    None,
    /// librdkafka's queue.
    Queue(Queue),
    /// Our own fetch requests.
    Feed(Box<Feed>),
}

/// librdkafka's queue of one partition.
#[derive(Debug)]
struct Queue {
    queue: PartitionQueue,
    /// Consumed from the queue, not yet handed out. Never more than one call brings.
    waiting: VecDeque<Message>,
    /// Bytes of a record, as seen lately; how many to ask for follows from it.
    usual_size: usize,
    /// Which topic of its name the recorded offset belongs to.
    recorded: Option<TopicId>,
    /// The broker's topic is that one, as far as anybody can say. Until then nothing is taken.
    is_it: bool,
    /// The start, or behind the last record.
    last: Place,
    /// librdkafka has yet to ask whether the log still is what was read before the start.
    unproven: bool,
}

/// An offset, and the leader under whom the record before it was written, if that is known.
#[derive(Debug)]
struct Place {
    offset: i64,
    leader_epoch: Option<i32>,
}

/// A partition of the current assignment.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) name: TopicPartition,
    inflow: Inflow,
    position: i64,
    pub(crate) ends: LogEnds,
    halted: Option<Halt>,
    /// It halted out of range, and where its log begins and ends is to be asked for.
    unexplained: Option<Unexplained>,
}

/// Why a partition halted is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unexplained {
    /// Nobody was told.
    Untold,
    /// Somebody was, in the broker's words: nothing better was known at first.
    Told,
}

impl Partition {
    /// A partition that is read from librdkafka's queue.
    pub(crate) fn queued(name: TopicPartition, queue: PartitionQueue, start: Recorded) -> Self {
        let queue = Queue {
            queue,
            waiting: VecDeque::new(),
            usual_size: 512,
            recorded: start.topic,
            is_it: start.topic.is_none(),
            last: Place {
                offset: start.offset,
                leader_epoch: start.leader_epoch,
            },
            unproven: false,
        };
        Self::new(name, Inflow::Queue(queue), start.offset)
    }

    /// A partition that is read by our own requests.
    pub(crate) fn fetched(name: TopicPartition, feed: Feed, start: i64) -> Self {
        Self::new(name, Inflow::Feed(Box::new(feed)), start)
    }

    pub(crate) fn unrecorded(name: TopicPartition) -> Self {
        Self {
            halted: Some(Halt::Unrecorded),
            ..Self::new(name, Inflow::None, 0)
        }
    }

    fn new(name: TopicPartition, inflow: Inflow, start: i64) -> Self {
        Self {
            name,
            inflow,
            position: start,
            ends: LogEnds::default(),
            halted: None,
            unexplained: None,
        }
    }

    pub(crate) fn position(&self) -> i64 {
        self.position
    }

    pub(crate) fn halted(&self) -> Option<&Halt> {
        self.halted.as_ref()
    }

    pub(crate) fn feed(&mut self) -> Option<&mut Feed> {
        match &mut self.inflow {
            Inflow::Feed(feed) => Some(feed),
            Inflow::None | Inflow::Queue(_) => None,
        }
    }

    /// The recorded id of its topic, if librdkafka reads it: nobody else compares the id then.
    pub(crate) fn unwatched(&self) -> Option<TopicId> {
        match &self.inflow {
            Inflow::Queue(queue) if self.halted.is_none() => queue.recorded,
            _ => None,
        }
    }

    /// Whether nothing is taken until the id of its topic is known.
    pub(crate) fn awaits_topic(&self) -> bool {
        matches!(&self.inflow, Inflow::Queue(queue) if self.halted.is_none() && !queue.is_it)
    }

    /// Takes in the id that the broker gives the topic that librdkafka reads. Returns why the partition halts if
    /// it is another one than the recorded (P18).
    pub(crate) fn learn_topic(&mut self, found: Option<TopicId>) -> Option<Halt> {
        let (topic, offset) = (self.name.topic.clone(), self.position);
        let Inflow::Queue(queue) = &mut self.inflow else {
            return None;
        };
        if self.halted.is_some() {
            return None;
        }
        if let Some(found) = found.filter(|id| TopicId::is_another(queue.recorded, Some(*id))) {
            let halt = Halt::Recreated {
                topic,
                offset,
                found,
            };
            self.halt(halt.clone());
            return Some(halt);
        }
        queue.is_it = true;
        None
    }

    /// Takes in what was said of its log in an assignment before: the recorded leader can tell; where none is recorded, it is believed.
    pub(crate) fn doubted(mut self, doubts: &Doubts) -> Self {
        let Some(text) = doubts.of(&self.name) else {
            return self;
        };
        match &mut self.inflow {
            Inflow::Queue(queue) if queue.last.leader_epoch.is_some() => queue.unproven = true,
            Inflow::Queue(_) => self.halt_out_of_range(self.position, text.to_owned()),
            Inflow::Feed(_) | Inflow::None => {}
        }
        self
    }

    /// Where librdkafka has yet to ask, and by which leader, whether the log still is what was read (P18).
    pub(crate) fn unproven(&self) -> Option<(i64, i32)> {
        match &self.inflow {
            Inflow::Queue(queue) if queue.unproven && self.halted.is_none() => {
                Some((queue.last.offset, queue.last.leader_epoch?))
            }
            _ => None,
        }
    }

    /// librdkafka asks now, and brings records only when the log is the same.
    pub(crate) fn is_being_proven(&mut self) {
        if let Inflow::Queue(queue) = &mut self.inflow {
            queue.unproven = false;
        }
    }

    /// librdkafka's statistics, for a partition that it reads.
    pub(crate) fn learn_ends(&mut self, ends: LogEnds) {
        if matches!(self.inflow, Inflow::Queue(_)) {
            self.ends = ends;
        }
    }

    /// Nothing is taken from it until the next assignment.
    pub(crate) fn halt(&mut self, halt: Halt) {
        match &mut self.inflow {
            // The queue stays: what still comes must not land in the consumer's own.
            Inflow::Queue(queue) => queue.waiting.clear(),
            Inflow::Feed(_) | Inflow::None => self.inflow = Inflow::None,
        }
        self.halted = Some(halt);
    }

    /// The broker refuses the next offset; why is asked before anybody is told.
    pub(crate) fn halt_out_of_range(&mut self, offset: i64, text: String) {
        self.halt(Halt::OutOfRange { offset, text });
        self.unexplained = Some(Unexplained::Untold);
    }

    /// Whether its log's ends are to be asked for, and how badly.
    pub(crate) fn unexplained(&self) -> Option<Unexplained> {
        self.unexplained
    }

    /// On which side of its log the next offset lies, if it is known where that begins and ends. Returns why it halted if nobody was
    /// told of the halt before.
    pub(crate) fn explain(&mut self, ends: Option<(i64, i64)>) -> Option<Halt> {
        let why = self.unexplained.take()?;
        match ends {
            Some((low, high)) => {
                self.ends = LogEnds {
                    low: Some(low),
                    stable: None,
                    high: Some(high),
                    heard: None,
                };
                let recorded = self.position;
                if recorded < low {
                    self.halted = Some(Halt::BeforeLow { recorded, low });
                } else if recorded > high {
                    self.halted = Some(Halt::BeyondHigh { recorded, high });
                }
            }
            None => self.unexplained = Some(Unexplained::Told),
        }
        if why == Unexplained::Untold {
            return self.halted.clone();
        }
        if let (Some(_), Some(halt)) = (ends, &self.halted) {
            tracing::error!(partition = %self.name, "halted: {halt}");
        }
        None
    }

    pub(crate) fn view(&self) -> PartitionView {
        PartitionView {
            partition: self.name.clone(),
            position: self.position,
            log_end: self.ends.high.map(|end| end.max(self.position)),
            stable_end: self.ends.stable.map(|end| end.max(self.position)),
            heard: self.ends.heard,
            low: self.ends.low,
            halted: self.halted.clone(),
        }
    }

    /// What is there now, up to about `max_bytes`; `None` when the position does not move.
    ///
    /// The batch starts at the position, whatever the first record's offset is, and ends behind
    /// the last record, or where the partition's end was seen (P1, P2). A record larger than
    /// `max_bytes` comes alone and whole.
    pub(crate) fn take(&mut self, taking: &mut Taking<'_>) -> Option<FetchedBatch> {
        match &self.inflow {
            _ if self.halted.is_some() => None,
            Inflow::None => None,
            Inflow::Queue(queue) if !queue.is_it => None,
            Inflow::Queue(queue) if queue.unproven => {
                self.take_errors(taking);
                None
            }
            Inflow::Queue(_) => self.take_queued(taking),
            Inflow::Feed(_) => self.take_fetched(taking),
        }
    }

    fn take_fetched(&mut self, taking: &mut Taking<'_>) -> Option<FetchedBatch> {
        let Inflow::Feed(feed) = &mut self.inflow else {
            return None;
        };
        // What lies behind the position was passed over by hand.
        let damaged = taking.damaged.get(&self.name);
        let damaged = damaged.filter(|damaged| self.position < damaged.end);
        let stop = damaged.map(|damaged| damaged.offset);
        let taken = feed.take(self.position, taking.max_bytes, stop);
        let Some(taken) = taken else {
            let unreadable = match damaged {
                Some(damaged) if feed.waits_from(damaged.offset) => {
                    let behind =
                        format!("{}; the next ones begin at {}", damaged.text, damaged.end);
                    Some((damaged.offset, behind))
                }
                _ => feed.damage().cloned(),
            };
            let (offset, text) = unreadable?;
            self.halt_unreadable(offset, text, taking.notices);
            return None;
        };
        self.position = taken.range.end();
        let packed = Arc::new(PackedBatches {
            batches: taken.batches,
            piece_bytes: taking.max_bytes,
            buffers: taking.buffers.clone(),
            memory: taking.memory.clone(),
        });
        Some(
            FetchedBatch::packed(
                self.name.clone(),
                taken.range,
                taking.generation,
                taking.now,
                (taken.records, taken.bytes),
                packed,
            )
            .written_under(taken.leader_epoch),
        )
    }

    fn halt_unreadable(&mut self, offset: i64, text: String, notices: &mut Vec<Notice>) {
        let halt = Halt::Unreadable { offset, text };
        self.halt(halt.clone());
        notices.push(Notice::Halted {
            partition: self.name.clone(),
            halt,
        });
    }

    /// What comes before librdkafka has asked is left: it comes again. But it may be why nothing will come.
    fn take_errors(&mut self, taking: &mut Taking<'_>) {
        while self.halted.is_none()
            && let Inflow::Queue(queue) = &mut self.inflow
            && let Some(message) = queue.next(taking.max_bytes)
        {
            let code = message.error();
            if let Some(code) = code.filter(|code| *code != RDKafkaErrorCode::PartitionEOF) {
                self.answer(code, &message, self.position, taking);
            }
        }
    }

    fn take_queued(&mut self, taking: &mut Taking<'_>) -> Option<FetchedBatch> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut end = self.position;
        while bytes < taking.max_bytes {
            let Inflow::Queue(queue) = &mut self.inflow else {
                break;
            };
            let Some(message) = queue.next(taking.max_bytes - bytes) else {
                break;
            };
            if let Some(code) = message.error() {
                if code == RDKafkaErrorCode::PartitionEOF {
                    // It stands in the queue behind every record below its offset and carries
                    // the assignment's version as they do, so nothing below it can still come:
                    // what was not delivered never will be (markers, aborted records) (P2).
                    // Statistics' next_offset would not do: right after an assignment it is
                    // still the former assignment's, and would skip records.
                    end = end.max(message.offset());
                    taking.settle(&self.name);
                } else if self.answer(code, &message, end, taking) {
                    break;
                }
                continue;
            }
            // Records below the position can arrive with the compressed batch that holds it.
            if message.offset() < end {
                continue;
            }
            let size = message.size();
            if !records.is_empty() && bytes + size > taking.max_bytes {
                queue.waiting.push_front(message);
                break;
            }
            bytes += size;
            end = message.offset() + 1;
            queue.last = Place {
                offset: end,
                leader_epoch: message.leader_epoch(),
            };
            records.push(message);
        }
        if let Inflow::Queue(queue) = &mut self.inflow
            && !records.is_empty()
        {
            queue.usual_size = (bytes / records.len()).max(1);
        }
        if end == self.position {
            return None;
        }
        if !records.is_empty() {
            taking.settle(&self.name);
        }
        let range = OffsetRange::new(self.position, end).expect("the end only grew");
        self.position = end;
        // Of what is not delivered nobody says who wrote it.
        let leader_epoch = match &self.inflow {
            Inflow::Queue(queue) if queue.last.offset == end => queue.last.leader_epoch,
            _ => None,
        };
        let batch = self.pack(range, &records, bytes, taking);
        Some(batch.written_under(leader_epoch))
    }

    /// Answers an error in the queue; `true`: the partition halts here.
    fn answer(
        &mut self,
        code: RDKafkaErrorCode,
        message: &Message,
        end: i64,
        taking: &mut Taking<'_>,
    ) -> bool {
        use RDKafkaErrorCode as Code;
        let offset = message.offset();
        let text = message.error_text();
        let notices = &mut *taking.notices;
        match code {
            Code::AutoOffsetReset if message.says_cut_off() => {
                let doubts = taking.doubts.as_mut();
                if doubts.is_none_or(|doubts| doubts.add(&self.name, &text)) {
                    self.halt_out_of_range(end, text);
                } else {
                    let name = &self.name;
                    notices.push(Notice::Error {
                        class: ErrorClass::Transient,
                        text: format!(
                            "the log of {name} may have been cut off ({text}); its leader is asked about the recorded offset"
                        ),
                    });
                }
                true
            }
            // Carries no assignment version: one about an offset that is already passed belongs
            // to an older assignment.
            Code::AutoOffsetReset | Code::OffsetOutOfRange if offset >= end || offset < 0 => {
                self.halt_out_of_range(end, text);
                true
            }
            Code::AutoOffsetReset | Code::OffsetOutOfRange => false,
            // librdkafka goes on behind what it cannot read; that would be a gap in silence. Every
            // other error it tries again at the same offset.
            Code::BadMessage | Code::BadCompression | Code::NotImplemented => {
                self.halt_unreadable(offset, text, notices);
                true
            }
            code => {
                notices.push(Notice::Error {
                    class: classify(code),
                    text: format!("partition {}: {text}", self.name),
                });
                false
            }
        }
    }

    fn pack(
        &self,
        range: OffsetRange,
        records: &[Message],
        bytes: usize,
        taking: &Taking<'_>,
    ) -> FetchedBatch {
        let mut builder = RawBatchBuilder::from_pool(taking.buffers, records.len(), bytes);
        for record in records {
            let headers = record.headers();
            builder.push(
                record.offset(),
                record.timestamp(),
                record.key(),
                record.value(),
                headers.iter().map(|(name, value)| (&**name, *value)),
            );
        }
        let reservation = taking.memory.reserve(builder.size());
        builder
            .finish(
                self.name.clone(),
                range,
                taking.generation,
                taking.now,
                Some(reservation),
            )
            .into()
    }
}

impl Queue {
    /// The next message; when none waits, as many as about `bytes` hold are asked for.
    fn next(&mut self, bytes: usize) -> Option<Message> {
        if self.waiting.is_empty() {
            let count = (bytes / self.usual_size).clamp(16, PartitionQueue::BATCH);
            self.queue.consume(count, &mut self.waiting);
        }
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halt_is_told_at_once_and_explained_when_the_ends_of_the_log_are_known() {
        let mut partition = Partition::new(TopicPartition::new("clicks", 0), Inflow::None, 7);
        assert_eq!(partition.unexplained(), None);
        let text = "out of range".to_owned();
        partition.halt_out_of_range(7, text.clone());
        let in_words = Halt::OutOfRange { offset: 7, text };
        assert_eq!(partition.explain(None), Some(in_words));
        assert_eq!(partition.unexplained(), Some(Unexplained::Told));
        assert_eq!(partition.explain(None), None);
        let beyond = Halt::BeyondHigh {
            recorded: 7,
            high: 4,
        };
        assert_eq!(partition.explain(Some((0, 4))), None);
        assert_eq!(partition.view().halted, Some(beyond));
        assert_eq!(partition.unexplained(), None);
        assert_eq!(partition.explain(Some((0, 9))), None);
    }
}
