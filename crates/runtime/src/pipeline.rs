//! The life of one pipeline: open its tables, record its start, run its threads, end in order.
//!
//! Owns the thread that becomes intake, and starts the others. Ends from the front: intake stops, workers
//! run dry, the committer makes the last commit, and only then the consumer leaves its group.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use alluvium_plan::{
    Drain, PipelineState, Plan, Publisher, Start, StatusBoard, TablePlan, Trouble,
};
use alluvium_source::{Cluster, DrainKind, Subscription};
use alluvium_store::{CommitKind, Store, TableSpec, TableWriter};
use alluvium_types::{AssignmentGeneration, ErrorClass, MemoryBudget, TopicId, TopicPartition};
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};

use crate::{
    RuntimeError,
    assignment::{Acknowledged, Rebalance},
    committer::{Committer, Table},
    definitions::{self, Definitions},
    host::Host,
    intake::{INBOX_BATCHES, Intake},
    message::{Ending, Progress, ToCommitter, WAKE},
    standings::Standings,
    transactions::OpenTransactions,
    worker::Worker,
};

/// How long the broker may take to answer a question at start.
const BROKER_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before looking for a missing topic, broker or store again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long the consumer may take to leave its group.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
/// A batch is at most this share of the ingest budget (P30), within the bounds below. It is packed when it is taken, and its events become
/// several times its bytes when a worker folds them, which nothing can hold up any more.
const BATCH_SHARE: usize = 256;
/// The smallest and the largest size of a batch.
const BATCH_BYTES: (usize, usize) = (64 << 10, 1 << 20);
/// The client's prefetch queues of one pipeline may hold this share of the ingest budget, ...
const QUEUE_SHARE: usize = 8;
/// ... and those of all pipelines of a server this one.
const QUEUES_SHARE: usize = 4;
/// The most the client's prefetch queues may hold.
const QUEUE_BYTES: usize = 64 << 20;

/// What a pipeline needs beside its plan.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The Kafka that it reads.
    pub cluster: Arc<dyn Cluster>,
}

/// What the pipelines of a process share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) budget: MemoryBudget,
    pub(crate) workers: usize,
    /// How many pipelines share it.
    pub(crate) pipelines: usize,
    pub(crate) instance: Option<String>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) status: Arc<StatusBoard>,
    pub(crate) host: Arc<dyn Host>,
}

/// A started pipeline.
pub(crate) struct Pipeline {
    pub(crate) plan: Arc<Plan>,
    pub(crate) ending: Arc<Ending>,
    thread: JoinHandle<()>,
    end: Receiver<Result<(), RuntimeError>>,
    host: Arc<dyn Host>,
}

impl Pipeline {
    pub(crate) fn start(config: PipelineConfig, shared: Shared) -> io::Result<Self> {
        let plan = config.plan.clone();
        let ending = Arc::new(Ending::default());
        let life = Life {
            config,
            shared,
            ending: ending.clone(),
        };
        let host = life.shared.host.clone();
        let (told, end) = bounded(1);
        let work = move || {
            // Nobody listens to a pipeline that its server has given up.
            let _ = told.send(life.run());
        };
        let thread = host.spawn(format!("intake-{}", plan.name), Box::new(work))?;
        Ok(Self {
            plan,
            ending,
            thread,
            end,
            host,
        })
    }

