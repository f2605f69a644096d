//! Assignments: where reading starts, and that nothing is lost or doubled when members change.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use alluvium_source::{
    Assignments, Broker, DrainKind, EventProducer, Halt, KafkaDrain, Notice, Recorded,
    group_progress,
};
use alluvium_types::{
    AssignmentGeneration, FetchedBatch, Generation, RawBatch, Timestamp, TopicPartition,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use super::DRAIN;
use super::bench::{
    PATIENCE, TOPIC, Table, join, join_briefly, numbered, partition, produce, produce_by, raw,
    serve_until, serve_until_assigned, start, subscription, take_records, values,
};

#[test]
fn records_come_whole_and_chained_from_the_recorded_offset() {
    let (_embedded, broker) = start(2);
    produce(&broker, 0, numbered(0..500));
    produce(&broker, 1, numbered(500..600));
    let table = Table::with([(0, 120), (1, 0)]);
    let mut drain = join(&broker, 2, &table);
    let batches = take_records(&mut drain, 480);
    assert_eq!(values(&batches, 0, 120), numbered(120..500));
    assert_eq!(values(&batches, 1, 0), numbered(500..600));
    for batch in &batches {
        assert_eq!(batch.generation, drain.generation());
        assert_eq!(batch.received, Timestamp::from_micros(7));
        assert!(batch.records().all(|record| record.timestamp().is_some()));
    }
    // What was before an assignment is taken back before it; at the end nobody is asked.
    let revocations = || table.revocations.load(Ordering::Relaxed);
    let before = revocations();
    assert!(before > 0);
    drain.close(PATIENCE).unwrap();
    assert_eq!(revocations(), before);
}

#[test]
fn a_batch_is_as_large_as_asked_and_counts_against_the_budget() {
    let (_embedded, broker) = start(1);
    let large = "x".repeat(10_000);
    produce(&broker, 0, (0..50).map(|_| large.clone()));
    let table = Table::with([(0, 0)]);
    let subscription = subscription(1);
    let memory = subscription.memory.clone();
    let mut drain = KafkaDrain::subscribe(
        &broker,
        subscription,
        AssignmentGeneration::default(),
        table,
    )
    .unwrap();
    let mut batches: Vec<RawBatch> = Vec::new();
    serve_until(&mut drain, |drain, _| {
        batches.extend(
            drain
                .take(35_000, Timestamp::default())
                .into_iter()
                .flat_map(raw),
        );
        batches.iter().map(RawBatch::len).sum::<usize>() == 50
    });
    assert_eq!(values(&batches, 0, 0).len(), 50);
    let held = batches.iter().map(RawBatch::size).sum::<usize>();
    // Room counts, used or not.
    assert!((held..=2 * held).contains(&memory.used()));
    if DRAIN == DrainKind::Portable {
        // The other way cuts at the producer's own batches only.
        assert!(batches.iter().all(|batch| batch.len() <= 3));
    }
    // One record above the limit comes alone.
    produce(&broker, 0, [large.clone(), large]);
    let mut alone: Vec<RawBatch> = Vec::new();
    serve_until(&mut drain, |drain, _| {
        alone.extend(
            drain
                .take(100, Timestamp::default())
                .into_iter()
                .flat_map(raw),
        );
        alone.iter().map(RawBatch::len).sum::<usize>() == 2
    });
    assert!(DRAIN != DrainKind::Portable || alone.len() == 2);
    drop((batches, alone, drain));
    assert_eq!(memory.used(), 0);
}

#[test]
fn keys_headers_and_tombstones_come_through() {
    use rdkafka::{
        message::{Header, OwnedHeaders},
        producer::{BaseProducer, BaseRecord, Producer},
    };
    let (_embedded, broker) = start(1);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.brokers)
        .create()
        .unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header {
            key: "trace",
            value: Some("abc"),
        })
        .insert(Header {
            key: "none",
            value: None::<&str>,
        });
    let record = BaseRecord::to(TOPIC)
        .partition(0)
        .key("k")
        .payload("p")
        .timestamp(1_700_000_000_123)
        .headers(headers);
    producer.send(record).unwrap();
    producer
        .send(BaseRecord::<str, str>::to(TOPIC).partition(0).key("gone"))
        .unwrap();
    producer.flush(PATIENCE).unwrap();

    let mut drain = join(&broker, 1, &Table::with([(0, 0)]));
    let batches = take_records(&mut drain, 2);
    let records: Vec<_> = batches.iter().flat_map(RawBatch::records).collect();
    assert_eq!(records[0].key(), Some(b"k".as_slice()));
    assert_eq!(records[0].value(), Some(b"p".as_slice()));
    assert_eq!(
        records[0].timestamp(),
        Some(Timestamp::from_millis(1_700_000_000_123))
    );
    let headers = records[0].headers();
    assert_eq!(headers[0].name, "trace");
    assert_eq!(headers[0].value.as_deref(), Some(b"abc".as_slice()));
    assert_eq!(
        (headers[1].name.as_str(), &headers[1].value),
        ("none", &None)
    );
    assert_eq!(
        (records[1].key(), records[1].value()),
        (Some(b"gone".as_slice()), None)
    );
}

