//! What a running pipeline says about itself, filled by the runtime, read by the doors.
//!
//! Plain values with one writer; everything a person sees in `status`, `/readyz` and
//! `system.partitions` comes from here, so all of them agree.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use alluvium_types::{Balance, Timestamp};
use serde::{Deserialize, Serialize};

/// What a pipeline is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// Opening its tables.
    #[default]
    Starting,
    /// It cannot start yet, and tries again: see `reason`.
    Waiting,
    /// Reading, or ready to.
    Running,
    /// Handing over its last epoch.
    Draining,
    /// Stopped for good until a person acts: see `reason`.
    Stopped,
}

/// One partition as this process knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Next offset to fetch.
    pub position: Option<i64>,
    /// Next offset as recorded in the pipeline's slowest table.
    pub committed: Option<i64>,
    /// End of Kafka's log.
    pub log_end: Option<i64>,
    /// Records that are not committed yet: `log_end - committed`.
    pub lag: Option<i64>,
    /// Its watermark.
    pub watermark: Option<Timestamp>,
    /// Why it does not go on, when it does not (P18).
    pub halted: Option<String>,
}

/// One table of a running pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Its name.
    pub table: String,
    /// Its last Delta version seen here.
    pub version: i64,
    /// Commits of this process.
    pub commits: u64,
    /// When this process last committed.
    pub last_commit: Option<Timestamp>,
    /// Files of the last version.
    pub files: u64,
    /// The watermark as recorded.
    pub watermark: Option<Timestamp>,
    /// What this process committed.
    pub balance: Balance,
}

/// One pipeline of this process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// Its name.
    pub pipeline: String,
    /// What it is doing.
    pub state: PipelineState,
    /// Why, when it is not simply running, and what to do.
    pub reason: Option<String>,
    /// The assigned partitions.
    pub partitions: Vec<PartitionStatus>,
    /// Its tables.
    pub tables: Vec<TableStatus>,
    /// Events taken in by this process, committed or not.
    pub events_in: u64,
    /// Payload bytes taken in.
    pub bytes_in: u64,
    /// Events that became dead letters.
    pub rejected: u64,
    /// Commits that met a table which had moved on (P7: overtaken).
    pub overtaken: u64,
    /// Rebalances seen.
    pub rebalances: u64,
    /// Bytes counted against the ingest budget now.
    pub memory_used: u64,
    /// The ingest budget.
    pub memory_limit: u64,
    /// From a record's Kafka timestamp until queries can see it, 99th percentile of the last minute,
    /// in milliseconds.
    pub freshness_p99_ms: Option<f64>,
}

/// Where the pipelines of a process put their status and the doors read it.
#[derive(Debug, Default)]
pub struct StatusBoard {
    pipelines: RwLock<BTreeMap<Arc<str>, PipelineStatus>>,
}

impl StatusBoard {
    /// Changes one pipeline's status in place.
    pub fn update(&self, pipeline: &Arc<str>, change: impl FnOnce(&mut PipelineStatus)) {
        let mut pipelines = self
            .pipelines
            .write()
            .expect("no writer panics while it holds this lock");
        let status = pipelines
            .entry(pipeline.clone())
            .or_insert_with(|| PipelineStatus {
                pipeline: pipeline.to_string(),
                ..PipelineStatus::default()
            });
        change(status);
    }

    /// The status of every pipeline, by name.
    pub fn all(&self) -> Vec<PipelineStatus> {
        self.pipelines
            .read()
            .expect("no writer panics while it holds this lock")
            .values()
            .cloned()
            .collect()
    }
}
