//! Brokers that go, logs that lost their beginning, readers that hold still.

use std::time::{Duration, Instant};

use alluvium_source::{
    DrainKind, EmbeddedBroker, EventProducer, Halt, KafkaDrain, Notice, topic_ids,
};
use alluvium_types::{RawBatch, Timestamp, TopicPartition};

use super::DRAIN;
use super::bench::{
    PATIENCE, TOPIC, Table, join, join_briefly, numbered, overfill, partition, produce, produce_by,
    raw, serve_until, serve_until_assigned, start, take_records, values,
};

fn halt_of(drain: &mut KafkaDrain, name: &TopicPartition) -> Halt {
    let mut halts = Vec::new();
    serve_until(drain, |drain, notices| {
        // An error in a partition's queue is met by taking.
        while drain.take(1 << 20, Timestamp::default()).is_some() {}
        halts = notices
            .iter()
            .filter_map(|notice| match notice {
                Notice::Halted { partition, halt } if partition == name => Some(halt.clone()),
                _ => None,
            })
            .collect();
        // Where nothing was cut off nobody says so, and nothing is tried again before it halts.
        assert!(!notices.iter().any(
            |notice| matches!(notice, Notice::Error { text, .. } if text.contains("cut off"))
        ));
        !halts.is_empty()
    });
    assert_eq!(halts.len(), 1);
    halts.remove(0)
}

#[test]
fn a_partition_whose_log_moved_past_the_offset_halts_and_others_go_on() {
    let (_embedded, broker) = start(2);
    overfill(&broker, 0);
    produce(&broker, 1, numbered(0..20));

    let mut drain = join(&broker, 2, &Table::with([(0, 0), (1, 0)]));
    let low = match halt_of(&mut drain, &partition(0)) {
        Halt::BeforeLow { recorded: 0, low } => low,
        other => panic!("halted as {other:?}"),
    };
    assert!(low > 0);
    produce(&broker, 1, numbered(20..30));
    serve_until(&mut drain, |drain, _| {
        while let Some(batch) = drain.take(1 << 20, Timestamp::default()) {
            assert_eq!(batch.partition, partition(1));
        }
        drain.partitions()[1].position == 30
    });
    let view = &drain.partitions()[0];
    assert_eq!(
        (view.position, &view.halted),
        (0, &Some(Halt::BeforeLow { recorded: 0, low }))
    );
}

#[test]
fn a_topic_of_another_id_than_the_recorded_one_halts_before_anything_is_taken() {
    let (_former, before) = start(2);
    let former = topic_ids(&before, &[TOPIC.into()], PATIENCE).unwrap()[TOPIC];
    // The same name on a fresh broker, and longer than what is recorded.
    let (_embedded, broker) = start(2);
    produce(&broker, 0, numbered(0..20));
    produce(&broker, 1, numbered(0..20));
    let table = Table::with([(0, 10), (1, 0)]);
    *table.topic.lock().unwrap() = Some(former);
    let mut drain = join(&broker, 2, &table);
    let mut halts = Vec::new();
    serve_until(&mut drain, |drain, notices| {
        assert_eq!(
            drain
                .take(1 << 20, Timestamp::default())
                .map(|batch| batch.range),
            None
        );
        halts = notices
            .iter()
            .filter_map(|notice| match notice {
                Notice::Halted { partition, halt } => Some((partition.partition, halt.clone())),
                _ => None,
            })
            .collect();
        halts.len() == 2
    });
    halts.sort_by_key(|(partition, _)| *partition);
    let own = topic_ids(&broker, &[TOPIC.into()], PATIENCE).unwrap()[TOPIC];
    assert_ne!(own, former);
    let halt = |offset| Halt::Recreated {
        topic: TOPIC.into(),
        offset,
        found: own,
    };
    assert_eq!(halts, [(0, halt(10)), (1, halt(0))]);

    // With its own id it is read.
    *table.topic.lock().unwrap() = Some(own);
    drain.assign_afresh();
    let read = take_records(&mut drain, 30);
    assert_eq!(read.iter().map(RawBatch::len).sum::<usize>(), 30);
}

#[test]
fn an_offset_beyond_the_log_halts() {
    let (_embedded, broker) = start(1);
    produce(&broker, 0, numbered(0..10));
    let mut drain = join(&broker, 1, &Table::with([(0, 11)]));
    assert_eq!(
        halt_of(&mut drain, &partition(0)),
        Halt::BeyondHigh {
            recorded: 11,
            high: 10
        }
    );
}

#[test]
fn a_partition_halted_from_outside_gives_nothing() {
    let (_embedded, broker) = start(1);
    let mut drain = join(&broker, 1, &Table::with([(0, 0)]));
    serve_until_assigned(&mut drain);
    let reason = Halt::Operator {
        reason: "too many dead letters".to_owned(),
    };
    drain.halt(&partition(0), reason.clone());
    produce(&broker, 0, numbered(0..10));
    assert_eq!(halt_of(&mut drain, &partition(0)), reason);
    serve_until(&mut drain, |drain, _| {
        assert!(drain.take(1000, Timestamp::default()).is_none());
        // Nobody asks for what stands still, except librdkafka for its statistics.
        DRAIN == DrainKind::Direct || drain.partitions()[0].log_end == Some(10)
    });
    // The next assignment starts with a clean slate.
    drain.assign_afresh();
    assert_eq!(values(&take_records(&mut drain, 10), 0, 0), numbered(0..10));
}

