//! A replay goes on to the last letter, however many there are that are none of its table's (P23).

#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use alluvium_plan::{Environment, Plan, SourceFile, load_pipeline};
use alluvium_runtime::{PipelineConfig, Refused, Running, Server, ServerConfig, replay};
use alluvium_source::{Broker, EmbeddedBroker, EventProducer};
use alluvium_store::{Store, StoreRules};
use alluvium_types::{Balance, MemoryBudget, Reject, Stage, Timestamp, TopicPartition};
use object_store::memory::InMemory;

const PIPELINE: &str = "\
version: 1
source:
  kafka: {connection: main, topics: [events], start: earliest}
decode:
  json: {schema: event.yaml}
event_time: {column: ts}
commit_every: 100ms
tables:
  per_key:
    window: {tumbling: 1m}
    group_by: {key: key}
    measures: {events: count(*)}
";
const GOOD: &[u8] = br#"{"ts":"2026-03-01T12:00:00Z","key":"k","more":1}"#;
const REFUSED: &[u8] = br#"{"ts":"2026-03-01T12:00:00Z","key":"k","more":"one"}"#;

/// The pipeline, with events whose `more` is of this type.
fn plan(more: &str) -> Arc<Plan> {
    let columns = format!("version: 1\ncolumns: {{ts: timestamp, key: string, more: {more}}}\n");
    let mut schema = |_: &Path| Ok(columns.clone().into_bytes());
    let source = SourceFile::new("events.yaml", PIPELINE);
    let (plan, _) = load_pipeline(&source, &mut schema, &Environment::default()).unwrap();
    Arc::new(plan)
}

/// Waits for the table's first `events` to be committed.
fn committed(running: &Running, events: u64) -> Balance {
    let begun = Instant::now();
    loop {
        let status = running.status().all();
        let tables = status.iter().flat_map(|pipeline| &pipeline.tables);
        let balance = tables.map(|table| table.balance).next();
        match balance.filter(|balance| balance.events_in == events) {
            Some(balance) => return balance,
            None => assert!(begun.elapsed() < Duration::from_secs(60), "{status:?}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn letters_that_are_none_of_its_do_not_end_a_replay() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .unwrap();
    let store = Store::over(Arc::new(InMemory::new()), StoreRules::default());
    // A server was killed behind these, before its tables had them. By the file that was in force afterwards the events are good.
    let letter = |offset| Reject {
        partition: TopicPartition::new("events", 0),
        offset,
        timestamp: None,
        key: None,
        headers: Vec::new(),
        payload: Some(vec![b' '; 300_000].into()),
        error: "unwanted then".into(),
        column: None,
        stage: Stage::Decode,
        table: None,
    };
    let many: Vec<Reject> = (0..10).map(letter).collect();
    runtime.block_on(async {
        let mut letters = store.dead_letters("events").await.unwrap();
        let written = letters.commit(&many, "before", Timestamp::default());
        written.await.unwrap();
    });

    let broker = EmbeddedBroker::start(None, &[("events".into(), 1)]).unwrap();
    let cluster = Broker::new(broker.brokers());
    let mut producer = EventProducer::new(&cluster, "events").unwrap();
    let config = ServerConfig {
        pipelines: vec![PipelineConfig {
            plan: plan("bigint"),
            cluster: Arc::new(cluster),
        }],
        workers: 1,
        ingest_bytes: 64 << 20,
        instance: None,
    };
    let running = Server::start(config, store.clone()).unwrap();
    let mut send = |events: &[&[u8]]| {
        for event in events {
            producer.send(None, None, event, None).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    };
    // In commits of their own: a commit whose offsets have more letters than it refused is not judged at all.
    send(&[GOOD; 10]);
    committed(&running, 10);
    send(&[REFUSED]);
    let balance = committed(&running, 11);
    assert_eq!((balance.counted, balance.rejected), (10, 1));
    running.drain();
    running.join(Duration::from_secs(20)).expect("it ends");

    // Those of the first version are more than half of what may be held.
    let budget = MemoryBudget::new(4 << 20);
    let handle = runtime.handle();
    let done = replay(&store, &plan("string"), 0, Refused::Stop, handle, &budget).unwrap();
    assert_eq!((done.letters, done.counted, done.elsewhere), (1, 1, 10));
    assert!(done.halt.is_none(), "{:?}", done.halt);
    let again = replay(&store, &plan("string"), 0, Refused::Stop, handle, &budget).unwrap();
    assert_eq!((again.letters, again.elsewhere), (0, 0));
}
