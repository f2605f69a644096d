//! Commits neither wait for the upkeep of their tables nor end with it, and what is wrong with it is told (P37, S9).

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use alluvium_plan::PipelineState;
use alluvium_runtime::Running;
use alluvium_source::{Broker, EventProducer};
use alluvium_store::{Store, StoreRules};
use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    memory::InMemory, path::Path,
};

use crate::site::{EVENT, broker, plan, reason, serve, wait_for};

/// A store that does not answer some puts until it is let, or refuses them.
#[derive(Clone, Debug)]
struct SlowStore {
    inner: Arc<InMemory>,
    /// In the paths whose puts wait.
    held: &'static str,
    is_held: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    /// It lets everybody create what is there already (S8).
    overwrites: bool,
    /// It refuses the puts that would wait.
    refuses: bool,
}

impl SlowStore {
    fn holding(held: &'static str) -> Self {
        Self {
            inner: Arc::default(),
            held,
            is_held: Arc::new(AtomicBool::new(true)),
            waiting: Arc::default(),
            overwrites: false,
            refuses: false,
        }
    }
}

impl fmt::Display for SlowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SlowStore")
    }
}

#[async_trait]
impl ObjectStore for SlowStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        if self.overwrites {
            opts.mode = PutMode::Overwrite;
        }
        let is_held = path.as_ref().contains(self.held) && self.is_held.load(Ordering::SeqCst);
        if is_held && self.refuses {
            return Err(object_store::Error::PermissionDenied {
                path: path.to_string(),
                source: "no rights".into(),
            });
        }
        if is_held {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            while self.is_held.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        self.inner.put_opts(path, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A server over such a store, whose log checkpoints are due every five commits.
fn start(objects: &SlowStore, brokers: &str) -> Running {
    let rules = StoreRules {
        checkpoint_every: NonZeroU32::new(5).unwrap(),
        ..StoreRules::default()
    };
    let store = Store::over(Arc::new(objects.clone()), rules);
    serve(plan("string"), Broker::new(brokers), store)
}

fn version(running: &Running) -> i64 {
    let published = running.publisher().current();
    let table = published.tables.get("per_key");
    table.map_or(-1, |table| table.committed.version)
}

/// Sends an event again and again until `is_so`; the longest time between two versions after `from` of them.
fn flow(
    running: &Running,
    producer: &mut EventProducer,
    from: i64,
    mut is_so: impl FnMut(i64) -> bool,
) -> Duration {
    let begun = Instant::now();
    let (mut last, mut moved, mut longest) = (version(running), Instant::now(), Duration::ZERO);
    loop {
        producer.send(None, None, EVENT, None).unwrap();
        let now = version(running);
        if now > last {
            if last >= from {
                longest = longest.max(moved.elapsed());
            }
            (last, moved) = (now, Instant::now());
        }
        if is_so(now) {
            return longest;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60) && moved.elapsed() < Duration::from_secs(20),
            "no commit after version {now}: {:?}",
            running.status().all()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_pipeline_writes_nothing_to_a_store_that_overwrites() {
    let broker = broker();
    let objects = SlowStore {
        overwrites: true,
        ..SlowStore::holding("nothing")
    };
    let running = start(&objects, &broker.brokers());
    let reason = wait_for(&running, 20, |status| {
        let is_stopped = status.state == PipelineState::Stopped;
        is_stopped.then(|| status.reason.clone().unwrap())
    });
    assert!(reason.contains("If-None-Match"), "{reason}");
    let stopped = running.join(Duration::from_secs(20)).expect("it ends");
    assert!(stopped.iter().all(|pipeline| pipeline.error.is_some()));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let left = runtime
        .unwrap()
        .block_on(objects.inner.list(None).collect::<Vec<_>>());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn upkeep_that_never_ends_delays_neither_commits_nor_the_end() {
    // Clean-up begins with the first, and what is called a checkpoint is written in the second.
    for held in ["probes/time-", ".checkpoint.parquet"] {
        let broker = broker();
        let brokers = broker.brokers();
        let mut producer = EventProducer::new(&Broker::new(&brokers), "events").unwrap();
        let objects = SlowStore::holding(held);
        let running = start(&objects, &brokers);
        let waits = || objects.waiting.load(Ordering::SeqCst) > 0;
        flow(&running, &mut producer, -1, |_| waits());
        let from = version(&running);
        let longest = flow(&running, &mut producer, from, |now| now >= from + 20);
        assert!(
            longest < Duration::from_secs(3),
            "{held}: {longest:?} between two commits"
        );

        // What waited goes on when the store answers.
        objects.is_held.store(false, Ordering::SeqCst);
        let hint = Path::from("tables/per_key/_delta_log/_last_checkpoint");
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        flow(&running, &mut producer, from, |_| {
            runtime.block_on(objects.inner.head(&hint)).is_ok()
        });

        // And while it waits, the server ends.
        objects.is_held.store(true, Ordering::SeqCst);
        running.drain();
        let stopped = running.join(Duration::from_secs(20)).expect("it ends");
        assert!(stopped.iter().all(|pipeline| pipeline.error.is_none()));
    }
}

#[test]
fn upkeep_that_fails_is_told_while_commits_go_on() {
    let broker = broker();
    let brokers = broker.brokers();
    let mut producer = EventProducer::new(&Broker::new(&brokers), "events").unwrap();
    let objects = SlowStore {
        refuses: true,
        ..SlowStore::holding("probes/time-")
    };
    let running = start(&objects, &brokers);
    let told = "the upkeep of per_key fails";
    flow(&running, &mut producer, -1, |_| {
        reason(&running).contains(told)
    });
    let from = version(&running);
    flow(&running, &mut producer, from, |now| now >= from + 5);
    assert!(
        reason(&running).contains("no rights"),
        "{}",
        reason(&running)
    );
    running.drain();
    let stopped = running.join(Duration::from_secs(20)).expect("it ends");
    assert!(stopped.iter().all(|pipeline| pipeline.error.is_none()));
}

#[test]
fn a_damaged_log_checkpoint_is_told_and_replaced() {
    let broker = broker();
    let brokers = broker.brokers();
    let mut producer = EventProducer::new(&Broker::new(&brokers), "events").unwrap();
    let objects = SlowStore::holding("nothing");
    let running = start(&objects, &brokers);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    let log = Path::from("tables/per_key/_delta_log");
    // The newest whose sum is noted: one that nobody looks at again before the next is due.
    let vouched_for = async || {
        let hint = objects
            .inner
            .get(&log.clone().join("_last_checkpoint"))
            .await
            .ok()?;
        let hint: serde_json::Value = serde_json::from_slice(&hint.bytes().await.ok()?).ok()?;
        let is_noted = hint.to_string().contains("alluvium.lines");
        is_noted.then(|| hint["version"].as_i64())?
    };
    let mut damaged = None;
    flow(&running, &mut producer, -1, |_| {
        if reason(&running).contains("per_key: the log checkpoint of version") {
            return true;
        }
        // Another server, or this one, may have written a newer one before the damage was done: then that is damaged, too.
        let newest = runtime.block_on(vouched_for());
        if let Some(version) = newest.filter(|_| newest > damaged) {
            let path = log
                .clone()
                .join(format!("{version:020}.checkpoint.parquet"));
            let put = objects.inner.put(&path, "no Parquet".into());
            runtime.block_on(put).unwrap();
            damaged = newest;
        }
        false
    });
    flow(&running, &mut producer, -1, |_| {
        runtime.block_on(vouched_for()) > damaged
    });
    running.drain();
    let stopped = running.join(Duration::from_secs(20)).expect("it ends");
    assert!(stopped.iter().all(|pipeline| pipeline.error.is_none()));
}
