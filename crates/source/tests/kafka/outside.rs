//! Questions outside any group, and the broker in this process.

use std::{collections::BTreeMap, net::TcpListener, time::Duration};

use alluvium_source::{
    Broker, EmbeddedBroker, Reread, SourceError, group_progress, log_bounds, offsets_at,
    partition_counts, topic_ids,
};
use alluvium_types::{ErrorClass, OffsetRange, Timestamp, TopicPartition};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};

use super::bench::{
    PATIENCE, TOPIC, Table, join, numbered, overfill, partition, produce, start, subscription,
    take_records, values,
};

#[test]
fn topics_are_counted_and_missing_ones_are_not_made() {
    let (_embedded, broker) = start(3);
    let topics = [TOPIC.into(), "missing".into()];
    for _ in 0..2 {
        let counts = partition_counts(&broker, &topics, PATIENCE).unwrap();
        assert_eq!(counts[TOPIC], Some(3));
        assert_eq!(counts["missing"], None);
        let ids = topic_ids(&broker, &topics, PATIENCE).unwrap();
        assert_eq!(
            ids.keys().map(|topic| &**topic).collect::<Vec<_>>(),
            [TOPIC]
        );
    }
    assert_eq!(
        group_progress(&broker, "nobody", TOPIC, PATIENCE).unwrap(),
        Default::default()
    );
}

#[test]
fn a_log_has_two_ends() {
    let (_embedded, broker) = start(2);
    produce(&broker, 1, numbered(0..42));
    let both = [partition(0), partition(1)];
    let bounds = log_bounds(&broker, &both, PATIENCE).unwrap();
    assert_eq!(bounds[&both[0]], (0, 0));
    assert_eq!(bounds[&both[1]], (0, 42));
    let unknown = log_bounds(&broker, &[TopicPartition::new(TOPIC, 7)], PATIENCE).unwrap_err();
    assert_eq!(unknown.class(), ErrorClass::Config, "{unknown}");
}

#[test]
fn where_no_record_is_young_enough_the_offset_is_the_logs_end() {
    let (_embedded, broker) = start(1);
    produce(&broker, 0, numbered(0..5));
    // The mock cluster knows no offsets by time and says so for every time.
    let future = Timestamp::from_millis(4_000_000_000_000);
    let offsets = offsets_at(&broker, &[partition(0)], future, PATIENCE).unwrap();
    assert_eq!(offsets[&partition(0)], 5);
}

#[test]
fn nobody_at_the_address_is_an_error_that_says_so() {
    let nobody = Broker::new("127.0.0.1:1");
    let error = partition_counts(&nobody, &[TOPIC.into()], Duration::from_millis(500)).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    let text = error.to_string();
    assert!(
        text.contains("127.0.0.1:1") && text.contains("refused"),
        "{text}"
    );
}

#[test]
fn the_embedded_broker_keeps_the_port_it_is_given() {
    // A port that was free a moment ago; nobody else binds fixed ports here.
    let port = {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap().port()
    };
    let topics = [(TOPIC.to_owned(), 1)];
    let embedded = EmbeddedBroker::start(Some(port), &topics).unwrap();
    assert_eq!(embedded.brokers(), format!("127.0.0.1:{port}"));
    assert!(matches!(
        EmbeddedBroker::start(Some(port), &topics),
        Err(SourceError::Port { .. })
    ));
    // Clients go where it says that it is, not where they found it.
    let asking: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", embedded.brokers())
        .create()
        .unwrap();
    let metadata = asking.fetch_metadata(Some(TOPIC), PATIENCE).unwrap();
    let ports: Vec<i32> = metadata
        .brokers()
        .iter()
        .map(|broker| broker.port())
        .collect();
    assert_eq!(ports, [i32::from(port)]);
    let broker = Broker::new(embedded.brokers());
    produce(&broker, 0, numbered(0..1_000));
    let mut drain = join(&broker, 1, &Table::with([(0, 0)]));
    assert_eq!(
        values(&take_records(&mut drain, 1_000), 0, 0),
        numbered(0..1_000)
    );
}

/// Reads stretches again to their ends: where each was read to, and the values.
fn reread(
    broker: &Broker,
    stretches: &BTreeMap<TopicPartition, OffsetRange>,
) -> Result<BTreeMap<TopicPartition, (OffsetRange, Vec<String>)>, SourceError> {
    let mut log = Reread::begin(broker, subscription(stretches.len()), stretches, PATIENCE)?;
    let mut found = BTreeMap::new();
    while let Some(batch) = log.next(4 << 10)? {
        let empty = (OffsetRange::empty_at(batch.range.start()), Vec::new());
        let (read, values) = found.entry(batch.partition.clone()).or_insert(empty);
        *read = read.join(batch.range).expect("batches chain");
        let read: Result<(), _> = batch.read(|records| {
            let records = records.records();
            values.extend(
                records.map(|record| String::from_utf8_lossy(record.value().unwrap()).into_owned()),
            );
            Ok::<_, ()>(())
        });
        read.unwrap();
    }
    Ok(found)
}

#[test]
fn stretches_are_read_again_exactly_and_without_a_trace() {
    let (_embedded, broker) = start(3);
    produce(&broker, 0, numbered(0..3_000));
    produce(&broker, 1, numbered(0..100));
    produce(&broker, 2, numbered(0..100));
    let stretch = |start, end| OffsetRange::new(start, end).unwrap();
    let stretches = BTreeMap::from([
        (partition(0), stretch(17, 2_900)),
        (partition(1), stretch(50, 50)),
        (partition(2), stretch(99, 100)),
    ]);
    for _ in 0..2 {
        let found = reread(&broker, &stretches).unwrap();
        let wanted = BTreeMap::from([
            (partition(0), (stretch(17, 2_900), numbered(17..2_900))),
            (partition(2), (stretch(99, 100), numbered(99..100))),
        ]);
        assert_eq!(found, wanted);
    }
    assert_eq!(reread(&broker, &BTreeMap::new()).unwrap(), BTreeMap::new());
    // No offset was told, and the group is free: a member gets everything at once.
    let group = subscription(3).group;
    assert_eq!(
        group_progress(&broker, &group, TOPIC, PATIENCE).unwrap(),
        Default::default()
    );
    let mut drain = join(&broker, 3, &Table::with([(0, 2_990), (1, 100), (2, 100)]));
    assert_eq!(
        values(&take_records(&mut drain, 10), 0, 2_990),
        numbered(2_990..3_000)
    );
}

#[test]
fn what_the_log_has_lost_is_not_read_again_in_silence() {
    let (_embedded, broker) = start(1);
    overfill(&broker, 0);
    let (low, end) = log_bounds(&broker, &[partition(0)], PATIENCE).unwrap()[&partition(0)];
    assert!(low > 0, "the oldest were dropped");
    let from = |start| BTreeMap::from([(partition(0), OffsetRange::new(start, end).unwrap())]);
    let lost = reread(&broker, &from(low - 1)).unwrap_err();
    assert!(
        matches!(&lost, SourceError::Gone { offset, .. } if *offset == low - 1),
        "{lost}"
    );
    assert_eq!(
        reread(&broker, &from(low)).unwrap()[&partition(0)].1.len() as i64,
        end - low
    );
}
