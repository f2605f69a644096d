//! A member of a consumer group that hands out what its partitions hold.
//!
//! Owns the consumer, and with it the group's protocol, the round robin over partitions, and the
//! farewell. The bytes come from librdkafka's queues or from our own requests ([`direct`](crate::direct)).
//! Does not own progress, nor the decision when to stop taking.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use alluvium_types::{
    AssignmentGeneration, BufferPool, Damaged, ErrorClass, FetchedBatch, Generation, MemoryBudget,
    Timestamp, TopicPartition,
};
use crossbeam_channel::bounded;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::RDKafkaErrorCode,
};

use crate::{
    Assignments, Broker, Halt, Notice, PartitionView, SourceError, Subscription,
    assignment::Context,
    direct::Fetcher,
    inquiry::broker_of,
    native::{TopicQuestion, set_last_leader_epoch},
    partition::Taking,
    state::State,
};

/// How long a dropped drain may take to leave its group.
const FAREWELL: Duration = Duration::from_secs(10);

/// How often Kafka is told about progress at most. librdkafka answers nobody about these commits, so
/// only time can tell whether one is still on its way.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How long the log's ends are asked for when a partition halts, and whom to ask for the ids of topics.
const ASK_ENDS: Duration = Duration::from_millis(250);

/// How long a broker may take to tell the ids of topics. Nobody waits for it.
const ASK_TOPICS: Duration = Duration::from_secs(5);

/// Buffers that wait for their next use: about as many responses as are between brokers, intake and workers, ...
const IDLE_RESPONSES: usize = 8;
/// ... and as many raw batches as workers hold.
const IDLE_BUFFERS: usize = 12;

/// A member of a consumer group that starts where it is told and never skips in silence.
///
/// One thread owns it and calls [`serve`](Self::serve) and [`take`](Self::take) in turn: records
/// must not be consumed beside a rebalance.
pub struct KafkaDrain {
    /// Present until the drain is closed.
    consumer: Option<BaseConsumer<Context>>,
    memory: MemoryBudget,
    buffers: BufferPool,
    /// Present when our own requests bring the bytes.
    fetcher: Option<Fetcher>,
    /// Where bytes begin that a worker could not unpack.
    damaged: BTreeMap<TopicPartition, Damaged>,
    paused: bool,
    /// The partition whose turn it is.
    turn: usize,
    /// The newest progress that Kafka has not been told.
    untold: BTreeMap<TopicPartition, i64>,
    told_at: Option<Instant>,
    fenced: bool,
}

impl fmt::Debug for KafkaDrain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaDrain")
            .field("paused", &self.paused)
            .field("fenced", &self.fenced)
            .field("partitions", &self.partitions())
            .finish_non_exhaustive()
    }
}

impl KafkaDrain {
    /// Joins the group. Returns at once, also when no broker is reachable: partitions come later,
    /// with [`Notice::Assigned`].
    ///
    /// # Errors
    /// [`SourceError::Property`] or [`SourceError::Client`] when the configuration is refused,
    /// [`SourceError::Subscribe`] when the topics are.
    pub fn subscribe(
        broker: &Broker,
        subscription: Subscription,
        generation: AssignmentGeneration,
        assignments: Arc<dyn Assignments>,
    ) -> Result<Self, SourceError> {
        let config = subscription.config(broker)?;
        let patience = Subscription::patience(&config)?;
        let direct = subscription.direct(broker)?;
        let buffers = BufferPool::new(IDLE_BUFFERS);
        let fetcher = direct
            .clone()
            .map(|settings| {
                // Responses and raw batches differ in size: in one pool the many would push out the large.
                let responses = BufferPool::new(IDLE_RESPONSES);
                Fetcher::new(settings, responses, subscription.memory.clone())
            })
            .transpose()
            .map_err(SourceError::Sockets)?;
        let context = Context::new(generation, assignments, patience, direct, broker.tokens());
        let consumer: BaseConsumer<Context> = broker.create(&config, context)?;
        let topics: Vec<&str> = subscription.topics.iter().map(|topic| &**topic).collect();
        let subscribed = consumer.subscribe(&topics);
        let drain = Self {
            consumer: Some(consumer),
            memory: subscription.memory,
            buffers,
            fetcher,
            damaged: BTreeMap::new(),
            paused: false,
            turn: 0,
            untold: BTreeMap::new(),
            told_at: None,
            fenced: false,
        };
        match subscribed {
            Ok(()) => Ok(drain),
            Err(cause) => Err(SourceError::Subscribe {
                topics: topics.join(", "),
                cause,
            }),
        }
    }

