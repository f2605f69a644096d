//! Answers as bytes: JSON, NDJSON, CSV, Arrow IPC, Parquet.
//!
//! Owns how a result becomes bytes, batch by batch. Does not own a single value's text ([`value`]).

mod value;

use std::{
    collections::HashMap,
    io::{self, Write},
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use alluvium_query::{AsOf, ErrorKind, QueryError};
use bytes::Bytes;
use datafusion::arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    ipc::writer::StreamWriter,
};
use parquet::{arrow::ArrowWriter, errors::ParquetError};
use serde_json::json;

use value::Column;
pub use value::json_values;

/// Key of the schema metadata that says what an answer includes.
const AS_OF: &str = "alluvium.as_of";

/// Bytes of a row group of Parquet: they are in memory until it ends.
const MOST_OF_A_ROW_GROUP: usize = 16 << 20;

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Ndjson,
    Csv,
    Arrow,
    Parquet,
}

impl Format {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            "arrow" => Some(Self::Arrow),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    pub(super) fn of_content_type(kind: &str) -> Option<Self> {
        match kind {
            "application/json" | "application/*" | "*/*" | "" => Some(Self::Json),
            "application/x-ndjson" | "application/jsonl" => Some(Self::Ndjson),
            "text/csv" | "text/*" => Some(Self::Csv),
            "application/vnd.apache.arrow.stream" => Some(Self::Arrow),
            "application/vnd.apache.parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// Makes one answer's bytes.
pub(super) struct Encoder {
    kind: Kind,
}

enum Kind {
    Json {
        out: Vec<u8>,
        names: Names,
        rows: bool,
    },
    Ndjson {
        out: Vec<u8>,
        names: Names,
    },
    Csv {
        out: Vec<u8>,
    },
    Arrow(Box<StreamWriter<Vec<u8>>>),
    Parquet {
        writer: Box<ArrowWriter<Shared>>,
        out: Shared,
    },
}

/// Column names as JSON texts with their colon.
type Names = Vec<String>;

impl Encoder {
    /// Writes what comes before the rows.
    pub(super) fn new(
        format: Format,
        schema: &SchemaRef,
        as_of: &AsOf,
    ) -> Result<Self, QueryError> {
        let names = || -> Names {
            let names = schema.fields().iter();
            names
                .map(|field| format!("{}:", json!(field.name())))
                .collect()
        };
        let kind = match format {
            Format::Json => {
                refuse_doubles(schema)?;
                let columns: Vec<_> = schema
                    .fields()
                    .iter()
                    .map(|field| json!({ "name": field.name(), "type": field.data_type().to_string() }))
                    .collect();
                let head = format!(
                    "{{\"columns\":{},\"as_of\":{},\"rows\":[",
                    json!(columns),
                    json!(as_of)
                );
                Kind::Json {
                    out: head.into_bytes(),
                    names: names(),
                    rows: false,
                }
            }
            Format::Ndjson => {
                refuse_doubles(schema)?;
                Kind::Ndjson {
                    out: Vec::new(),
                    names: names(),
                }
            }
            Format::Csv => {
                let mut out = Vec::new();
                for (position, field) in schema.fields().iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    value::write_csv_text(field.name(), &mut out);
                }
                out.extend_from_slice(b"\r\n");
                Kind::Csv { out }
            }
            Format::Arrow => {
                let writer =
                    StreamWriter::try_new(Vec::new(), &with_as_of(schema, as_of)).map_err(arrow)?;
                Kind::Arrow(Box::new(writer))
            }
            Format::Parquet => {
                let out = Shared::default();
                let schema = Arc::new(with_as_of(schema, as_of));
                let writer = ArrowWriter::try_new(out.clone(), schema, None).map_err(parquet)?;
                let writer = Box::new(writer);
                Kind::Parquet { writer, out }
            }
        };
        Ok(Self { kind })
    }

    /// Adds rows.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        match &mut self.kind {
            Kind::Json { out, names, rows } => {
                let columns = columns(batch)?;
                for row in 0..batch.num_rows() {
                    if mem::replace(rows, true) {
                        out.push(b',');
                    }
                    out.push(b'\n');
                    write_object(names, &columns, row, out)?;
                }
            }
            Kind::Ndjson { out, names } => {
                let columns = columns(batch)?;
                for row in 0..batch.num_rows() {
                    write_object(names, &columns, row, out)?;
                    out.push(b'\n');
                }
            }
            Kind::Csv { out } => {
                let columns = columns(batch)?;
                for row in 0..batch.num_rows() {
                    for (position, column) in columns.iter().enumerate() {
                        if position > 0 {
                            out.push(b',');
                        }
                        column.write_csv(row, out)?;
                    }
                    out.extend_from_slice(b"\r\n");
                }
            }
            Kind::Arrow(writer) => writer.write(batch).map_err(arrow)?,
            Kind::Parquet { writer, .. } => {
                writer.write(batch).map_err(parquet)?;
                if writer.in_progress_size() > MOST_OF_A_ROW_GROUP {
                    writer.flush().map_err(parquet)?;
                }
            }
        }
        Ok(())
    }

