//! What the mock cluster cannot show: transaction markers and aborted records of a real Kafka.
//!
//! Run with `KAFKA_BROKERS=host:port cargo test --test with_kafka -- --ignored`. What is said of TLS and SASL also needs
//! `KAFKA_SECURED=folder` as `scripts/kafka.sh` knows it, and `KAFKA_SECURED_BROKERS=host:port`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use alluvium_source::{
    Assignments, Broker, DrainKind, Halt, KafkaDrain, Notice, Recorded, SourceError, Subscription,
    log_bounds, offsets_at,
};
use alluvium_types::{AssignmentGeneration, MemoryBudget, RawBatch, Timestamp, TopicPartition};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Every partition starts there.
struct StartAt(Recorded);

impl Assignments for StartAt {
    fn revoked(&self, _deadline: Instant) {}

    fn starts(
        &self,
        partitions: &[TopicPartition],
        _deadline: Instant,
    ) -> Option<BTreeMap<TopicPartition, Recorded>> {
        Some(
            partitions
                .iter()
                .map(|name| (name.clone(), self.0))
                .collect(),
        )
    }
}

fn create(broker: &Broker, topic: &str) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &broker.brokers)
        .create()
        .unwrap();
    let topics = [NewTopic::new(topic, 1, TopicReplication::Fixed(1))];
    let made = futures::executor::block_on(admin.create_topics(&topics, &AdminOptions::new()));
    assert!(made.unwrap().iter().all(Result::is_ok));
}

/// A group of its own, whose only partition starts there.
fn join(
    broker: &Broker,
    topic: &str,
    kind: DrainKind,
    start: Recorded,
) -> Result<KafkaDrain, SourceError> {
    let subscription = Subscription {
        drain: kind,
        topics: vec![topic.into()],
        group: unique("g"),
        instance: None,
        properties: BTreeMap::new(),
        memory: MemoryBudget::new(1 << 20),
        queue_bytes: 1 << 20,
        partition_count: 1,
    };
    let generation = AssignmentGeneration::default();
    KafkaDrain::subscribe(broker, subscription, generation, Arc::new(StartAt(start)))
}

fn unique(prefix: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{prefix}-{}", now.as_nanos())
}

#[test]
#[ignore = "needs a real Kafka at KAFKA_BROKERS"]
fn a_log_that_ends_in_markers_is_read_to_its_end_by_librdkafka() {
    a_log_that_ends_in_markers_is_read_to_its_end(DrainKind::Portable);
}

#[test]
#[ignore = "needs a real Kafka at KAFKA_BROKERS"]
fn a_log_that_ends_in_markers_is_read_to_its_end_by_our_own_requests() {
    a_log_that_ends_in_markers_is_read_to_its_end(DrainKind::Direct);
}

