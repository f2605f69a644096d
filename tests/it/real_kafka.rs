//! What only a real Kafka does: transactions that abort, and compaction that leaves gaps. Each test is the real
//! binary against real topics, compared with what was produced or with an independent consumer.
//!
//! Run with `eval "export $(scripts/kafka.sh start)"` and `cargo test --test it -- --ignored real_kafka`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
    types::RDKafkaErrorCode,
};

use crate::{
    kill::assert_sums,
    process::{Process, alluvium, results, wait_for},
    site::{Site, broker_with, free_port},
};

const PARTITIONS: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);
/// 2026-03-01T13:00:00Z in milliseconds: all events are of the hour before.
const ONE_O_CLOCK: i64 = 1_772_370_000_000;

fn brokers() -> String {
    std::env::var("KAFKA_BROKERS")
        .expect("KAFKA_BROKERS names a real Kafka: scripts/kafka.sh start")
}

fn unique(prefix: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{prefix}-{}", now.as_nanos())
}

fn topic(prefix: &str, settings: &[(&str, &str)]) -> String {
    let name = unique(prefix);
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .create()
        .unwrap();
    // The records of these tests are dated in the past, and a broker would soon delete them.
    let topic = settings.iter().chain(&[("retention.ms", "-1")]).fold(
        NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1)),
        |topic, (key, value)| topic.set(key, value),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let made = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()));
    assert!(made.unwrap().iter().all(Result::is_ok));
    name
}

fn producer(settings: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers())
        .set("linger.ms", "5");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create().unwrap()
}

/// One record, as an independent consumer reads it.
#[derive(Clone)]
struct Record {
    partition: i32,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

fn send(producer: &BaseProducer, topic: &str, record: &Record) {
    let mut base = BaseRecord::<[u8], [u8]>::to(topic)
        .partition(record.partition)
        .timestamp(record.timestamp);
    base.key = record.key.as_deref();
    base.payload = record.value.as_deref();
    while let Err((error, back)) = producer.send(base) {
        assert_eq!(
            error,
            KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)
        );
        base = back;
        producer.poll(Duration::from_millis(5));
    }
}

/// Everything that a consumer which is not ours sees in a topic, committed transactions only.
fn read_all(brokers: &str, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", unique("reader"))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&all).unwrap();
    let (mut records, mut ended) = (Vec::new(), 0);
    while ended < PARTITIONS {
        match consumer.poll(PATIENCE).expect("a record or an end") {
            Ok(message) => records.push(Record {
                partition: message.partition(),
                timestamp: message.timestamp().to_millis().expect("a timestamp"),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
            }),
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
        }
    }
    records
}

/// Sends `records` in transactions of uneven length, of which a third is aborted and sent again later.
fn send_in_transactions(topic: &str, records: Vec<Record>, rng: &mut StdRng) {
    let producer = producer(&[("transactional.id", topic)]);
    producer.init_transactions(PATIENCE).unwrap();
    let (mut aborted, mut committed) = (0, 0);
    let mut left = records;
    while !left.is_empty() {
        let many = rng.random_range(1..2_000).min(left.len());
        producer.begin_transaction().unwrap();
        for record in &left[..many] {
            send(&producer, topic, record);
        }
        if rng.random_bool(1.0 / 3.0) {
            // Abort what the broker has, not what still waits here.
            producer.flush(PATIENCE).unwrap();
            producer.abort_transaction(PATIENCE).unwrap();
            aborted += 1;
            // Again later, behind others: another order and other offsets.
            left.rotate_left(many);
        } else {
            producer.commit_transaction(PATIENCE).unwrap();
            committed += 1;
            left.drain(..many);
        }
    }
    println!("{committed} transactions committed, {aborted} aborted and sent again");
    assert!(aborted * 5 > committed, "about a third is aborted");
}

/// A folder with the shipped click pipeline over `topic`.
fn clicks_site(folder: &Path, brokers: &str, topic: &str) -> PathBuf {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(shipped.join(name)).expect("a shipped file");
    fs::create_dir_all(folder.join("pipelines")).unwrap();
    fs::create_dir_all(folder.join("schemas")).unwrap();
    let pipeline = read("pipelines/clicks.yaml")
        .replace("topics: [clicks]", &format!("topics: [{topic}]"))
        .replace("commit_every: 10s", "commit_every: 1s");
    fs::write(folder.join("pipelines/clicks.yaml"), pipeline).unwrap();
    fs::write(
        folder.join("schemas/click.yaml"),
        read("schemas/click.yaml"),
    )
    .unwrap();
    let server = folder.join("alluvium.yaml");
    let text = format!(
        "version: 1\nstorage: {{root: ./data}}\nconnections: {{kafka: {{main: {{brokers: \"{brokers}\"}}}}}}\nlisten: {{http: \"127.0.0.1:{}\"}}\n",
        free_port()
    );
    fs::write(&server, text).unwrap();
    server
}