    /// Takes out what is ready.
    pub(super) fn take(&mut self) -> Bytes {
        match &mut self.kind {
            Kind::Json { out, .. } | Kind::Ndjson { out, .. } | Kind::Csv { out } => {
                mem::take(out).into()
            }
            Kind::Arrow(writer) => mem::take(writer.get_mut()).into(),
            Kind::Parquet { out, .. } => out.take().into(),
        }
    }

    /// Writes what comes after the rows, and takes all that is left.
    pub(super) fn finish(mut self) -> Result<Bytes, QueryError> {
        match &mut self.kind {
            Kind::Json { out, .. } => out.extend_from_slice(b"]}\n"),
            Kind::Ndjson { .. } | Kind::Csv { .. } => {}
            Kind::Arrow(writer) => writer.finish().map_err(arrow)?,
            Kind::Parquet { writer, .. } => {
                writer.finish().map_err(parquet)?;
            }
        }
        Ok(self.take())
    }
}

fn columns(batch: &RecordBatch) -> Result<Vec<Column<'_>>, QueryError> {
    batch
        .columns()
        .iter()
        .map(|array| Column::new(array.as_ref()).map_err(arrow))
        .collect()
}

fn write_object(
    names: &Names,
    columns: &[Column<'_>],
    row: usize,
    out: &mut Vec<u8>,
) -> Result<(), QueryError> {
    out.push(b'{');
    for (position, (name, column)) in names.iter().zip(columns).enumerate() {
        if position > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        column.write_json(row, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// An object cannot have two members of one name: one of them would be lost.
fn refuse_doubles(schema: &Schema) -> Result<(), QueryError> {
    let mut seen = std::collections::HashSet::new();
    for field in schema.fields() {
        if !seen.insert(field.name()) {
            let text = format!("two columns of the result are called {}", field.name());
            return Err(QueryError::new(ErrorKind::AmbiguousColumn, text)
                .hint("give one of them another name with AS"));
        }
    }
    Ok(())
}

fn with_as_of(schema: &Schema, as_of: &AsOf) -> Schema {
    let metadata = HashMap::from([(AS_OF.to_string(), json!(as_of).to_string())]);
    schema.clone().with_metadata(metadata)
}

fn arrow(error: ArrowError) -> QueryError {
    QueryError::new(
        ErrorKind::Invalid,
        format!("the result cannot be written in this format: {error}"),
    )
    .hint("choose another format, or cast the column")
}

fn parquet(error: ParquetError) -> QueryError {
    QueryError::new(
        ErrorKind::Invalid,
        format!("the result cannot be written as Parquet: {error}"),
    )
    .hint("choose another format, or cast the column")
}

/// Bytes that a writer appends and the encoder takes away while the writer goes on.
#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
