//! Batches of columns as rows on the wire, in text or binary.
//!
//! Owns which types clients see. Whatever Postgres has no type for is shown as text; timestamps are shown in the time zone of
//! the connection.

use std::{pin::Pin, sync::Arc};

use alluvium_query::SAME_NAME;
use arrow_pg::{datatypes::arrow_schema_to_pg_fields, encoder::Encoder};
use datafusion::{
    arrow::{
        array::{ArrayRef, RecordBatch, StringArray},
        compute::cast,
        datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
        error::ArrowError,
        util::display::{ArrayFormatter, FormatOptions as Display},
    },
    execution::SendableRecordBatchStream,
};
use futures::{Stream, StreamExt, stream};
use pgwire::{
    api::{
        portal::Format,
        results::{
            CopyCsvOptions, CopyEncoder, CopyTextOptions, DataRowEncoder, FieldInfo,
            SendableRowStream,
        },
    },
    error::{PgWireError, PgWireResult},
    messages::{
        copy::CopyData,
        data::{FORMAT_CODE_BINARY, FORMAT_CODE_TEXT},
    },
    types::format::FormatOptions,
};

use tokio::time::Instant;

use super::{cancel::Cancelled, refusal, statement::CopyForm, values};

/// How values are written for one connection.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) format: Arc<FormatOptions>,
    /// Unless it is UTC.
    pub(super) zone: Option<Arc<str>>,
}

impl Manner {
    /// The columns as clients see them.
    pub(super) fn fields(
        &self,
        schema: &Schema,
        format: &Format,
    ) -> PgWireResult<Arc<Vec<FieldInfo>>> {
        let shown = self.shown(schema);
        let fields = arrow_schema_to_pg_fields(&shown, format, Some(self.format.clone()))?;
        Ok(Arc::new(fields))
    }

    fn shown(&self, schema: &Schema) -> Schema {
        let fields = schema.fields().iter().map(|field| {
            let shown = self.shown_type(field.data_type());
            let name = field.name().split(SAME_NAME).next().unwrap_or_default();
            Arc::new(field.as_ref().clone().with_data_type(shown).with_name(name))
        });
        Schema::new(fields.collect::<Vec<Arc<Field>>>())
    }

    fn shown_type(&self, data_type: &DataType) -> DataType {
        match data_type {
            DataType::Timestamp(unit, zone) => {
                // Postgres knows nothing finer than a microsecond.
                let unit = match unit {
                    TimeUnit::Nanosecond => TimeUnit::Microsecond,
                    unit => *unit,
                };
                let zone = zone
                    .as_ref()
                    .map(|own| self.zone.as_ref().unwrap_or(own).clone());
                DataType::Timestamp(unit, zone)
            }
            DataType::Utf8View | DataType::Null => DataType::Utf8,
            // Postgres has nothing shorter.
            DataType::Int8 => DataType::Int16,
            DataType::Dictionary(_, value) => self.shown_type(value),
            other if arrow_pg::datatypes::into_pg_type(other).is_err() => DataType::Utf8,
            DataType::Struct(fields) => {
                DataType::Struct(fields.iter().map(|field| self.shown_field(field)).collect())
            }
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                DataType::List(self.shown_field(item))
            }
            other => other.clone(),
        }
    }

    fn shown_field(&self, field: &Arc<Field>) -> Arc<Field> {
        let shown = self.shown_type(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(shown))
    }

    /// A batch in the types that are shown.
    fn show(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let schema: SchemaRef = Arc::new(self.shown(batch.schema_ref()));
        let columns = batch
            .columns()
            .iter()
            .zip(schema.fields())
            .map(|(column, field)| show(column, field.data_type()))
            .collect::<Result<_, _>>()?;
        let options = datafusion::arrow::array::RecordBatchOptions::new()
            .with_row_count(Some(batch.num_rows()));
        // What is shown need not keep a promise of the engine that there is no NULL.
        let nullable = schema
            .fields()
            .iter()
            .map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
        let schema = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        RecordBatch::try_new_with_options(schema, columns, &options)
    }

    /// The rows of batches, one by one. Ends with an error when it is cancelled.
    pub(super) fn rows(
        &self,
        batches: impl Stream<Item = PgWireResult<RecordBatch>> + Send + 'static,
        fields: Arc<Vec<FieldInfo>>,
    ) -> SendableRowStream {
        let manner = self.clone();
        let rows = batches.map(
            move |batch| match batch.and_then(|batch| shown(&manner, &batch)) {
                Ok(batch) => {
                    let (fields, mut encoder) =
                        (fields.clone(), DataRowEncoder::new(fields.clone()));
                    let rows = (0..batch.num_rows()).map(move |row| {
                        encode_row(&batch, row, &fields, &mut encoder)?;
                        Ok(encoder.take_row())
                    });
                    stream::iter(rows).left_stream()
                }
                Err(error) => stream::iter([Err(error)]).right_stream(),
            },
        );
        Box::pin(rows.flatten())
    }

    /// The rows of batches as COPY sends them.
    pub(super) fn copy(
        &self,
        schema: &Schema,
        batches: impl Stream<Item = PgWireResult<RecordBatch>> + Send + 'static,
        form: CopyForm,
    ) -> PgWireResult<Copied> {
        let format = match form {
            CopyForm::Binary => FORMAT_CODE_BINARY,
            _ => FORMAT_CODE_TEXT,
        };
        let fields = self.fields(
            schema,
            &Format::Individual(vec![format; schema.fields().len()]),
        )?;
        let (mut encoder, first, last) = match form {
            CopyForm::Text { delimiter, null } => {
                let options = CopyTextOptions {
                    delimiter: delimiter.to_string().into(),
                    null_string: null.into(),
                };
                (CopyEncoder::new_text(fields.clone(), options), None, None)
            }
            CopyForm::Csv {
                delimiter,
                null,
                header,
            } => {
                let options = CopyCsvOptions {
                    delimiter: delimiter.to_string().into(),
                    null_string: null.into(),
                    ..CopyCsvOptions::default()
                };
                let first = header.then(|| csv_header(&fields, delimiter));
                (CopyEncoder::new_csv(fields.clone(), options), first, None)
            }
            CopyForm::Binary => {
                let encoder = CopyEncoder::new_binary(fields.clone());
                // The encoder writes the signature before its first row; without rows it is missing.
                (encoder, None, Some(CopyEncoder::finish_copy_binary()))
            }
        };
        let manner = self.clone();
        let columns = fields.len();
        let rows = batches.map(move |batch| {
            let rows = batch
                .and_then(|batch| shown(&manner, &batch))
                .and_then(|batch| copy_rows(&batch, &fields, &mut encoder));
            match rows {
                Ok(rows) => stream::iter(rows.into_iter().map(Ok)).left_stream(),
                Err(error) => stream::iter([Err(error)]).right_stream(),
            }
        });
        Ok(Copied {
            format,
            columns,
            first,
            rows: Box::pin(rows.flatten()),
            last,
        })
    }
}

