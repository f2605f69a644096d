//! Tables made by hand: events folded by the plan's own aggregates into files and memory epochs.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use alluvium_plan::{
    ColumnBounds, CommittedFile, CommittedTable, Finish, MeasureShape, MemoryEpoch, PublishedTable,
    StateKind, StateShape, TableShape,
};
use alluvium_query::{
    Commit, DeadLetters, QueryEngine, QueryError, RecordedPartition, Session, Storage,
};
use alluvium_types::{Epoch, OffsetRange, Timestamp, TopicPartition};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray,
            TimestampMicrosecondArray,
        },
        compute::concat_batches,
        datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
        util::display::{ArrayFormatter, FormatOptions},
    },
    common::ScalarValue,
    logical_expr::{col, lit},
    prelude::SessionContext,
};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use parquet::arrow::ArrowWriter;

pub(crate) const MINUTE: i64 = 60_000_000;

/// 2026-03-01T12:00:00Z.
pub(crate) const NOON: i64 = 1_772_366_400_000_000;

#[derive(Clone, Debug)]
pub(crate) struct Click {
    pub(crate) minute: i64,
    pub(crate) country: &'static str,
    pub(crate) user: i64,
    pub(crate) latency: Option<f64>,
    pub(crate) bytes: i64,
}

pub(crate) fn click(
    minute: i64,
    country: &'static str,
    user: i64,
    latency: f64,
    bytes: i64,
) -> Click {
    Click {
        minute,
        country,
        user,
        latency: Some(latency),
        bytes,
    }
}

const STATES: [(&str, StateKind, &str); 6] = [
    ("clicks", StateKind::Count, "user"),
    ("bytes", StateKind::Sum, "bytes"),
    ("users", StateKind::Hll, "user"),
    ("p50_ms", StateKind::DdSketch, "latency"),
    ("mean_ms", StateKind::Avg, "latency"),
    ("slowest", StateKind::Max, "latency"),
];

/// Folds clicks into panes of windows of `minutes`.
pub(crate) async fn fold(clicks: &[Click], minutes: i64) -> RecordBatch {
    let size = minutes * MINUTE;
    let start = |click: &Click| (NOON + click.minute * MINUTE).div_euclid(size) * size;
    let time = |values: Vec<i64>| {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as _
    };
    let batch = RecordBatch::try_from_iter(vec![
        ("window_start", time(clicks.iter().map(start).collect())),
        (
            "window_end",
            time(clicks.iter().map(|click| start(click) + size).collect()),
        ),
        (
            "country",
            Arc::new(StringArray::from_iter_values(
                clicks.iter().map(|click| click.country),
            )) as _,
        ),
        (
            "user",
            Arc::new(Int64Array::from_iter_values(
                clicks.iter().map(|click| click.user),
            )) as _,
        ),
        (
            "latency",
            Arc::new(Float64Array::from_iter(
                clicks.iter().map(|click| click.latency),
            )) as _,
        ),
        (
            "bytes",
            Arc::new(Int64Array::from_iter_values(
                clicks.iter().map(|click| click.bytes),
            )) as _,
        ),
    ])
    .unwrap();
    let context = SessionContext::new();
    let keys = vec![col("window_start"), col("window_end"), col("country")];
    let folds = STATES
        .iter()
        .map(|(name, kind, input)| {
            let input = match kind {
                StateKind::Count => lit(1i64),
                _ => col(*input),
            };
            kind.fold().call(vec![input]).alias(*name)
        })
        .collect();
    let folded = context
        .read_batch(batch)
        .unwrap()
        .aggregate(keys, folds)
        .unwrap()
        .sort_by(vec![col("window_start"), col("country")])
        .unwrap();
    let schema: SchemaRef = folded.schema().inner().clone();
    concat_batches(&schema, &folded.collect().await.unwrap()).unwrap()
}

