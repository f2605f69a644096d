//! Both ways of fetching bring the same records, whatever the producer made of them.

use alluvium_source::{Broker, DrainKind, KafkaDrain};
use alluvium_types::{AssignmentGeneration, RawBatch, Timestamp};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::bench::{PATIENCE, TOPIC, Table, raw, serve_until, start, subscription};

/// Everything a record has.
#[derive(Debug, PartialEq)]
struct Seen {
    partition: i32,
    offset: i64,
    timestamp: Option<Timestamp>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Sends records of every kind, compressed as `codec` says; returns how many.
fn produce(broker: &Broker, codec: &str, partitions: i32) -> usize {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.brokers)
        .set("compression.type", codec)
        .set("linger.ms", "5")
        .create()
        .unwrap();
    let mut count = 0;
    for number in 0..600 {
        let key = format!("key{}", number % 7);
        let value = format!("{{\"n\": {number}, \"pad\": \"{}\"}}", "ab".repeat(number));
        let mut record = BaseRecord::<str, str>::to(TOPIC)
            .partition(i32::try_from(number).unwrap() % partitions)
            .timestamp(1_700_000_000_000 + i64::try_from(number * number).unwrap());
        if number % 3 != 0 {
            record = record.key(&key);
        }
        if number % 11 != 0 {
            record = record.payload(&value);
        }
        if number % 5 == 0 {
            let mut headers = OwnedHeaders::new();
            for header in 0..number % 4 {
                headers = headers.insert(Header {
                    key: &format!("h{header}"),
                    value: (header != 2).then_some("x"),
                });
            }
            record = record.headers(headers);
        }
        producer.send(record).unwrap();
        count += 1;
        if number % 50 == 0 {
            producer.flush(PATIENCE).unwrap();
        }
    }
    producer.flush(PATIENCE).unwrap();
    count
}

fn read(broker: &Broker, kind: DrainKind, starts: &[(i32, i64)], count: usize) -> Vec<Seen> {
    let mut subscription = subscription(starts.len());
    subscription.drain = kind;
    subscription.group = format!("{kind:?}");
    let table = Table::with(starts.iter().copied());
    let mut drain =
        KafkaDrain::subscribe(broker, subscription, AssignmentGeneration::default(), table)
            .unwrap();
    let mut batches: Vec<RawBatch> = Vec::new();
    serve_until(&mut drain, |drain, _| {
        while let Some(batch) = drain.take(50_000, Timestamp::default()) {
            batches.extend(raw(batch));
        }
        batches.iter().map(RawBatch::len).sum::<usize>() >= count
    });
    drain.close(PATIENCE).unwrap();
    let mut seen: Vec<Seen> = batches
        .iter()
        .flat_map(|batch| {
            batch.records().map(|record| Seen {
                partition: batch.partition.partition,
                offset: record.offset(),
                timestamp: record.timestamp(),
                key: record.key().map(<[u8]>::to_vec),
                value: record.value().map(<[u8]>::to_vec),
                headers: record
                    .headers()
                    .into_iter()
                    .map(|header| (header.name, header.value.map(|value| value.to_vec())))
                    .collect(),
            })
        })
        .collect();
    seen.sort_by_key(|record| (record.partition, record.offset));
    seen
}

#[test]
fn every_codec_brings_the_same_records() {
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let (_embedded, broker) = start(3);
        let count = produce(&broker, codec, 3);
        let starts = [(0, 0), (1, 0), (2, 0)];
        let portable = read(&broker, DrainKind::Portable, &starts, count);
        assert_eq!(portable.len(), count);
        let direct = read(&broker, DrainKind::Direct, &starts, count);
        assert_eq!(direct, portable, "{codec}");
        // From the middle of a batch, as after a restart.
        let starts = [(0, 17), (1, 133), (2, 199)];
        let rest = count - 17 - 133 - 199;
        let portable = read(&broker, DrainKind::Portable, &starts, rest);
        let direct = read(&broker, DrainKind::Direct, &starts, rest);
        assert_eq!(direct.len(), rest);
        assert_eq!(direct, portable, "{codec}");
    }
}

#[test]
fn a_leader_that_moves_is_followed() {
    let cluster = MockCluster::new(3).unwrap();
    cluster.create_topic(TOPIC, 2, 3).unwrap();
    let broker = Broker::new(cluster.bootstrap_servers());
    let mut producer = alluvium_source::EventProducer::new(&broker, TOPIC).unwrap();
    let mut subscription = subscription(2);
    subscription.drain = DrainKind::Direct;
    let table = Table::with([(0, 0), (1, 0)]);
    let mut drain = KafkaDrain::subscribe(
        &broker,
        subscription,
        AssignmentGeneration::default(),
        table,
    )
    .unwrap();
    let mut next = [0, 0];
    for round in 0..6 {
        for number in 0..2 {
            cluster
                .partition_leader(TOPIC, number, Some(1 + (round + number) % 3))
                .unwrap();
            for value in 0..20 {
                producer
                    .send(
                        Some(number),
                        None,
                        format!("{round}/{value}").as_bytes(),
                        None,
                    )
                    .unwrap();
            }
        }
        producer.flush(PATIENCE).unwrap();
        let goal = i64::from(round + 1) * 20;
        serve_until(&mut drain, |drain, _| {
            while let Some(batch) = drain.take(1 << 20, Timestamp::default()) {
                let at = usize::try_from(batch.partition.partition).unwrap();
                assert_eq!(batch.range.start(), next[at]);
                next[at] = batch.range.end();
                for records in raw(batch) {
                    for record in records.records() {
                        let expected = format!("{}/{}", record.offset() / 20, record.offset() % 20);
                        assert_eq!(record.value(), Some(expected.as_bytes()));
                    }
                }
            }
            next == [goal, goal]
        });
    }
    drain.close(PATIENCE).unwrap();
}
