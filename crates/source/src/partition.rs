//! One assigned partition: its queue, its position, and the batches cut from it.
//!
//! Owns the position, the only one that counts: librdkafka's own is never read. Does not own the
//! assignment, nor what a halt leads to.

use std::collections::VecDeque;

use alluvium_types::{
    Generation, MemoryBudget, OffsetRange, RawBatch, RawBatchBuilder, Timestamp, TopicPartition,
};
use rdkafka::error::RDKafkaErrorCode;

use crate::{
    Halt, Notice,
    error::classify,
    native::{Message, PartitionQueue},
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
}

/// What a take is made of besides the partition itself.
pub(crate) struct Taking<'a> {
    pub(crate) max_bytes: usize,
    pub(crate) now: Timestamp,
    pub(crate) generation: Generation,
    pub(crate) memory: &'a MemoryBudget,
    pub(crate) notices: &'a mut Vec<Notice>,
}

/// A partition of the current assignment.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) name: TopicPartition,
    /// Absent for a partition that nobody recorded a start for.
    queue: Option<PartitionQueue>,
    /// Consumed from the queue, not yet handed out. Never more than one call brings.
    waiting: VecDeque<Message>,
    position: i64,
    pub(crate) ends: LogEnds,
    halted: Option<Halt>,
    /// It halted out of range, and nobody was told yet: first the log's ends are asked for.
    unexplained: bool,
    /// Bytes of a record, as seen lately; how many to ask for follows from it.
    usual_size: usize,
}

impl Partition {
    pub(crate) fn starting_at(name: TopicPartition, queue: PartitionQueue, start: i64) -> Self {
        Self {
            name,
            queue: Some(queue),
            waiting: VecDeque::new(),
            position: start,
            ends: LogEnds::default(),
            halted: None,
            unexplained: false,
            usual_size: 512,
        }
    }

    pub(crate) fn unrecorded(name: TopicPartition) -> Self {
        Self {
            name,
            queue: None,
            waiting: VecDeque::new(),
            position: 0,
            ends: LogEnds::default(),
            halted: Some(Halt::Unrecorded),
            unexplained: false,
            usual_size: 512,
        }
    }

    pub(crate) fn position(&self) -> i64 {
        self.position
    }

    pub(crate) fn halted(&self) -> Option<&Halt> {
        self.halted.as_ref()
    }

    /// Nothing is taken from it until the next assignment.
    pub(crate) fn halt(&mut self, halt: Halt) {
        self.waiting.clear();
        self.halted = Some(halt);
    }

    pub(crate) fn is_unexplained(&self) -> bool {
        self.unexplained
    }

    /// Ends the wait for an explanation; returns why it halted if it had waited for one.
    pub(crate) fn explain(&mut self, better: Option<Halt>) -> Option<Halt> {
        if !std::mem::take(&mut self.unexplained) {
            return None;
        }
        if better.is_some() {
            self.halted = better;
        }
        self.halted.clone()
    }

    pub(crate) fn view(&self) -> PartitionView {
        PartitionView {
            partition: self.name.clone(),
            position: self.position,
            log_end: self.ends.high.map(|end| end.max(self.position)),
            stable_end: self.ends.stable.map(|end| end.max(self.position)),
            low: self.ends.low,
            halted: self.halted.clone(),
        }
    }

    /// What the queue holds now, up to about `max_bytes`; `None` when the position does not move.
    ///
    /// The batch starts at the position, whatever the first record's offset is, and ends behind
    /// the last record, or where the partition's end was seen (P1, P2). A record larger than
    /// `max_bytes` comes alone and whole.
    pub(crate) fn take(&mut self, taking: &mut Taking<'_>) -> Option<RawBatch> {
        if self.halted.is_some() {
            return None;
        }
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut end = self.position;
        while bytes < taking.max_bytes {
            let Some(message) = self.waiting.pop_front() else {
                if self.refill(taking.max_bytes - bytes) == 0 {
                    break;
                }
                continue;
            };
            if let Some(code) = message.error() {
                if code == RDKafkaErrorCode::PartitionEOF {
                    // It stands in the queue behind every record below its offset and carries
                    // the assignment's version as they do, so nothing below it can still come:
                    // what was not delivered never will be (markers, aborted records) (P2).
                    // Statistics' next_offset would not do: right after an assignment it is
                    // still the former assignment's, and would skip records.
                    end = end.max(message.offset());
                } else if self.answer(code, &message, end, taking.notices) {
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
                self.waiting.push_front(message);
                break;
            }
            bytes += size;
            end = message.offset() + 1;
            records.push(message);
        }
        if !records.is_empty() {
            self.usual_size = (bytes / records.len()).max(1);
        }
        if end == self.position {
            return None;
        }
        let range = OffsetRange::new(self.position, end).expect("the end only grew");
        self.position = end;
        Some(self.pack(range, &records, bytes, taking))
    }

    fn refill(&mut self, bytes: usize) -> usize {
        let Some(queue) = &self.queue else {
            return 0;
        };
        let count = (bytes / self.usual_size).clamp(16, PartitionQueue::BATCH);
        queue.consume(count, &mut self.waiting)
    }

    /// Answers an error in the queue; `true`: the partition halts here.
    fn answer(
        &mut self,
        code: RDKafkaErrorCode,
        message: &Message,
        end: i64,
        notices: &mut Vec<Notice>,
    ) -> bool {
        use RDKafkaErrorCode as Code;
        let offset = message.offset();
        let text = message.error_text();
        let halt = match code {
            // Carries no assignment version: one about an offset that is already passed belongs
            // to an older assignment.
            Code::AutoOffsetReset | Code::OffsetOutOfRange if offset >= end || offset < 0 => {
                self.halt(Halt::OutOfRange { offset: end, text });
                self.unexplained = true;
                return true;
            }
            Code::AutoOffsetReset | Code::OffsetOutOfRange => return false,
            // librdkafka goes on behind what it cannot read; that would be a gap in silence. Every
            // other error it tries again at the same offset.
            Code::BadMessage | Code::BadCompression | Code::NotImplemented => {
                Halt::Unreadable { offset, text }
            }
            code => {
                notices.push(Notice::Error {
                    class: classify(code),
                    text: format!("partition {}: {text}", self.name),
                });
                return false;
            }
        };
        self.halt(halt.clone());
        notices.push(Notice::Halted {
            partition: self.name.clone(),
            halt,
        });
        true
    }

    fn pack(
        &self,
        range: OffsetRange,
        records: &[Message],
        bytes: usize,
        taking: &Taking<'_>,
    ) -> RawBatch {
        let mut builder = RawBatchBuilder::with_capacity(records.len(), bytes);
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
        builder.finish(
            self.name.clone(),
            range,
            taking.generation,
            taking.now,
            Some(reservation),
        )
    }
}
