//! All pipelines of one process, started together and drained together.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use alluvium_plan::{Plan, Publisher, StatusBoard};
use alluvium_store::Store;
use alluvium_types::{ErrorClass, MemoryBudget};

use crate::{
    Instance, PipelineConfig, RuntimeError,
    background::Background,
    compaction,
    host::{Host, Machine},
    lag,
    message::WAKE,
    pipeline::{Pipeline, Shared},
    upkeep,
};

/// An intake thread that has not polled for this long is wedged (K8).
const WEDGED_AFTER: Duration = Duration::from_secs(60);

/// What a server runs.
#[derive(Debug)]
pub struct ServerConfig {
    /// The pipelines; no two write one table.
    pub pipelines: Vec<PipelineConfig>,
    /// Worker threads of each pipeline, at least 1.
    pub workers: usize,
    /// The ingest budget in bytes, for all pipelines together (P30).
    pub ingest_bytes: usize,
    /// The name of this server in its consumer groups; `None`: a dynamic member.
    pub instance: Option<Instance>,
}

/// Starts pipelines.
#[derive(Debug)]
pub struct Server;

/// Running pipelines.
pub struct Running {
    pipelines: Vec<Pipeline>,
    publisher: Arc<Publisher>,
    status: Arc<StatusBoard>,
    budget: MemoryBudget,
    /// Merging of files, upkeep, and the lag of stopped pipelines.
    background: [Background; 3],
    _instance: Option<Instance>,
}

/// How a pipeline ended.
#[derive(Debug)]
pub struct Stopped {
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Why, when it did not simply drain.
    pub error: Option<RuntimeError>,
}

impl Server {
    /// Starts every pipeline on threads of its own, on this machine. A pipeline whose broker, topic or store cannot be
    /// reached waits, says so in its status, and tries again.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(config: ServerConfig, store: Store) -> io::Result<Running> {
        Self::start_on(Arc::new(Machine), config, store)
    }

    /// As [`Self::start`], on another machine.
    ///
    /// # Errors
    /// When it gives no thread.
    pub fn start_on(
        host: Arc<dyn Host>,
        config: ServerConfig,
        store: Store,
    ) -> io::Result<Running> {
        let publisher = Arc::new(Publisher::default());
        let status = Arc::new(StatusBoard::default());
        let budget = MemoryBudget::new(config.ingest_bytes);
        let shared = Shared {
            store,
            budget: budget.clone(),
            workers: config.workers.max(1),
            pipelines: config.pipelines.len().max(1),
            instance: config
                .instance
                .as_ref()
                .map(|instance| instance.name().to_owned()),
            publisher: publisher.clone(),
            status: status.clone(),
            host,
        };
        let lag = lag::start(
            shared.store.clone(),
            &config.pipelines,
            status.clone(),
            &shared.host,
        )?;
        let plans: Vec<Arc<Plan>> = config
            .pipelines
            .iter()
            .map(|pipeline| pipeline.plan.clone())
            .collect();
        let pipelines = config
            .pipelines
            .into_iter()
            .map(|pipeline| Pipeline::start(pipeline, shared.clone()))
            .collect::<io::Result<_>>()?;
        let Shared { store, host, .. } = shared;
        let compaction = compaction::start(
            store.clone(),
            budget.clone(),
            &plans,
            publisher.clone(),
            status.clone(),
            &host,
        )?;
        let upkeep = upkeep::start(store, &plans, publisher.clone(), status.clone(), &host)?;
        Ok(Running {
            pipelines,
            publisher,
            status,
            budget,
            background: [compaction, upkeep, lag],
            _instance: config.instance,
        })
    }
}

impl Running {
    /// Where queries take their snapshot.
    pub fn publisher(&self) -> Arc<Publisher> {
        self.publisher.clone()
    }

    /// What the pipelines say about themselves.
    pub fn status(&self) -> Arc<StatusBoard> {
        self.status.clone()
    }

    /// The ingest budget.
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Asks whether every intake thread that has begun to poll still does; for liveness checks. The error
    /// names the pipeline that does not.
    pub fn liveness(&self) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
        let endings: Vec<_> = self
            .pipelines
            .iter()
            .map(|pipeline| (pipeline.plan.name.clone(), pipeline.ending.clone()))
            .collect();
        move || {
            for (pipeline, ending) in &endings {
                if ending.is_wedged(WEDGED_AFTER) {
                    return Err(format!(
                        "the intake thread of pipeline {pipeline} has not polled for {WEDGED_AFTER:?}"
                    ));
                }
            }
            Ok(())
        }
    }

    /// Whether some pipeline has ended.
    pub fn any_over(&self) -> bool {
        self.pipelines.iter().any(Pipeline::is_over)
    }

    /// Whether every pipeline has ended.
    pub fn all_over(&self) -> bool {
        self.pipelines.iter().all(Pipeline::is_over)
    }

    /// Whether there is no reason to stay: every pipeline has ended, and none because of its own `stop_if`. What such a
    /// one has committed can still be asked for, and its status says why it stands still.
    pub fn nothing_left(&self) -> bool {
        let mut pipelines = self.pipelines.iter();
        self.all_over() && !pipelines.any(|pipeline| pipeline.ending.is_stopped_by_rule())
    }

    /// Asks every pipeline for its last barrier and its last commit. Returns at once.
    pub fn drain(&self) {
        for pipeline in &self.pipelines {
            pipeline.ending.drain();
        }
        self.background.iter().for_each(Background::stop);
    }

    /// Waits until every pipeline has ended; `None` when that takes longer than `patience`. After `Some`
    /// everything that was handed over is durable, except where an error says otherwise.
    pub fn join(self, patience: Duration) -> Option<Vec<Stopped>> {
        self.background.iter().for_each(Background::stop);
        let until = Instant::now() + patience;
        while !self.all_over() || !self.background.iter().all(Background::is_over) {
            if Instant::now() >= until {
                return None;
            }
            thread::sleep(WAKE);
        }
        let stopped = self
            .pipelines
            .into_iter()
            .map(|pipeline| Stopped {
                plan: pipeline.plan.clone(),
                error: pipeline.join().err(),
            })
            .collect();
        self.background.into_iter().for_each(Background::join);
        Some(stopped)
    }
}

impl Stopped {
    /// Whether a person must change a file before it can run.
    pub fn is_refused(&self) -> bool {
        self.error
            .as_ref()
            .is_some_and(|error| error.class() == ErrorClass::Config)
    }
}
