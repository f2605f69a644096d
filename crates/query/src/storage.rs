//! What queries ask of storage.
//!
//! Owns the questions. Does not own the answers: those are the store's, or a fault-injecting
//! wrapper's in tests.

use std::{fmt::Debug, sync::Arc};

use alluvium_plan::{CommittedFile, CommittedTable};
use alluvium_types::{Balance, OffsetRange, Timestamp, TopicPartition};
use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use object_store::ObjectStore;

use crate::error::QueryError;

/// The rejects of one pipeline at one version.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    /// The Delta version.
    pub version: i64,
    /// The columns.
    pub schema: SchemaRef,
    /// The files of that version.
    pub files: Vec<CommittedFile>,
}

/// One commit in a table's history.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The Delta version it made.
    pub version: i64,
    /// When, by the writer's clock.
    pub committed_at: Option<Timestamp>,
    /// What it did: `commit`, `start`, `watermark` and so on, in the store's words.
    pub kind: String,
    /// The pipeline that wrote it.
    pub pipeline: Option<String>,
    /// Its id.
    pub commit_id: Option<String>,
    /// The pipeline's version.
    pub pipeline_version: Option<String>,
    /// The arithmetic of its events (P13); `None` for commits without events.
    pub balance: Option<Balance>,
    /// The offset ranges it covers.
    pub ranges: Vec<(TopicPartition, OffsetRange)>,
    /// Dead letters that are part of the table with it; `None` for what is no replay.
    pub replayed: Option<u64>,
}

/// A partition as a table records it.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedPartition {
    /// The pipeline it is recorded under.
    pub pipeline: Option<String>,
    /// Which.
    pub partition: TopicPartition,
    /// The recorded next offset.
    pub committed: i64,
    /// Its recorded watermark.
    pub watermark: Option<Timestamp>,
}

/// Committed tables, read at the moment of the question.
#[async_trait]
pub trait Storage: Debug + Send + Sync {
    /// Where [`CommittedFile::path`] leads.
    fn object_store(&self) -> Arc<dyn ObjectStore>;
    /// The names of all pane tables.
    async fn tables(&self) -> Result<Vec<String>, QueryError>;
    /// The newest version of a pane table.
    async fn read_table(&self, name: &str) -> Result<CommittedTable, QueryError>;
    /// What a pane table records about its partitions. Asked for tables that no pipeline of this process writes, so
    /// it may read more than the newest version.
    async fn partitions(&self, name: &str) -> Result<Vec<RecordedPartition>, QueryError>;
    /// A pane table's commits, oldest first.
    async fn history(&self, name: &str) -> Result<Vec<Commit>, QueryError>;
    /// The names of all pipelines that have rejects.
    async fn dead_letter_tables(&self) -> Result<Vec<String>, QueryError>;
    /// The newest version of a pipeline's rejects.
    async fn read_dead_letters(&self, pipeline: &str) -> Result<DeadLetters, QueryError>;
}
