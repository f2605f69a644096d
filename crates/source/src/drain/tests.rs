//! What becomes of librdkafka's word that a log was cut off. When it says so cannot be had at will, so it is put into its mouth.

use super::*;
use crate::{DrainKind, EmbeddedBroker, EventProducer, Recorded};

const TOPIC: &str = "clicks";
const PATIENCE: Duration = Duration::from_secs(30);
const WORDS: &str = "so it was said";

/// Where each partition starts.
struct Starts(Vec<Recorded>);

impl Assignments for Starts {
    fn revoked(&self, _deadline: Instant) {}

    fn starts(
        &self,
        partitions: &[TopicPartition],
        _deadline: Instant,
    ) -> Option<BTreeMap<TopicPartition, Recorded>> {
        let start = |name: &TopicPartition| self.0[usize::try_from(name.partition).unwrap()];
        Some(
            partitions
                .iter()
                .map(|name| (name.clone(), start(name)))
                .collect(),
        )
    }
}

/// A topic whose partitions have ten records each.
fn embedded(partitions: i32) -> (EmbeddedBroker, Broker) {
    let embedded = EmbeddedBroker::start(None, &[(TOPIC.to_owned(), partitions)]).unwrap();
    let broker = Broker::new(embedded.brokers());
    let mut producer = EventProducer::new(&broker, TOPIC).unwrap();
    for partition in 0..partitions {
        for value in 0..10 {
            let value = value.to_string();
            let sent = producer.send(Some(partition), None, value.as_bytes(), None);
            sent.unwrap();
        }
    }
    producer.flush(PATIENCE).unwrap();
    (embedded, broker)
}

fn join(broker: &Broker, starts: Vec<Recorded>) -> KafkaDrain {
    // Whoever has left is waited for in its group.
    let group = format!("started under {:?}", starts[0].leader_epoch);
    let partitions = starts.len();
    subscribe(broker, group, partitions, Arc::new(Starts(starts)))
}

fn subscribe(
    broker: &Broker,
    group: String,
    partition_count: usize,
    assignments: Arc<dyn Assignments>,
) -> KafkaDrain {
    let subscription = Subscription {
        drain: DrainKind::Portable,
        topics: vec![TOPIC.into()],
        group,
        instance: None,
        properties: BTreeMap::new(),
        memory: MemoryBudget::new(1 << 20),
        queue_bytes: 1 << 20,
        partition_count,
    };
    let generation = AssignmentGeneration::default();
    KafkaDrain::subscribe(broker, subscription, generation, assignments).unwrap()
}

fn at(offset: i64, leader_epoch: Option<i32>) -> Recorded {
    Recorded {
        leader_epoch,
        ..Recorded::at(offset)
    }
}

/// What came of each partition: the ranges that were read, by generation, and why it halted.
#[derive(Debug, Default)]
struct Course {
    read: Vec<(Generation, i32, i64, i64)>,
    halts: BTreeMap<i32, Halt>,
    assigned: usize,
    leader_epoch: Option<i32>,
}

fn follow(drain: &mut KafkaDrain, course: &mut Course, is_over: impl Fn(&Course) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_over(course) {
        for notice in drain.serve(Duration::from_millis(2)).unwrap() {
            match notice {
                Notice::Assigned { .. } => course.assigned += 1,
                Notice::Halted { partition, halt } => {
                    course.halts.insert(partition.partition, halt);
                }
                _ => {}
            }
        }
        while let Some(batch) = drain.take(1 << 20, Timestamp::default()) {
            let (number, range) = (batch.partition.partition, batch.range);
            let read = (batch.generation, number, range.start(), range.end());
            course.read.push(read);
            course.leader_epoch = batch.leader_epoch.or(course.leader_epoch);
        }
        assert!(Instant::now() < deadline, "{course:?} of {drain:?}");
    }
}

fn reached(course: &Course, partition: i32, generation: usize) -> bool {
    course.assigned == generation
        && course
            .read
            .iter()
            .rev()
            .any(|&(_, number, _, end)| number == partition && end == 10)
}

fn say_cut_off(drain: &KafkaDrain, partition: i32) {
    let name = TopicPartition::new(TOPIC, partition);
    assert!(!drain.state().doubts.add(&name, WORDS));
}

