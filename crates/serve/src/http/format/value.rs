//! One value as JSON or CSV.
//!
//! Owns the choices: whole numbers and finite doubles are numbers, decimals and times are text (RFC 3339), bytes
//! are base64 (RFC 4648, padded), lists and structs are JSON, also inside CSV.

use alluvium_query::{ErrorKind, QueryError};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Float16Type, Float32Type, Float64Type},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::{Map, Value};

/// All values of `column` as this door's answers have them, for whoever prints without asking a server.
///
/// # Errors
/// When a value has no text.
pub fn json_values(column: &dyn Array) -> Result<Vec<Value>, QueryError> {
    let values = Column::new(column).map_err(failed)?;
    (0..column.len()).map(|row| values.json(row)).collect()
}

/// A column of one batch, ready to be written row by row.
pub(super) struct Column<'a> {
    array: &'a dyn Array,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Null,
    Bool,
    /// Its text is a JSON number.
    Number(ArrayFormatter<'a>),
    Float(Box<dyn Fn(usize) -> f64 + Send + Sync + 'a>),
    Text(ArrayFormatter<'a>),
    Bytes(Box<dyn Fn(usize) -> &'a [u8] + Send + Sync + 'a>),
    List,
    Struct(Vec<(String, Column<'a>)>),
    /// Dictionaries and the like, as what they stand for.
    Plain(ArrayRef),
}

impl<'a> Column<'a> {
    pub(super) fn new(array: &'a dyn Array) -> Result<Self, ArrowError> {
        let kind = match array.data_type() {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Bool,
            kind if kind.is_integer() => Kind::Number(formatter(array)?),
            DataType::Float16 => {
                let values = array.as_primitive::<Float16Type>();
                Kind::Float(Box::new(|row| values.value(row).into()))
            }
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>();
                Kind::Float(Box::new(|row| values.value(row).into()))
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>();
                Kind::Float(Box::new(|row| values.value(row)))
            }
            DataType::Binary => {
                let values = array.as_binary::<i32>();
                Kind::Bytes(Box::new(|row| values.value(row)))
            }
            DataType::LargeBinary => {
                let values = array.as_binary::<i64>();
                Kind::Bytes(Box::new(|row| values.value(row)))
            }
            DataType::BinaryView => {
                let values = array.as_binary_view();
                Kind::Bytes(Box::new(|row| values.value(row)))
            }
            DataType::FixedSizeBinary(_) => {
                let values = array.as_fixed_size_binary();
                Kind::Bytes(Box::new(|row| values.value(row)))
            }
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => Kind::List,
            DataType::Struct(_) => {
                let values = array.as_struct();
                let children = values
                    .column_names()
                    .into_iter()
                    .zip(values.columns())
                    .map(|(name, child)| Ok((name.to_string(), Column::new(child.as_ref())?)))
                    .collect::<Result<_, ArrowError>>()?;
                Kind::Struct(children)
            }
            DataType::Dictionary(_, value) => Kind::Plain(cast(array, value)?),
            _ => Kind::Text(formatter(array)?),
        };
        Ok(Self { array, kind })
    }

    pub(super) fn write_json(&self, row: usize, out: &mut Vec<u8>) -> Result<(), QueryError> {
        if self.array.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match &self.kind {
            Kind::Null => out.extend_from_slice(b"null"),
            Kind::Bool => {
                let text: &[u8] = match self.array.as_boolean().value(row) {
                    true => b"true",
                    false => b"false",
                };
                out.extend_from_slice(text);
            }
            Kind::Number(formatter) => {
                out.extend_from_slice(
                    formatter
                        .value(row)
                        .try_to_string()
                        .map_err(failed)?
                        .as_bytes(),
                );
            }
            Kind::Float(value) => {
                let value = value(row);
                match value.is_finite() {
                    true => write_json(&value, out)?,
                    // JSON has no number for it.
                    false => write_json(&value.to_string(), out)?,
                }
            }
            Kind::Text(formatter) => {
                write_json(&formatter.value(row).try_to_string().map_err(failed)?, out)?;
            }
            Kind::Bytes(value) => {
                out.push(b'"');
                out.extend_from_slice(BASE64.encode(value(row)).as_bytes());
                out.push(b'"');
            }
            Kind::List => {
                let items = list_items(self.array, row);
                let items = Column::new(items.as_ref()).map_err(failed)?;
                out.push(b'[');
                for item in 0..items.array.len() {
                    if item > 0 {
                        out.push(b',');
                    }
                    items.write_json(item, out)?;
                }
                out.push(b']');
            }
            Kind::Struct(children) => {
                out.push(b'{');
                for (position, (name, child)) in children.iter().enumerate() {
                    if position > 0 {
                        out.push(b',');
                    }
                    write_json(name, out)?;
                    out.push(b':');
                    child.write_json(row, out)?;
                }
                out.push(b'}');
            }
            Kind::Plain(values) => {
                Column::new(values.as_ref())
                    .map_err(failed)?
                    .write_json(row, out)?;
            }
        }
        Ok(())
    }

    /// What [`Self::write_json`] writes, as a value.
    fn json(&self, row: usize) -> Result<Value, QueryError> {
        if self.array.is_null(row) {
            return Ok(Value::Null);
        }
        Ok(match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool => self.array.as_boolean().value(row).into(),
            Kind::Number(formatter) => {
                let digits = formatter.value(row).try_to_string().map_err(failed)?;
                let whole = digits.parse::<i64>().map(Value::from);
                whole
                    .or_else(|_| digits.parse::<u64>().map(Value::from))
                    .unwrap_or(Value::String(digits))
            }
            Kind::Float(value) => {
                let value = value(row);
                match value.is_finite() {
                    true => value.into(),
                    false => value.to_string().into(),
                }
            }
            Kind::Text(formatter) => formatter.value(row).try_to_string().map_err(failed)?.into(),
            Kind::Bytes(value) => BASE64.encode(value(row)).into(),
            Kind::List => json_values(list_items(self.array, row).as_ref())?.into(),
            Kind::Struct(children) => children
                .iter()
                .map(|(name, child)| Ok((name.clone(), child.json(row)?)))
                .collect::<Result<Map<_, _>, QueryError>>()?
                .into(),
            Kind::Plain(values) => Column::new(values.as_ref()).map_err(failed)?.json(row)?,
        })
    }

    /// NULL is an empty field, an empty text is `""`.
    pub(super) fn write_csv(&self, row: usize, out: &mut Vec<u8>) -> Result<(), QueryError> {
        if self.array.is_null(row) {
            return Ok(());
        }
        match &self.kind {
            Kind::Null => {}
            Kind::Text(formatter) => {
                write_csv_text(&formatter.value(row).try_to_string().map_err(failed)?, out);
            }
            Kind::Float(value) => out.extend_from_slice(value(row).to_string().as_bytes()),
            Kind::Bytes(value) => out.extend_from_slice(BASE64.encode(value(row)).as_bytes()),
            Kind::Plain(values) => {
                Column::new(values.as_ref())
                    .map_err(failed)?
                    .write_csv(row, out)?;
            }
            Kind::Bool | Kind::Number(_) => self.write_json(row, out)?,
            Kind::List | Kind::Struct(_) => {
                let mut json = Vec::new();
                self.write_json(row, &mut json)?;
                write_csv_text(&String::from_utf8_lossy(&json), out);
            }
        }
        Ok(())
    }
}

fn formatter(array: &dyn Array) -> Result<ArrayFormatter<'_>, ArrowError> {
    static OPTIONS: FormatOptions<'static> = FormatOptions::new().with_display_error(false);
    ArrayFormatter::try_new(array, &OPTIONS)
}

fn list_items(array: &dyn Array, row: usize) -> ArrayRef {
    match array.data_type() {
        DataType::LargeList(_) => array.as_list::<i64>().value(row),
        DataType::FixedSizeList(..) => array.as_fixed_size_list().value(row),
        _ => array.as_list::<i32>().value(row),
    }
}

fn failed(error: ArrowError) -> QueryError {
    QueryError::new(
        ErrorKind::Data,
        format!("a value cannot be written: {error}"),
    )
}

fn write_json<T: serde::Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), QueryError> {
    serde_json::to_writer(out, value).map_err(|error| {
        QueryError::new(
            ErrorKind::Data,
            format!("a value cannot be written: {error}"),
        )
    })
}

