//! What happens inside a rebalance, on the thread that polls.
//!
//! Owns the order of steps when partitions come and go (P17, P27), and what librdkafka tells on
//! the side: statistics, errors, log lines. Does not own the records: they never pass here.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alluvium_types::{AssignmentGeneration, ErrorClass, Generation, TopicId, TopicPartition};
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    statistics::Broker,
    types::RDKafkaRespErr,
};

use crate::{
    direct::{feed::Feed, settings::Settings},
    error::classify,
    native::PartitionQueue,
    notice::Notice,
    partition::{LogEnds, Partition},
    state::{State, Unstarted},
    token::{Tokens, generate},
};

/// What is recorded of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The next offset to read.
    pub offset: i64,
    /// Which topic of its name the offset belongs to; `None`: that was not known when it was recorded.
    pub topic: Option<TopicId>,
    /// Under which leader of the partition the record before the offset was written. The broker tells by it whether the log was cut off
    /// before the offset since, also when it has grown beyond it again (P18). `None`: that is not known.
    pub leader_epoch: Option<i32>,
}

impl Recorded {
    /// An offset of which nothing else is known.
    pub fn at(offset: i64) -> Self {
        Self {
            offset,
            topic: None,
            leader_epoch: None,
        }
    }
}

/// What the drain asks while it holds the poll thread inside a rebalance (P17, P27).
///
/// Both calls block the consumer group: they return by the deadline.
pub trait Assignments: Send + Sync + 'static {
    /// Everything of the former assignment is stale: called on revocation, on loss, and before
    /// each new assignment, after the generation has advanced. Returns when commits in flight have
    /// acknowledged or the deadline has passed. Not called while the drain closes.
    fn revoked(&self, deadline: Instant);

    /// The recorded next offsets of these partitions, and whose they are. A partition left out halts as
    /// [`Halt::Unrecorded`](crate::Halt::Unrecorded). `None`: they cannot be read in time; then nothing is assigned, and
    /// [`serve`](crate::KafkaDrain::serve) asks again.
    fn starts(
        &self,
        partitions: &[TopicPartition],
        deadline: Instant,
    ) -> Option<BTreeMap<TopicPartition, Recorded>>;
}

/// The consumer's context: answers rebalances.
pub(crate) struct Context {
    state: Mutex<State>,
    generation: AssignmentGeneration,
    assignments: Arc<dyn Assignments>,
    patience: Duration,
    /// Present when our own requests read the partitions; librdkafka's then stand still.
    direct: Option<Settings>,
    tokens: Option<Tokens>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("state", &self.state)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// How long to wait before asking for starts again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

impl Context {
    pub(crate) fn new(
        generation: AssignmentGeneration,
        assignments: Arc<dyn Assignments>,
        patience: Duration,
        direct: Option<Settings>,
        tokens: Option<Tokens>,
    ) -> Self {
        Self {
            state: Mutex::default(),
            generation,
            assignments,
            patience,
            direct,
            tokens,
        }
    }

    /// The shared state. Never held while librdkafka or [`Assignments`] is called.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back every queue and message, so that the consumer can be destroyed; later callbacks
    /// only complete the group's protocol.
    pub(crate) fn begin_closing(&self) {
        self.generation.advance();
        let mut state = self.state();
        state.closing = true;
        state.unstarted = None;
        state.clear();
    }

    /// Asks again for starts that could not be read inside the rebalance (P17).
    pub(crate) fn assign_unstarted(&self, consumer: &BaseConsumer<Self>) {
        let unstarted = {
            let mut state = self.state();
            let due = state
                .unstarted
                .as_ref()
                .is_some_and(|unstarted| Instant::now() >= unstarted.again_at);
            if !due {
                return;
            }
            state.unstarted.take()
        };
        if let Some(unstarted) = unstarted {
            let deadline = Instant::now() + self.patience;
            self.start(
                consumer,
                unstarted.generation,
                unstarted.partitions,
                deadline,
            );
        }
    }

    /// Assigns what is assigned once more, from the recorded offsets (P7).
    pub(crate) fn assign_afresh(&self, consumer: &BaseConsumer<Self>) {
        let partitions = {
            let mut state = self.state();
            match state.unstarted.take() {
                Some(unstarted) => unstarted.partitions,
                None => state
                    .partitions
                    .iter()
                    .map(|partition| partition.name.clone())
                    .collect(),
            }
        };
        let (generation, deadline) = self.take_all_back();
        self.start(consumer, generation, partitions, deadline);
    }

