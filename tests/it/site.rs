//! A small site of its own for a test: embedded broker, server files, one pipeline, a load with a ledger.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::{
    ledger,
    process::{Process, alluvium, number, sql},
};

pub(crate) const PARTITIONS: i32 = 6;
pub(crate) const TOPIC: &str = "events";
pub(crate) const KEYS: u64 = 997;

const RATIOS: &str = "\
tables:
  per_key:
    window: {tumbling: 1m}
    group_by: {key: key}
    measures:
      events: count(*)
      amount: sum(amount)
  ratios:
    window: {tumbling: 1m}
    group_by: {key: key}
    measures:
      events: count(*)
      ratio: sum(coalesce(amount, 0) / divisor)
";

/// A folder with a server file, one pipeline and its schema.
pub(crate) struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new(brokers: &str, commit_every: &str) -> Self {
        Self::of(brokers, commit_every, TOPIC)
    }

    /// The same over another topic.
    pub(crate) fn of(brokers: &str, commit_every: &str, topic: &str) -> Self {
        Self::measuring(brokers, commit_every, topic, "")
    }

    /// The same with more measures, each a line `name: expression`.
    pub(crate) fn measuring(brokers: &str, commit_every: &str, topic: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a file has a folder")).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "schemas/event.yaml",
            "version: 1\ncolumns:\n  ts: timestamp\n  key: string\n  amount: int\n",
        );
        write(
            "pipelines/events.yaml",
            &format!(
                "version: 1\nsource:\n  kafka:\n    connection: main\n    topics: [{topic}]\n    start: earliest\n    properties: {{session.timeout.ms: \"6000\", heartbeat.interval.ms: \"500\"}}\n\
                 decode:\n  json:\n    schema: ../schemas/event.yaml\n\
                 event_time:\n  column: ts\n  max_delay: 5s\n  idle_after: 10s\n\
                 commit_every: {commit_every}\nrefresh_every: 200ms\n\
                 tables:\n  per_key:\n    window: {{tumbling: 1m}}\n    group_by:\n      key: key\n    measures:\n      events: count(*)\n      amount: sum(amount)\n{}",
                more.lines()
                    .map(|line| format!("      {line}\n"))
                    .collect::<String>()
            ),
        );
        for (name, port) in [("one", free_port()), ("two", free_port())] {
            write(
                &format!("{name}.yaml"),
                &format!(
                    "version: 1\nstorage: {{root: ./data}}\nconnections:\n  kafka:\n    main:\n      brokers: {brokers}\nlisten: {{http: \"127.0.0.1:{port}\", postgres: off, flight: off}}\nworkers: 2\nmemory: {{ingest: 64MiB, query: 64MiB}}\n"
                ),
            );
        }
        Self { folder }
    }

    /// Other tables of its pipeline, and another schema.
    pub(crate) fn write(&self, tables: &str, schema: &str) {
        fs::write(self.path("schemas/event.yaml"), schema).unwrap();
        let path = self.path("pipelines/events.yaml");
        let text = fs::read_to_string(&path).unwrap();
        let head = text.split("tables:").next().unwrap();
        fs::write(&path, format!("{head}{tables}")).unwrap();
    }

    /// The tables `per_key` and `ratios`, of which the second cannot divide by nought, and what type `amount` has.
    pub(crate) fn write_ratios(&self, amount: &str) {
        let schema = format!(
            "version: 1\ncolumns:\n  ts: timestamp\n  key: string\n  amount: {amount}\n  divisor: int\n"
        );
        self.write(RATIOS, &schema);
    }

    /// The events of its table, which has none before it is there.
    pub(crate) fn counted(&self) -> i64 {
        let log = fs::read_dir(self.table().join("_delta_log"));
        let is_entry = |path: &Path| path.extension().is_some_and(|end| end == "json");
        if !log
            .is_ok_and(|mut log| log.any(|entry| entry.is_ok_and(|entry| is_entry(&entry.path()))))
        {
            return 0;
        }
        let query = "select coalesce(sum(events), 0) as n from per_key";
        number(&sql(&self.path("one.yaml"), query)[0]["n"])
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn table(&self) -> PathBuf {
        self.path("data/tables/per_key")
    }

    pub(crate) fn run(&self, server: &str) -> Server {
        let file = self.path(&format!("{server}.yaml"));
        let text = fs::read_to_string(&file).unwrap();
        let address = text
            .split("http: \"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .expect("the server file names its door");
        let process = Process::start(
            alluvium().arg("run").arg("-c").arg(&file),
            &self.path(&format!("{server}.log")),
        );
        Server {
            process,
            url: format!("http://{address}"),
        }
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

/// A running `alluvium run`.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) url: String,
}

/// How far a server had come when it was looked at last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    /// Its tables are there.
    pub(crate) is_running: bool,
    pub(crate) read: i64,
    pub(crate) committed: i64,
    pub(crate) overtaken: i64,
}

impl Server {
    /// What it says about itself; `None` while it does not answer.
    pub(crate) fn reached(&self) -> Option<Reached> {
        let pipeline = self.pipeline()?;
        Some(Reached {
            is_running: pipeline["state"] == "running",
            read: pipeline["events_in"].as_i64()?,
            committed: pipeline["tables"][0]["balance"]["in"].as_i64().unwrap_or(0),
            overtaken: pipeline["overtaken"].as_i64().unwrap_or(0),
        })
    }

    /// Why partitions of its pipeline stand still; `None` while it does not answer.
    pub(crate) fn halts(&self) -> Option<Vec<String>> {
        let partitions = self.pipeline()?["partitions"].as_array()?.clone();
        let halts = partitions.iter();
        Some(
            halts
                .filter_map(|partition| Some(partition["halted"].as_str()?.to_owned()))
                .collect(),
        )
    }

    /// What is wrong with its pipeline; `None`: nothing, or it does not answer.
    pub(crate) fn reason(&self) -> Option<String> {
        Some(self.pipeline()?["reason"].as_str()?.to_owned())
    }

    /// The sum of a metric over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let metrics = reqwest::blocking::get(format!("{}/metrics", self.url)).unwrap();
        let metrics = metrics.text().unwrap();
        let of_metric = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        metrics.lines().filter(of_metric).filter_map(value).sum()
    }

    fn pipeline(&self) -> Option<serde_json::Value> {
        let client = reqwest::blocking::Client::builder()
            .timeout(Duration::from_millis(500))
            .build()
            .expect("a client");
        let status: serde_json::Value = client
            .get(format!("{}/v1/status", self.url))
            .send()
            .ok()?
            .json()
            .ok()?;
        let pipeline = status
            .as_array()
            .or_else(|| status["pipelines"].as_array())?
            .first()?
            .clone();
        Some(pipeline)
    }
}

