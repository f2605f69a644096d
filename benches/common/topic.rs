//! The Kafka that is read from, and the topic in it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::usage;

pub(crate) const PARTITIONS: i32 = 4;
pub(crate) const SEED: u64 = 7;

/// A broker, stopped again if it was started here.
pub(crate) struct Kafka {
    pub(crate) brokers: String,
    /// Its process, when it is one of `scripts/kafka.sh`.
    process: Option<String>,
    /// Whether it was started here.
    ours: bool,
}

impl Kafka {
    /// The one at `KAFKA_BROKERS`, or one that is started now.
    pub(crate) fn find() -> Self {
        let given = std::env::var("KAFKA_BROKERS").ok();
        let ours = given.is_none();
        let brokers = given.unwrap_or_else(|| {
            let output = Command::new(script()).arg("start").output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let Some(brokers) = text.trim().strip_prefix("KAFKA_BROKERS=") else {
                panic!("no Kafka: {}", String::from_utf8_lossy(&output.stderr));
            };
            brokers.to_owned()
        });
        let process = process_of(&brokers);
        Self {
            brokers,
            process,
            ours,
        }
    }

    /// CPU seconds of the broker so far; `None` when its process is not known.
    pub(crate) fn cpu(&self) -> Option<f64> {
        self.process.as_deref().map(usage::cpu)
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka.sh")
}

/// The process of a broker that `scripts/kafka.sh` started.
fn process_of(brokers: &str) -> Option<String> {
    let port = brokers.strip_prefix("127.0.0.1:")?;
    let status = Command::new(script())
        .arg("status")
        .env("KAFKA_PORT", port)
        .output()
        .unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    let (_, process) = text.trim().rsplit_once("process ")?;
    Some(process.to_owned())
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if self.ours {
            let stopped = Command::new(script()).arg("stop").status();
            assert!(
                stopped.is_ok_and(|status| status.success()),
                "Kafka could not be stopped"
            );
        }
    }
}

/// The records in a topic; `None` when it is not there with so many partitions.
pub(crate) fn held(brokers: &str, topic: &str, partitions: i32) -> Option<i64> {
    let consumer = consumer(brokers);
    let metadata = consumer
        .fetch_metadata(Some(topic), Duration::from_secs(20))
        .unwrap();
    let found = metadata.topics().first()?.partitions().len() as i32;
    (found == partitions).then(|| {
        let bounds = (0..partitions).map(|partition| {
            let bounds = consumer.fetch_watermarks(topic, partition, Duration::from_secs(20));
            let (low, high) = bounds.unwrap();
            high - low
        });
        bounds.sum()
    })
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(work)
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap()
}

/// Makes the topic and fills it with what `event` gives for each number, unless it is full already.
pub(crate) fn fill(
    brokers: &str,
    topic: &str,
    partitions: i32,
    events: usize,
    mut event: impl FnMut(&mut StdRng, usize) -> String,
) {
    match held(brokers, topic, partitions) {
        Some(held) if held == events as i64 => return,
        Some(held) if held > 0 => panic!("topic {topic} holds {held} events; delete it first"),
        Some(_) => {}
        None => {
            let topics = [NewTopic::new(topic, partitions, TopicReplication::Fixed(1))];
            let made = run(admin(brokers).create_topics(&topics, &AdminOptions::new()));
            assert!(made.unwrap().iter().all(Result::is_ok));
        }
    }
    eprintln!("filling topic {topic}");
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", "lz4")
        .set("linger.ms", "50")
        .set("batch.size", "1000000")
        .create()
        .unwrap();
    let mut random = StdRng::seed_from_u64(SEED);
    for number in 0..events {
        let payload = event(&mut random, number);
        let mut record = BaseRecord::<(), str>::to(topic)
            .partition(number as i32 % partitions)
            .payload(&payload);
        while let Err((_, back)) = producer.send(record) {
            record = back;
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    assert_eq!(
        held(brokers, topic, partitions),
        Some(events as i64),
        "every event arrived"
    );
}

fn consumer(brokers: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        // With the default of a second the loops would mostly wait.
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .unwrap()
}

/// A consumer that reads the whole topic from its beginning.
pub(crate) fn assigned(brokers: &str, topic: &str) -> BaseConsumer {
    let consumer = consumer(brokers);
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&all).unwrap();
    consumer
}