#[test]
fn what_is_said_without_cause_costs_another_assignment() {
    let (_embedded, broker) = embedded(1);
    let mut course = Course::default();
    let mut drain = join(&broker, vec![at(4, None)]);
    follow(&mut drain, &mut course, |course| reached(course, 0, 1));
    let epoch = course.leader_epoch;
    assert!(epoch.is_some(), "the leader of the last record");
    drop(drain);

    let mut course = Course::default();
    let mut drain = join(&broker, vec![at(4, epoch)]);
    follow(&mut drain, &mut course, |course| reached(course, 0, 1));
    say_cut_off(&drain, 0);
    course.read.clear();
    follow(&mut drain, &mut course, |course| reached(course, 0, 2));
    assert_eq!(course.halts, BTreeMap::new());
    let first = course.read[0];
    assert_eq!((first.0, first.2), (drain.generation(), 4), "{course:?}");
    assert!(drain.state().doubts.is_settled());
}

#[test]
fn a_log_without_the_recorded_leader_is_cut_off() {
    let (_embedded, broker) = embedded(3);
    // The leader of all records is 0.
    let starts = vec![at(4, Some(7)), at(4, Some(0)), at(4, Some(7))];
    let mut course = Course::default();
    let mut drain = join(&broker, starts);
    follow(&mut drain, &mut course, |course| {
        (0..3).all(|partition| reached(course, partition, 1))
    });
    say_cut_off(&drain, 0);
    say_cut_off(&drain, 2);
    course.read.clear();
    follow(&mut drain, &mut course, |course| course.halts.len() == 2);
    for partition in [0, 2] {
        match &course.halts[&partition] {
            Halt::OutOfRange { offset: 4, text } => assert!(text.contains("truncation"), "{text}"),
            other => panic!("{partition} halted as {other:?}"),
        }
    }
    // Twice for each at most, and it ends; the third is read on.
    assert!(course.assigned <= 5, "{course:?}");
    let assigned = course.assigned;
    follow(&mut drain, &mut course, |course| {
        reached(course, 1, assigned)
    });
    let read_on = |&(_, partition, ..): &(Generation, i32, i64, i64)| partition == 1;
    assert!(course.read.iter().all(read_on), "{course:?}");
    assert_eq!(course.halts.len(), 2);
}

#[test]
fn an_offset_outside_its_log_halts_though_it_is_to_be_asked_about() {
    let (_embedded, broker) = embedded(2);
    let mut course = Course::default();
    let mut drain = join(&broker, vec![at(4, Some(0)), at(1000, Some(0))]);
    say_cut_off(&drain, 0);
    say_cut_off(&drain, 1);
    follow(&mut drain, &mut course, |course| {
        reached(course, 0, course.assigned) && course.halts.contains_key(&1)
    });
    assert!(!course.halts.contains_key(&0));
    let expected = Halt::BeyondHigh {
        recorded: 1000,
        high: 10,
    };
    assert_eq!(course.halts[&1], expected);
}

#[test]
fn without_a_recorded_leader_the_word_is_believed() {
    let (_embedded, broker) = embedded(1);
    let mut course = Course::default();
    let mut drain = join(&broker, vec![at(4, None)]);
    follow(&mut drain, &mut course, |course| reached(course, 0, 1));
    say_cut_off(&drain, 0);
    course.read.clear();
    follow(&mut drain, &mut course, |course| !course.halts.is_empty());
    let text = WORDS.to_owned();
    assert_eq!(course.halts[&0], Halt::OutOfRange { offset: 4, text });
    assert_eq!(course.read, Vec::new());
}

/// What the client holds on to, and what does not go before it is told to.
struct Clinging(crossbeam_channel::Receiver<()>);

impl Assignments for Clinging {
    fn revoked(&self, _deadline: Instant) {}

    fn starts(
        &self,
        _partitions: &[TopicPartition],
        _deadline: Instant,
    ) -> Option<BTreeMap<TopicPartition, Recorded>> {
        None
    }
}

impl Drop for Clinging {
    fn drop(&mut self) {
        // Its other end goes when the test does.
        let _ = self.0.recv_timeout(PATIENCE);
    }
}

#[test]
fn a_client_that_does_not_end_is_left_behind_and_that_is_said() {
    let (_embedded, broker) = embedded(1);
    let (release, held) = bounded(0);
    let drain = subscribe(&broker, "clings".to_owned(), 1, Arc::new(Clinging(held)));
    let deadline = Duration::from_millis(50);
    let closed = drain.close(deadline);
    assert!(
        matches!(closed, Err(SourceError::NotClosed { deadline: told }) if told == deadline),
        "{closed:?}"
    );
    drop(release);
}
