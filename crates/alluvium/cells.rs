//! Arrow values as cells of a printed table: numbers and booleans as they are, everything else as text.
//!
//! The same rules as the HTTP door's: timestamps in RFC 3339, decimals as text, bytes in hexadecimal.

use datafusion::arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Float32Type, Float64Type, SchemaRef},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::Value;

use crate::output::Sheet;

/// All rows of `batches` under the columns of `schema`.
///
/// # Errors
/// When a value has no text form.
pub(crate) fn sheet(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Sheet, ArrowError> {
    let mut sheet = Sheet::new(schema.fields().iter().map(|field| field.name().as_str()));
    for batch in batches {
        let columns: Vec<Vec<Value>> = batch
            .columns()
            .iter()
            .map(|column| values(column.as_ref()))
            .collect::<Result<_, _>>()?;
        for row in 0..batch.num_rows() {
            sheet.push(columns.iter().map(|column| column[row].clone()).collect());
        }
    }
    Ok(sheet)
}

/// The values of one column.
///
/// # Errors
/// When a value has no text form.
pub(crate) fn values(column: &dyn Array) -> Result<Vec<Value>, ArrowError> {
    let options = FormatOptions::default().with_display_error(false);
    let text = ArrayFormatter::try_new(column, &options)?;
    (0..column.len())
        .map(|row| {
            if column.is_null(row) {
                return Ok(Value::Null);
            }
            Ok(match column.data_type() {
                DataType::Boolean => column.as_boolean().value(row).into(),
                // A float that is not finite has no place in JSON numbers; its text says what it is.
                DataType::Float64 => {
                    let value = column.as_primitive::<Float64Type>().value(row);
                    finite(value).unwrap_or_else(|| value.to_string().into())
                }
                DataType::Float32 => {
                    let value = column.as_primitive::<Float32Type>().value(row);
                    finite(f64::from(value)).unwrap_or_else(|| value.to_string().into())
                }
                data_type if data_type.is_integer() => {
                    let digits = text.value(row).try_to_string()?;
                    digits
                        .parse::<i64>()
                        .map(Value::from)
                        .or_else(|_| digits.parse::<u64>().map(Value::from))
                        .unwrap_or(Value::String(digits))
                }
                _ => text.value(row).try_to_string()?.into(),
            })
        })
        .collect()
}

fn finite(value: f64) -> Option<Value> {
    serde_json::Number::from_f64(value).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::{
        array::{
            ArrayRef, BinaryArray, Decimal128Array, Float64Array, Int64Array,
            TimestampMicrosecondArray,
        },
        datatypes::Field,
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn every_type_has_its_form() {
        let columns: Vec<(ArrayRef, Value)> = vec![
            (Arc::new(Int64Array::from(vec![i64::MAX])), json!(i64::MAX)),
            (Arc::new(Float64Array::from(vec![0.5])), json!(0.5)),
            (Arc::new(Float64Array::from(vec![f64::NAN])), json!("NaN")),
            (Arc::new(Int64Array::from(vec![None])), Value::Null),
            (
                Arc::new(
                    TimestampMicrosecondArray::from(vec![1_772_366_405_000_000])
                        .with_timezone("UTC"),
                ),
                json!("2026-03-01T12:00:05Z"),
            ),
            (
                Arc::new(
                    Decimal128Array::from(vec![12_345])
                        .with_precision_and_scale(18, 2)
                        .unwrap(),
                ),
                json!("123.45"),
            ),
            (
                Arc::new(BinaryArray::from_vec(vec![b"\x01\xff"])),
                json!("01ff"),
            ),
        ];
        for (column, expected) in columns {
            assert_eq!(values(column.as_ref()).unwrap(), [expected]);
        }
    }

    #[test]
    fn batches_become_one_sheet() {
        let schema: SchemaRef =
            Arc::new(datafusion::arrow::datatypes::Schema::new(vec![Field::new(
                "n",
                DataType::Int64,
                false,
            )]));
        let batch = |values: Vec<i64>| {
            RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(values))]).unwrap()
        };
        let sheet = sheet(&schema, &[batch(vec![1, 2]), batch(vec![3])]).unwrap();
        assert_eq!(sheet.len(), 3);
    }
}
