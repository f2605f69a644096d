//! The store's answers to what queries ask of storage.

use std::sync::Arc;

use alluvium_plan::CommittedTable;
use alluvium_store::{CommitRecord, Store, StoreError};
use alluvium_types::ErrorClass;
use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use object_store::ObjectStore;

use crate::{
    error::{ErrorKind, QueryError},
    storage::{Commit, DeadLetters, RecordedPartition, Storage},
};

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        let kind = match error.class() {
            ErrorClass::Bug => ErrorKind::Internal,
            _ => ErrorKind::Storage,
        };
        Self::new(kind, error.to_string())
    }
}

#[async_trait]
impl Storage for Store {
    fn object_store(&self) -> Arc<dyn ObjectStore> {
        self.object_store()
    }

    async fn tables(&self) -> Result<Vec<String>, QueryError> {
        Ok(self.tables().await?)
    }

    async fn read_table(&self, name: &str) -> Result<CommittedTable, QueryError> {
        Ok(self.read_table(name).await?)
    }

    async fn partitions(&self, name: &str) -> Result<Vec<RecordedPartition>, QueryError> {
        let table = self.read_table(name).await?;
        let history = self.history(name).await?;
        let pipeline = history.into_iter().rev().find_map(|record| record.pipeline);
        let recorded = table
            .offsets
            .iter()
            .map(|(partition, &committed)| RecordedPartition {
                pipeline: pipeline.clone(),
                partition: partition.clone(),
                committed,
                watermark: table.watermarks.get(partition).copied(),
            });
        Ok(recorded.collect())
    }

    async fn history(&self, name: &str) -> Result<Vec<Commit>, QueryError> {
        let history = self.history(name).await?;
        Ok(history.into_iter().map(commit).collect())
    }

    async fn dead_letter_tables(&self) -> Result<Vec<String>, QueryError> {
        Ok(self.dead_letter_tables().await?)
    }

    async fn read_dead_letters(&self, pipeline: &str) -> Result<DeadLetters, QueryError> {
        let (version, files) = self.read_dead_letters(pipeline).await?;
        Ok(DeadLetters {
            version,
            schema: dead_letter_schema(),
            files,
        })
    }
}

fn commit(record: CommitRecord) -> Commit {
    Commit {
        version: record.version,
        committed_at: record.timestamp,
        kind: record.kind.to_string(),
        pipeline: record.pipeline,
        commit_id: record.commit_id,
        pipeline_version: record.pipeline_version,
        balance: record.balance,
        ranges: record.ranges.into_iter().collect(),
        replayed: record.replayed.map(|replayed| replayed.counted),
    }
}

/// The columns of a reject, as documented for every reader of the Delta table.
fn dead_letter_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let header = DataType::Struct(
        vec![
            Field::new("key", DataType::Utf8, true),
            Field::new("value", DataType::Binary, true),
        ]
        .into(),
    );
    let headers = DataType::List(Arc::new(Field::new("element", header, true)));
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        field("topic", DataType::Utf8),
        field("partition", DataType::Int32),
        field("offset", DataType::Int64),
        field("timestamp", time.clone()),
        field("key", DataType::Binary),
        field("headers", headers),
        field("payload", DataType::Binary),
        field("error", DataType::Utf8),
        field("column", DataType::Utf8),
        field("stage", DataType::Utf8),
        field("table", DataType::Utf8),
        field("pipeline_version", DataType::Utf8),
        field("commit_id", DataType::Utf8),
        field("rejected_at", time),
    ]))
}
