//! A pipeline file as written.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    reader::{
        DrainText, FromNode, Json, Later, Named, Number, PartitionByText, Property, Reader, Span,
        Sql, StartText, StopIfText, Text, UnknownFieldsText, Version, written,
    },
    tree::{Node, Scalar, Value},
};

written! {
    /// One pipeline: where events come from, what their time is, and the tables made from them. Its name is the file's name.
    Pipeline, "at the top level" {
        /// The version of the file format: 1.
        #[schemars(required)]
        version: Version,
        /// What the pipeline is for.
        description: Text,
        /// Who answers for it.
        owner: Text,
        /// Where events come from.
        #[schemars(required)]
        source: Source,
        /// How an event's bytes become columns.
        #[schemars(required)]
        decode: Decode,
        /// When an event happened, and how late events may come.
        #[schemars(required)]
        event_time: EventTime,
        /// Not supported yet: small tables joined to every event.
        lookups: Later,
        /// Not supported yet: one row per element of an array column.
        unnest: Later,
        /// Not supported yet: joins with lookups.
        join: Later,
        /// Only events for which this SQL condition holds are counted.
        where_ as "where": Sql,
        /// How often panes are committed (default 10s). Shorter: more, smaller files. Longer: more memory, and more to read again after a crash.
        commit_every: Span,
        /// How soon SQL sees an event that is not yet committed (default 1s).
        refresh_every: Span,
        /// The tables, by name.
        #[schemars(required)]
        tables: Named<Table>,
        /// What happens with events that cannot be taken.
        dead_letters: DeadLetters,
        /// Tests that `alluvium check` runs: events and the rows they must give.
        tests: Vec<Test>,
    }
}

written! {
    /// Where events come from.
    Source, "under `source`" {
        /// Kafka topics.
        #[schemars(required)]
        kafka: Kafka,
    }
}

written! {
    /// Kafka topics.
    Kafka, "under `source: kafka:`" {
        /// The connection's name in alluvium.yaml, where brokers, TLS and SASL stand.
        #[schemars(required)]
        connection: Text,
        /// The topics.
        #[schemars(required, length(min = 1))]
        topics: Vec<Text>,
        /// Where the tables begin on their very first run: earliest, latest, an RFC 3339 time, or fail. There is no default on purpose.
        #[schemars(required)]
        start: StartText,
        /// Topics that were deleted and created again with the same events at the same offsets: by topic the id that the halt names. Left out as a rule.
        continued_by: Named<Number>,
        /// The consumer group (default: alluvium.PIPELINE).
        group: Text,
        /// Who fetches the records: direct (requests of our own, the faster way) or portable (librdkafka). Default: direct where it can serve the connection's TLS and SASL, else portable.
        drain: DrainText,
        /// Checked librdkafka properties.
        properties: Named<Property>,
    }
}

written! {
    /// How an event's bytes become columns.
    Decode, "under `decode`" {
        /// JSON, one object an event.
        json: JsonDecode,
        /// Not supported yet: Avro with a schema registry.
        avro: Later,
    }
}

written! {
    /// JSON, one object an event.
    JsonDecode, "under `decode: json:`" {
        /// The schema file, seen from this file.
        #[schemars(required)]
        schema: Text,
        /// Fields that the schema does not name: ignore (default) or reject.
        unknown_fields: UnknownFieldsText,
    }
}

written! {
    /// When an event happened, and how late events may come.
    EventTime, "under `event_time`" {
        /// A timestamp column of the schema. An event without one is a dead letter.
        #[schemars(required)]
        column: Text,
        /// The watermark is the newest event time minus this (default 30s). Longer: windows become final later. Late events count in any case.
        max_delay: Span,
        /// After this long without an event a partition stops holding the watermark back (default 1m).
        idle_after: Span,
        /// How far event time may lie from the Kafka record's timestamp; what lies outside is a dead letter.
        accept: Accept,
    }
}

written! {
    /// How far event time may lie from the Kafka record's timestamp.
    Accept, "under `accept`" {
        /// How far before it (default: no bound).
        past: Span,
        /// How far after it (default 5m).
        future: Span,
    }
}

written! {
    /// One table: a window, groups and measures.
    Table, "in a table" {
        /// What the table is for.
        description: Text,
        /// The stretch of event time that a row stands for.
        window: Window,
        /// Only events for which this SQL condition holds are counted, beside the pipeline's `where`.
        where_ as "where": Sql,
        /// The group columns: name and SQL expression.
        group_by: Named<Sql>,
        /// The measures: name and SQL aggregate. Those that merge: count, sum, min, max, avg, approx_distinct, approx_percentile_cont; each may have `filter (where …)`.
        measures: Named<Sql>,
        /// The folder that rows are stored in, by window_start: none (default), day or month.
        partition_by: PartitionByText,
        /// Not supported yet: coarser windows for old rows.
        rollup: Later,
        /// Not supported yet: how long rows are kept.
        keep: Later,
        /// Not supported yet: rows instead of aggregates.
        select: Later,
    }
}

written! {
    /// The stretch of event time that a row stands for: exactly one kind.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
    Window, "under `window`" {
        /// Windows of one length, one after the other: {tumbling: 1m}.
        tumbling: Span,
        /// Not supported yet: windows that overlap.
        hopping: Later,
        /// Not supported yet: windows that end after a gap.
        session: Later,
    }
}

written! {
    /// What happens with events that cannot be taken.
    DeadLetters, "under `dead_letters`" {
        /// Stop the pipeline when more than this share of events is rejected: 5% over 10m.
        stop_if: StopIfText,
        /// How long dead letters are kept (default 90d).
        keep: Span,
    }
}

written! {
    /// Events, and the rows they must give.
    Test, "in a test" {
        /// What the test shows.
        #[schemars(required)]
        name: Text,
        /// Events as maps.
        given: Vec<Json>,
        /// Events as text, byte for byte; they come after `given`.
        given_raw: Vec<Text>,
        /// For each table all its rows (only the named columns are compared), and the number of `dead_letters`.
        #[schemars(required)]
        expect: Named<Expected>,
    }
}

/// What a test expects of one table, or the number of dead letters.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    Rows(Vec<Row>),
    Number(Scalar),
}

/// One expected row: column, its place, and its value as JSON text.
#[derive(Clone, Debug)]
pub(crate) struct Row(pub(crate) Vec<(Scalar, String)>);

impl FromNode for Expected {
    fn from_node(node: &Node, key: &Scalar, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar(number) => Some(Self::Number(number.clone())),
            Value::List(_) => Vec::from_node(node, key, reader).map(Self::Rows),
            _ => {
                reader.wrong_kind(node, key, "a list of rows");
                None
            }
        }
    }
}

impl FromNode for Row {
    fn from_node(node: &Node, key: &Scalar, reader: &mut Reader<'_>) -> Option<Self> {
        let entries = reader.map(node, key, "a map of columns")?;
        let columns = entries.iter().filter_map(|(column, value)| {
            Json::from_node(value, column, reader).map(|json| (column.clone(), json.text))
        });
        Some(Self(columns.collect()))
    }
}

impl JsonSchema for Expected {
    fn schema_name() -> Cow<'static, str> {
        "Expected".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "array", "items": {"type": "object"}},
                {"type": "integer", "minimum": 0}
            ]
        })
    }
}
