//! A replay goes on to the last letter, however many there are that are none of its table's (P23).

use std::{sync::Arc, time::Duration};

use alluvium_runtime::{Halt, Refused, Replaying, Running};
use alluvium_source::{Broker, EventProducer};
use alluvium_store::{Store, StoreRules};
use alluvium_types::{Balance, MemoryBudget, Reject, Stage, Timestamp, TopicPartition};
use object_store::memory::InMemory;

use crate::site::{broker, plan, serve, wait_for};

const GOOD: &[u8] = br#"{"ts":"2026-03-01T12:00:00Z","key":"k","more":1}"#;
const REFUSED: &[u8] = br#"{"ts":"2026-03-01T12:00:00Z","key":"k","more":"one"}"#;

/// Waits for the table's first `events` to be committed.
fn committed(running: &Running, events: u64) -> Balance {
    wait_for(running, 60, |status| {
        let balance = status.tables.first()?.balance;
        (balance.events_in == events).then_some(balance)
    })
}

/// A store with these letters, and where its requests run.
fn store_with(letters: &[Reject]) -> (Store, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .unwrap();
    let store = Store::over(Arc::new(InMemory::new()), StoreRules::default());
    runtime.block_on(async {
        let mut table = store.dead_letters("events").await.unwrap();
        let written = table.commit(letters, "before", Timestamp::default());
        written.await.unwrap();
    });
    (store, runtime)
}

/// After the pipeline was mended.
fn replaying(store: Store, runtime: &tokio::runtime::Runtime) -> Replaying {
    Replaying {
        store,
        plan: plan("string"),
        refused: Refused::Stop,
        io: runtime.handle().clone(),
        budget: MemoryBudget::new(4 << 20),
    }
}

/// Of an event that no table took, by a server that was killed before its tables had come to it.
fn letter(offset: i64, payload: &[u8]) -> Reject {
    Reject {
        partition: TopicPartition::new("events", 0),
        offset,
        timestamp: None,
        key: None,
        headers: Vec::new(),
        payload: Some(payload.to_vec().into()),
        error: "unwanted then".into(),
        column: None,
        stage: Stage::Decode,
        table: None,
    }
}

fn send(producer: &mut EventProducer, events: &[&[u8]]) {
    for event in events {
        producer.send(None, None, event, None).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

#[test]
fn letters_that_are_none_of_its_do_not_end_a_replay() {
    // A server was killed behind these, before its tables had them. By the file that was in force afterwards the events are good.
    let many: Vec<Reject> = (0..10)
        .map(|offset| letter(offset, &[b' '; 300_000]))
        .collect();
    let (store, runtime) = store_with(&many);

    let broker = broker();
    let cluster = Broker::new(broker.brokers());
    let mut producer = EventProducer::new(&cluster, "events").unwrap();
    let running = serve(plan("bigint"), cluster, store.clone());
    // In commits of their own: a commit whose offsets have more letters than it refused is not judged at all.
    send(&mut producer, &[GOOD; 10]);
    committed(&running, 10);
    send(&mut producer, &[REFUSED]);
    let balance = committed(&running, 11);
    assert_eq!((balance.counted, balance.rejected), (10, 1));
    running.drain();
    running.join(Duration::from_secs(20)).expect("it ends");

    // Those of the first version are more than half of what may be held.
    let replaying = replaying(store, &runtime);
    let mut told = Vec::new();
    let done = replaying
        .run(0, &mut |done| told.push(done.letters))
        .unwrap();
    assert_eq!(told, [1]);
    assert_eq!((done.letters, done.counted, done.elsewhere), (1, 1, 10));
    assert!(done.halt.is_none(), "{:?}", done.halt);
    let again = replaying
        .run(0, &mut |_| panic!("nothing is committed"))
        .unwrap();
    assert_eq!((again.letters, again.elsewhere), (0, 0));
}

#[test]
fn letters_wait_until_their_table_has_read_on() {
    let (store, runtime) = store_with(&[letter(3, REFUSED)]);
    let broker = broker();
    let cluster = Broker::new(broker.brokers());
    let mut producer = EventProducer::new(&cluster, "events").unwrap();
    let running = serve(plan("bigint"), cluster, store.clone());
    send(&mut producer, &[GOOD; 2]);
    committed(&running, 2);
    let replaying = replaying(store, &runtime);
    let early = replaying
        .run(0, &mut |_| panic!("nothing is committed"))
        .unwrap();
    let waits = Halt::NotYetRead {
        partition: TopicPartition::new("events", 0),
        offset: 3,
        recorded: 2,
    };
    assert_eq!((early.letters, early.halt), (0, Some(waits)));
    // The server refuses it too, and finds its letter there.
    send(&mut producer, &[GOOD, REFUSED]);
    assert_eq!(committed(&running, 4).rejected, 1);
    let done = replaying.run(0, &mut |_| ()).unwrap();
    assert_eq!((done.letters, done.counted, done.halt), (1, 1, None));
    running.drain();
    running.join(Duration::from_secs(20)).expect("it ends");
}