/// Starts the embedded broker as a process of its own.
pub(crate) fn broker(folder: &Path) -> (Process, String) {
    broker_with(folder, &format!("{TOPIC}:{PARTITIONS}"))
}

/// The same with a topic, written `name:partitions`.
pub(crate) fn broker_with(folder: &Path, topic: &str) -> (Process, String) {
    let mut process = Process::start(
        alluvium().args(["broker", "--topic", topic]),
        &folder.join("broker.log"),
    );
    let address = process.first(|line| {
        line.split_whitespace()
            .find(|word| {
                word.split_once(':')
                    .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
            })
            .map(str::to_owned)
    });
    (process, address)
}

/// Sends events until told to stop, and writes its own ledger: events and amounts by key.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<String, (i64, i64)>>,
}

impl Load {
    /// Keeps every partition's distance from `table`'s recorded offset below what the embedded broker
    /// keeps, so that nothing can be lost before it is read.
    pub(crate) fn start(brokers: &str, table: PathBuf, per_second: u64, seed: u64) -> Self {
        Self::of_keys(KEYS, brokers, table, per_second, seed)
    }

    /// The same with another number of keys.
    pub(crate) fn of_keys(
        keys: u64,
        brokers: &str,
        table: PathBuf,
        per_second: u64,
        seed: u64,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let halt = stop.clone();
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("linger.ms", "20")
            .create()
            .expect("a producer");
        let thread = thread::spawn(move || {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut ledger = BTreeMap::new();
            let mut sent = vec![0_i64; PARTITIONS as usize];
            let begin = Instant::now();
            let mut number = 0_u64;
            let mut log = ledger::Follower::new(&table);
            while !halt.load(Ordering::Relaxed) {
                let due = begin.elapsed().as_millis() as u64 * per_second / 1000;
                log.advance();
                let recorded = &log.offsets;
                let behind = (0..PARTITIONS)
                    .map(|partition| {
                        let key = format!("{TOPIC}/{partition}");
                        sent[partition as usize] - recorded.get(&key).copied().unwrap_or(0)
                    })
                    .max()
                    .unwrap_or(0);
                if number >= due || behind > 25_000 {
                    producer.poll(Duration::from_millis(10));
                    continue;
                }
                for _ in 0..(due - number).min(500) {
                    let key = format!("key-{}", rng.random_range(0..keys));
                    let amount = rng.random_range(-1000..1000_i64);
                    let partition = rng.random_range(0..PARTITIONS);
                    let second = number / per_second % 60;
                    let payload = format!(
                        "{{\"ts\":\"2026-03-01T12:{:02}:{second:02}Z\",\"key\":\"{key}\",\"amount\":{amount}}}",
                        number % 7,
                    );
                    let mut record = BaseRecord::<(), [u8]>::to(TOPIC)
                        .partition(partition)
                        .payload(payload.as_bytes());
                    while let Err((_, back)) = producer.send(record) {
                        record = back;
                        producer.poll(Duration::from_millis(5));
                    }
                    sent[partition as usize] += 1;
                    let entry: &mut (i64, i64) = ledger.entry(key).or_default();
                    *entry = (entry.0 + 1, entry.1 + amount);
                    number += 1;
                }
                producer.poll(Duration::ZERO);
            }
            producer
                .flush(Duration::from_secs(30))
                .expect("everything that was counted was delivered");
            ledger
        });
        Self { stop, thread }
    }

    pub(crate) fn finish(self) -> BTreeMap<String, (i64, i64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load thread does not panic")
    }
}
