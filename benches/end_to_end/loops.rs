//! The contestants that are loops in this program: each runs in a child process of its own.

use std::{
    collections::{BTreeMap, HashMap},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use alluvium_source::{Assignments, Broker, DrainKind, KafkaDrain, Recorded, Subscription};
use alluvium_types::{AssignmentGeneration, MemoryBudget, Timestamp, TopicPartition};
use rdkafka::Message;
use serde::Deserialize;

use crate::{
    topic::{PARTITIONS, assigned},
    usage::Outcome,
};

pub(crate) fn poll(brokers: &str, topic: &str, events: usize) -> Outcome {
    let begin = Instant::now();
    let consumer = assigned(brokers, topic);
    let mut read = 0;
    while read < events {
        if let Some(message) = consumer.poll(Duration::from_secs(10)) {
            read += usize::from(message.unwrap().payload().is_some());
        }
    }
    Outcome::of_this_process(begin, 0, read as u64, 0)
}

/// Recorded offsets of a run that records none.
struct FromTheBeginning;

impl Assignments for FromTheBeginning {
    fn revoked(&self, _deadline: Instant) {}

    fn starts(
        &self,
        partitions: &[TopicPartition],
        _deadline: Instant,
    ) -> Option<BTreeMap<TopicPartition, Recorded>> {
        let start = Recorded::at(0);
        Some(
            partitions
                .iter()
                .map(|name| (name.clone(), start))
                .collect(),
        )
    }
}

/// Our own drain with nothing behind it but the unpacking, which workers would do, on the one thread.
pub(crate) fn drain(kind: DrainKind, brokers: &str, topic: &str, events: usize) -> Outcome {
    let begin = Instant::now();
    let subscription = Subscription {
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
        &Broker::new(brokers),
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
    let outcome = Outcome::of_this_process(begin, 0, read as u64, 0);
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
pub(crate) fn by_hand(brokers: &str, topic: &str, events: usize) -> Outcome {
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
    Outcome::of_this_process(begin, groups.len() as u64, clicks, bytes)
}

/// Runs a loop of this program in a process of its own.
pub(crate) fn child(contestant: &str, brokers: &str, topic: &str, events: usize) -> Outcome {
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
