//! How long an answer takes over a table of more and more files, while events still arrive, and how long a start takes
//! over more and more versions.

use std::{
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::{
    server::{Job, Server},
    topic::Kafka,
};

pub(crate) const ANSWERS: &str = "answers";
pub(crate) const START: &str = "start";

const PIPELINE: &str = "\
version: 1
source:
  kafka: {connection: main, topics: [TOPIC], start: earliest, group: GROUP}
decode:
  json: {schema: ../schemas/click.yaml}
event_time: {column: ts, max_delay: 2m}
commit_every: EVERY
tables:
  t1:
    window: {tumbling: 1m}
    group_by: {key: bytes % 50}
    measures: {events: count(*), bytes: sum(bytes)}
";

const SCHEMA: &str = "version: 1\ncolumns: {ts: timestamp, bytes: bigint}\n";
/// Events that arrive within a tenth of a second.
const A_TENTH: usize = 500;
/// Queries of one line.
const QUERIES: usize = 21;

/// Prints answers over files, and over epochs that wait for their commit.
pub(crate) fn answers(kafka: &Kafka) {
    println!(
        "\nAnswers over files: `commit_every: 250ms`, 5,000 events a second, 50 keys; one client, milliseconds.\n"
    );
    let titles = "| count of all, median | slowest | sums by key, median | slowest | panes |\n|---|---|---|---|---|---|";
    println!("| versions {titles}");
    let mut river = River::start(kafka, "250ms");
    let door = Door::of(&river.server);
    for versions in [10, 30, 100, 200] {
        river.flow_until(|river| river.server.versions() >= versions);
        println!("| {versions} {}", door.figures());
    }
    println!("\nAnswers over epochs in memory: `commit_every: 60s`, the same.\n");
    println!("| seconds {titles}");
    let mut river = River::start(kafka, "60s");
    let door = Door::of(&river.server);
    for seconds in [1, 10, 30, 50] {
        river.flow_until(|river| river.begin.elapsed() >= Duration::from_secs(seconds));
        println!("| {seconds} {}", door.figures());
    }
}

/// Prints how long it takes from the start of a process to its first records.
pub(crate) fn start(kafka: &Kafka) {
    println!(
        "\nStart: from the start of the process to its first records, of five starts after `kill -9`, milliseconds.\n"
    );
    println!("| versions | median | slowest |\n|---|---|---|");
    let mut river = River::start(kafka, "100ms");
    for versions in [10, 100, 1000] {
        river.flow_until(|river| river.server.versions() >= versions);
        let mut took: Vec<u128> = (0..5)
            .map(|_| {
                river.server.kill();
                river.pour();
                river.server.start_again();
                river.server.wait_for_line("first records").as_millis()
            })
            .collect();
        took.sort_unstable();
        println!("| {versions} | {} | {} |", took[2], took[4]);
    }
}

/// A server with a producer that sends 5,000 events a second.
struct River {
    server: Server,
    producer: BaseProducer,
    topic: String,
    begin: Instant,
    number: usize,
}

impl River {
    fn start(kafka: &Kafka, every: &str) -> Self {
        let topic = format!("growth-answers-{}-{every}", std::process::id());
        crate::topic::fill(&kafka.brokers, &topic, 4, 0, |_, _| String::new());
        let server = Server::start(&Job {
            brokers: &kafka.brokers,
            topic: &topic,
            schema: SCHEMA,
            pipeline: &PIPELINE.replace("EVERY", every),
            tables: &["t1"],
            settings: "",
            properties: "",
        });
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &kafka.brokers)
            .set("linger.ms", "5")
            .create()
            .unwrap();
        Self {
            server,
            producer,
            topic,
            begin: Instant::now(),
            number: 0,
        }
    }

    /// Lets events flow until something is so.
    fn flow_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        for tick in 1.. {
            if is_so(self) {
                return;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(300),
                "it takes too long"
            );
            self.pour();
            let next = begin + Duration::from_millis(100) * tick;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// Sends what belongs to a tenth of a second.
    fn pour(&mut self) {
        for _ in 0..A_TENTH {
            let event = format!(
                r#"{{"ts":"2026-03-01T12:{:02}:00Z","bytes":{}}}"#,
                self.number / 50_000 % 60,
                self.number % 1000
            );
            self.number += 1;
            let record = BaseRecord::<(), str>::to(&self.topic).payload(&event);
            self.producer.send(record).unwrap();
        }
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }
}

/// The HTTP door of a server.
struct Door {
    client: Client,
    url: String,
}

impl Door {
    fn of(server: &Server) -> Self {
        let begin = Instant::now();
        let url = loop {
            if let Some(address) = server.address() {
                break format!("{address}/v1/sql");
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "no door opens");
            thread::sleep(Duration::from_millis(20));
        };
        Self {
            client: Client::new(),
            url,
        }
    }

    fn ask(&self, sql: &str) -> Value {
        let body = json!({ "sql": sql }).to_string();
        let answer = self.client.post(&self.url).body(body).send().unwrap();
        serde_json::from_str(&answer.error_for_status().unwrap().text().unwrap()).unwrap()
    }

    /// Median and slowest of some queries, in milliseconds.
    fn time(&self, sql: &str) -> (f64, f64) {
        let mut took: Vec<f64> = (0..QUERIES)
            .map(|_| {
                let begin = Instant::now();
                self.ask(sql);
                begin.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        took.sort_by(f64::total_cmp);
        (took[QUERIES / 2], took[QUERIES - 1])
    }

    fn figures(&self) -> String {
        let (count, slowest_count) = self.time("select sum(events) from t1");
        let (sums, slowest_sums) =
            self.time("select key, sum(bytes) from t1 group by key order by key");
        let panes = self.ask("select count(*) as panes from panes.t1");
        format!(
            "| {count:.1} | {slowest_count:.1} | {sums:.1} | {slowest_sums:.1} | {} |",
            panes["rows"][0]["panes"]
        )
    }
}
