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

impl PipelineState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Starting,
        Self::Waiting,
        Self::Running,
        Self::Draining,
        Self::Stopped,
    ];

    /// Its name in metrics and in `system.pipelines`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// What may be wrong while a pipeline goes on. Each begins and ends for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Partitions that stand still until a person acts.
    Halted,
    /// Recorded offsets that cannot be read yet.
    Start,
    /// Complaints of the Kafka client.
    Broker,
    /// Topics that the broker gives no ids of.
    Topic,
    /// A transaction that nobody ends holds readers back.
    Transaction,
    /// Commits that end in errors and are tried again.
    Commit,
    /// Other servers write the same tables by other files.
    Definition,
    /// This machine's clock is not that of the storage.
    Clock,
    /// A table's log is damaged, or its upkeep fails.
    Upkeep,
    /// Files of a table cannot be merged.
    Merge,
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
    /// End of what can be read of it: before the first open transaction.
    pub stable_end: Option<i64>,
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
    /// What `reason` is made of while it runs; see [`Self::set_trouble`].
    #[serde(skip)]
    pub troubles: BTreeMap<Trouble, String>,
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

impl PipelineStatus {
    /// It is in this state from now on, for this reason. What was wrong before is not any more.
    pub fn enter(&mut self, state: PipelineState, reason: Option<String>) {
        self.state = state;
        self.reason = reason;
        self.troubles.clear();
    }

    /// Something is wrong, in these words, or is not any more. Of a pipeline that does not run, the reason for that is more
    /// important.
    pub fn set_trouble(&mut self, trouble: Trouble, text: Option<String>) {
        if !matches!(self.state, PipelineState::Running | PipelineState::Draining) {
            return;
        }
        let before = match text {
            Some(text) => self.troubles.insert(trouble, text),
            None => self.troubles.remove(&trouble),
        };
        if before.as_ref() != self.troubles.get(&trouble) {
            let texts: Vec<&str> = self.troubles.values().map(String::as_str).collect();
            self.reason = (!texts.is_empty()).then(|| texts.join("; "));
        }
    }

    /// How many of its partitions stand still until a person acts.
    pub fn halted(&self) -> usize {
        let is_halted = |partition: &&PartitionStatus| partition.halted.is_some();
        self.partitions.iter().filter(is_halted).count()
    }

    /// Whether it reads, or would if there were anything to read.
    pub fn is_ready(&self) -> bool {
        let all_halted = !self.partitions.is_empty() && self.halted() == self.partitions.len();
        self.state == PipelineState::Running && !all_halted
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_begin_and_end_for_themselves() {
        let mut status = PipelineStatus::default();
        status.enter(PipelineState::Running, None);
        status.set_trouble(Trouble::Commit, Some("the disk is full".into()));
        status.set_trouble(Trouble::Halted, Some("1 of 2 partitions halted".into()));
        assert_eq!(
            status.reason.as_deref(),
            Some("1 of 2 partitions halted; the disk is full")
        );
        status.set_trouble(Trouble::Halted, None);
        assert_eq!(status.reason.as_deref(), Some("the disk is full"));
        status.set_trouble(Trouble::Commit, None);
        assert_eq!(status.reason, None);
        status.enter(PipelineState::Stopped, Some("by `stop_if`".into()));
        status.set_trouble(Trouble::Broker, Some("no route".into()));
        assert_eq!(status.reason.as_deref(), Some("by `stop_if`"));
    }

    #[test]
    fn a_pipeline_whose_partitions_all_halted_is_not_ready() {
        let partition = |halted: Option<&str>| PartitionStatus {
            halted: halted.map(str::to_owned),
            ..PartitionStatus::default()
        };
        let mut status = PipelineStatus::default();
        status.enter(PipelineState::Running, None);
        assert!(status.is_ready(), "nothing is assigned");
        status.partitions = vec![partition(None), partition(Some("retention"))];
        assert!(status.is_ready());
        status.partitions = vec![partition(Some("retention"))];
        assert!(!status.is_ready());
    }
}