    /// Makes everything stale when the group has shut this member out.
    pub(crate) fn give_up(&self) {
        let generation = self.generation.advance();
        let mut state = self.state();
        state.generation = generation;
        state.unstarted = None;
        state.clear();
    }

    fn take_all_back(&self) -> (Generation, Instant) {
        // First the generation, so that nothing of the former assignment goes on meanwhile (P27).
        let generation = self.generation.advance();
        let deadline = Instant::now() + self.patience;
        let closing = {
            let mut state = self.state();
            state.generation = generation;
            state.unstarted = None;
            state.clear();
            state.closing
        };
        if !closing {
            self.assignments.revoked(deadline);
        }
        (generation, deadline)
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, given: &TopicPartitionList) {
        let (generation, deadline) = self.take_all_back();
        let partitions = given
            .elements()
            .iter()
            .map(|element| TopicPartition::new(element.topic(), element.partition()))
            .collect();
        if self.state().closing {
            self.assign_nothing(consumer);
            return;
        }
        self.start(consumer, generation, partitions, deadline);
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>) {
        self.take_all_back();
        if let Err(cause) = consumer.unassign() {
            self.complain(
                ErrorClass::Transient,
                format!("could not unassign: {cause}"),
            );
        }
        self.state().notices.push(Notice::Revoked);
    }

    /// Assigns the partitions where the table says, or leaves them for later.
    fn start(
        &self,
        consumer: &BaseConsumer<Self>,
        generation: Generation,
        partitions: Vec<TopicPartition>,
        deadline: Instant,
    ) {
        let starts = if partitions.is_empty() {
            Some(BTreeMap::new())
        } else {
            self.assignments.starts(&partitions, deadline)
        };
        let Some(starts) = starts else {
            self.assign_nothing(consumer);
            self.leave_for_later(generation, partitions);
            return;
        };
        let placed = match &self.direct {
            None => split(consumer, &partitions, &starts),
            Some(settings) => feeds(settings, &partitions, &starts),
        };
        match placed {
            Ok((held, list)) => match self.assign(consumer, &list) {
                Ok(()) => self.install(generation, partitions, held),
                Err(cause) => {
                    self.complain(
                        ErrorClass::Transient,
                        format!("could not assign partitions: {cause}"),
                    );
                    self.leave_for_later(generation, partitions);
                }
            },
            Err(cause) => {
                self.complain(
                    ErrorClass::Bug,
                    format!("could not assign partitions: {cause}"),
                );
                self.assign_nothing(consumer);
                self.leave_for_later(generation, partitions);
            }
        }
    }

    fn install(
        &self,
        generation: Generation,
        partitions: Vec<TopicPartition>,
        held: Vec<Partition>,
    ) {
        let mut state = self.state();
        let halts: Vec<_> = held
            .iter()
            .filter_map(|partition| {
                Some(Notice::Halted {
                    partition: partition.name.clone(),
                    halt: partition.halted()?.clone(),
                })
            })
            .collect();
        state.generation = generation;
        state.clear();
        state.doubts.retain(&partitions);
        state.doubts.ask_again_at = None;
        state.partitions = held
            .into_iter()
            .map(|partition| partition.doubted(&state.doubts))
            .collect();
        state.notices.push(Notice::Assigned {
            generation,
            partitions,
        });
        state.notices.extend(halts);
    }

    fn leave_for_later(&self, generation: Generation, partitions: Vec<TopicPartition>) {
        let mut state = self.state();
        let notice = Notice::StartsUnknown {
            partitions: partitions.clone(),
        };
        if state.notices.last() != Some(&notice) {
            state.notices.push(notice);
        }
        state.unstarted = Some(Unstarted {
            generation,
            partitions,
            again_at: Instant::now() + ASK_AGAIN,
        });
    }

    /// Completes the rebalance with an empty assignment: the member keeps its place in the group.
    fn assign_nothing(&self, consumer: &BaseConsumer<Self>) {
        if let Err(cause) = consumer.assign(&TopicPartitionList::new()) {
            self.complain(
                ErrorClass::Transient,
                format!("could not assign nothing: {cause}"),
            );
        }
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) -> KafkaResult<()> {
        assign(consumer, list)?;
        if self.direct.is_some() && list.count() > 0 {
            // Before this callback returns, so that librdkafka delivers nothing in between.
            consumer.pause(list)?;
        }
        Ok(())
    }