#[test]
fn an_offset_told_to_kafka_is_never_where_reading_starts() {
    let (_embedded, broker) = start(1);
    produce(&broker, 0, numbered(0..100));
    let liar: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &broker.brokers)
        .set("group.id", "alluvium.clicks")
        .create()
        .unwrap();
    let mut wrong = TopicPartitionList::new();
    wrong
        .add_partition_offset(TOPIC, 0, Offset::Offset(70))
        .unwrap();
    liar.commit(&wrong, CommitMode::Sync).unwrap();
    drop(liar);
    let told = group_progress(&broker, "alluvium.clicks", TOPIC, PATIENCE).unwrap();
    assert_eq!(told, BTreeMap::from([(0, 70)]));

    let mut drain = join(&broker, 1, &Table::with([(0, 30)]));
    let batches = take_records(&mut drain, 70);
    assert_eq!(values(&batches, 0, 30), numbered(30..100));
}

#[test]
fn progress_is_told_to_kafka_newest_last() {
    let (_embedded, broker) = start(2);
    let mut drain = join(&broker, 2, &Table::with([(0, 0), (1, 0)]));
    serve_until_assigned(&mut drain);
    for offset in 1..=40 {
        // Partition 9 is not ours: its owner tells.
        drain.tell_progress(&BTreeMap::from([(partition(1), offset), (partition(9), 5)]));
    }
    let told = || group_progress(&broker, "alluvium.clicks", TOPIC, PATIENCE).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while told() != BTreeMap::from([(1, 40)]) {
        drain.serve(Duration::from_millis(10)).unwrap();
        assert!(Instant::now() < deadline, "Kafka was told {:?}", told());
    }
    // The last word does not wait for its turn.
    drain.tell_progress(&BTreeMap::from([(partition(0), 7), (partition(1), 41)]));
    drain.close(PATIENCE).unwrap();
    assert_eq!(told(), BTreeMap::from([(0, 7), (1, 41)]));
}

