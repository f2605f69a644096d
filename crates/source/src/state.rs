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
    partition::{Partition, Unexplained},
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

/// How long before ends of logs are asked for again after a question that was not answered; doubles ...
const ASK_ENDS_LATER: Duration = Duration::from_secs(5);
/// ... up to this.
const ASK_ENDS_AT_LAST: Duration = Duration::from_secs(300);

/// The questions for ends of logs of partitions that halted.
#[derive(Debug, Default)]
pub(crate) struct EndsQuestions {
    /// Not asked again before; `None`: at once.
    ask_at: Option<Instant>,
    /// How long before the last one was to be asked.
    wait: Duration,
    /// About whom was asked last.
    asked: Option<TopicPartition>,
}

/// What the callbacks and the drain share. Both run on the thread that owns the drain.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) generation: Generation,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) unstarted: Option<Unstarted>,
    pub(crate) watch: Watch,
    pub(crate) ends: EndsQuestions,
    pub(crate) doubts: Doubts,
    pub(crate) closing: bool,
}

impl State {
    /// Gives every partition back. What was asked about them is void: its answer can be older than the next assignment.
    pub(crate) fn clear(&mut self) {
        self.partitions.clear();
        self.watch = Watch::default();
        self.ends = EndsQuestions::default();
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
        let of = |why| move |partition: &&Partition| partition.unexplained() == Some(why);
        let mut partitions = self.partitions.iter();
        let found = match partitions.find(of(Unexplained::Untold)) {
            Some(untold) => Some(untold),
            None if self.ends.ask_at.is_some_and(|at| now < at) => None,
            None => {
                // In turn: the leader of one may never answer.
                let told = self.partitions.iter().filter(of(Unexplained::Told));
                let last = self.ends.asked.as_ref();
                told.min_by_key(|partition| (Some(&partition.name) <= last, &partition.name))
            }
        };
        found.map(|partition| partition.name.clone())
    }

    /// Tells why a partition halted, by where its log begins and ends if that is known, else in the broker's words, until it is.
    pub(crate) fn explain(
        &mut self,
        name: &TopicPartition,
        ends: Option<(i64, i64)>,
        now: Instant,
    ) {
        // Each question that is not answered holds all partitions up, so there are ever fewer of them.
        self.ends.wait = match ends {
            Some(_) => ASK_ENDS_LATER,
            None => (self.ends.wait * 2).clamp(ASK_ENDS_LATER, ASK_ENDS_AT_LAST),
        };
        self.ends.ask_at = ends.is_none().then(|| now + self.ends.wait);
        self.ends.asked = Some(name.clone());
        let found = self
            .partitions
            .iter_mut()
            .find(|partition| partition.name == *name);
        if let Some(halt) = found.and_then(|partition| partition.explain(ends)) {
            self.notices.push(Notice::Halted {
                partition: name.clone(),
                halt,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::halt::Halt;

    #[test]
    fn every_halted_partition_is_told_at_once_and_asked_about_in_turn_until_it_is_explained() {
        let [one, other] = [0, 1].map(|number| TopicPartition::new("clicks", number));
        let mut state = State::default();
        for name in [&one, &other] {
            let mut partition = Partition::unrecorded(name.clone());
            partition.halt_out_of_range(7, "out of range".to_owned());
            state.partitions.push(partition);
        }
        let now = Instant::now();
        for name in [&one, &other] {
            assert_eq!(state.unexplained(now).as_ref(), Some(name));
            state.explain(name, None, now);
        }
        assert_eq!(state.notices.len(), 2);
        assert_eq!(state.unexplained(now), None);
        let mut later = now;
        for name in [&one, &other, &one] {
            later += ASK_ENDS_AT_LAST;
            assert_eq!(state.unexplained(later).as_ref(), Some(name));
            state.explain(name, None, later);
        }
        later += ASK_ENDS_AT_LAST;
        state.explain(&other, Some((3, 9)), later);
        let views: Vec<_> = state.partitions.iter().map(Partition::view).collect();
        assert!(matches!(views[0].halted, Some(Halt::OutOfRange { .. })));
        assert!(matches!(views[1].halted, Some(Halt::BeforeLow { .. })));
        assert_eq!(state.unexplained(later), Some(one));
        assert_eq!(state.notices.len(), 2);
    }

    #[test]
    fn an_offset_that_the_log_has_is_not_said_to_be_outside_of_it() {
        for (low, high) in [(0, 9), (0, 0)] {
            let name = TopicPartition::new("clicks", 0);
            let mut state = State::default();
            let mut partition = Partition::unrecorded(name.clone());
            partition.halt_out_of_range(0, "out of range".to_owned());
            state.partitions.push(partition);
            state.explain(&name, Some((low, high)), Instant::now());
            let halted = state.partitions[0].view().halted;
            assert!(
                matches!(halted, Some(Halt::OutOfRange { .. })),
                "{halted:?}"
            );
        }
    }

    #[test]
    fn a_broker_that_does_not_answer_is_asked_less_and_less_often() {
        let name = TopicPartition::new("clicks", 0);
        let mut state = State::default();
        let mut partition = Partition::unrecorded(name.clone());
        partition.halt_out_of_range(7, "out of range".to_owned());
        state.partitions.push(partition);
        let now = Instant::now();
        let waits: Vec<u64> = (0..9)
            .map(|_| {
                state.explain(&name, None, now);
                (state.ends.ask_at.unwrap() - now).as_secs()
            })
            .collect();
        assert_eq!(waits[..3], [waits[0], 2 * waits[0], 4 * waits[0]]);
        assert_eq!(waits[8], ASK_ENDS_AT_LAST.as_secs());
    }
}