fn a_log_that_ends_in_markers_is_read_to_its_end(kind: DrainKind) {
    let broker = Broker::new(std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS is set"));
    let topic = unique("markers");
    create(&broker, &topic);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.brokers)
        .set("transactional.id", unique("t"))
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let mut committed = Vec::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let begun = i64::try_from(now.as_millis()).unwrap() - 3_600_000;
    let minute = |number: i64| begun + number * 60_000;
    // Transactions of ten records, a minute each, every third one aborted; the last ones, too.
    for transaction in 0..12 {
        producer.begin_transaction().unwrap();
        let abort = transaction % 3 == 2 || transaction == 10;
        for record in 0..10 {
            let value = format!("{transaction}/{record}");
            let record = BaseRecord::<str, str>::to(&topic)
                .partition(0)
                .payload(&value)
                .timestamp(minute(transaction));
            producer.send(record).unwrap();
            if !abort {
                committed.push(value);
            }
        }
        producer.flush(PATIENCE).unwrap();
        if abort {
            producer.abort_transaction(PATIENCE).unwrap();
        } else {
            producer.commit_transaction(PATIENCE).unwrap();
        }
    }
    let name = TopicPartition::new(&*topic, 0);
    let bounds = log_bounds(&broker, std::slice::from_ref(&name), PATIENCE).unwrap();
    let (low, high) = bounds[&name];
    assert_eq!(
        (low, high),
        (0, 12 * 11),
        "each transaction leaves a marker"
    );
    let at = |time| {
        let found = offsets_at(&broker, std::slice::from_ref(&name), time, PATIENCE);
        found.unwrap()[&name]
    };
    assert_eq!(at(Timestamp::default()), 0);
    let fourth = Timestamp::from_micros(minute(3) * 1_000);
    assert_eq!(at(fourth), 33);
    assert_eq!(at(fourth.saturating_add_micros(1)), 44, "no earlier record");
    assert_eq!(at(Timestamp::from_micros(minute(12) * 1_000)), high);

    let mut drain = join(&broker, &topic, kind, Recorded::at(0)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut read = Vec::new();
    let mut next = 0;
    while next < high {
        drain.serve(Duration::from_millis(5)).unwrap();
        while let Some(batch) = drain.take(50, Timestamp::default()) {
            assert_eq!(batch.range.start(), next, "ranges chain");
            next = batch.range.end();
            let records =
                |records: RawBatch| {
                    read.extend(records.records().map(|record| {
                        String::from_utf8(record.value().unwrap().to_vec()).unwrap()
                    }));
                    Ok::<(), ()>(())
                };
            batch.read(records).unwrap();
        }
        assert!(Instant::now() < deadline, "stands at {next} of {high}");
    }
    assert_eq!(next, high);
    assert_eq!(read, committed);

    // Behind the markers it goes on, and nothing of the next transaction is skipped.
    producer.begin_transaction().unwrap();
    producer
        .send(
            BaseRecord::<str, str>::to(&topic)
                .partition(0)
                .payload("more"),
        )
        .unwrap();
    producer.commit_transaction(PATIENCE).unwrap();
    while next < high + 2 {
        drain.serve(Duration::from_millis(5)).unwrap();
        if let Some(batch) = drain.take(1000, Timestamp::default()) {
            assert_eq!(batch.range.start(), next);
            next = batch.range.end();
            let records = |records: RawBatch| {
                read.extend(records.records().map(|_| "more".to_owned()));
                Ok::<(), ()>(())
            };
            batch.read(records).unwrap();
        }
        assert!(Instant::now() < deadline, "stands at {next}");
    }
    assert_eq!(read.len(), committed.len() + 1);
    drain.close(PATIENCE).unwrap();
}

/// Reads from a start of one partition until so many offsets are passed; the leader under which the last was written, or why it halted.
fn passed(
    broker: &Broker,
    topic: &str,
    kind: DrainKind,
    start: Recorded,
    end: i64,
) -> Result<Option<i32>, Halt> {
    let mut drain = join(broker, topic, kind, start).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        for notice in drain.serve(Duration::from_millis(5)).unwrap() {
            if let Notice::Halted { halt, .. } = notice {
                return Err(halt);
            }
        }
        while let Some(batch) = drain.take(1000, Timestamp::default()) {
            if batch.range.end() >= end {
                return Ok(batch.leader_epoch);
            }
        }
        assert!(Instant::now() < deadline, "{end} is not reached");
    }
}