#[test]
fn every_assignment_starts_exactly_where_the_table_says() {
    const RECORDS: u32 = 2_000;
    const CYCLES: i64 = 200;
    let (_embedded, broker) = start(2);
    for number in 0..2 {
        produce(&broker, number, numbered(0..RECORDS));
    }
    let table = Table::with([(0, 0), (1, 0)]);
    let mut drain = join(&broker, 2, &table);
    serve_until_assigned(&mut drain);
    for cycle in 0..CYCLES {
        // Jumps forth and back, so that records of the former assignment lie on either side; each
        // start twice, as after a rebalance with nothing committed between.
        let jump = cycle / 2;
        let starts = [7_919, 104_729].map(|stride| (jump * stride) % i64::from(RECORDS));
        for (number, start) in (0..).zip(starts) {
            table.record(&partition(number), start);
        }
        drain.assign_afresh();
        let mut first: [Option<FetchedBatch>; 2] = [None, None];
        let mut next = starts;
        serve_until(&mut drain, |drain, _| {
            while let Some(batch) = drain.take(20_000, Timestamp::default()) {
                let number = usize::try_from(batch.partition.partition).unwrap();
                assert_eq!(batch.generation, drain.generation());
                assert_eq!(batch.range.start(), next[number], "cycle {cycle}");
                next[number] = batch.range.end();
                first[number].get_or_insert(batch);
            }
            first.iter().all(Option::is_some)
        });
        for (batch, start) in first.into_iter().flatten().zip(starts) {
            assert_eq!(raw(batch)[0].record(0).offset(), start, "cycle {cycle}");
        }
    }
    drain.close(PATIENCE).unwrap();
}

/// What one member did, as a ledger that the drain did not write.
struct Member {
    broker: Broker,
    table: Arc<Table>,
    leave: AtomicBool,
    seen: Mutex<Vec<(TopicPartition, i64)>>,
}

impl Member {
    fn run(&self) {
        let mut drain = join_briefly(&self.broker, 4, &self.table);
        let mut expected: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        let mut generation = Generation::default();
        while !self.leave.load(Ordering::Acquire) {
            drain.serve(Duration::from_millis(2)).unwrap();
            let Some(batch) = drain.take(4_000, Timestamp::default()) else {
                continue;
            };
            assert_eq!(batch.generation, drain.generation());
            if batch.generation != generation {
                generation = batch.generation;
                expected.clear();
            }
            if let Some(expected) = expected.get(&batch.partition) {
                assert_eq!(batch.range.start(), *expected, "ranges chain");
            }
            expected.insert(batch.partition.clone(), batch.range.end());
            if self.table.commit(&batch) {
                let name = batch.partition.clone();
                let read = raw(batch);
                let records = read
                    .iter()
                    .flat_map(RawBatch::records)
                    .map(|record| (name.clone(), record.offset()));
                self.seen.lock().unwrap().extend(records);
            } else {
                // Somebody else was faster: start again from the table (P7).
                drain.assign_afresh();
            }
        }
        drain.close(PATIENCE).unwrap();
    }
}

#[test]
fn members_come_and_go_and_every_record_counts_once() {
    const CHANGES: u32 = 8;
    const PER_CHANGE: u32 = 100;
    let (_embedded, broker) = start(4);
    let table = Table::with((0..4).map(|number| (number, 0)));
    let member = || {
        Arc::new(Member {
            broker: broker.clone(),
            table: Arc::clone(&table),
            leave: AtomicBool::new(false),
            seen: Mutex::default(),
        })
    };
    let run = |member: &Arc<Member>| {
        let member = Arc::clone(member);
        thread::spawn(move || member.run())
    };
    let recorded = || table.recorded.lock().unwrap().values().sum::<i64>();
    let wait_for = |what: &str, mut reached: Box<dyn FnMut() -> bool + '_>| {
        let deadline = Instant::now() + PATIENCE;
        while !reached() {
            assert!(Instant::now() < deadline, "{what}");
            thread::yield_now();
            thread::park_timeout(Duration::from_millis(1));
        }
    };

    let mut producer = EventProducer::new(&broker, TOPIC).unwrap();
    let stayer = member();
    let staying = run(&stayer);
    let mut all = vec![Arc::clone(&stayer)];
    for _ in 0..CHANGES {
        let guest = member();
        let visiting = run(&guest);
        for number in 0..4 {
            produce_by(&mut producer, number, numbered(0..PER_CHANGE));
        }
        // The guest must have had its share, or the change changed nothing.
        wait_for(
            "the guest got no record",
            Box::new(|| {
                for number in 0..4 {
                    produce_by(&mut producer, number, numbered(0..1));
                }
                !guest.seen.lock().unwrap().is_empty()
            }),
        );
        guest.leave.store(true, Ordering::Release);
        for number in 0..4 {
            produce_by(&mut producer, number, numbered(0..PER_CHANGE));
        }
        visiting.join().unwrap();
        all.push(guest);
    }
    let ends: i64 = alluvium_source::log_bounds(
        &broker,
        &(0..4).map(partition).collect::<Vec<_>>(),
        PATIENCE,
    )
    .unwrap()
    .values()
    .map(|(_, high)| high)
    .sum();
    wait_for("not all records came", Box::new(|| recorded() == ends));
    stayer.leave.store(true, Ordering::Release);
    staying.join().unwrap();

    let mut seen: Vec<_> = all
        .iter()
        .flat_map(|member| std::mem::take(&mut *member.seen.lock().unwrap()))
        .collect();
    assert_eq!(
        i64::try_from(seen.len()).unwrap(),
        ends,
        "each record counts once"
    );
    seen.sort();
    seen.dedup();
    assert_eq!(i64::try_from(seen.len()).unwrap(), ends);
    assert!(table.revocations.load(Ordering::Relaxed) > CHANGES as usize);
}