    /// Whether it has ended, for whatever reason.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    pub(crate) fn join(self) -> Result<(), RuntimeError> {
        match self.host.join(self.thread) {
            Ok(()) => self
                .end
                .try_recv()
                .expect("a thread that ended without a panic has told how"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// What the broker says of a pipeline's topics when it starts.
struct Topics {
    /// How many they have in all.
    partitions: usize,
    /// By a broker that is older than ids of topics: all of them.
    without_ids: Vec<Arc<str>>,
}

impl Topics {
    /// That it would not be noticed if one were created again (P18).
    fn trouble(&self) -> Option<String> {
        (!self.without_ids.is_empty()).then(|| {
            format!(
                "the broker gives no id of {}: should a topic be deleted and created again, only its offsets can show it; \
                 brokers from Kafka 2.8 on give ids",
                self.without_ids.join(", ")
            )
        })
    }
}

struct Life {
    config: PipelineConfig,
    shared: Shared,
    ending: Arc<Ending>,
}

impl Life {
    fn run(self) -> Result<(), RuntimeError> {
        self.say(PipelineState::Starting, None);
        let result = self.live();
        match &result {
            Ok(()) => self.say(PipelineState::Stopped, Some("drained".into())),
            Err(error) => {
                tracing::error!("{error}");
                self.say(PipelineState::Stopped, Some(error.to_string()));
            }
        }
        result
    }

    fn live(&self) -> Result<(), RuntimeError> {
        let plan = &self.config.plan;
        let host = &self.shared.host;
        let io = host
            .io(&format!("store-{}", plan.name))
            .map_err(|source| self.no_thread(source))?;
        let proven = self.patiently(|| {
            io.block_on(self.shared.store.prove())
                .map_err(|source| self.store(source))
        })?;
        if proven.is_none() {
            return Ok(());
        }
        let Some(tables) = self.patiently(|| self.open_tables(&io))? else {
            return Ok(());
        };
        let mut tables = tables;
        let Some(topics) = self.patiently(|| self.record_starts(&io, &mut tables))? else {
            return Ok(());
        };
        let dead_letters = self.patiently(|| {
            io.block_on(self.shared.store.dead_letters(&plan.name))
                .map_err(|source| self.store(source))
        })?;
        let Some(dead_letters) = dead_letters else {
            return Ok(());
        };

        let generation = AssignmentGeneration::default();
        let acknowledged = Arc::new(Acknowledged::default());
        let progress = Arc::new(Progress::default());
        let standings = Arc::new(Mutex::new(Standings::default()));
        // Two epochs of parts and seals may wait: the one being committed and the one behind it.
        let (committer, committer_inbox) = bounded(2 * (self.shared.workers + 1));

        let committer_thread = {
            let committer = Committer {
                plan: plan.clone(),
                budget: self.shared.budget.clone(),
                generation: generation.clone(),
                acknowledged: acknowledged.clone(),
                ending: self.ending.clone(),
                progress: progress.clone(),
                publisher: self.shared.publisher.clone(),
                status: self.shared.status.clone(),
                cluster: self.config.cluster.clone(),
                host: host.clone(),
                inbox: committer_inbox,
                workers: self.shared.workers,
                io,
                tables: tables.into_iter().map(Table::new).collect(),
                dead_letters,
                definitions: Definitions::new(plan),
            };
            self.spawn("committer", move || committer.run())?
        };
        let mut inboxes = Vec::with_capacity(self.shared.workers);
        let mut workers = Vec::with_capacity(self.shared.workers);
        for number in 0..self.shared.workers {
            // One more than the batches, so that a barrier finds room behind them.
            let (inbox, receiver) = bounded(INBOX_BATCHES + 1);
            let worker = Worker {
                plan: plan.clone(),
                budget: self.shared.budget.clone(),
                generation: generation.clone(),
                ending: self.ending.clone(),
                progress: progress.clone(),
                inbox: receiver,
                committer: committer.clone(),
                host: host.clone(),
            };
            workers.push(self.spawn(&format!("worker{number}"), move || worker.run())?);
            inboxes.push(inbox);
        }

        let limit = self.shared.budget.limit();
        let subscribed = self.config.cluster.join(
            Subscription {
                drain: match plan.source.drain {
                    Drain::Automatic => DrainKind::Automatic,
                    Drain::Direct => DrainKind::Direct,
                    Drain::Portable => DrainKind::Portable,
                },
                topics: plan.source.topics.clone(),
                group: plan.group(),
                instance: self.shared.instance.clone(),
                properties: plan.source.properties.clone(),
                memory: self.shared.budget.clone(),
                queue_bytes: (limit / QUEUE_SHARE)
                    .min(limit / QUEUES_SHARE / self.shared.pipelines)
                    .min(QUEUE_BYTES),
                partition_count: topics.partitions,
            },
            generation.clone(),
            Arc::new(Rebalance {
                generation: generation.clone(),
                acknowledged,
                committer: committer.clone(),
                standings: standings.clone(),
                host: host.clone(),
            }),
        );
        let drain = subscribed.map_err(|source| self.kafka(source))?;
        tracing::info!(pipeline = %plan.name, drain = drain.kind(), "reading");
        self.say(PipelineState::Running, None);
        self.shared.status.update(&plan.name, |status| {
            status.set_trouble(Trouble::Topic, topics.trouble());
        });

        let intake = Intake {
            plan: plan.clone(),
            budget: self.shared.budget.clone(),
            generation,
            ending: self.ending.clone(),
            progress,
            status: self.shared.status.clone(),
            standings,
            drain,
            workers: inboxes,
            committer: committer.clone(),
            complained: None,
            transactions: OpenTransactions::default(),
            batch_bytes: self
                .shared
                .budget
                .share(BATCH_SHARE, BATCH_BYTES.0, BATCH_BYTES.1),
        };
        let drain = intake.run();
        self.say(PipelineState::Draining, None);
        for worker in workers {
            join(&**host, worker);
        }
        self.close_committer(&committer);
        drop(committer);
        join(&**host, committer_thread);
        // Every offset that will be told is in the table now; the partitions may move on.
        if let Err(error) = drain.close(CLOSE_PATIENCE) {
            tracing::warn!(pipeline = %plan.name, "the consumer did not leave its group in time: {error}");
        }
        self.ending.take_failure().map_or(Ok(()), Err)
    }

    fn close_committer(&self, committer: &Sender<ToCommitter>) {
        while !self.ending.has_failed() {
            match self.shared.host.send(committer, ToCommitter::Close, WAKE) {
                Ok(()) | Err(SendTimeoutError::Disconnected(_)) => return,
                Err(SendTimeoutError::Timeout(_)) => {}
            }
        }
    }

    /// Tries until it succeeds, is told to drain (`None`), or fails for a reason that does not pass.
    fn patiently<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, RuntimeError>,
    ) -> Result<Option<T>, RuntimeError> {
        loop {
            match attempt() {
                Ok(value) => return Ok(Some(value)),
                Err(error) if error.class() == ErrorClass::Transient => {
                    tracing::warn!("{error}; looking again in {LOOK_AGAIN:?}");
                    self.say(PipelineState::Waiting, Some(error.to_string()));
                }
                Err(error) => return Err(error),
            }
            let is_draining = || self.ending.is_draining();
            self.shared.host.rest(LOOK_AGAIN, WAKE, is_draining);
            if is_draining() {
                return Ok(None);
            }
        }
    }

    fn open_tables(&self, io: &tokio::runtime::Runtime) -> Result<Vec<TableWriter>, RuntimeError> {
        let plan = &self.config.plan;
        plan.tables
            .iter()
            .map(|table| {
                let spec = table_spec(plan, table);
                io.block_on(self.shared.store.table(&spec))
                    .map_err(|source| self.store(source))
            })
            .collect()
    }

    /// Resolves the start once for all tables and records it where it is absent (P15), with the ids of the topics
    /// (P18). Partitions that appear later are started at their low mark on assignment (P16).
    fn record_starts(
        &self,
        io: &tokio::runtime::Runtime,
        tables: &mut [TableWriter],
    ) -> Result<Topics, RuntimeError> {
        let plan = &self.config.plan;
        let kafka = |source| self.kafka(source);
        let mut counts = BTreeMap::new();
        let cluster = &self.config.cluster;
        let found = cluster
            .partition_counts(&plan.source.topics, BROKER_PATIENCE)
            .map_err(kafka)?;
        for (topic, count) in found {
            let Some(count) = count else {
                return Err(RuntimeError::NoTopic {
                    pipeline: plan.name.clone(),
                    topic,
                    connection: plan.source.connection.clone(),
                });
            };
            counts.insert(topic, count);
        }
        let partitions: Vec<TopicPartition> = counts
            .iter()
            .flat_map(|(topic, &count)| {
                (0..count).map(|number| TopicPartition::new(topic.clone(), number))
            })
            .collect();

        // Before any offset is asked for: of a topic that is made anew in between, the former id is recorded, and its
        // partitions halt.
        let topics = cluster
            .topic_ids(&plan.source.topics, BROKER_PATIENCE)
            .map_err(kafka)?;
        let has_no_id = |topic: &&Arc<str>| !topics.contains_key(*topic);
        let found = Topics {
            partitions: partitions.len(),
            without_ids: plan
                .source
                .topics
                .iter()
                .filter(has_no_id)
                .cloned()
                .collect(),
        };
        if let Some(trouble) = found.trouble() {
            tracing::warn!(pipeline = %plan.name, "{trouble}");
        }

        let has_begun = |table: &TableWriter| !table.checkpoint().offsets.is_empty();
        let mut adopted = None;
        if let Some(first) = tables.iter().position(has_begun) {
            // A crash between the start commits of two tables leaves the one that was first at its
            // start; the other adopts it. A table that has read on cannot be joined (P20).
            let has_read = match tables.iter().all(has_begun) {
                true => false,
                false => self.has_read(io, &plan.tables[first].name)?,
            };
            // Another server may have begun them all since this one opened them: before any of them read.
            for table in tables.iter_mut().filter(|table| !has_begun(table)) {
                io.block_on(table.refresh())
                    .map_err(|source| self.store(source))?;
            }
            let Some(new) = tables.iter().position(|table| !has_begun(table)) else {
                self.record(io, tables, BTreeMap::new(), &BTreeMap::new(), topics)?;
                return Ok(found);
            };
            if has_read {
                return Err(RuntimeError::NewTable {
                    pipeline: plan.name.clone(),
                    table: plan.tables[new].name.clone(),
                    other: plan.tables[first].name.clone(),
                });
            }
            adopted = Some(tables[first].checkpoint().offsets.clone());
        }
        let starts = match adopted {
            Some(starts) => starts,
            None => self.resolve_start(&partitions)?,
        };
        self.record(io, tables, starts, &counts, topics)?;
        Ok(found)
    }

    /// Records starts, counts and ids in every table where they are absent. What a table before records of a topic
    /// goes before what the broker says: all tables hold offsets of the same one (P18). Before both goes the operator's
    /// word, if the broker has the very topic that it is about.
    fn record(
        &self,
        io: &tokio::runtime::Runtime,
        tables: &mut [TableWriter],
        mut starts: BTreeMap<TopicPartition, i64>,
        counts: &BTreeMap<Arc<str>, i32>,
        mut topics: BTreeMap<Arc<str>, TopicId>,
    ) -> Result<(), RuntimeError> {
        let mut continued = self.config.plan.source.continued_by.clone();
        continued.retain(|topic, id| topics.get(topic) == Some(id));
        for table in tables.iter().rev() {
            topics.extend(table.checkpoint().topics.clone());
        }
        for table in tables {
            io.block_on(table.record_start(&starts, counts, &topics))
                .map_err(|source| self.store(source))?;
            // Another server may have been first, and have resolved it otherwise: one start for all tables (P15).
            for (partition, start) in &mut starts {
                if let Some(recorded) = table.checkpoint().offsets.get(partition) {
                    *start = *recorded;
                }
            }
            topics.extend(table.checkpoint().topics.clone());
            for (topic, &id) in &continued {
                io.block_on(table.continue_topic(topic, id))
                    .map_err(|source| self.store(source))?;
            }
        }
        Ok(())
    }

    /// Whether a table holds more than its own creation and start, wherever that was moved.
    fn has_read(&self, io: &tokio::runtime::Runtime, table: &str) -> Result<bool, RuntimeError> {
        let history = io
            .block_on(self.shared.store.history(table))
            .map_err(|source| self.store(source))?;
        Ok(history.iter().any(|commit| {
            !matches!(
                commit.kind,
                CommitKind::Create | CommitKind::Start | CommitKind::Seek | CommitKind::Sweep
            )
        }))
    }

    fn resolve_start(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>, RuntimeError> {
        let plan = &self.config.plan;
        let cluster = &self.config.cluster;
        let bounds = || {
            cluster
                .log_bounds(partitions, BROKER_PATIENCE)
                .map_err(|source| self.kafka(source))
        };
        match plan.source.start {
            Start::Earliest => Ok(bounds()?
                .into_iter()
                .map(|(partition, (low, _))| (partition, low))
                .collect()),
            Start::Latest => Ok(bounds()?
                .into_iter()
                .map(|(partition, (_, end))| (partition, end))
                .collect()),
            Start::At(time) => cluster
                .offsets_at(partitions, time, BROKER_PATIENCE)
                .map_err(|source| self.kafka(source)),
            Start::Fail => Err(RuntimeError::NoStart {
                pipeline: plan.name.clone(),
                table: plan.tables[0].name.clone(),
                partition: partitions
                    .first()
                    .cloned()
                    .unwrap_or_else(|| TopicPartition::new(plan.source.topics[0].clone(), 0)),
            }),
        }
    }

    fn spawn(
        &self,
        role: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<JoinHandle<()>, RuntimeError> {
        self.shared
            .host
            .spawn(format!("{role}-{}", self.config.plan.name), Box::new(work))
            .map_err(|source| {
                let error = self.no_thread(source);
                tracing::error!("{error}");
                self.ending.drain();
                error
            })
    }

    fn say(&self, state: PipelineState, reason: Option<String>) {
        let pipeline = &self.config.plan.name;
        self.shared
            .status
            .update(pipeline, |status| status.enter(state, reason));
        for one in PipelineState::ALL {
            let is_it = if one == state { 1.0 } else { 0.0 };
            metrics::gauge!("alluvium_pipeline_state", "pipeline" => pipeline.to_string(), "state" => one.name())
                .set(is_it);
        }
        metrics::gauge!(definitions::CONFLICT, "pipeline" => pipeline.to_string()).set(0.0);
    }

    fn store(&self, source: alluvium_store::StoreError) -> RuntimeError {
        RuntimeError::of_store(&self.config.plan.name)(source)
    }

    fn kafka(&self, source: alluvium_source::SourceError) -> RuntimeError {
        RuntimeError::of_source(&self.config.plan.name)(source)
    }

    fn no_thread(&self, source: io::Error) -> RuntimeError {
        RuntimeError::Thread {
            pipeline: self.config.plan.name.clone(),
            source,
        }
    }
}

/// What `plan` wants one of its tables to be.
pub fn table_spec(plan: &Plan, table: &TablePlan) -> TableSpec {
    TableSpec {
        name: table.name.clone(),
        pipeline: plan.name.clone(),
        shape: Arc::new(table.shape.clone()),
        partition_by: table.partition_by,
        definition: table.definition.clone(),
    }
}

/// Waits for a thread's end; its panic goes on in this one, so that the process ends loudly (R5).
fn join(host: &dyn Host, thread: JoinHandle<()>) {
    if let Err(panic) = host.join(thread) {
        std::panic::resume_unwind(panic);
    }
}
