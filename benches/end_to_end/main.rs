//! The whole way of an event, from a Kafka topic to a committed table, beside loops that do less and systems that do
//! the same. Run with `cargo bench --bench end_to_end -- [--rivals] [--events N] [--rounds N] [--only NAME,NAME]
//! [--chart FILE]`.
//!
//! The topic is filled before any clock starts. Each contestant is a process of its own that reads the whole topic;
//! their turns alternate. Compared are events a second, events per CPU second of the process (user and system), its
//! peak memory, the broker's CPU time, and the counts, which must agree. The broker is `KAFKA_BROKERS`, or a real Kafka
//! that `scripts/kafka.sh` starts and that is stopped at the end.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::fs;

use alluvium_source::DrainKind;

mod alluvium;
#[path = "../common/mod.rs"]
mod common;
mod loops;
mod report;
mod rivals;

use common::{
    server, topic,
    topic::{Kafka, PARTITIONS, SEED},
    usage,
    usage::Outcome,
};

/// One way to read the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    Poll,
    ByHand,
    PortableDrain,
    DirectDrain,
    Portable,
    Direct,
    Sketches,
    Flink,
    Streams,
}

impl Contestant {
    const ALL: [Self; 9] = [
        Self::Poll,
        Self::ByHand,
        Self::PortableDrain,
        Self::DirectDrain,
        Self::Portable,
        Self::Direct,
        Self::Sketches,
        Self::Flink,
        Self::Streams,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::ByHand => "by-hand",
            Self::PortableDrain => "portable-drain",
            Self::DirectDrain => "direct-drain",
            Self::Portable => "portable",
            Self::Direct => "direct",
            Self::Sketches => "sketches",
            Self::Flink => "flink",
            Self::Streams => "streams",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Poll => "bare drain, `BaseConsumer::poll`",
            Self::ByHand => "by hand: poll, serde_json into a struct, HashMap",
            Self::PortableDrain => "our portable drain alone: partition queues, one copy",
            Self::DirectDrain => "our direct drain alone: fetched, checked, unpacked",
            Self::Portable => "`alluvium run`, `drain: portable`, to a committed table",
            Self::Direct => "`alluvium run`, to a committed table",
            Self::Sketches => "the same with a distinct count and two percentiles",
            Self::Flink => "Flink SQL 2.2, heap state, checkpoints every 10 s",
            Self::Streams => "Kafka Streams 4.1, at least once",
        }
    }

    /// Whether it counts groups and bytes.
    fn counts(self) -> bool {
        !matches!(self, Self::Poll | Self::PortableDrain | Self::DirectDrain)
    }

    fn is_ours(self) -> bool {
        matches!(
            self,
            Self::PortableDrain
                | Self::DirectDrain
                | Self::Portable
                | Self::Direct
                | Self::Sketches
        )
    }

    fn is_rival(self) -> bool {
        matches!(self, Self::Flink | Self::Streams)
    }

    fn run(self, brokers: &str, topic: &str, events: usize) -> Outcome {
        match self {
            Self::Portable => alluvium::run(brokers, topic, events, "portable"),
            Self::Direct => alluvium::run(brokers, topic, events, "direct"),
            Self::Sketches => alluvium::run_with_sketches(brokers, topic, events),
            Self::Flink | Self::Streams => rivals::run(self.name(), brokers, topic, events),
            _ => loops::child(self.name(), brokers, topic, events),
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
            "poll" => loops::poll(&brokers, &topic, events),
            "by-hand" => loops::by_hand(&brokers, &topic, events),
            "portable-drain" => loops::drain(DrainKind::Portable, &brokers, &topic, events),
            "direct-drain" => loops::drain(DrainKind::Direct, &brokers, &topic, events),
            other => panic!("there is no contestant {other}"),
        };
        println!("{}", serde_json::to_string(&outcome).unwrap());
        return;
    }
    let only = option("--only");
    let with_rivals = arguments.iter().any(|argument| argument == "--rivals");
    let is_chosen = |contestant: &Contestant| match &only {
        Some(only) => only.split(',').any(|name| name == contestant.name()),
        None => with_rivals || !contestant.is_rival(),
    };
    let chosen: Vec<Contestant> = Contestant::ALL.into_iter().filter(is_chosen).collect();
    assert!(!chosen.is_empty(), "--only names no contestant");
    for rival in chosen.iter().filter(|contestant| contestant.is_rival()) {
        rivals::build(rival.name());
    }

    let kafka = Kafka::find();
    let topic = format!("bench-{SEED}-{events}");
    topic::fill(
        &kafka.brokers,
        &topic,
        PARTITIONS,
        events,
        |random, number| common::event(random, number, events),
    );
    let rounds = number("--rounds", 3);
    let mut outcomes: Vec<Vec<Outcome>> = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let run = |contestant: &Contestant| {
            let before = kafka.cpu();
            let outcome = contestant.run(&kafka.brokers, &topic, events);
            let broker_cpu = before
                .zip(kafka.cpu())
                .map(|(before, after)| after - before);
            let outcome = Outcome {
                broker_cpu,
                ..outcome
            };
            eprintln!(
                "{}: {}",
                contestant.name(),
                serde_json::to_string(&outcome).unwrap()
            );
            outcome
        };
        outcomes.push(chosen.iter().map(run).collect());
    }
    let lines = report::medians(&chosen, &outcomes, events);
    println!("\n{events} events, medians of {rounds} runs\n");
    print!("{}", report::table(&lines));
    if let Some(file) = option("--chart") {
        fs::write(&file, report::chart(&lines)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}
