//! What the callbacks inside a rebalance, the requests of our own and the drain share.
//!
//! Owns the present assignment as data. Does not own the steps from one to the next.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_types::{ErrorClass, Generation, TopicPartition};
use rdkafka::error::KafkaError;

use crate::{
    doubts::Doubts,
    error::classify,
    native::{TopicIds, TopicQuestion},
    notice::Notice,
    partition::Partition,
};

/// Partitions that the group gave us and whose starts are not known.
#[derive(Debug)]
pub(crate) struct Unstarted {
    pub(crate) generation: Generation,
    pub(crate) partitions: Vec<TopicPartition>,
    pub(crate) again_at: Instant,
}

/// Whether topics that librdkafka reads are still those whose offsets are recorded.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) question: Option<TopicQuestion>,
    /// Not asked again before; `None`: at once.
    pub(crate) again_at: Option<Instant>,
}

/// Topics are asked for again so often while they are read, ...
const WATCH_EVERY: Duration = Duration::from_secs(30);
/// ... so soon where the last answer did not tell, ...
const WATCH_LATER: Duration = Duration::from_secs(5);
/// ... and sooner where partitions wait for it.
const WATCH_SOON: Duration = Duration::from_millis(500);

/// How long before ends of logs are asked for again after a question that was not answered.
const ASK_ENDS_LATER: Duration = Duration::from_secs(5);

/// What the callbacks and the drain share. Both run on the thread that owns the drain.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) generation: Generation,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) unstarted: Option<Unstarted>,
    pub(crate) watch: Watch,
    /// Ends of logs are not asked for before; `None`: at once.
    pub(crate) ask_ends_at: Option<Instant>,
    pub(crate) doubts: Doubts,
    pub(crate) closing: bool,
}

impl State {
    /// Gives every partition back. What was asked about them is void: its answer can be older than the next assignment.
    pub(crate) fn clear(&mut self) {
        self.partitions.clear();
        self.watch = Watch::default();
        self.ask_ends_at = None;
    }

    /// Topics whose ids are to be asked for now.
    pub(crate) fn unwatched(&self, now: Instant) -> Vec<Arc<str>> {
        if self.watch.question.is_some() || self.watch.again_at.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let topics: BTreeSet<Arc<str>> = self
            .partitions
            .iter()
            .filter(|partition| partition.unwatched().is_some())
            .map(|partition| partition.name.topic.clone())
            .collect();
        topics.into_iter().collect()
    }

    /// Takes in what ids topics have now: partitions of another topic than the recorded halt (P18). A topic that the
    /// answer leaves out is asked for again soon.
    pub(crate) fn watched(&mut self, ids: &TopicIds, now: Instant) {
        let mut told = true;
        for partition in &mut self.partitions {
            if partition.unwatched().is_none() {
                continue;
            }
            let Some(&found) = ids.get(&partition.name.topic) else {
                told = false;
                continue;
            };
            if let Some(halt) = partition.learn_topic(found) {
                self.notices.push(Notice::Halted {
                    partition: partition.name.clone(),
                    halt,
                });
            }
        }
        self.watch_after(if told { WATCH_EVERY } else { self.patience() }, now);
    }

    /// The question was not answered: it is asked again.
    pub(crate) fn unwatchable(&mut self, cause: &KafkaError, now: Instant) {
        self.notices.push(Notice::Error {
            class: cause
                .rdkafka_error_code()
                .map_or(ErrorClass::Transient, classify),
            text: format!("could not ask for the ids of the topics: {cause}"),
        });
        self.watch_after(self.patience(), now);
    }

    /// How soon a question that was not answered is asked again.
    fn patience(&self) -> Duration {
        if self.partitions.iter().any(Partition::awaits_topic) {
            WATCH_SOON
        } else {
            WATCH_LATER
        }
    }

    fn watch_after(&mut self, wait: Duration, now: Instant) {
        self.watch = Watch {
            question: None,
            again_at: Some(now + wait),
        };
    }

    /// Partitions of which librdkafka has yet to ask whether the log still is what was read; where, and by which leader.
    pub(crate) fn unproven(&self, now: Instant) -> Vec<(TopicPartition, (i64, i32))> {
        if self.doubts.ask_again_at.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let unproven =
            |partition: &Partition| Some((partition.name.clone(), partition.unproven()?));
        self.partitions.iter().filter_map(unproven).collect()
    }

    /// It asks about these now.
    pub(crate) fn prove(&mut self, names: &[TopicPartition]) {
        for partition in &mut self.partitions {
            if names.contains(&partition.name) {
                partition.is_being_proven();
            }
        }
    }

    /// A partition that halted out of range and whose log's ends are to be asked for now.
    pub(crate) fn unexplained(&self, now: Instant) -> Option<TopicPartition> {
        if self.ask_ends_at.is_some_and(|at| now < at) {
            return None;
        }
        self.partitions
            .iter()
            .find(|partition| partition.is_unexplained())
            .map(|partition| partition.name.clone())
    }

    /// Tells why a partition halted, by where its log begins and ends. Where no answer came in time, everything that halted is told in
    /// the broker's words: each question that is not answered holds the others up.
    pub(crate) fn explain(
        &mut self,
        name: &TopicPartition,
        ends: Option<(i64, i64)>,
        now: Instant,
    ) {
        self.ask_ends_at = ends.is_none().then(|| now + ASK_ENDS_LATER);
        for partition in &mut self.partitions {
            if ends.is_some() && partition.name != *name {
                continue;
            }
            if let Some(halt) = partition.explain(ends) {
                self.notices.push(Notice::Halted {
                    partition: partition.name.clone(),
                    halt,
                });
            }
        }
    }
}
