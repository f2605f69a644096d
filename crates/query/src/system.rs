//! `system.*`: what an operator asks, as relations.
//!
//! Owns their columns. Rows come from storage and from the process's status board at the moment of the scan;
//! a process that runs no pipelines has no status board, and leaves what only that knows NULL.

use std::sync::Arc;

use alluvium_plan::{CommittedTable, PartitionStatus, PipelineStatus, StatusBoard};
use alluvium_types::{Timestamp, TopicPartition};
use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{
            ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
            TimestampMicrosecondArray,
        },
        datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    },
    catalog::{Session, TableProvider},
    common::Result,
    datasource::{TableType, memory::MemorySourceConfig},
    logical_expr::Expr,
    physical_plan::ExecutionPlan,
};

use crate::{
    access::Access,
    error::QueryError,
    storage::{Commit, RecordedPartition},
    view::View,
};

/// The relations of schema `system` with their columns.
pub(crate) const NAMES: [(&str, &[(&str, Kind)]); 6] = [
    (
        "queries",
        &[
            ("id", Kind::Number),
            ("user", Kind::Text),
            ("door", Kind::Text),
            ("since", Kind::Time),
            ("memory", Kind::Number),
            ("files", Kind::Number),
            ("file_bytes", Kind::Number),
            ("file_rows", Kind::Number),
            ("rows", Kind::Number),
            ("query", Kind::Text),
        ],
    ),
    (
        "partitions",
        &[
            ("pipeline", Kind::Text),
            ("table", Kind::Text),
            ("topic", Kind::Text),
            ("partition", Kind::Small),
            ("committed", Kind::Number),
            ("watermark", Kind::Time),
            ("position", Kind::Number),
            ("log_end", Kind::Number),
            ("lag", Kind::Number),
            ("halted", Kind::Text),
            ("stable_end", Kind::Number),
        ],
    ),
    (
        "commits",
        &[
            ("table", Kind::Text),
            ("version", Kind::Number),
            ("committed_at", Kind::Time),
            ("kind", Kind::Text),
            ("pipeline", Kind::Text),
            ("commit_id", Kind::Text),
            ("pipeline_version", Kind::Text),
            ("events_in", Kind::Number),
            ("counted", Kind::Number),
            ("filtered", Kind::Number),
            ("rejected", Kind::Number),
            ("late", Kind::Number),
            ("ranges", Kind::Text),
            ("replayed", Kind::Number),
        ],
    ),
    (
        "lateness",
        &[
            ("table", Kind::Text),
            ("version", Kind::Number),
            ("committed_at", Kind::Time),
            ("more_than_seconds", Kind::Number),
            ("up_to_seconds", Kind::Number),
            ("events", Kind::Number),
        ],
    ),
    (
        "tables",
        &[
            ("name", Kind::Text),
            ("version", Kind::Number),
            ("files", Kind::Number),
            ("bytes", Kind::Number),
            ("watermark", Kind::Time),
            ("group_columns", Kind::Text),
            ("measures", Kind::Text),
        ],
    ),
    (
        "pipelines",
        &[
            ("name", Kind::Text),
            ("state", Kind::Text),
            ("reason", Kind::Text),
            ("partitions", Kind::Number),
            ("tables", Kind::Text),
            ("events_in", Kind::Number),
            ("bytes_in", Kind::Number),
            ("rejected", Kind::Number),
            ("overtaken", Kind::Number),
            ("rebalances", Kind::Number),
            ("memory_used", Kind::Number),
            ("memory_limit", Kind::Number),
            ("freshness_p99_ms", Kind::Decimal),
        ],
    ),
];

/// The types that columns here have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Text,
    Small,
    Number,
    Decimal,
    Time,
}

impl Kind {
    fn data_type(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Small => DataType::Int32,
            Self::Number => DataType::Int64,
            Self::Decimal => DataType::Float64,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }
}

/// One relation of schema `system`.
#[derive(Debug)]
pub(crate) struct SystemTable {
    relation: &'static str,
    schema: SchemaRef,
    view: Arc<View>,
    status: Vec<PipelineStatus>,
}