/// What COPY sends.
pub(super) struct Copied {
    pub(super) format: i16,
    pub(super) columns: usize,
    pub(super) first: Option<CopyData>,
    /// One message a row, as clients expect.
    pub(super) rows: Pin<Box<dyn Stream<Item = PgWireResult<CopyData>> + Send>>,
    pub(super) last: Option<CopyData>,
}

/// What a binary copy without rows begins with.
pub(super) const BINARY_SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

fn show(column: &ArrayRef, shown: &DataType) -> Result<ArrayRef, ArrowError> {
    let own = column.data_type();
    if own == shown {
        return Ok(column.clone());
    }
    match own {
        // Whatever holds values of which Postgres knows no type.
        _ if own.is_nested() && *shown == DataType::Utf8 => {
            let display = Display::default();
            let formatter = ArrayFormatter::try_new(column.as_ref(), &display)?;
            let texts = (0..column.len()).map(|row| {
                if column.is_null(row) {
                    return Ok(None);
                }
                formatter.value(row).try_to_string().map(Some)
            });
            let texts = texts.collect::<Result<StringArray, ArrowError>>()?;
            Ok(Arc::new(texts))
        }
        _ => cast(column, shown),
    }
}

fn shown(manner: &Manner, batch: &RecordBatch) -> PgWireResult<RecordBatch> {
    manner
        .show(batch)
        .map_err(|error| refusal::of_rows(error.into()))
}

fn copy_rows(
    batch: &RecordBatch,
    fields: &Arc<Vec<FieldInfo>>,
    encoder: &mut CopyEncoder,
) -> PgWireResult<Vec<CopyData>> {
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        encode_row(batch, row, fields, encoder)?;
        rows.push(encoder.take_copy());
    }
    Ok(rows)
}

fn encode_row(
    batch: &RecordBatch,
    row: usize,
    fields: &[FieldInfo],
    encoder: &mut impl Encoder,
) -> PgWireResult<()> {
    let schema = batch.schema_ref();
    let columns = batch.columns().iter().zip(schema.fields()).zip(fields);
    for ((column, field), shown) in columns {
        values::encode(encoder, column, row, field, shown)?;
    }
    Ok(())
}

fn csv_header(fields: &[FieldInfo], delimiter: char) -> CopyData {
    let names: Vec<String> = fields
        .iter()
        .map(|field| {
            let name = field.name();
            match name.contains([delimiter, '"', '\n', '\r']) {
                true => format!("\"{}\"", name.replace('"', "\"\"")),
                false => name.to_owned(),
            }
        })
        .collect();
    let line = names.join(&delimiter.to_string()) + "\n";
    CopyData::new(line.into())
}

/// Batches of an answer, until it is cancelled or its client is gone.
pub(super) fn until_cancelled(
    batches: SendableRecordBatchStream,
    cancelled: Cancelled,
    deadline: Option<Instant>,
) -> impl Stream<Item = PgWireResult<RecordBatch>> + Send {
    stream::unfold(Some((batches, cancelled)), move |state| async move {
        let (mut batches, mut cancelled) = state?;
        tokio::select! {
            biased;
            () = cancelled.ordered() => Some((Err(PgWireError::QueryCanceled), None)),
            () = passed(deadline) => Some((Err(refusal::took_too_long()), None)),
            batch = batches.next() => match batch? {
                Ok(batch) => Some((Ok(batch), Some((batches, cancelled)))),
                Err(error) => Some((Err(refusal::of_rows(error)), None)),
            },
        }
    })
}

/// Resolves when the time is over; never, if no time was set.
pub(super) async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