#[test]
fn unreadable_starts_assign_nothing_until_they_can_be_read() {
    let (_embedded, broker) = start(1);
    produce(&broker, 0, numbered(0..10));
    let table = Table::with([(0, 4)]);
    table.unreadable.store(true, Ordering::Relaxed);
    let mut drain = join(&broker, 1, &table);
    let notices = serve_until(&mut drain, |_, _| {
        table.questions.load(Ordering::Relaxed) >= 3
    });
    assert!(notices.contains(&Notice::StartsUnknown {
        partitions: vec![partition(0)]
    }));
    assert!(drain.partitions().is_empty() && drain.take(1000, Timestamp::default()).is_none());
    table.unreadable.store(false, Ordering::Relaxed);
    let batches = take_records(&mut drain, 6);
    assert_eq!(values(&batches, 0, 4), numbered(4..10));
}

#[test]
fn a_partition_without_a_recorded_start_halts_alone() {
    let (_embedded, broker) = start(2);
    produce(&broker, 0, numbered(0..5));
    produce(&broker, 1, numbered(0..5));
    let mut drain = join(&broker, 2, &Table::with([(1, 0)]));
    let batches = take_records(&mut drain, 5);
    assert_eq!(values(&batches, 1, 0), numbered(0..5));
    let views = drain.partitions();
    assert_eq!(views[0].halted, Some(Halt::Unrecorded));
    assert_eq!((views[1].position, &views[1].halted), (5, &None));
}

#[test]
fn a_member_whose_name_was_taken_is_told_and_gives_up_its_partitions() {
    // The mock cluster never fences by itself: the answer to a heartbeat is put into its mouth.
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    let broker = Broker::new(cluster.bootstrap_servers());
    let mut subscription = subscription(1);
    subscription.instance = Some("one".to_owned());
    let generation = AssignmentGeneration::default();
    let table = Table::with([(0, 0)]);
    let mut drain =
        KafkaDrain::subscribe(&broker, subscription, generation.clone(), table).unwrap();
    serve_until_assigned(&mut drain);
    let before = generation.current();
    let fenced = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID];
    cluster.request_errors(RDKafkaApiKey::Heartbeat, &fenced);
    let notices = serve_until(&mut drain, |_, notices| {
        notices
            .iter()
            .any(|notice| matches!(notice, Notice::Fenced(_)))
    });
    assert!(drain.partitions().is_empty(), "{notices:?}");
    assert!(generation.current() > before);
    // It is told once.
    for _ in 0..20 {
        let more = drain.serve(Duration::from_millis(5)).unwrap();
        assert!(
            !more
                .iter()
                .any(|notice| matches!(notice, Notice::Fenced(_)))
        );
    }
}

