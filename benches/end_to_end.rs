//! The whole way of an event, from a Kafka topic to a committed table, beside loops that do less. Run with
//! `cargo bench --bench end_to_end -- [--events N] [--rounds N] [--only NAME,NAME]`.
//!
//! The topic is filled before any clock starts. Each contestant is a process of its own that reads the whole topic;
//! their turns alternate. Compared are events a second, events per CPU second of the process (user and system), its
//! peak memory, and the counts, which must agree. The broker is `KAFKA_BROKERS`, or a real Kafka that
//! `scripts/kafka.sh` starts and that is stopped at the end.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use alluvium_source::{Assignments, Broker, DrainKind, KafkaDrain, Subscription};
use alluvium_types::{AssignmentGeneration, MemoryBudget, Timestamp, TopicPartition};
use rand::{SeedableRng, rngs::StdRng};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde::{Deserialize, Serialize};

mod common;

const PARTITIONS: i32 = 4;
const SEED: u64 = 7;
/// Ticks of `/proc` a second; Linux shows user space 100 whatever the kernel uses.
const TICKS: f64 = 100.0;

/// The job: without bots, per minute and country: how many, how many bytes, how long on average.
const PIPELINE: &str = "\
version: 1
source:
  kafka: {connection: main, topics: [TOPIC], start: earliest, group: GROUP, drain: DRAIN}
decode:
  json: {schema: ../schemas/click.yaml}
event_time: {column: ts, max_delay: 2m, idle_after: 1m}
where: not is_bot
commit_every: 1s
tables:
  clicks:
    window: {tumbling: 1m}
    group_by: {country: country}
    measures:
      clicks: count(*)
      bytes: sum(bytes)
      mean_ms: avg(latency_ms)
";

/// What a contestant came to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Outcome {
    /// Groups, or 0 where nothing is grouped.
    groups: u64,
    /// Events counted.
    clicks: u64,
    /// Their bytes, or 0 where they are not looked at.
    bytes: u64,
    wall: f64,
    cpu: f64,
    peak_mib: f64,
}

/// One way to read the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    Poll,
    ByHand,
    PortableDrain,
    DirectDrain,
    Portable,
    Direct,
}

impl Contestant {
    const ALL: [Self; 6] = [
        Self::Poll,
        Self::ByHand,
        Self::PortableDrain,
        Self::DirectDrain,
        Self::Portable,
        Self::Direct,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::ByHand => "by-hand",
            Self::PortableDrain => "portable-drain",
            Self::DirectDrain => "direct-drain",
            Self::Portable => "portable",
            Self::Direct => "direct",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Poll => "bare drain, `BaseConsumer::poll`",
            Self::ByHand => "by hand: poll, serde_json into a struct, HashMap",
            Self::PortableDrain => {
                "our portable drain alone: batches of partition queues, one copy"
            }
            Self::DirectDrain => "our direct drain alone: fetched, checked, unpacked",
            Self::Portable => "`alluvium run`, `drain: portable`, to a committed table",
            Self::Direct => "`alluvium run`, to a committed table",
        }
    }

    /// Whether it counts groups and bytes.
    fn counts(self) -> bool {
        matches!(self, Self::ByHand | Self::Portable | Self::Direct)
    }

    fn run(self, brokers: &str, topic: &str, events: usize) -> Outcome {
        match self {
            Self::Portable => alluvium(brokers, topic, events, "portable"),
            Self::Direct => alluvium(brokers, topic, events, "direct"),
            _ => child(self.name(), brokers, topic, events),
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let position = arguments.iter().position(|argument| argument == name)?;
        arguments.get(position + 1).cloned()
    };
    let number = |name: &str, default: usize| match option(name) {
        Some(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} takes a number, not {text}")),
        None => default,
    };
    let events = number("--events", 6_000_000);
    if let Some(contestant) = option("--contestant") {
        let (brokers, topic) = (option("--brokers").unwrap(), option("--topic").unwrap());
        let outcome = match contestant.as_str() {
            "poll" => poll(&brokers, &topic, events),
            "by-hand" => by_hand(&brokers, &topic, events),
            "portable-drain" => drain(DrainKind::Portable, &brokers, &topic, events),
            "direct-drain" => drain(DrainKind::Direct, &brokers, &topic, events),
            other => panic!("there is no contestant {other}"),
        };
        println!("{}", serde_json::to_string(&outcome).unwrap());
        return;
    }
    let rounds = number("--rounds", 3);
    let kafka = Kafka::find();
    let topic = format!("bench-{SEED}-{events}");
    fill(&kafka.brokers, &topic, events);
    let only = option("--only");
    let chosen: Vec<Contestant> = Contestant::ALL
        .into_iter()
        .filter(|contestant| {
            only.as_ref()
                .is_none_or(|only| only.split(',').any(|name| name == contestant.name()))
        })
        .collect();
    let mut outcomes: Vec<Vec<Outcome>> = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let run = |contestant: &Contestant| contestant.run(&kafka.brokers, &topic, events);
        outcomes.push(chosen.iter().map(run).collect());
    }
    report(&chosen, &outcomes, events);
}

