//! What a producer was told: key and amount of every event by the partition and offset that the broker confirmed, and the
//! recount of exactly the offsets that an answer names.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};
use serde_json::Value;

use crate::{
    ledger,
    process::wait_for,
    site::{PARTITIONS, TOPIC},
};

/// What a producer sent, by partition and offset, as the broker confirmed it.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<BTreeMap<String, Events>>>);

/// Key and amount, by offset.
type Events = BTreeMap<i64, (usize, i64)>;

impl ClientContext for Told {}

impl ProducerContext for Told {
    type DeliveryOpaque = Box<(usize, i64)>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, event: Box<(usize, i64)>) {
        let message = delivered.as_ref().expect("every event is delivered");
        let partition = format!("{TOPIC}/{}", message.partition());
        let mut told = self.0.lock().unwrap();
        let offsets = told.entry(partition).or_default();
        assert!(offsets.insert(message.offset(), *event).is_none());
    }
}

impl Told {
    /// Waits until the broker's confirmations have come up to these offsets; a reader may be faster than they are.
    pub(crate) fn wait_up_to(&self, end: &BTreeMap<String, i64>) {
        wait_for("confirmations", Duration::from_secs(20), || {
            let told = self.0.lock().unwrap();
            let has_come = |(partition, end): (&String, &i64)| {
                let last = told
                    .get(partition)
                    .and_then(|events| events.last_key_value());
                *end == 0 || last.is_some_and(|(last, _)| last + 1 >= *end)
            };
            end.iter().all(has_come).then_some(())
        });
    }

    /// Calls `each` with key and amount of every event from `start` up to `end` of all partitions.
    pub(crate) fn between(
        &self,
        start: &BTreeMap<String, i64>,
        end: &BTreeMap<String, i64>,
        mut each: impl FnMut(usize, i64),
    ) {
        let told = self.0.lock().unwrap();
        for (partition, &end) in end {
            let start = start.get(partition).copied().unwrap_or(0);
            let events = told.get(partition).map(|events| events.range(start..end));
            for (_, (key, amount)) in events.into_iter().flatten() {
                each(*key, *amount);
            }
        }
    }
}

/// The offsets of a table that an answer names.
pub(crate) fn offsets_of(reply: &Value, table: &str) -> BTreeMap<String, i64> {
    let offsets = reply["as_of"]["tables"][format!("public.{table}")]["offsets"].as_object();
    offsets
        .into_iter()
        .flatten()
        .map(|(partition, end)| (partition.clone(), end.as_i64().expect("an offset")))
        .collect()
}

/// A whole number of an answer, which is text where it may not fit a double.
pub(crate) fn whole(value: &Value) -> i64 {
    let text = value.to_string();
    text.trim_matches('"').parse().expect("a whole number")
}

/// What is sent: `per_second` events with one of `keys` keys and one of these amounts, and a minute of event time that
/// passes in `minute`.
pub(crate) struct Stream {
    pub(crate) keys: usize,
    pub(crate) amounts: std::ops::RangeInclusive<i64>,
    pub(crate) per_second: u64,
    pub(crate) minute: Duration,
    pub(crate) seed: u64,
}

/// Sends events until told to stop.
pub(crate) struct Telling {
    pub(crate) told: Told,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Stream {
    /// Keeps every partition's distance from `table`'s recorded offset below what the embedded broker keeps.
    pub(crate) fn start(self, brokers: &str, table: &std::path::Path) -> Telling {
        let told = Told::default();
        let producer: BaseProducer<Told> = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            // The embedded broker hands out a batch a request, so many small ones would be read slowly.
            .set("linger.ms", "50")
            .create_with_context(told.clone())
            .expect("a producer");
        let stop = Arc::new(AtomicBool::new(false));
        let halt = stop.clone();
        let mut log = ledger::Follower::new(table);
        let thread = thread::spawn(move || {
            let begin = Instant::now();
            let mut random = StdRng::seed_from_u64(self.seed);
            let (mut number, mut sent) = (0_u64, vec![0_i64; PARTITIONS as usize]);
            while !halt.load(Ordering::Relaxed) {
                let due = begin.elapsed().as_millis() as u64 * self.per_second / 1000;
                log.advance();
                let behind = (0..PARTITIONS).map(|partition| {
                    let recorded = log.offsets.get(&format!("{TOPIC}/{partition}"));
                    sent[partition as usize] - recorded.copied().unwrap_or(0)
                });
                if behind.max() > Some(25_000) {
                    producer.poll(Duration::from_millis(10));
                    continue;
                }
                let until = due.min(number + 500);
                while number < until {
                    let key = random.random_range(0..self.keys);
                    let amount = random.random_range(self.amounts.clone());
                    let minute = number * 1000 / self.per_second / self.minute.as_millis() as u64;
                    let payload = format!(
                        "{{\"ts\":\"2026-03-01T{:02}:{:02}:00Z\",\"key\":\"{key}\",\"amount\":{amount}}}",
                        12 + minute / 60 % 12,
                        minute % 60
                    );
                    let place = random.random_range(0..PARTITIONS);
                    let event = Box::new((key, amount));
                    let record = BaseRecord::<(), [u8], _>::with_opaque_to(TOPIC, event)
                        .payload(payload.as_bytes())
                        .partition(place);
                    producer.send(record).expect("the queue has room");
                    sent[place as usize] += 1;
                    number += 1;
                }
                producer.poll(Duration::from_millis(5));
            }
            producer
                .flush(Duration::from_secs(30))
                .expect("all delivered");
        });
        Telling { told, stop, thread }
    }
}

impl Telling {
    /// Stops; returns what was told in all.
    pub(crate) fn finish(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load thread does not panic");
        self.told
    }
}
