//! Stretches of a log, read once more.
//!
//! Owns a client that is a member of nothing: it is told which stretches to read, joins no group, tells Kafka no progress, and
//! ends with the last stretch. Does not own what is made of the records, nor whether the log still has them: whoever
//! asks looks at the log's ends first ([`log_bounds`](crate::log_bounds)).

use std::{
    collections::BTreeMap,
    fmt, thread,
    time::{Duration, Instant},
};

use alluvium_types::{
    BufferPool, FetchedBatch, Generation, MemoryBudget, OffsetRange, Timestamp, TopicPartition,
};
use crossbeam_channel::bounded;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::{
    Broker, Halt, Recorded, SourceError, Subscription,
    inquiry::{Complaint, unanswered},
    native::PartitionQueue,
    notice::Notice,
    partition::{Partition, Taking},
};

/// How long the main queue is served when no partition has anything.
const TURN: Duration = Duration::from_millis(5);
/// How long a client may take to go.
const FAREWELL: Duration = Duration::from_secs(5);
/// Buffers that wait for their next use.
const IDLE_BUFFERS: usize = 4;

/// Reads stretches of partitions once, outside any group.
///
/// The batches of a partition chain from the start of its stretch to its end, aborted records left out (P1, P2). Nothing
/// is written to Kafka, neither offsets nor membership.
pub struct Reread {
    /// Before the consumer, which their queues were split off.
    stretches: Vec<Stretch>,
    /// Present until this value is dropped.
    consumer: Option<BaseConsumer<Complaint>>,
    broker: Broker,
    memory: MemoryBudget,
    buffers: BufferPool,
    patience: Duration,
    /// The partition whose turn it is.
    turn: usize,
}

struct Stretch {
    partition: Partition,
    end: i64,
}

impl Stretch {
    fn is_over(&self) -> bool {
        self.partition.position() >= self.end
    }
}

impl fmt::Debug for Reread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.stretches.iter().filter(|stretch| !stretch.is_over());
        f.debug_struct("Reread")
            .field("left", &left.count())
            .finish_non_exhaustive()
    }
}

impl Reread {
    /// Begins to read `stretches`; empty ones are passed over. Of `subscription` the memory and the properties are
    /// taken; its group is named to the broker, whose rights may ask for that, and never joined. `patience` is how
    /// long nothing may come before that is an error.
    ///
    /// # Errors
    /// [`SourceError::Property`] or [`SourceError::Client`] when the configuration is refused.
    pub fn begin(
        broker: &Broker,
        subscription: Subscription,
        stretches: &BTreeMap<TopicPartition, OffsetRange>,
        patience: Duration,
    ) -> Result<Self, SourceError> {
        let (broker, memory) = (broker.clone(), subscription.memory.clone());
        let subscription = Subscription {
            instance: None,
            ..subscription
        };
        let context = Complaint::new(&broker);
        let consumer: BaseConsumer<Complaint> =
            broker.create(&subscription.config(&broker)?, context)?;
        let mut reread = Self {
            stretches: Vec::with_capacity(stretches.len()),
            consumer: Some(consumer),
            broker,
            memory,
            buffers: BufferPool::new(IDLE_BUFFERS),
            patience,
            turn: 0,
        };
        reread.assign(stretches)?;
        Ok(reread)
    }

    fn assign(
        &mut self,
        stretches: &BTreeMap<TopicPartition, OffsetRange>,
    ) -> Result<(), SourceError> {
        let consumer = self
            .consumer
            .as_ref()
            .expect("present until this value is dropped");
        let refused = |cause| SourceError::Client {
            brokers: self.broker.brokers.clone(),
            cause,
        };
        let mut list = TopicPartitionList::with_capacity(stretches.len());
        for (name, range) in stretches.iter().filter(|(_, range)| !range.is_empty()) {
            let start = Recorded::at(range.start());
            // Queues come first: from the assignment on records arrive, and none may reach the consumer's own.
            let queue = PartitionQueue::split(consumer, name).ok_or_else(|| {
                let what = format!("partition {name} has no queue of its own");
                refused(KafkaError::Subscription(what))
            })?;
            list.add_partition_offset(&name.topic, name.partition, Offset::Offset(range.start()))
                .map_err(refused)?;
            self.stretches.push(Stretch {
                partition: Partition::queued(name.clone(), queue, start),
                end: range.end(),
            });
        }
        consumer.assign(&list).map_err(refused)
    }