/// A field of RFC 4180, in quotes where it needs them.
pub(super) fn write_csv_text(text: &str, out: &mut Vec<u8>) {
    let plain = !text.is_empty() && !text.contains(['"', ',', '\n', '\r']);
    if plain {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::{
        array::{
            BinaryArray, Decimal128Array, Float64Array, Int64Array, ListArray, StringArray,
            StructArray, TimestampMicrosecondArray,
        },
        datatypes::{Field, Int32Type},
    };

    use super::*;

    fn both(array: &dyn Array, row: usize) -> (String, String) {
        let column = Column::new(array).unwrap();
        let (mut json, mut csv) = (Vec::new(), Vec::new());
        column.write_json(row, &mut json).unwrap();
        column.write_csv(row, &mut csv).unwrap();
        let value = column.json(row).unwrap();
        assert_eq!(value, serde_json::from_slice::<Value>(&json).unwrap());
        (
            String::from_utf8(json).unwrap(),
            String::from_utf8(csv).unwrap(),
        )
    }

    #[test]
    fn every_type_has_its_text() {
        let text = StringArray::from(vec![Some("a\"b,\nc"), None, Some("")]);
        assert_eq!(
            both(&text, 0),
            (r#""a\"b,\nc""#.into(), "\"a\"\"b,\nc\"".into())
        );
        assert_eq!(both(&text, 1), ("null".into(), "".into()));
        assert_eq!(both(&text, 2), ("\"\"".into(), "\"\"".into()));
        let whole = Int64Array::from(vec![i64::MIN]);
        assert_eq!(
            both(&whole, 0),
            ("-9223372036854775808".into(), "-9223372036854775808".into())
        );
        let floats = Float64Array::from(vec![0.1, f64::NAN, f64::NEG_INFINITY]);
        assert_eq!(both(&floats, 0), ("0.1".into(), "0.1".into()));
        assert_eq!(both(&floats, 1), ("\"NaN\"".into(), "NaN".into()));
        assert_eq!(both(&floats, 2), ("\"-inf\"".into(), "-inf".into()));
        let decimal = Decimal128Array::from(vec![12345])
            .with_precision_and_scale(38, 2)
            .unwrap();
        assert_eq!(both(&decimal, 0), ("\"123.45\"".into(), "123.45".into()));
        let time =
            TimestampMicrosecondArray::from(vec![1_772_366_405_000_000]).with_timezone("UTC");
        assert_eq!(
            both(&time, 0),
            (
                "\"2026-03-01T12:00:05Z\"".into(),
                "2026-03-01T12:00:05Z".into()
            )
        );
        let bytes = BinaryArray::from_vec(vec![b"foo"]);
        assert_eq!(both(&bytes, 0), ("\"Zm9v\"".into(), "Zm9v".into()));
        let list =
            ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None])]);
        assert_eq!(both(&list, 0), ("[1,null]".into(), "\"[1,null]\"".into()));
        let object = StructArray::from(vec![(
            Arc::new(Field::new("a", DataType::Int64, true)),
            Arc::new(Int64Array::from(vec![Some(7)])) as ArrayRef,
        )]);
        assert_eq!(
            both(&object, 0),
            ("{\"a\":7}".into(), "\"{\"\"a\"\":7}\"".into())
        );
    }
}