    /// Serves the consumer's main queue once: rebalances, errors, statistics.
    ///
    /// Call it often, also while paused: the group's protocol runs inside, and the partitions'
    /// queues do not serve it. It waits for an event no longer than `timeout`; a rebalance takes
    /// as long as [`Assignments`] does, and asking where the log of a partition begins and ends that
    /// halts may cost a quarter of a second, now and then also later.
    ///
    /// # Errors
    /// [`SourceError::Fatal`] when the client has given up, [`SourceError::Stray`] when a record
    /// came past its queue. Neither can be served on.
    pub fn serve(&mut self, timeout: Duration) -> Result<Vec<Notice>, SourceError> {
        let consumer = self.consumer();
        consumer.context().assign_unstarted(consumer);
        let patience = match self.fetcher {
            // Our own sockets are waited for below.
            Some(_) => Duration::ZERO,
            None => timeout,
        };
        let fatal = match consumer.poll(patience) {
            None => None,
            // The reason was noted by the context, with more words than the code has.
            Some(Err(_)) => consumer.client().fatal_error(),
            Some(Ok(record)) => {
                return Err(SourceError::Stray {
                    partition: TopicPartition::new(record.topic(), record.partition()),
                    offset: record.offset(),
                });
            }
        };
        if std::mem::take(&mut consumer.context().state().doubts.is_new) {
            consumer.context().assign_afresh(consumer);
        }
        prove_starts(consumer);
        explain_a_halt(consumer);
        watch_topics(consumer);
        match fatal {
            Some((RDKafkaErrorCode::FencedInstanceId, reason)) if !self.fenced => {
                self.fenced = true;
                self.consumer().context().give_up();
                self.state().notices.push(Notice::Fenced(reason));
            }
            Some((RDKafkaErrorCode::FencedInstanceId, _)) | None => {}
            Some((_, reason)) => return Err(SourceError::Fatal { reason }),
        }
        self.tell_when_due();
        let Self {
            consumer,
            fetcher,
            damaged,
            ..
        } = self;
        let consumer = consumer
            .as_ref()
            .expect("present until the drain is closed");
        let mut state = consumer.context().state();
        if let Some(fetcher) = fetcher {
            let timeout = if state.notices.is_empty() {
                timeout
            } else {
                Duration::ZERO
            };
            fetcher
                .turn(&mut state, timeout)
                .map_err(SourceError::Sockets)?;
        }
        let notices = std::mem::take(&mut state.notices);
        let is_assigned = |notice: &Notice| matches!(notice, Notice::Assigned { .. });
        if notices.iter().any(is_assigned) {
            // Behind what could not be unpacked a partition only gets by hand: from then on nothing halts in front of it.
            for view in state.partitions.iter().map(|partition| partition.view()) {
                if let Entry::Occupied(mark) = damaged.entry(view.partition)
                    && mark.get().end <= view.position
                {
                    mark.remove();
                }
            }
        }
        Ok(notices)
    }

    /// Takes what one partition has, in turn: about `max_bytes` at most, in one contiguous buffer.
    /// `None` when nothing is there, or while paused.
    ///
    /// A partition's batches chain: each starts where the one before ended, the first at the
    /// recorded offset. A batch without records passes offsets that hold none (P2). One record
    /// larger than `max_bytes` comes alone and whole. `now` stamps the batch.
    pub fn take(&mut self, max_bytes: usize, now: Timestamp) -> Option<FetchedBatch> {
        if self.paused {
            return None;
        }
        let consumer = self.consumer();
        let mut state = consumer.context().state();
        let State {
            generation,
            partitions,
            notices,
            doubts,
            ..
        } = &mut *state;
        let mut taking = Taking {
            max_bytes: max_bytes.max(1),
            now,
            generation: *generation,
            memory: &self.memory,
            buffers: &self.buffers,
            damaged: &self.damaged,
            notices,
            doubts: Some(doubts),
        };
        let count = partitions.len();
        let taken = (0..count).find_map(|step| {
            let at = (self.turn + step) % count;
            Some((at, partitions[at].take(&mut taking)?))
        });
        drop(state);
        let (at, batch) = taken?;
        self.turn = at + 1;
        Some(batch)
    }