fn report(chosen: &[Contestant], outcomes: &[Vec<Outcome>], events: usize) {
    for round in outcomes {
        let mut counted = None;
        for (contestant, outcome) in chosen.iter().zip(round) {
            let all = (outcome.groups, outcome.clicks, outcome.bytes);
            if contestant.counts() {
                assert_eq!(
                    *counted.get_or_insert(all),
                    all,
                    "{contestant:?} counts the same"
                );
            } else {
                assert_eq!(
                    outcome.clicks as usize, events,
                    "{contestant:?} reads every event"
                );
            }
        }
    }
    let median = |position: usize, figure: &dyn Fn(&Outcome) -> f64| {
        let mut figures: Vec<f64> = outcomes
            .iter()
            .map(|round| figure(&round[position]))
            .collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let count = events as f64;
    let per_cpu = |position| median(position, &|outcome| count / outcome.cpu);
    let of = |position: usize, baseline: Contestant| {
        let found = chosen.iter().position(|contestant| *contestant == baseline);
        found.map_or_else(
            || "–".to_owned(),
            |baseline| format!("{:.2}", per_cpu(position) / per_cpu(baseline)),
        )
    };
    println!("\n{events} events, medians of {} runs\n", outcomes.len());
    println!("| | thousand events per CPU second | of poll | of by hand | wall s | peak MiB |");
    println!("|---|---|---|---|---|---|");
    for (position, contestant) in chosen.iter().enumerate() {
        println!(
            "| {} | {:.0} | {} | {} | {:.1} | {:.0} |",
            contestant.title(),
            per_cpu(position) / 1e3,
            of(position, Contestant::Poll),
            of(position, Contestant::ByHand),
            median(position, &|outcome| outcome.wall),
            median(position, &|outcome| outcome.peak_mib),
        );
    }
}

/// A broker, stopped again if it was started here.
struct Kafka {
    brokers: String,
    script: Option<PathBuf>,
}

impl Kafka {
    fn find() -> Self {
        if let Ok(brokers) = std::env::var("KAFKA_BROKERS") {
            return Self {
                brokers,
                script: None,
            };
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka.sh");
        let output = Command::new(&script)
            .arg("start")
            .output()
            .expect("scripts/kafka.sh runs");
        let text = String::from_utf8(output.stdout).unwrap();
        let Some(brokers) = text.trim().strip_prefix("KAFKA_BROKERS=") else {
            panic!("no Kafka: {}", String::from_utf8_lossy(&output.stderr));
        };
        Self {
            brokers: brokers.to_owned(),
            script: Some(script),
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(script) = &self.script {
            let stopped = Command::new(script).arg("stop").status();
            assert!(
                stopped.is_ok_and(|status| status.success()),
                "Kafka could not be stopped"
            );
        }
    }
}

/// The records in a topic; `None` when it is not there.
fn held(brokers: &str, topic: &str) -> Option<i64> {
    let consumer = consumer(brokers);
    let metadata = consumer
        .fetch_metadata(Some(topic), Duration::from_secs(20))
        .unwrap();
    let partitions = metadata.topics().first()?.partitions().len() as i32;
    (partitions == PARTITIONS).then(|| {
        let bounds = (0..PARTITIONS).map(|partition| {
            let bounds = consumer.fetch_watermarks(topic, partition, Duration::from_secs(20));
            let (low, high) = bounds.unwrap();
            high - low
        });
        bounds.sum()
    })
}

fn fill(brokers: &str, topic: &str, events: usize) {
    match held(brokers, topic) {
        Some(held) if held == events as i64 => return,
        Some(held) if held > 0 => panic!("topic {topic} holds {held} events; delete it first"),
        Some(_) => {}
        None => {
            let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
                .set("bootstrap.servers", brokers)
                .create()
                .unwrap();
            let topics = [NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1))];
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            let made = runtime.block_on(admin.create_topics(&topics, &AdminOptions::new()));
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
        let payload = common::event(&mut random, number, events);
        let mut record = BaseRecord::<(), str>::to(topic)
            .partition(number as i32 % PARTITIONS)
            .payload(&payload);
        while let Err((_, back)) = producer.send(record) {
            record = back;
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    assert_eq!(
        held(brokers, topic),
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

fn assigned(brokers: &str, topic: &str) -> BaseConsumer {
    let consumer = consumer(brokers);
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&all).unwrap();
    consumer
}

/// CPU seconds of a process, and its most memory in MiB.
fn usage(process: &str) -> (f64, f64) {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name stands in parentheses and may hold anything; the fields follow it.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<f64>().unwrap())
        .sum();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    (ticks / TICKS, kib / 1024.0)
}

fn outcome(begin: Instant, groups: u64, clicks: u64, bytes: u64) -> Outcome {
    let (cpu, peak_mib) = usage("self");
    Outcome {
        groups,
        clicks,
        bytes,
        wall: begin.elapsed().as_secs_f64(),
        cpu,
        peak_mib,
    }
}

fn poll(brokers: &str, topic: &str, events: usize) -> Outcome {
    let begin = Instant::now();
    let consumer = assigned(brokers, topic);
    let mut read = 0;
    while read < events {
        if let Some(message) = consumer.poll(Duration::from_secs(10)) {
            read += usize::from(message.unwrap().payload().is_some());
        }
    }
    outcome(begin, 0, read as u64, 0)
}

/// Recorded offsets of a run that records none.
struct FromTheBeginning;

impl Assignments for FromTheBeginning {
    fn revoked(&self, _deadline: Instant) {}

    fn starts(
        &self,
        partitions: &[TopicPartition],
        _deadline: Instant,
    ) -> Option<BTreeMap<TopicPartition, i64>> {
        Some(partitions.iter().map(|name| (name.clone(), 0)).collect())
    }
}

/// Our own drain with nothing behind it but the unpacking, which workers would do, on the one thread.
fn drain(kind: DrainKind, brokers: &str, topic: &str, events: usize) -> Outcome {
    let begin = Instant::now();
    let subscription = Subscription {
        broker: Broker::new(brokers),
        drain: kind,
        topics: vec![topic.into()],
        group: format!("bench-drain-{}", UNIX_EPOCH.elapsed().unwrap().as_millis()),
        instance: None,
        properties: BTreeMap::new(),
        memory: MemoryBudget::new(256 << 20),
        queue_bytes: 32 << 20,
        partition_count: PARTITIONS as usize,
    };
    let mut drain = KafkaDrain::subscribe(
        subscription,
        AssignmentGeneration::default(),
        Arc::new(FromTheBeginning),
    )
    .unwrap();
    let mut read = 0;
    let mut busy = false;
    while read < events {
        let patience = if busy { 0 } else { 5 };
        drain.serve(Duration::from_millis(patience)).unwrap();
        busy = false;
        while let Some(batch) = drain.take(1 << 20, Timestamp::default()) {
            busy = true;
            batch
                .read(|records| {
                    read += records
                        .records()
                        .filter(|record| record.value().is_some())
                        .count();
                    Ok::<(), ()>(())
                })
                .unwrap();
        }
    }
    let outcome = outcome(begin, 0, read as u64, 0);
    drain.close(Duration::from_secs(10)).unwrap();
    outcome
}

#[derive(Deserialize)]
struct Click<'a> {
    ts: &'a str,
    country: &'a str,
    latency_ms: f64,
    bytes: u64,
    is_bot: bool,
}

/// What somebody writes in an afternoon: exact as long as nothing ever fails.
fn by_hand(brokers: &str, topic: &str, events: usize) -> Outcome {
    #[derive(Default)]
    struct Group {
        clicks: u64,
        bytes: u64,
        ms: f64,
    }
    let begin = Instant::now();
    let consumer = assigned(brokers, topic);
    let mut groups: HashMap<(String, String), Group> = HashMap::new();
    let mut read = 0;
    while read < events {
        let Some(message) = consumer.poll(Duration::from_secs(10)) else {
            continue;
        };
        let message = message.unwrap();
        let click: Click<'_> = serde_json::from_slice(message.payload().unwrap()).unwrap();
        read += 1;
        if click.is_bot {
            continue;
        }
        // To the minute: 2026-03-01T12:34
        let key = (click.ts[..16].to_owned(), click.country.to_owned());
        let group = groups.entry(key).or_default();
        group.clicks += 1;
        group.bytes += click.bytes;
        group.ms += click.latency_ms;
    }
    let clicks = groups.values().map(|group| group.clicks).sum();
    let bytes = groups.values().map(|group| group.bytes).sum();
    let latency: f64 = groups
        .values()
        .map(|group| group.ms / group.clicks as f64)
        .sum();
    assert!(latency > 0.0, "averages are computed");
    outcome(begin, groups.len() as u64, clicks, bytes)
}

fn child(contestant: &str, brokers: &str, topic: &str, events: usize) -> Outcome {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--contestant",
            contestant,
            "--brokers",
            brokers,
            "--topic",
            topic,
        ])
        .args(["--events", &events.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{contestant} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A child that ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone then.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// From the start of the process to the version of the table that covers every event.
fn alluvium(brokers: &str, topic: &str, events: usize, drain: &str) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/click.yaml");
    write("schemas/click.yaml", &fs::read_to_string(shipped).unwrap());
    // A group of its own: in one that a killed member has not left yet, partitions wait for its session to end.
    let group = format!("bench-{}", std::process::id());
    let group = format!("{group}-{}", UNIX_EPOCH.elapsed().unwrap().as_millis());
    let pipeline = PIPELINE
        .replace("TOPIC", topic)
        .replace("GROUP", &group)
        .replace("DRAIN", drain);
    write("pipelines/bench.yaml", &pipeline);
    write(
        "alluvium.yaml",
        &format!(
            "version: 1\nstorage: {{root: ./data}}\nconnections: {{kafka: {{main: {{brokers: \"{brokers}\"}}}}}}\nlisten: {{http: \"127.0.0.1:0\"}}\n"
        ),
    );
    let server = folder.path().join("alluvium.yaml");
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let begin = Instant::now();
    let mut run = Running(
        Command::new(env!("CARGO_BIN_EXE_alluvium"))
            .arg("run")
            .arg("-c")
            .arg(&server)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let table = folder.path().join("data/tables/clicks/_delta_log");
    let mut follower = Offsets::default();
    while follower.advance(&table) < events as i64 {
        if let Some(status) = run.0.try_wait().unwrap() {
            let log = fs::read_to_string(folder.path().join("log")).unwrap();
            panic!("alluvium ended with {status}:\n{log}");
        }
        assert!(
            begin.elapsed() < Duration::from_secs(600),
            "it takes too long"
        );
        thread::sleep(Duration::from_millis(5));
    }
    let wall = begin.elapsed().as_secs_f64();
    let (cpu, peak_mib) = usage(&run.0.id().to_string());
    drop(run);
    let query = "select count(*) as g, sum(clicks) as c, sum(bytes) as b from clicks";
    let output = Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .args(["sql", "--format", "csv", "-c"])
        .arg(&server)
        .arg(query)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let figures: Vec<u64> = text
        .lines()
        .nth(1)
        .unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(&output.stderr)))
        .split(',')
        .map(|figure| figure.parse().unwrap())
        .collect();
    Outcome {
        groups: figures[0],
        clicks: figures[1],
        bytes: figures[2],
        wall,
        cpu,
        peak_mib,
    }
}

/// Follows the offsets that a table records, each log entry read once.
#[derive(Default)]
struct Offsets {
    next: i64,
    recorded: HashMap<String, i64>,
}

impl Offsets {
    /// The sum over all partitions, as of now. Offsets of the topic start at 0 and have no gaps.
    fn advance(&mut self, log: &Path) -> i64 {
        while let Ok(text) = fs::read_to_string(log.join(format!("{:020}.json", self.next))) {
            for line in text.lines() {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                let (Some(id), Some(next)) = (
                    entry["txn"]["appId"].as_str(),
                    entry["txn"]["version"].as_i64(),
                ) else {
                    continue;
                };
                if id
                    .rsplit('/')
                    .next()
                    .is_some_and(|last| last.parse::<i32>().is_ok())
                {
                    self.recorded.insert(id.to_owned(), next);
                }
            }
            self.next += 1;
        }
        self.recorded.values().sum()
    }
}