    /// What one partition has, in turn: about `max_bytes` at most, waited for. `None`: every stretch was read to its end.
    ///
    /// # Errors
    /// [`SourceError::Gone`] when the log has lost an offset of a stretch, [`SourceError::Unreadable`] when its bytes cannot
    /// be read, [`SourceError::Unanswered`] when nothing came for too long, and others that the client cannot go on from.
    pub fn next(&mut self, max_bytes: usize) -> Result<Option<FetchedBatch>, SourceError> {
        let since = Instant::now();
        // Also where records never run out: tokens grow old.
        self.serve(Duration::ZERO)?;
        loop {
            let Some(waited_for) = self.stretches.iter().find(|stretch| !stretch.is_over()) else {
                return Ok(None);
            };
            if since.elapsed() >= self.patience {
                let Partition { name, .. } = &waited_for.partition;
                let question = format!(
                    "the records of {name} from offset {} on",
                    waited_for.partition.position()
                );
                let cause = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                return Err(unanswered(&self.broker, self.consumer(), question, cause));
            }
            if let Some(batch) = self.take(max_bytes)? {
                return Ok(Some(batch));
            }
            self.serve(TURN)?;
        }
    }

    fn consumer(&self) -> &BaseConsumer<Complaint> {
        self.consumer
            .as_ref()
            .expect("present until this value is dropped")
    }

    fn take(&mut self, max_bytes: usize) -> Result<Option<FetchedBatch>, SourceError> {
        let damaged = BTreeMap::new();
        let mut notices = Vec::new();
        let count = self.stretches.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            let stretch = &mut self.stretches[at];
            if stretch.is_over() {
                continue;
            }
            let mut taking = Taking {
                max_bytes: max_bytes.max(1),
                // When it came says nothing about an event of the past.
                now: Timestamp::default(),
                generation: Generation::default(),
                memory: &self.memory,
                buffers: &self.buffers,
                damaged: &damaged,
                notices: &mut notices,
                doubts: None,
            };
            let taken = stretch.partition.take(&mut taking);
            if let Some(batch) = taken {
                self.turn = at + 1;
                let (batch, _beyond) = batch.cut(stretch.end);
                if stretch.is_over() {
                    self.rest(at);
                }
                return Ok(Some(batch));
            }
            if let Some(halt) = stretch.partition.halted() {
                return Err(stopped(&stretch.partition.name, halt.clone()));
            }
        }
        for notice in notices {
            if let Notice::Error { text, .. } = notice {
                tracing::debug!("while reading again: {text}");
            }
        }
        Ok(None)
    }

    /// Nothing more is fetched from a partition whose stretch is over.
    fn rest(&self, at: usize) {
        let name = &self.stretches[at].partition.name;
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&name.topic, name.partition);
        if let Err(cause) = self.consumer().pause(&list) {
            tracing::debug!(partition = %name, %cause, "records beyond the stretch are fetched in vain");
        }
    }

    /// Serves the client's main queue: errors, tokens. Waits for an event no longer than `timeout`.
    fn serve(&self, timeout: Duration) -> Result<(), SourceError> {
        let consumer = self.consumer();
        match consumer.poll(timeout) {
            Some(Ok(record)) => Err(SourceError::Stray {
                partition: TopicPartition::new(record.topic(), record.partition()),
                offset: record.offset(),
            }),
            // The reason was noted by the context, with more words than the code has.
            Some(Err(_)) => match consumer.client().fatal_error() {
                Some((_, reason)) => Err(SourceError::Fatal { reason }),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }
}

/// Why a stretch cannot be read to its end.
fn stopped(partition: &TopicPartition, halt: Halt) -> SourceError {
    let partition = partition.clone();
    match halt {
        Halt::OutOfRange { offset, text } => SourceError::Gone {
            partition,
            offset,
            text,
        },
        Halt::Unreadable { offset, text } => SourceError::Unreadable {
            partition,
            offset,
            text,
        },
        halt => unreachable!("a queue of librdkafka does not stop by itself because {halt}"),
    }
}

impl Drop for Reread {
    /// Destroys the client on a thread of its own: librdkafka may wait for a broker for ever.
    fn drop(&mut self) {
        self.stretches.clear();
        let Some(consumer) = self.consumer.take() else {
            return;
        };
        let (done, ended) = bounded(1);
        let farewell = thread::Builder::new()
            .name("kafka-farewell".to_owned())
            .spawn(move || {
                drop(consumer);
                // Nobody listens after the deadline; then there is nobody to tell.
                let _ = done.send(());
            });
        if farewell.is_err() || ended.recv_timeout(FAREWELL).is_err() {
            tracing::debug!("a Kafka client did not end in time");
        }
    }
}