    /// Takes nothing until [`resume`](Self::resume).
    ///
    /// It costs nothing and loses nothing: librdkafka goes on fetching until its queues hold
    /// `queue_bytes`, keeps them, and then rests. Its own pause is not used, because it throws
    /// away what is prefetched and goes on from librdkafka's position, which errors and partition
    /// ends move too far. [`serve`](Self::serve) must be called as ever.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Takes again. What was prefetched is there at once; fetching starts again within
    /// `fetch.queue.backoff.ms` (20 ms).
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Whether it holds still.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The generation that batches taken now carry.
    pub fn generation(&self) -> Generation {
        self.state().generation
    }

    /// Where every partition of the assignment stands.
    pub fn partitions(&self) -> Vec<PartitionView> {
        self.state()
            .partitions
            .iter()
            .map(|partition| partition.view())
            .collect()
    }

    /// A worker could not unpack what was fetched there: from now on the partition halts in front of it (P18). Batches
    /// that lie behind may be on their way already, so [`assign_afresh`](Self::assign_afresh) has to follow.
    pub fn mark_damaged(&mut self, partition: &TopicPartition, damaged: Damaged) {
        let first = self.damaged.entry(partition.clone());
        let first = first.or_insert_with(|| damaged.clone());
        if damaged.offset < first.offset {
            *first = damaged;
        }
    }

    /// Whether [`serve`](Self::serve) returns as soon as there is something to [`take`](Self::take). librdkafka's partition
    /// queues do not wake anybody who waits for its main queue.
    pub fn wakes(&self) -> bool {
        self.fetcher.is_some()
    }

    /// Who brings the bytes: `direct` or `portable`.
    pub fn kind(&self) -> &'static str {
        match self.fetcher {
            Some(_) => "direct",
            None => "portable",
        }
    }

    /// Takes nothing from `partition` until the next assignment (P18). Without effect on a
    /// partition that is not assigned or has halted already.
    pub fn halt(&mut self, partition: &TopicPartition, reason: Halt) {
        let mut state = self.state();
        let State {
            partitions,
            notices,
            ..
        } = &mut *state;
        let found = partitions
            .iter_mut()
            .find(|held| held.name == *partition && held.halted().is_none());
        if let Some(held) = found {
            held.halt(reason.clone());
            notices.push(Notice::Halted {
                partition: partition.clone(),
                halt: reason,
            });
        }
    }

    /// Drops everything in flight and assigns the same partitions from the recorded offsets again,
    /// under a new generation: the answer to *overtaken* (P7). Blocks as a rebalance does.
    pub fn assign_afresh(&mut self) {
        let consumer = self.consumer();
        consumer.context().assign_afresh(consumer);
    }

    /// Tells Kafka how far the table is, for lag graphs (P14). A courtesy: it never blocks, only
    /// the newest figures are sent, once a second at most and once more at the end, and a refusal
    /// is logged by librdkafka and forgotten.
    pub fn tell_progress(&mut self, offsets: &BTreeMap<TopicPartition, i64>) {
        self.untold.extend(
            offsets
                .iter()
                .map(|(partition, offset)| (partition.clone(), *offset)),
        );
        self.tell_when_due();
    }

    /// Leaves the group, or at least stops, within `deadline`. Commits must be done by then:
    /// [`Assignments`] is not asked any more. A static member stays in the group's books until its
    /// session times out (P29).
    ///
    /// # Errors
    /// [`SourceError::NotClosed`] when librdkafka hangs: end the process without waiting for it.
    pub fn close(mut self, deadline: Duration) -> Result<(), SourceError> {
        self.tell();
        match self.consumer.take() {
            Some(consumer) => close(consumer, deadline),
            None => Ok(()),
        }
    }

    fn consumer(&self) -> &BaseConsumer<Context> {
        self.consumer
            .as_ref()
            .expect("present until the drain is closed")
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.consumer().context().state()
    }

    fn tell_when_due(&mut self) {
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            self.tell();
        }
    }

    fn tell(&mut self) {
        // What belongs to partitions that moved away is for their new owner to tell.
        let untold = std::mem::take(&mut self.untold);
        let mut list = TopicPartitionList::new();
        for held in &self.state().partitions {
            let Some(&offset) = untold.get(&held.name) else {
                continue;
            };
            let (topic, number) = (&held.name.topic, held.name.partition);
            if let Err(cause) = list.add_partition_offset(topic, number, Offset::Offset(offset)) {
                tracing::warn!(partition = %held.name, offset, %cause, "not an offset for Kafka");
            }
        }
        if list.count() == 0 {
            return;
        }
        self.told_at = Some(Instant::now());
        if let Err(cause) = self.consumer().commit(&list, CommitMode::Async) {
            tracing::debug!(%cause, "Kafka could not be told about progress");
        }
    }
}