#[test]
fn holding_still_under_load_loses_nothing() {
    let (_embedded, broker) = start(2);
    let mut producer = EventProducer::new(&broker, TOPIC).unwrap();
    let mut drain = join(&broker, 2, &Table::with([(0, 0), (1, 0)]));
    serve_until_assigned(&mut drain);
    let mut batches: Vec<RawBatch> = Vec::new();
    for round in 0..10 {
        for number in 0..2 {
            produce_by(
                &mut producer,
                number,
                numbered(round * 300..round * 300 + 300),
            );
        }
        drain.resume();
        serve_until(&mut drain, |drain, _| {
            batches.extend(
                drain
                    .take(500, Timestamp::default())
                    .into_iter()
                    .flat_map(raw),
            );
            batches.len() > round as usize
        });
        drain.pause();
        assert!(drain.is_paused());
        drain.serve(Duration::from_millis(20)).unwrap();
        assert!(drain.take(1 << 20, Timestamp::default()).is_none());
    }
    drain.resume();
    let before: usize = batches.iter().map(RawBatch::len).sum();
    batches.extend(take_records(&mut drain, 6_000 - before));
    for number in 0..2 {
        assert_eq!(values(&batches, number, 0), numbered(0..3_000));
    }
}

#[test]
fn the_end_of_a_partition_is_passed_without_skipping_what_comes_next() {
    let (_embedded, broker) = start(1);
    let mut producer = EventProducer::new(&broker, TOPIC).unwrap();
    let mut drain = join(&broker, 1, &Table::with([(0, 0)]));
    for number in 0..40 {
        producer
            .send(Some(0), None, format!("v{number}").as_bytes(), None)
            .unwrap();
        producer.flush(PATIENCE).unwrap();
        let batches = take_records(&mut drain, 1);
        assert_eq!(values(&batches, 0, number), [format!("v{number}")]);
        // Turns at the end, so that the end itself is met.
        for _ in 0..3 {
            drain.serve(Duration::from_millis(2)).unwrap();
            assert!(drain.take(1000, Timestamp::default()).is_none());
        }
        assert_eq!(drain.partitions()[0].position, number + 1);
    }
}

#[test]
fn a_broker_that_is_down_at_the_start_is_waited_for() {
    let (embedded, broker) = start(1);
    produce(&broker, 0, numbered(0..10));
    embedded.go_down().unwrap();
    let mut drain = join(&broker, 1, &Table::with([(0, 3)]));
    let notices = serve_until(&mut drain, |drain, notices| {
        assert!(drain.take(1000, Timestamp::default()).is_none());
        !notices.is_empty()
    });
    assert!(matches!(&notices[0], Notice::Error { .. }), "{notices:?}");
    embedded.come_up().unwrap();
    assert_eq!(values(&take_records(&mut drain, 7), 0, 3), numbered(3..10));
}

#[test]
fn a_broker_that_goes_and_comes_back_loses_nothing() {
    let (embedded, broker) = start(1);
    produce(&broker, 0, numbered(0..10));
    let mut drain = join(&broker, 1, &Table::with([(0, 0)]));
    let mut batches = take_records(&mut drain, 10);
    embedded.go_down().unwrap();
    serve_until(&mut drain, |_, notices| {
        notices
            .iter()
            .any(|notice| matches!(notice, Notice::Error { .. }))
    });
    embedded.come_up().unwrap();
    produce(&broker, 0, numbered(10..20));
    // Whether the group dealt anew or not, reading goes on where it stood or at the table's offset.
    let generation = drain.generation();
    serve_until(&mut drain, |drain, _| {
        batches.extend(
            drain
                .take(1 << 20, Timestamp::default())
                .into_iter()
                .flat_map(raw),
        );
        drain.generation() != generation || drain.partitions()[0].position == 20
    });
    if drain.generation() == generation {
        assert_eq!(values(&batches, 0, 0), numbered(0..20));
    } else {
        assert_eq!(values(&take_records(&mut drain, 20), 0, 0), numbered(0..20));
    }
}

#[test]
fn closing_takes_no_longer_than_allowed_when_the_broker_is_gone() {
    let (embedded, broker) = start(1);
    produce(&broker, 0, numbered(0..100));
    let mut drain = join(&broker, 1, &Table::with([(0, 0)]));
    take_records(&mut drain, 100);
    embedded.go_down().unwrap();
    let deadline = Duration::from_secs(3);
    let started = Instant::now();
    // Either answer is right, as long as it comes in time.
    let closed = drain.close(deadline);
    assert!(
        started.elapsed() < deadline + Duration::from_secs(1),
        "{closed:?}"
    );
}

#[test]
fn closing_with_records_in_the_queues_ends() {
    let (_embedded, broker) = start(4);
    for number in 0..4 {
        produce(&broker, number, numbered(0..1_000));
    }
    let table = Table::with((0..4).map(|number| (number, 0)));
    for _ in 0..5 {
        let mut drain = join_briefly(&broker, 4, &table);
        serve_until(&mut drain, |drain, _| {
            drain.take(500, Timestamp::default()).is_some()
        });
        drain.close(Duration::from_secs(10)).unwrap();
    }
}

#[test]
fn records_that_cannot_arrive_are_counted() {
    let embedded = EmbeddedBroker::start(None, &[(TOPIC.to_owned(), 1)]).unwrap();
    let mut broker = alluvium_source::Broker::new(embedded.brokers());
    broker
        .properties
        .insert("message.timeout.ms".into(), "2000".into());
    let mut producer = EventProducer::new(&broker, TOPIC).unwrap();
    producer.send(None, Some(b"k"), b"arrives", None).unwrap();
    producer.flush(PATIENCE).unwrap();
    embedded.go_down().unwrap();
    for _ in 0..3 {
        producer.send(None, Some(b"k"), b"lost", None).unwrap();
    }
    let failure = producer.flush(PATIENCE).unwrap_err().to_string();
    assert!(
        failure.starts_with("3 records did not reach topic clicks"),
        "{failure}"
    );
    assert_eq!(producer.delivered(), 1);
}