    fn complain(&self, class: ErrorClass, text: String) {
        self.state().notices.push(Notice::Error { class, text });
    }
}

/// Lists the offsets to start at, and feeds for our own requests.
fn feeds(
    settings: &Settings,
    partitions: &[TopicPartition],
    starts: &BTreeMap<TopicPartition, Recorded>,
) -> KafkaResult<(Vec<Partition>, TopicPartitionList)> {
    let mut held = Vec::with_capacity(partitions.len());
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for name in partitions {
        let Some(&start) = starts.get(name) else {
            held.push(Partition::unrecorded(name.clone()));
            continue;
        };
        list.add_partition_offset(&name.topic, name.partition, Offset::Offset(start.offset))?;
        let feed = Feed::starting_at(start, settings.partition_bytes);
        held.push(Partition::fetched(name.clone(), feed, start.offset));
    }
    Ok((held, list))
}

/// Splits the queues off and lists the offsets to start at. The queues come first: from the
/// moment of the assignment records arrive, and none may reach the consumer's queue.
fn split(
    consumer: &BaseConsumer<Context>,
    partitions: &[TopicPartition],
    starts: &BTreeMap<TopicPartition, Recorded>,
) -> KafkaResult<(Vec<Partition>, TopicPartitionList)> {
    let mut held = Vec::with_capacity(partitions.len());
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for name in partitions {
        let Some(&start) = starts.get(name) else {
            held.push(Partition::unrecorded(name.clone()));
            continue;
        };
        let queue = PartitionQueue::split(consumer, name).ok_or_else(|| {
            KafkaError::Subscription(format!("partition {name} has no queue of its own"))
        })?;
        // Whether the log still covers the offset is the broker's to say, with its answer to the
        // first fetch: `auto.offset.reset=error` turns that into a halt (P18). Asking for the
        // log's ends here would hold up the whole group and could only be older than that answer.
        list.add_partition_offset(&name.topic, name.partition, Offset::Offset(start.offset))?;
        held.push(Partition::queued(name.clone(), queue, start));
    }
    Ok((held, list))
}

/// Assigns and checks what is assigned then: `Ok` alone does not prove it.
fn assign(consumer: &BaseConsumer<Context>, list: &TopicPartitionList) -> KafkaResult<()> {
    consumer.assign(list)?;
    let assigned = consumer.assignment()?;
    let all = list.elements().iter().all(|wanted| {
        assigned
            .find_partition(wanted.topic(), wanted.partition())
            .is_some()
    });
    if all && assigned.count() == list.count() {
        Ok(())
    } else {
        Err(KafkaError::Subscription(format!(
            "{} partitions were asked for, {} are assigned",
            list.count(),
            assigned.count()
        )))
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assigned(consumer, partitions);
        } else {
            // Revoked or lost: librdkafka's own word for loss is not to be trusted
            // (librdkafka #5604), so both are the same here.
            self.revoked(consumer);
        }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        generate(self.tokens.as_ref()).inspect_err(|error| {
            self.complain(ErrorClass::Config, error.to_string());
        })
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, text: &str) {
        log_line(level, fac, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let class = error
            .rdkafka_error_code()
            .map_or(ErrorClass::Transient, classify);
        self.complain(class, reason.to_owned());
    }

    fn stats(&self, statistics: Statistics) {
        let mut state = self.state();
        for partition in &mut state.partitions {
            let seen = statistics
                .topics
                .get(&*partition.name.topic)
                .and_then(|topic| topic.partitions.get(&partition.name.partition));
            if let Some(seen) = seen {
                let known = |offset: i64| (offset >= 0).then_some(offset);
                // The group's coordinator is there twice, the second time by its office and over another connection. A partition without
                // a leader is led by -1, which is also what brokers are called of which only the address is known.
                let is_up = |broker: &Broker| {
                    broker.nodeid == seen.broker
                        && seen.broker >= 0
                        && broker.state == "UP"
                        && broker.source != "logical"
                };
                // While messages wait to be taken, or the leader is gone, the numbers are those of a while ago.
                let is_new = seen.fetchq_cnt == 0 && statistics.brokers.values().any(is_up);
                let heard = if is_new {
                    Some(Instant::now())
                } else {
                    partition.ends.heard
                };
                partition.learn_ends(LogEnds {
                    low: known(seen.lo_offset),
                    stable: known(seen.ls_offset),
                    high: known(seen.hi_offset),
                    heard,
                });
            }
        }
    }
}

/// Passes a line of librdkafka's log on.
pub(crate) fn log_line(level: RDKafkaLogLevel, fac: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::error!(target: "librdkafka", fac, "{text}"),
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", fac, "{text}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", fac, "{text}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", fac, "{text}"),
    }
}
