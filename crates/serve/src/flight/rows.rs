//! Rows as clients of Flight understand them, and the account of what they include.
//!
//! Owns the types that go out: no views, no dictionaries, every column nullable, so that what is announced and what is sent
//! are the same to the last bit.

use std::sync::Arc;

use alluvium_query::AsOf;
use arrow_flight::{
    FlightData, encode::FlightDataEncoderBuilder, error::FlightError, utils::batches_to_flight_data,
};
use bytes::Bytes;
use datafusion::arrow::{
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef},
    error::ArrowError,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::Status;

use super::refusal::broken;

/// The columns as they go out.
pub(super) fn plain(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(plain_fields(schema.fields())))
}

fn plain_fields(fields: &Fields) -> Fields {
    fields.iter().map(plain_field).collect()
}

fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(
        field.name(),
        plain_type(field.data_type()),
        true,
    ))
}

pub(super) fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
            DataType::List(plain_field(item))
        }
        DataType::Struct(fields) => DataType::Struct(plain_fields(fields)),
        other => other.clone(),
    }
}

fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns
        .map(
            |(column, field)| match column.data_type() == field.data_type() {
                true => Ok(column.clone()),
                false => cast(column, field.data_type()),
            },
        )
        .collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

/// A stream of messages: the columns, the rows, and a last one without rows. The first and the last say in JSON what the answer
/// includes; some libraries show the one, some the other.
pub(super) fn encoded<S>(
    schema: &Schema,
    as_of: &AsOf,
    batches: S,
) -> Result<impl Stream<Item = Result<FlightData, Status>> + Send + use<S>, Status>
where
    S: Stream<Item = Result<RecordBatch, Status>> + Send + 'static,
{
    let as_of = Bytes::from(serde_json::to_vec(as_of).map_err(broken)?);
    let schema = plain(schema);
    let empty = vec![RecordBatch::new_empty(schema.clone())];
    let mut last = batches_to_flight_data(&schema, empty).map_err(broken)?;
    let last = last
        .pop()
        .map(|message| Ok(message.with_app_metadata(as_of.clone())));
    Ok(messages(schema, as_of, batches).chain(stream::iter(last)))
}

/// Rows that are made here.
pub(super) fn of_batch(
    batch: RecordBatch,
) -> impl Stream<Item = Result<FlightData, Status>> + Send + 'static {
    let schema = batch.schema();
    let encoder = FlightDataEncoderBuilder::new().with_schema(schema);
    encoder
        .build(stream::iter([Ok(batch)]))
        .map_err(Status::from)
}

fn messages(
    schema: SchemaRef,
    as_of: Bytes,
    batches: impl Stream<Item = Result<RecordBatch, Status>> + Send + 'static,
) -> impl Stream<Item = Result<FlightData, Status>> + Send + 'static {
    let sent = schema.clone();
    let batches = batches.map(move |batch| {
        let batch = plain_batch(&batch.map_err(FlightError::from)?, &sent)?;
        Ok(batch)
    });
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_metadata(as_of)
        .build(batches)
        .map_err(Status::from)
}
