//! How long an answer takes over a table of more and more files, while events still arrive.

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

pub(crate) const NAME: &str = "answers";

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

/// Prints both curves: over files, and over epochs that wait for their commit.
pub(crate) fn print(kafka: &Kafka) {
    println!(
        "\nAnswers over files: `commit_every: 250ms`, 5,000 events a second, 50 keys; one client, milliseconds.\n"
    );
    table("versions", kafka, "250ms", &[10, 30, 100, 200], |moment| {
        moment["versions"].as_u64().unwrap()
    });
    println!(
        "\nAnswers over epochs in memory: `commit_every: 60s`, the same; an epoch begins with each second.\n"
    );
    table("seconds", kafka, "60s", &[1, 10, 30, 50], |moment| {
        moment["seconds"].as_u64().unwrap()
    });
}

fn table(axis: &str, kafka: &Kafka, every: &str, stops: &[u64], at: impl Fn(&Value) -> u64) {
    println!(
        "| {axis} | count of all, median | slowest | sums by key, median | slowest | rows read |\n|---|---|---|---|---|---|"
    );
    let topic = format!("growth-answers-{}", std::process::id());
    let topic = format!("{topic}-{every}");
    crate::topic::fill(&kafka.brokers, &topic, 4, 0, |_, _| String::new());
    let server = Server::start(&Job {
        brokers: &kafka.brokers,
        topic: &topic,
        schema: SCHEMA,
        pipeline: &PIPELINE.replace("EVERY", every),
        tables: &["t1"],
        settings: "",
    });
    let door = Door::of(&server);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        .set("linger.ms", "5")
        .create()
        .unwrap();
    let begin = Instant::now();
    let mut number = 0;
    let mut stops = stops.iter().peekable();
    for tick in 1.. {
        for _ in 0..A_TENTH {
            let event = format!(
                r#"{{"ts":"2026-03-01T12:{:02}:00Z","bytes":{}}}"#,
                number / 50_000 % 60,
                number % 1000
            );
            number += 1;
            let record = BaseRecord::<(), str>::to(&topic).payload(&event);
            producer.send(record).unwrap();
        }
        producer.flush(Duration::from_secs(10)).unwrap();
        let Some(&&stop) = stops.peek() else { break };
        let versions = server.versions();
        let moment = json!({ "versions": versions, "seconds": begin.elapsed().as_secs() });
        if at(&moment) >= stop {
            stops.next();
            println!("| {stop} {}", door.figures());
        }
        assert!(
            begin.elapsed() < Duration::from_secs(300),
            "it takes too long"
        );
        let next = begin + Duration::from_millis(100) * tick;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    drop(server.stop());
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
            panes["rows"][0][0]
        )
    }
}