/// The shape of what [`fold`] makes.
pub(crate) async fn shape() -> TableShape {
    let folded = fold(&[], 1).await;
    let states = STATES
        .iter()
        .map(|(name, kind, _)| StateShape {
            name: (*name).into(),
            kind: *kind,
            data_type: folded
                .schema()
                .field_with_name(name)
                .unwrap()
                .data_type()
                .clone(),
        })
        .collect::<Vec<_>>();
    let measure = |name: &str, expression: &str, state: usize, finish: Finish| MeasureShape {
        name: name.into(),
        expression: expression.into(),
        state,
        finish,
        data_type: finish.data_type(&states[state].data_type),
    };
    let measures = vec![
        measure("clicks", "count(*)", 0, Finish::Value),
        measure("bytes", "sum(bytes)", 1, Finish::Value),
        measure("users", "approx_distinct(user)", 2, Finish::Distinct),
        measure(
            "p50_ms",
            "approx_percentile_cont(latency, 0.5)",
            3,
            Finish::Quantile(0.5),
        ),
        measure(
            "p99_ms",
            "approx_percentile_cont(latency, 0.99)",
            3,
            Finish::Quantile(0.99),
        ),
        measure("mean_ms", "avg(latency)", 4, Finish::Average),
        measure("slowest", "max(latency)", 5, Finish::Value),
    ];
    TableShape {
        group_columns: vec![Arc::new(Field::new("country", DataType::Utf8, false))],
        states,
        measures,
    }
}

/// What the log would say of the end of windows and of countries.
pub(crate) fn bounds(panes: &RecordBatch) -> Arc<[ColumnBounds]> {
    let columns = ["window_end", "country"].map(|name| (name, panes.column_by_name(name).unwrap()));
    let of = |(name, column): (&str, &ArrayRef)| {
        let values = (0..column.len()).map(|row| ScalarValue::try_from_array(column, row).unwrap());
        let values: Vec<ScalarValue> = values.filter(|value| !value.is_null()).collect();
        let order = |one: &&ScalarValue, other: &&ScalarValue| one.partial_cmp(other).unwrap();
        let unknown = ScalarValue::try_from(column.data_type()).unwrap();
        ColumnBounds {
            column: name.into(),
            least: values.iter().min_by(order).unwrap_or(&unknown).clone(),
            greatest: values.iter().max_by(order).unwrap_or(&unknown).clone(),
            nulls: Some(column.null_count() as u64),
        }
    };
    columns.into_iter().map(of).collect()
}

pub(crate) fn partition() -> TopicPartition {
    TopicPartition::new("clicks", 0)
}

/// A memory epoch over the offsets `range`.
pub(crate) async fn epoch(number: u64, range: (i64, i64), clicks: &[Click]) -> Arc<MemoryEpoch> {
    Arc::new(MemoryEpoch {
        epoch: Epoch(number),
        ranges: BTreeMap::from([(partition(), OffsetRange::new(range.0, range.1).unwrap())]),
        panes: vec![fold(clicks, 1).await],
    })
}

/// The bytes of a stored file.
pub(crate) async fn bytes_of(objects: &InMemory, path: &str) -> Bytes {
    let read = objects.get(&Path::from(path)).await.unwrap();
    read.bytes().await.unwrap()
}

/// Committed tables in memory, with a fault to inject.
#[derive(Clone, Debug)]
pub(crate) struct Shed {
    pub(crate) objects: Arc<InMemory>,
    pub(crate) tables: Arc<Mutex<BTreeMap<String, CommittedTable>>>,
    /// Answers of `read_table` that are given once, before those of `tables`.
    pub(crate) stale: Arc<Mutex<BTreeMap<String, CommittedTable>>>,
    pub(crate) history: Arc<Mutex<Vec<Commit>>>,
    pub(crate) reads: Arc<Mutex<u64>>,
}

impl Shed {
    pub(crate) fn new() -> Self {
        Self {
            objects: Arc::new(InMemory::new()),
            tables: Arc::default(),
            stale: Arc::default(),
            history: Arc::default(),
            reads: Arc::default(),
        }
    }

    /// Writes panes as one file, without the `missing` states.
    pub(crate) async fn file(
        &self,
        name: &str,
        panes: &RecordBatch,
        missing: &[&str],
    ) -> CommittedFile {
        let kept: Vec<usize> = (0..panes.num_columns())
            .filter(|&column| !missing.contains(&panes.schema().field(column).name().as_str()))
            .collect();
        let batch = panes.project(&kept).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let path = format!("tables/clicks_per_minute/{name}.parquet");
        let size = bytes.len() as u64;
        self.objects
            .put(&Path::from(path.as_str()), bytes.into())
            .await
            .unwrap();
        let starts: Vec<i64> = panes
            .column(0)
            .as_any()
            .downcast_ref::<TimestampMicrosecondArray>()
            .unwrap()
            .values()
            .to_vec();
        CommittedFile {
            path,
            size,
            rows: Some(panes.num_rows() as u64),
            window_start: starts
                .iter()
                .min()
                .zip(starts.iter().max())
                .map(|(min, max)| (Timestamp::from_micros(*min), Timestamp::from_micros(*max))),
            bounds: bounds(panes),
            partition_values: BTreeMap::new(),
            missing_states: missing.iter().map(|name| (*name).into()).collect(),
            has_unique_keys: true,
            checksum: None,
        }
    }

