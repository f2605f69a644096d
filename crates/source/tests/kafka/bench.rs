//! What the tests share: a table that records offsets, a broker, and waiting with a deadline.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use alluvium_source::{
    Assignments, Broker, EmbeddedBroker, EventProducer, KafkaDrain, Notice, Recorded, Subscription,
};
use alluvium_types::{
    AssignmentGeneration, FetchedBatch, MemoryBudget, RawBatch, Timestamp, TopicId, TopicPartition,
};

use super::DRAIN;

pub(crate) const TOPIC: &str = "clicks";

/// Everything in these tests is over long before.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, number)
}

pub(crate) fn start(partitions: i32) -> (EmbeddedBroker, Broker) {
    let embedded = EmbeddedBroker::start(None, &[(TOPIC.to_owned(), partitions)]).unwrap();
    let broker = Broker::new(embedded.brokers());
    (embedded, broker)
}

/// Sends records with these values to one partition.
pub(crate) fn produce(broker: &Broker, number: i32, values: impl IntoIterator<Item = String>) {
    produce_by(
        &mut EventProducer::new(broker, TOPIC).unwrap(),
        number,
        values,
    );
}

pub(crate) fn produce_by(
    producer: &mut EventProducer,
    number: i32,
    values: impl IntoIterator<Item = String>,
) {
    for value in values {
        producer
            .send(Some(number), None, value.as_bytes(), None)
            .unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// Sends 700 records to one partition that are more than it keeps.
pub(crate) fn overfill(broker: &Broker, number: i32) {
    let mut producer = EventProducer::new(broker, TOPIC).unwrap();
    // Bytes that do not compress.
    let mut state = 1u64;
    for _ in 0..700 {
        let noise: Vec<u8> = (0..10_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        producer.send(Some(number), None, &noise, None).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// The offsets a table has recorded, as all members of a group see them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) recorded: Mutex<BTreeMap<TopicPartition, i64>>,
    pub(crate) topic: Mutex<Option<TopicId>>,
    pub(crate) unreadable: AtomicBool,
    pub(crate) revocations: AtomicUsize,
    pub(crate) questions: AtomicUsize,
}

impl Table {
    pub(crate) fn with(offsets: impl IntoIterator<Item = (i32, i64)>) -> Arc<Self> {
        let table = Self::default();
        for (number, offset) in offsets {
            table.record(&partition(number), offset);
        }
        Arc::new(table)
    }

    pub(crate) fn record(&self, partition: &TopicPartition, offset: i64) {
        self.recorded
            .lock()
            .unwrap()
            .insert(partition.clone(), offset);
    }

    /// Commits the batch's range as P7 does: only onto its start.
    pub(crate) fn commit(&self, batch: &FetchedBatch) -> bool {
        let mut recorded = self.recorded.lock().unwrap();
        let Some(next) = recorded.get_mut(&batch.partition) else {
            return false;
        };
        let fits = *next == batch.range.start();
        if fits {
            *next = batch.range.end();
        }
        fits
    }
}

impl Assignments for Table {
    fn revoked(&self, deadline: Instant) {
        assert!(deadline > Instant::now());
        self.revocations.fetch_add(1, Ordering::Relaxed);
    }

    fn starts(
        &self,
        partitions: &[TopicPartition],
        _deadline: Instant,
    ) -> Option<BTreeMap<TopicPartition, Recorded>> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        if self.unreadable.load(Ordering::Relaxed) {
            return None;
        }
        let recorded = self.recorded.lock().unwrap();
        let topic = *self.topic.lock().unwrap();
        let of = |name| {
            let offset = *recorded.get(name)?;
            let recorded = Recorded {
                topic,
                ..Recorded::at(offset)
            };
            Some((name.clone(), recorded))
        };
        Some(partitions.iter().filter_map(of).collect())
    }
}

pub(crate) fn subscription(partitions: usize) -> Subscription {
    let properties = [
        ("heartbeat.interval.ms", "50"),
        ("session.timeout.ms", "6000"),
        ("fetch.wait.max.ms", "10"),
        ("reconnect.backoff.max.ms", "200"),
    ];
    Subscription {
        drain: DRAIN,
        topics: vec![TOPIC.into()],
        group: "alluvium.clicks".to_owned(),
        instance: None,
        properties: properties
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        memory: MemoryBudget::new(64 << 20),
        queue_bytes: 8 << 20,
        partition_count: partitions,
    }
}

pub(crate) fn join(broker: &Broker, partitions: usize, table: &Arc<Table>) -> KafkaDrain {
    join_as(broker, subscription(partitions), table)
}

/// As a member whose session is short: the mock cluster lets the members of a group wait for it,
/// less a second, whenever one comes or goes.
pub(crate) fn join_briefly(broker: &Broker, partitions: usize, table: &Arc<Table>) -> KafkaDrain {
    let mut subscription = subscription(partitions);
    subscription
        .properties
        .insert("session.timeout.ms".into(), "1300".into());
    join_as(broker, subscription, table)
}

fn join_as(broker: &Broker, subscription: Subscription, table: &Arc<Table>) -> KafkaDrain {
    let assignments: Arc<dyn Assignments> = Arc::clone(table) as _;
    KafkaDrain::subscribe(
        broker,
        subscription,
        AssignmentGeneration::default(),
        assignments,
    )
    .unwrap()
}

/// Serves until `enough` says so, or fails after [`PATIENCE`]. Returns all notices.
pub(crate) fn serve_until(
    drain: &mut KafkaDrain,
    mut enough: impl FnMut(&mut KafkaDrain, &[Notice]) -> bool,
) -> Vec<Notice> {
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    loop {
        all.extend(drain.serve(Duration::from_millis(2)).unwrap());
        if enough(drain, &all) {
            return all;
        }
        assert!(
            Instant::now() < deadline,
            "nothing came: {drain:?}, {all:?}"
        );
    }
}

pub(crate) fn serve_until_assigned(drain: &mut KafkaDrain) -> Vec<Notice> {
    serve_until(drain, |_, notices| {
        notices
            .iter()
            .any(|notice| matches!(notice, Notice::Assigned { .. }))
    })
}

/// Serves and takes until `count` records have come.
pub(crate) fn take_records(drain: &mut KafkaDrain, count: usize) -> Vec<RawBatch> {
    let mut batches = Vec::new();
    let mut records = 0;
    serve_until(drain, |drain, _| {
        while let Some(batch) = drain.take(1 << 20, Timestamp::from_micros(7)) {
            let read = raw(batch);
            records += read.iter().map(RawBatch::len).sum::<usize>();
            batches.extend(read);
        }
        records >= count
    });
    assert_eq!(records, count, "no record comes twice");
    batches
}

/// What was fetched, unpacked as a worker does it.
pub(crate) fn raw(batch: FetchedBatch) -> Vec<RawBatch> {
    let (range, mut next) = (batch.range, batch.range.start());
    let mut read: Vec<RawBatch> = Vec::new();
    batch
        .read(|records| {
            assert_eq!(records.range.start(), next, "pieces chain");
            next = records.range.end();
            read.push(records);
            Ok::<(), ()>(())
        })
        .unwrap();
    assert_eq!(next, range.end(), "pieces cover the range");
    read
}

/// The values of a partition's batches, after checking that its ranges chain from `start`.
pub(crate) fn values(batches: &[RawBatch], number: i32, start: i64) -> Vec<String> {
    let mut next = start;
    let mut values = Vec::new();
    for batch in batches
        .iter()
        .filter(|batch| batch.partition == partition(number))
    {
        assert_eq!(batch.range.start(), next, "ranges chain");
        next = batch.range.end();
        values.extend(
            batch
                .records()
                .map(|record| String::from_utf8(record.value().unwrap().to_vec()).unwrap()),
        );
    }
    values
}

pub(crate) fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| format!("v{number}")).collect()
}