/// Every row of the click tables, sketches' answers included.
fn click_rows(server: &Path) -> Vec<String> {
    let file = server.to_str().unwrap();
    let queries = [
        "select window_start, country, page, clicks, errors, bytes, users, p50_ms, p99_ms from clicks_per_minute order by 1, 2, 3",
        "select window_start, users, round(mean_ms, 6) as mean_ms from users_per_hour order by 1",
    ];
    let answers = queries
        .iter()
        .map(|query| results(&["sql", "-c", file, "--format", "csv", query]));
    answers
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn counted_or_rejected(server: &Path) -> i64 {
    let file = server.to_str().unwrap();
    let query = "select coalesce(sum(events_in), 0) as n from system.commits where \"table\" = 'clicks_per_minute'";
    let output = alluvium()
        .args(["sql", "-c", file, "--format", "csv", query])
        .output()
        .unwrap();
    // The first answers come before the table is there.
    let text = String::from_utf8(output.stdout).unwrap();
    let number = text.lines().nth(1).and_then(|line| line.parse().ok());
    number.unwrap_or(0)
}

fn run_until(server: &Path, events: i64) -> Process {
    let run = Process::start(
        alluvium().arg("run").arg("-c").arg(server),
        &server.with_extension("log"),
    );
    wait_for("every event to be committed", 3 * PATIENCE, || {
        (counted_or_rejected(server) >= events).then_some(())
    });
    run
}

#[test]
#[ignore = "needs a real Kafka at KAFKA_BROKERS"]
fn the_same_events_give_the_same_values_over_every_way() {
    const EVENTS: i64 = 150_000;
    let folder = tempfile::tempdir().unwrap();
    let events = EVENTS.to_string();
    let generate = |brokers: &str, topic: &str, more: &[&str]| {
        let mut arguments = vec!["generate", "--seed", "9", "--start", "2026-11-01T00:00:00Z"];
        arguments.extend(["--brokers", brokers, "--topic", topic, "--events", &events]);
        arguments.extend(more);
        results(&arguments);
    };
    let mut rows = Vec::new();

    // The embedded broker keeps 5 MiB a partition, so the table is filled while events are made.
    let (_broker, embedded) = broker_with(folder.path(), &format!("clicks:{PARTITIONS}"));
    let server = clicks_site(&folder.path().join("embedded"), &embedded, "clicks");
    let generating = std::thread::scope(|scope| {
        let made =
            scope.spawn(|| generate(&embedded, "clicks", &["--keep-up-with", "alluvium.clicks"]));
        let run = run_until(&server, EVENTS);
        made.join().unwrap();
        run
    });
    drained(generating);
    rows.push(click_rows(&server));

    let plain = topic("clicks", &[]);
    generate(&brokers(), &plain, &[]);
    let server = clicks_site(&folder.path().join("plain"), &brokers(), &plain);
    drained(run_until(&server, EVENTS));
    rows.push(click_rows(&server));

    let aborting = topic("clicks-aborting", &[]);
    let records = read_all(&brokers(), &plain);
    assert_eq!(records.len() as i64, EVENTS);
    send_in_transactions(&aborting, records, &mut StdRng::seed_from_u64(3));
    let server = clicks_site(&folder.path().join("aborting"), &brokers(), &aborting);
    drained(run_until(&server, EVENTS));
    assert_eq!(
        counted_or_rejected(&server),
        EVENTS,
        "no aborted event is counted"
    );
    rows.push(click_rows(&server));

    println!("{} rows each", rows[0].len());
    assert!(rows[0].len() > 1_000);
    for (way, other) in ["plain", "aborting"].iter().zip(&rows[1..]) {
        let differing = rows[0].iter().zip(other).find(|(one, other)| one != other);
        assert_eq!(differing, None, "{way}: the first row that differs");
        assert_eq!(rows[0].len(), other.len(), "{way}");
    }
}

fn drained(mut run: Process) {
    run.drain(Duration::from_secs(40));
}

#[test]
#[ignore = "needs a real Kafka at KAFKA_BROKERS"]
fn transactions_that_abort_under_kill_9_leave_no_trace() {
    const EVENTS: usize = 300_000;
    let seed = 17;
    let mut rng = StdRng::seed_from_u64(seed);
    let topic = topic("events-aborting", &[]);
    let site = Site::of(&brokers(), "500ms", &topic);
    let mut expected: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let records = (0..EVENTS).map(|number| {
        let (key, amount) = (
            format!("key-{}", rng.random_range(0..500)),
            rng.random_range(-1000..1000_i64),
        );
        let entry = expected.entry(key.clone()).or_default();
        *entry = (entry.0 + 1, entry.1 + amount);
        let value = format!(
            "{{\"ts\":\"2026-03-01T12:{:02}:00Z\",\"key\":\"{key}\",\"amount\":{amount}}}",
            number % 60
        );
        Record {
            partition: number as i32 % PARTITIONS,
            timestamp: ONE_O_CLOCK,
            key: None,
            value: Some(value.into_bytes()),
        }
    });
    let records: Vec<Record> = records.collect();
    let (name, mut transactions) = (topic.clone(), StdRng::seed_from_u64(seed));
    let sending =
        std::thread::spawn(move || send_in_transactions(&name, records, &mut transactions));
    let mut kills = 0;
    while !sending.is_finished() || kills < 5 {
        let mut server = site.run("one");
        let lives = Instant::now() + Duration::from_millis(rng.random_range(1_000..3_500));
        while Instant::now() < lives {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(
            server.process.ended().is_none(),
            "{}",
            server.process.messages()
        );
        server.process.kill();
        kills += 1;
    }
    sending.join().unwrap();
    println!("{kills} kills");
    let mut server = site.run("one");
    assert_sums(&site.table(), &expected, 2 * PATIENCE);
    server.process.drain(Duration::from_secs(40));
    assert_sums(&site.table(), &expected, Duration::ZERO);
}

#[test]
#[ignore = "needs a real Kafka at KAFKA_BROKERS"]
fn a_compacted_topic_gives_what_compaction_left() {
    const EVENTS: i64 = 300_000;
    const KEYS: i64 = 20_000;
    let settings = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("segment.bytes", "1048576"),
        ("delete.retention.ms", "86400000"),
    ];
    let topic = topic("events-compacted", &settings);
    let producer = producer(&[]);
    let mut rng = StdRng::seed_from_u64(29);
    for number in 0..EVENTS {
        let key = format!("key-{}", rng.random_range(0..KEYS));
        let value = format!(
            "{{\"ts\":\"2026-03-01T12:{:02}:00Z\",\"key\":\"{key}\",\"amount\":{}}}",
            number % 60,
            rng.random_range(-1000..1000_i64),
        );
        let record = Record {
            partition: rng.random_range(0..PARTITIONS),
            timestamp: ONE_O_CLOCK,
            key: Some(key.into_bytes()),
            // A tombstone now and then: an event without a value, which no pipeline can take.
            value: (number % 1_000 != 0).then(|| value.into_bytes()),
        };
        send(&producer, &topic, &record);
    }
    producer.flush(PATIENCE).unwrap();

    // Compaction is done when it has thrown away half, and leaves alone what is left.
    let mut before = EVENTS;
    wait_for("compaction to rest", 4 * PATIENCE, || {
        std::thread::sleep(Duration::from_secs(20));
        let now = read_all(&brokers(), &topic).len() as i64;
        let rests = now == before && now < EVENTS / 2;
        before = now;
        rests.then_some(())
    });
    let left = read_all(&brokers(), &topic);
    let mut expected: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let mut tombstones = 0;
    for record in &left {
        let Some(value) = &record.value else {
            tombstones += 1;
            continue;
        };
        let event: serde_json::Value = serde_json::from_slice(value).unwrap();
        let entry = expected
            .entry(event["key"].as_str().unwrap().to_owned())
            .or_default();
        *entry = (entry.0 + 1, entry.1 + event["amount"].as_i64().unwrap());
    }
    println!(
        "{EVENTS} produced, {} left by compaction, {tombstones} of them tombstones",
        left.len()
    );
    assert!(tombstones > 0);

    let site = Site::of(&brokers(), "500ms", &topic);
    let mut server = site.run("one");
    assert_sums(&site.table(), &expected, 2 * PATIENCE);
    server.process.drain(Duration::from_secs(40));
    assert_sums(&site.table(), &expected, Duration::ZERO);
    let file = site.path("one.yaml");
    let query = "select count(*) as n from dead_letters.events";
    let letters = results(&[
        "sql",
        "-c",
        file.to_str().unwrap(),
        "--format",
        "csv",
        query,
    ]);
    assert_eq!(
        letters.lines().nth(1),
        Some(tombstones.to_string().as_str())
    );
    assert_eq!(
        read_all(&brokers(), &topic).len(),
        left.len(),
        "compaction rested all the while"
    );
}