    /// A table of these files, recorded up to offset `offset`, with a watermark after `final_minutes`.
    pub(crate) async fn table(
        &self,
        files: Vec<CommittedFile>,
        offset: i64,
        final_minutes: Option<i64>,
    ) -> CommittedTable {
        CommittedTable {
            shape: Arc::new(shape().await),
            window: Some(std::time::Duration::from_secs(60)),
            version: files.len() as i64,
            files: Arc::new(files),
            offsets: Arc::new(BTreeMap::from([(partition(), offset)])),
            watermarks: Arc::default(),
            watermark: final_minutes.map(|minutes| Timestamp::from_micros(NOON + minutes * MINUTE)),
        }
    }

    pub(crate) fn put(&self, name: &str, table: CommittedTable) {
        self.tables.lock().unwrap().insert(name.into(), table);
    }
}

#[async_trait]
impl Storage for Shed {
    fn object_store(&self) -> Arc<dyn ObjectStore> {
        self.objects.clone()
    }

    async fn tables(&self) -> Result<Vec<String>, QueryError> {
        Ok(self.tables.lock().unwrap().keys().cloned().collect())
    }

    async fn read_table(&self, name: &str) -> Result<CommittedTable, QueryError> {
        *self.reads.lock().unwrap() += 1;
        if let Some(stale) = self.stale.lock().unwrap().remove(name) {
            return Ok(stale);
        }
        Ok(self.tables.lock().unwrap()[name].clone())
    }

    async fn partitions(&self, name: &str) -> Result<Vec<RecordedPartition>, QueryError> {
        let table = self.tables.lock().unwrap()[name].clone();
        Ok(table
            .offsets
            .iter()
            .map(|(partition, &committed)| RecordedPartition {
                pipeline: Some("web".into()),
                partition: partition.clone(),
                committed,
                watermark: table.watermark,
            })
            .collect())
    }

    async fn history(&self, _: &str) -> Result<Vec<Commit>, QueryError> {
        Ok(self.history.lock().unwrap().clone())
    }

    async fn dead_letter_tables(&self) -> Result<Vec<String>, QueryError> {
        Ok(vec!["web".into()])
    }

    async fn read_dead_letters(&self, _: &str) -> Result<DeadLetters, QueryError> {
        let columns: Vec<FieldRef> = vec![
            Arc::new(Field::new("topic", DataType::Utf8, false)),
            Arc::new(Field::new("offset", DataType::Int64, false)),
        ];
        Ok(DeadLetters {
            version: 0,
            schema: Arc::new(Schema::new(columns)),
            files: Vec::new(),
        })
    }
}

pub(crate) fn published(
    committed: CommittedTable,
    memory: Vec<Arc<MemoryEpoch>>,
) -> PublishedTable {
    PublishedTable { committed, memory }
}

/// What an engine answers, as lines of text.
pub(crate) async fn answer(engine: &QueryEngine, sql: &str) -> Vec<String> {
    let result = engine.session().query(sql, vec![]).await;
    let result = result.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    lines(&result.collect().await.unwrap())
}

/// Why a query is refused, wherever in its answer that comes.
pub(crate) async fn refused_in(session: Session, sql: &str) -> QueryError {
    match session.query(sql, vec![]).await {
        Err(error) => error,
        Ok(result) => match result.collect().await {
            Err(error) => error,
            Ok(batches) => panic!("{sql} ran: {:?}", lines(&batches)),
        },
    }
}

/// Rows as lines of text, columns separated by blanks, NULL as `NULL`.
pub(crate) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect();
            lines.push(cells.join(" "));
        }
    }
    lines
}

/// The names in a schema that are no state, to see that nothing hidden shows.
pub(crate) fn names(schema: &Schema) -> BTreeSet<&str> {
    schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect()
}
