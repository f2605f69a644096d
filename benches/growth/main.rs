//! How cost grows: with keys, measures, tables, the size of events, fields, partitions, the commit interval, workers, and
//! answers with files and epochs. Run with `cargo bench --bench growth [-- CURVE ...]`; without a name, all of them.
//!
//! Each point is `alluvium run` over a topic of a real Kafka, from the start of the process to the version of every table
//! that covers the whole topic, and its count is compared with what was produced. The broker is `KAFKA_BROKERS`, or a real
//! Kafka that `scripts/kafka.sh` starts and that is stopped at the end.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::collections::HashSet;

mod answers;
#[path = "../common/mod.rs"]
mod common;
mod curves;

use common::{
    server,
    server::{Job, Server},
    topic,
    topic::Kafka,
};
use curves::{Curve, Point};

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let chosen = |name: &str| arguments.is_empty() || arguments.iter().any(|given| given == name);
    for given in &arguments {
        assert!(
            curves::NAMES.contains(&given.as_str()),
            "there is no curve {given}; there are {}",
            curves::NAMES.join(", ")
        );
    }
    let kafka = Kafka::find();
    for curve in curves::all().iter().filter(|curve| chosen(curve.name)) {
        print(&kafka, curve);
    }
    if chosen(answers::ANSWERS) {
        answers::answers(&kafka);
    }
    if chosen(answers::START) {
        answers::start(&kafka);
    }
}

fn print(kafka: &Kafka, curve: &Curve) {
    let mut read = HashSet::new();
    println!("\n{}\n", curve.about);
    println!(
        "| {} | thousand events per CPU second | thousand events a second | CPU µs an event | peak MiB |\n|---|---|---|---|---|",
        curve.axis
    );
    for point in &curve.points {
        let topic = &point.topic;
        topic::fill(
            &kafka.brokers,
            &topic.name,
            topic.partitions,
            topic.events,
            |random, number| (topic.event)(random, number),
        );
        if read.insert(&topic.name) {
            // The first to read a topic finds it on disk, or in no processor's cache.
            line(kafka, point);
        }
        println!("{}", line(kafka, point));
    }
}

fn line(kafka: &Kafka, point: &Point) -> String {
    let tables: Vec<&str> = point.tables.iter().map(String::as_str).collect();
    let events = point.topic.events;
    let mut server = Server::start(&Job {
        brokers: &kafka.brokers,
        topic: &point.topic.name,
        schema: &point.schema,
        pipeline: &point.pipeline,
        tables: &tables,
        settings: &point.settings,
        properties: &point.properties,
    });
    let spent = server.wait_for(events);
    let storage = server.stop();
    for table in tables {
        let counted = storage.sql(&format!("select sum(events) from {table}"));
        assert_eq!(counted, [events as u64], "{} at {}", table, point.at);
    }
    let thousands = events as f64 / 1e3;
    format!(
        "| {} | {:.0} | {:.0} | {:.2} | {:.0} |",
        point.at,
        thousands / spent.cpu,
        thousands / spent.wall,
        spent.cpu * 1e6 / events as f64,
        spent.peak_mib,
    )
}