/// A log that was cut off and written anew beyond the recorded offset shows by the leader's epoch alone.
#[test]
#[ignore = "needs a real Kafka at KAFKA_BROKERS"]
fn an_offset_goes_on_only_where_its_leader_wrote_the_record_before() {
    let broker = Broker::new(std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS is set"));
    let topic = unique("epochs");
    create(&broker, &topic);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.brokers)
        .create()
        .unwrap();
    for value in ["1", "2", "3", "4", "5"] {
        let record = BaseRecord::<str, str>::to(&topic).partition(0);
        producer.send(record.payload(value)).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    for kind in [DrainKind::Direct, DrainKind::Portable] {
        let passed = |start| passed(&broker, &topic, kind, start, 5);
        let epoch = passed(Recorded::at(0)).unwrap();
        let epoch = epoch.expect("a real broker says it");
        let under = |leader_epoch| Recorded {
            leader_epoch: Some(leader_epoch),
            ..Recorded::at(3)
        };
        assert_eq!(passed(under(epoch)), Ok(Some(epoch)));
        if kind == DrainKind::Portable {
            // librdkafka takes a start as it is given.
            continue;
        }
        // The log has no record of that leader, so the one before offset 3 is another than was read.
        let halt = passed(under(epoch + 1)).unwrap_err();
        assert!(
            matches!(
                halt,
                Halt::OutOfRange { offset: 3, .. } | Halt::Truncated { offset: 3, .. }
            ),
            "{halt:?}"
        );
    }
}

/// Reads a topic of one record over a secured listener; an error names why it cannot be read.
fn read_one(topic: &str, kind: DrainKind, properties: &[(&str, &str)]) -> Result<String, String> {
    let mut broker = Broker::new(std::env::var("KAFKA_SECURED_BROKERS").expect("it is set"));
    broker.properties = properties
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let name = TopicPartition::new(topic, 0);
    let asked = log_bounds(&broker, std::slice::from_ref(&name), Duration::from_secs(8));
    assert!(asked.is_err() || asked.is_ok_and(|bounds| bounds[&name] == (0, 1)));
    let mut drain =
        join(&broker, topic, kind, Recorded::at(0)).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + Duration::from_secs(8);
    let mut told = Vec::new();
    while Instant::now() < deadline {
        let notices = drain.serve(Duration::from_millis(5));
        told.extend(notices.map_err(|error| error.to_string())?);
        if let Some(batch) = drain.take(1000, Timestamp::default()) {
            let mut value = String::new();
            batch
                .read(|records| {
                    for record in records.records() {
                        value += std::str::from_utf8(record.value().unwrap()).unwrap();
                    }
                    Ok::<(), ()>(())
                })
                .unwrap();
            drain.close(PATIENCE).unwrap();
            return Ok(value);
        }
    }
    Err(format!("nothing came: {told:?}"))
}

#[test]
#[ignore = "needs a real Kafka with a secured listener at KAFKA_SECURED_BROKERS"]
fn both_drains_read_over_tls_as_a_user_of_every_mechanism() {
    let plain = Broker::new(std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS is set"));
    let folder = std::env::var("KAFKA_SECURED").expect("KAFKA_SECURED is set");
    let authority = format!("{folder}/ca.pem");
    let topic = unique("secured");
    create(&plain, &topic);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &plain.brokers)
        .create()
        .unwrap();
    let record = BaseRecord::<str, str>::to(&topic).payload("a secret");
    producer.send(record).unwrap();
    producer.flush(PATIENCE).unwrap();

    for kind in [DrainKind::Direct, DrainKind::Portable] {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] {
            let with = |word: &str| {
                let mut properties = vec![
                    ("security.protocol", "SASL_SSL"),
                    ("ssl.ca.location", authority.as_str()),
                    ("sasl.mechanism", mechanism),
                ];
                match mechanism {
                    "OAUTHBEARER" => properties.push(("sasl.oauthbearer.token.file", word)),
                    _ => {
                        properties.extend([("sasl.username", "alluvium"), ("sasl.password", word)])
                    }
                }
                read_one(&topic, kind, &properties)
            };
            let (right, wrong) = match mechanism {
                "OAUTHBEARER" => (token(",\"sub\":\"alluvium\""), token("")),
                _ => ("canary".to_owned(), "wrong-canary".to_owned()),
            };
            assert_eq!(
                with(&right).as_deref(),
                Ok("a secret"),
                "{kind:?} {mechanism}"
            );
            let refused = with(&wrong).unwrap_err();
            println!("{kind:?} {mechanism}, refused: {refused}");
            let told = std::fs::read_to_string(&wrong).unwrap_or(wrong);
            assert!(!refused.contains(&told), "a secret is told: {refused}");
        }
    }
}

/// A file with a token that nobody signed, which this broker takes if it says whose it is and that it is good for an hour.
fn token(claims: &str) -> String {
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = format!("{{\"iat\":{now},\"exp\":{}{claims}}}", now + 3600);
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let path = std::env::temp_dir().join(unique("token"));
    let text = format!("{}.{}.", part("{\"alg\":\"none\"}"), part(&claims));
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
