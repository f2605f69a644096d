//! A pipeline as meant: everything parsed, typed and checked.
//!
//! Owns the shape of the result. Does not own how it comes about from files.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alluvium_types::{Timestamp, TopicId};
use datafusion::{
    arrow::datatypes::{DataType, SchemaRef},
    physical_plan::PhysicalExpr,
};

use crate::TableShape;

/// One pipeline, ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The file's name without its ending.
    pub name: Arc<str>,
    /// What the file says it is for.
    pub description: Option<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Sixteen hex digits of a hash over the canonical definition; the `pipeline_version` of dead
    /// letters and commits.
    pub version: Arc<str>,
    /// Where events come from.
    pub source: KafkaSource,
    /// Every column of the event schema, used or not: each is checked for every event (P5).
    pub columns: Vec<EventColumn>,
    /// What happens to fields that the schema does not name.
    pub unknown_fields: UnknownFields,
    /// The columns that are decoded, in the order of `columns`: those that expressions use, and the
    /// event time. All expressions of the plan are bound to this schema.
    pub decoded: SchemaRef,
    /// The pipeline's `where`, boolean over `decoded`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Event time, watermark and acceptance.
    pub event_time: EventTime,
    /// How often panes are committed.
    pub commit_every: Duration,
    /// How soon SQL sees an event that is not yet committed.
    pub refresh_every: Duration,
    /// The tables, at most [`alluvium_types::TableSet::CAPACITY`].
    pub tables: Vec<TablePlan>,
    /// When the pipeline stops because of rejects.
    pub stop_if: Option<StopIf>,
    /// How long dead letters are kept.
    pub keep_dead_letters: Duration,
}

/// The Kafka side of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSource {
    /// The connection's name in the server file.
    pub connection: String,
    /// At least one topic.
    pub topics: Vec<Arc<str>>,
    /// Where tables begin on their very first run.
    pub start: Start,
    /// By topic the id of one that was made anew and, as an operator says, goes on where the recorded one ended.
    pub continued_by: BTreeMap<Arc<str>, TopicId>,
    /// The consumer group; `None`: `alluvium.<pipeline>`.
    pub group: Option<String>,
    /// Who brings the bytes.
    pub drain: Drain,
    /// Checked librdkafka properties of this pipeline.
    pub properties: BTreeMap<String, String>,
}

/// Who brings the bytes of a topic's partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// Our own fetch requests where they can serve the connection, else librdkafka.
    #[default]
    Automatic,
    /// Our own fetch requests, or the pipeline does not start.
    Direct,
    /// librdkafka.
    Portable,
}

/// Where tables begin on their very first run (P15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record that Kafka still has.
    Earliest,
    /// The log end when the first run starts.
    Latest,
    /// The first record at or after this Kafka timestamp.
    At(Timestamp),
    /// Refuse to start without recorded offsets.
    Fail,
}

/// One column of the event schema.
#[derive(Clone, Debug, PartialEq)]
pub struct EventColumn {
    /// The field's name in the event.
    pub name: Arc<str>,
    /// Its type: `Utf8`, `Int32`, `Int64`, `Float64`, `Boolean`, `Date32`, `Decimal128`, or
    /// `Timestamp(Microsecond, "UTC")`.
    pub data_type: DataType,
    /// Whether it may be missing or null.
    pub optional: bool,
    /// For timestamps: the unit of one that is a number; `None`: only RFC 3339 text is taken.
    pub epoch_unit: Option<EpochUnit>,
}

/// The unit of a timestamp that is written as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochUnit {
    /// Seconds since 1970, with or without a fraction.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds, rounded down.
    Nanos,
}

impl EpochUnit {
    /// Its name in schema files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "us",
            Self::Nanos => "ns",
        }
    }
}

/// What happens to fields that the schema does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// They are checked for syntax and passed over.
    Ignore,
    /// They make the event a reject.
    Reject,
}

/// Event time, watermark and acceptance (P5, P24, P25).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// Position of the event-time column in `Plan::decoded`.
    pub column: usize,
    /// Watermark = newest accepted event time minus this.
    pub max_delay: Duration,
    /// After this long without an event a partition stops holding the watermark back.
    pub idle_after: Duration,
    /// Bounds against the Kafka record's timestamp.
    pub accept: Accept,
}

/// How far event time may lie from the Kafka record's timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// How far before it; `None`: no bound.
    pub past: Option<Duration>,
    /// How far after it.
    pub future: Duration,
}

/// Stop the pipeline when more than `ratio` of the events of `over` were rejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StopIf {
    /// Between 0 and 1.
    pub ratio: f64,
    /// The stretch of time that is looked at.
    pub over: Duration,
}

/// One table of a pipeline: its stored shape, and how events are folded into it.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// Its name in SQL and in storage.
    pub name: Arc<str>,
    /// Length of the tumbling window, positive.
    pub window: Duration,
    /// The table's own `where`, boolean over `Plan::decoded`, beside the pipeline's.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// The group columns, in file order; parallel to `shape.group_columns`.
    pub group_by: Vec<GroupColumn>,
    /// How each state is fed; parallel to `shape.states`.
    pub folds: Vec<StateFold>,
    /// What is stored and what is answered.
    pub shape: TableShape,
    /// The Delta partition column.
    pub partition_by: PartitionBy,
    /// How long rows are kept.
    pub keep: Option<Duration>,
    /// The canonical definition that the table's metadata holds (P38): event time, filters, window,
    /// groups and measures, one `key: value` a line.
    pub definition: String,
}

/// One group column.
#[derive(Clone, Debug)]
pub struct GroupColumn {
    /// Its name.
    pub name: Arc<str>,
    /// Its value, over `Plan::decoded`; the type is that of `shape.group_columns`.
    pub value: Arc<dyn PhysicalExpr>,
}

/// What feeds one state.
#[derive(Clone, Debug)]
pub struct StateFold {
    /// The aggregated value over `Plan::decoded`; `None`: every row counts (`count(*)`).
    pub input: Option<Arc<dyn PhysicalExpr>>,
    /// `filter (where …)`, boolean over `Plan::decoded`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
}

/// The Delta partition column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionBy {
    /// None.
    None,
    /// `_day`, the UTC date of `window_start`.
    Day,
    /// `_month`, the first day of that month.
    Month,
}

impl PartitionBy {
    /// The name of the partition column.
    pub fn column(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Day => Some("_day"),
            Self::Month => Some("_month"),
        }
    }
}