/// Gives partitions back slowly, and says when.
struct Slowly {
    table: Arc<Table>,
    is_giving: Arc<AtomicBool>,
}

impl Assignments for Slowly {
    fn revoked(&self, _deadline: Instant) {
        self.is_giving.store(true, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1500));
    }

    fn starts(
        &self,
        partitions: &[TopicPartition],
        deadline: Instant,
    ) -> Option<BTreeMap<TopicPartition, Recorded>> {
        self.table.starts(partitions, deadline)
    }
}

/// Where a batch of librdkafka's ends at the end of a partition, it takes the place behind the next record for its own, under leader 0. When
/// the leader changes while a rebalance lasts, it asks about that, and takes the log for cut off. So messages are taken one by one.
#[test]
fn a_leader_that_changes_in_a_rebalance_cuts_nothing_off() {
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic(TOPIC, 1, 2).unwrap();
    cluster.create_topic("elsewhere", 1, 1).unwrap();
    cluster.partition_leader(TOPIC, 0, Some(2)).unwrap();
    let broker = Broker::new(cluster.bootstrap_servers());
    produce(&broker, 0, numbered(0..10));

    let (read, has_read) = mpsc::channel();
    let is_giving = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let (broker, is_giving) = (broker.clone(), is_giving.clone());
        move || {
            let table = Table::with([(0, 0)]);
            let mut subscription = subscription(1);
            let refresh = "topic.metadata.refresh.interval.ms";
            subscription.properties.insert(refresh.into(), "100".into());
            let assignments = Slowly {
                table: table.clone(),
                is_giving,
            };
            let generation = AssignmentGeneration::default();
            let mut drain =
                KafkaDrain::subscribe(&broker, subscription, generation, Arc::new(assignments))
                    .unwrap();
            let mut values = Vec::new();
            let mut notices = Vec::new();
            for (goal, assigned) in [(10, 1), (15, 2)] {
                notices.extend(serve_until(&mut drain, |drain, _| {
                    while let Some(batch) = drain.take(1 << 20, Timestamp::default()) {
                        assert!(table.commit(&batch));
                        for read in raw(batch) {
                            let texts = read.records().map(|record| record.value().unwrap());
                            values.extend(texts.map(<[u8]>::to_vec));
                        }
                    }
                    values.len() >= goal && table.questions.load(Ordering::Relaxed) >= assigned
                }));
                read.send(()).unwrap();
            }
            drain.close(PATIENCE).unwrap();
            (values, notices)
        }
    });
    has_read.recv_timeout(PATIENCE).unwrap();

    // Another member, of which the group has to know.
    let mut other = subscription(1);
    other.topics = vec!["elsewhere".into()];
    let generation = AssignmentGeneration::default();
    let mut other = KafkaDrain::subscribe(&broker, other, generation, Table::with([])).unwrap();
    serve_until(&mut other, |_, _| is_giving.load(Ordering::Relaxed));
    cluster.partition_leader(TOPIC, 0, Some(1)).unwrap();
    serve_until_assigned(&mut other);
    produce(&broker, 0, numbered(10..15));
    serve_until(&mut other, |_, _| has_read.try_recv().is_ok());
    let (values, notices) = reader.join().unwrap();
    let expected: Vec<Vec<u8>> = numbered(0..15)
        .into_iter()
        .map(String::into_bytes)
        .collect();
    assert_eq!(values, expected, "{notices:?}");
    let is_doubt = |notice: &Notice| match notice {
        Notice::Halted { .. } => true,
        Notice::Error { text, .. } => text.contains("cut off"),
        _ => false,
    };
    assert!(!notices.iter().any(is_doubt), "{notices:?}");
}