impl SystemTable {
    /// The relation of this name, over one query's view.
    pub(crate) fn named(
        name: &str,
        view: &Arc<View>,
        status: &Option<Arc<StatusBoard>>,
    ) -> Option<Self> {
        let (relation, columns) = NAMES.into_iter().find(|(known, _)| *known == name)?;
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, kind)| Field::new(*name, kind.data_type(), true))
            .collect();
        Some(Self {
            relation,
            schema: Arc::new(Schema::new(fields)),
            view: view.clone(),
            status: status.as_ref().map(|board| board.all()).unwrap_or_default(),
        })
    }

    async fn columns(&self) -> Result<Vec<ArrayRef>, QueryError> {
        match self.relation {
            "partitions" => self.partitions().await,
            "commits" => self.commits().await,
            "lateness" => self.lateness().await,
            "tables" => self.tables().await,
            "queries" => Ok(self.queries()),
            _ => Ok(self.pipelines()),
        }
    }

    async fn partitions(&self) -> Result<Vec<ArrayRef>, QueryError> {
        let mut rows: Vec<(String, RecordedPartition, PartitionStatus)> = Vec::new();
        for name in self.view.tables() {
            match self.writer_of(&name) {
                Some(pipeline) => {
                    let table = self.view.table(&name).await?;
                    let Some(CommittedTable {
                        offsets,
                        watermarks,
                        ..
                    }) = table.map(|table| table.committed)
                    else {
                        continue;
                    };
                    for (partition, &committed) in offsets.iter() {
                        let status = status_of(pipeline, partition);
                        // Of what another server reads, only what is recorded is known here.
                        let recorded = watermarks.get(partition).copied();
                        let recorded = RecordedPartition {
                            pipeline: Some(pipeline.pipeline.clone()),
                            partition: partition.clone(),
                            committed,
                            watermark: recorded.max(status.watermark),
                        };
                        rows.push((name.clone(), recorded, status));
                    }
                }
                None => {
                    for recorded in self.view.shelf.storage.partitions(&name).await? {
                        rows.push((name.clone(), recorded, PartitionStatus::default()));
                    }
                }
            }
        }
        let lag = rows.iter().map(|(_, recorded, status)| {
            let end = status.log_end?;
            Some((end - recorded.committed).max(0))
        });
        Ok(vec![
            texts(
                rows.iter()
                    .map(|(_, recorded, _)| recorded.pipeline.clone()),
            ),
            texts(rows.iter().map(|(table, ..)| Some(table.clone()))),
            texts(
                rows.iter()
                    .map(|row| Some(row.1.partition.topic.to_string())),
            ),
            Arc::new(Int32Array::from_iter(
                rows.iter().map(|row| Some(row.1.partition.partition)),
            )),
            numbers(rows.iter().map(|row| Some(row.1.committed))),
            times(rows.iter().map(|row| row.1.watermark)),
            numbers(rows.iter().map(|row| row.2.position)),
            numbers(rows.iter().map(|row| row.2.log_end)),
            numbers(lag),
            texts(rows.iter().map(|row| row.2.halted.clone())),
            numbers(rows.iter().map(|row| row.2.stable_end)),
        ])
    }

    /// The pipeline of this process that writes `table`.
    fn writer_of(&self, table: &str) -> Option<&PipelineStatus> {
        self.status
            .iter()
            .find(|pipeline| pipeline.tables.iter().any(|known| known.table == table))
    }

    /// The commits of every table, with its name.
    async fn history(&self) -> Result<Vec<(String, Commit)>, QueryError> {
        let mut commits = Vec::new();
        for name in self.view.tables() {
            let history = self.view.shelf.storage.history(&name).await?;
            commits.extend(history.into_iter().map(|commit| (name.clone(), commit)));
        }
        Ok(commits)
    }

    async fn commits(&self) -> Result<Vec<ArrayRef>, QueryError> {
        let rows = self.history().await?;
        let balance = |figure: fn(&alluvium_types::Balance) -> u64| {
            numbers(rows.iter().map(|(_, commit)| {
                let balance = commit.balance.as_ref()?;
                Some(figure(balance) as i64)
            }))
        };
        Ok(vec![
            texts(rows.iter().map(|(table, _)| Some(table.clone()))),
            numbers(rows.iter().map(|row| Some(row.1.version))),
            times(rows.iter().map(|row| row.1.committed_at)),
            texts(rows.iter().map(|row| Some(row.1.kind.clone()))),
            texts(rows.iter().map(|row| row.1.pipeline.clone())),
            texts(rows.iter().map(|row| row.1.commit_id.clone())),
            texts(rows.iter().map(|row| row.1.pipeline_version.clone())),
            balance(|figures| figures.events_in),
            balance(|figures| figures.counted),
            balance(|figures| figures.filtered),
            balance(|figures| figures.rejected),
            balance(|figures| figures.late),
            texts(rows.iter().map(|row| Some(ranges(&row.1)))),
            numbers(
                rows.iter()
                    .map(|row| row.1.replayed.map(|letters| letters as i64)),
            ),
        ])
    }

    /// The late events of each commit by how late they were. Of commits that do not tell, how many.
    async fn lateness(&self) -> Result<Vec<ArrayRef>, QueryError> {
        let history = self.history().await?;
        let late = history.iter().filter_map(|(table, commit)| {
            let balance = commit.balance.as_ref()?;
            let known = balance.late_by.buckets();
            let known = known.map(|bucket| (Some(bucket.more_than), bucket.up_to, bucket.events));
            let untold = balance.late.saturating_sub(balance.late_by.events());
            let untold = (untold > 0).then_some((None, None, untold));
            let buckets = known.chain(untold);
            Some(buckets.map(move |bucket| (table, commit, bucket)))
        });
        let rows: Vec<_> = late.flatten().collect();
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Ok(vec![
            texts(rows.iter().map(|(table, ..)| Some((*table).clone()))),
            numbers(rows.iter().map(|(_, commit, _)| Some(commit.version))),
            times(rows.iter().map(|(_, commit, _)| commit.committed_at)),
            numbers(rows.iter().map(|(.., bucket)| bucket.0.map(number))),
            numbers(rows.iter().map(|(.., bucket)| bucket.1.map(number))),
            numbers(rows.iter().map(|(.., bucket)| Some(number(bucket.2)))),
        ])
    }

    async fn tables(&self) -> Result<Vec<ArrayRef>, QueryError> {
        let mut rows = Vec::new();
        for name in self.view.tables() {
            if let Some(table) = self.view.table(&name).await? {
                rows.push((name, table.committed));
            }
        }
        Ok(vec![
            texts(rows.iter().map(|(name, _)| Some(name.clone()))),
            numbers(rows.iter().map(|(_, table)| Some(table.version))),
            numbers(rows.iter().map(|(_, table)| Some(table.files.len() as i64))),
            numbers(rows.iter().map(|(_, table)| {
                let bytes: u64 = table.files.iter().map(|file| file.size).sum();
                Some(bytes as i64)
            })),
            times(rows.iter().map(|(_, table)| table.watermark)),
            texts(rows.iter().map(|(_, table)| {
                let names = table
                    .shape
                    .group_columns
                    .iter()
                    .map(|field| field.name().as_str());
                Some(names.collect::<Vec<_>>().join(", "))
            })),
            texts(rows.iter().map(|(_, table)| {
                let measures = table.shape.measures.iter();
                let named =
                    measures.map(|measure| format!("{}: {}", measure.name, measure.expression));
                Some(named.collect::<Vec<_>>().join(", "))
            })),
        ])
    }

    fn queries(&self) -> Vec<ArrayRef> {
        // Whoever reads this has been granted it, so they see all.
        let rows = self.view.shelf.running.seen_by(&Access::unrestricted());
        let number = |value: u64| Some(i64::try_from(value).unwrap_or(i64::MAX));
        vec![
            numbers(rows.iter().map(|row| number(row.id))),
            texts(rows.iter().map(|row| row.user.clone())),
            texts(rows.iter().map(|row| Some(row.door.to_owned()))),
            times(rows.iter().map(|row| Some(row.since))),
            numbers(rows.iter().map(|row| number(row.memory))),
            numbers(rows.iter().map(|row| number(row.to_read.files))),
            numbers(rows.iter().map(|row| number(row.to_read.bytes))),
            numbers(rows.iter().map(|row| number(row.to_read.rows))),
            numbers(rows.iter().map(|row| number(row.rows))),
            texts(rows.iter().map(|row| Some(row.sql.clone()))),
        ]
    }

    fn pipelines(&self) -> Vec<ArrayRef> {
        let rows = &self.status;
        let count = |figure: fn(&PipelineStatus) -> u64| {
            numbers(rows.iter().map(|row| Some(figure(row) as i64)))
        };
        vec![
            texts(rows.iter().map(|row| Some(row.pipeline.clone()))),
            texts(rows.iter().map(|row| Some(row.state.name().to_owned()))),
            texts(rows.iter().map(|row| row.reason.clone())),
            count(|row| row.partitions.len() as u64),
            texts(rows.iter().map(|row| {
                let names: Vec<&str> = row
                    .tables
                    .iter()
                    .map(|table| table.table.as_str())
                    .collect();
                Some(names.join(", "))
            })),
            count(|row| row.events_in),
            count(|row| row.bytes_in),
            count(|row| row.rejected),
            count(|row| row.overtaken),
            count(|row| row.rebalances),
            count(|row| row.memory_used),
            count(|row| row.memory_limit),
            Arc::new(Float64Array::from_iter(
                rows.iter().map(|row| row.freshness_p99_ms),
            )),
        ]
    }
}

fn status_of(pipeline: &PipelineStatus, partition: &TopicPartition) -> PartitionStatus {
    pipeline
        .partitions
        .iter()
        .find(|status| status.topic == *partition.topic && status.partition == partition.partition)
        .cloned()
        .unwrap_or_default()
}

/// Offset ranges as JSON: `[{"topic","partition","start","end"}]`.
fn ranges(commit: &Commit) -> String {
    let ranges = commit.ranges.iter().map(|(partition, range)| {
        serde_json::json!({
            "topic": partition.topic,
            "partition": partition.partition,
            "start": range.start(),
            "end": range.end(),
        })
    });
    serde_json::Value::Array(ranges.collect()).to_string()
}

fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn numbers(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(Int64Array::from_iter(values))
}

fn times(values: impl Iterator<Item = Option<Timestamp>>) -> ArrayRef {
    let micros = values.map(|time| time.map(Timestamp::micros));
    Arc::new(TimestampMicrosecondArray::from_iter(micros).with_timezone("UTC"))
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = self.columns().await.map_err(QueryError::into_datafusion)?;
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        Ok(MemorySourceConfig::try_new_exec(
            &[vec![batch]],
            self.schema.clone(),
            projection.cloned(),
        )?)
    }
}