impl Drop for KafkaDrain {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take()
            && let Err(cause) = close(consumer, FAREWELL)
        {
            tracing::warn!(%cause, "a dropped Kafka client did not end");
        }
    }
}

/// Destroys the consumer on a thread of its own: librdkafka may wait for a broker for ever.
fn close(consumer: BaseConsumer<Context>, deadline: Duration) -> Result<(), SourceError> {
    consumer.context().begin_closing();
    let (done, ended) = bounded(1);
    thread::Builder::new()
        .name("kafka-farewell".to_owned())
        .spawn(move || {
            drop(consumer);
            // Nobody listens after the deadline; then there is nobody to tell.
            let _ = done.send(());
        })
        .map_err(SourceError::Thread)?;
    ended
        .recv_timeout(deadline)
        .map_err(|_| SourceError::NotClosed { deadline })
}

/// Asks whether topics that librdkafka reads are still those whose offsets are recorded. Our own
/// requests see it by themselves. Waits no longer than it takes to learn whom to ask.
fn watch_topics(consumer: &BaseConsumer<Context>) {
    let (now, context) = (Instant::now(), consumer.context());
    let asked = context.state().watch.question.take();
    if let Some(question) = asked {
        match question.answer(Duration::ZERO) {
            Some(Ok(ids)) => context.state().watched(&ids, now),
            Some(Err(cause)) => context.state().unwatchable(&cause, now),
            None => context.state().watch.question = Some(question),
        }
    }
    let topics = context.state().unwatched(now);
    if topics.is_empty() {
        return;
    }
    let client = consumer.client();
    let asked = broker_of(client, &topics, ASK_ENDS)
        .and_then(|broker| TopicQuestion::ask(client, broker, &topics, ASK_TOPICS));
    match asked {
        Ok(question) => context.state().watch.question = Some(question),
        Err(cause) => context.state().unwatchable(&cause, now),
    }
}

/// Sends librdkafka back to the starts of partitions whose logs it took for cut off, with the leaders under whom the records before were
/// written: then it asks whether these are still there before it reads, and says so if not. Waits for the order to be taken, not for the
/// answers.
fn prove_starts(consumer: &BaseConsumer<Context>) {
    let now = Instant::now();
    let unproven = consumer.context().state().unproven(now);
    if unproven.is_empty() {
        return;
    }
    let mut list = TopicPartitionList::with_capacity(unproven.len());
    let sought = unproven
        .iter()
        .try_for_each(|(name, (offset, epoch))| {
            list.add_partition_offset(&name.topic, name.partition, Offset::Offset(*offset))?;
            set_last_leader_epoch(&mut list, *epoch);
            Ok(())
        })
        .and_then(|()| consumer.seek_partitions(list, ASK_ENDS));
    let mut state = consumer.context().state();
    // What is refused stays as it is: most often it has not begun to read there.
    state.doubts.ask_again_at = Some(now + ASK_ENDS);
    match sought {
        Ok(list) => {
            let taken = list.elements();
            let taken = taken.iter().filter(|one| one.error().is_ok());
            let names: Vec<TopicPartition> = taken
                .map(|one| TopicPartition::new(one.topic(), one.partition()))
                .collect();
            state.prove(&names);
        }
        Err(cause) => state.notices.push(Notice::Error {
            class: ErrorClass::Transient,
            text: format!("could not ask leaders about recorded offsets: {cause}"),
        }),
    }
}

/// Finds out for one halted partition on which side of its log the offset lies.
fn explain_a_halt(consumer: &BaseConsumer<Context>) {
    let Some(partition) = consumer.context().state().unexplained(Instant::now()) else {
        return;
    };
    let ends = consumer
        .client()
        .fetch_watermarks(&partition.topic, partition.partition, ASK_ENDS);
    let now = Instant::now();
    consumer
        .context()
        .state()
        .explain(&partition, ends.ok(), now);
}

#[cfg(test)]
mod tests;
