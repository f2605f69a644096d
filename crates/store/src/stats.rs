//! The statistics of one file, as the log keeps them: row count, bounds, NULL counts.
//!
//! Owns what may be said: a bound that is not certain is left out, because readers prune by it. Every column's
//! NULLs are counted, which also tells which states a file has (P35). Does not own the file.

use alluvium_types::Timestamp;
use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, timezone::Tz},
    buffer::NullBuffer,
    compute::{kernels::cast_utils::string_to_datetime, max, max_string, min, min_string},
    datatypes::{
        DataType, Date32Type, Field, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    },
};
use serde_json::{Map, Value};

/// Characters of a text that its bounds keep.
const TEXT_PREFIX: usize = 32;

#[derive(Clone, Debug, PartialEq)]
enum Bound {
    Integer(i64),
    Float(f64),
    Text(String),
    Date(i32),
    Moment(i64),
}

#[derive(Clone, Debug, Default)]
struct ColumnStats {
    bounds: Option<(Bound, Bound)>,
    /// A value came by that cannot be ordered.
    unbounded: bool,
}

/// Gathers while batches are written.
#[derive(Debug, Default)]
pub(crate) struct FileStats {
    rows: u64,
    columns: Vec<ColumnStats>,
    nulls: Vec<u64>,
}

impl FileStats {
    /// Adds a batch; all batches of a file have the same schema.
    pub(crate) fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        self.columns
            .resize_with(batch.num_columns(), ColumnStats::default);
        let mut position = 0;
        for (column, stats) in batch.columns().iter().zip(&mut self.columns) {
            stats.add(column);
            count_nulls(column, None, &mut |nulls| {
                if self.nulls.len() == position {
                    self.nulls.push(0);
                }
                self.nulls[position] += nulls;
                position += 1;
            });
        }
    }

    /// The JSON that goes into the log.
    pub(crate) fn to_json(&self, fields: &[std::sync::Arc<Field>]) -> String {
        let mut least = Map::new();
        let mut greatest = Map::new();
        for (field, stats) in fields.iter().zip(&self.columns) {
            let Some((min, max)) = stats.bounds.as_ref().filter(|_| !stats.unbounded) else {
                continue;
            };
            if let Some((min, max)) = min.lower().zip(max.upper()) {
                least.insert(field.name().clone(), min);
                greatest.insert(field.name().clone(), max);
            }
        }
        let mut nulls = self.nulls.iter();
        let null_count: Map<String, Value> = fields
            .iter()
            .map(|field| (field.name().clone(), shape_nulls(field, &mut nulls)))
            .collect();
        serde_json::json!({
            "numRecords": self.rows,
            "minValues": least,
            "maxValues": greatest,
            "nullCount": null_count,
        })
        .to_string()
    }
}

/// One count a leaf, in schema order. A list counts as a leaf.
fn count_nulls(column: &ArrayRef, above: Option<&NullBuffer>, take: &mut impl FnMut(u64)) {
    let nulls = NullBuffer::union(above, column.logical_nulls().as_ref());
    match column.as_struct_opt() {
        Some(children) => {
            for child in children.columns() {
                count_nulls(child, nulls.as_ref(), take);
            }
        }
        None => take(nulls.map_or(0, |nulls| nulls.null_count() as u64)),
    }
}

fn shape_nulls<'a>(field: &Field, counts: &mut impl Iterator<Item = &'a u64>) -> Value {
    match field.data_type() {
        DataType::Struct(children) => Value::Object(
            children
                .iter()
                .map(|child| (child.name().clone(), shape_nulls(child, counts)))
                .collect(),
        ),
        _ => counts.next().copied().unwrap_or(0).into(),
    }
}

impl ColumnStats {
    fn add(&mut self, column: &ArrayRef) {
        let bounds = match column.data_type() {
            DataType::Int32 => {
                let values = column.as_primitive::<Int32Type>();
                let wide = |value: i32| Bound::Integer(value.into());
                min(values).map(wide).zip(max(values).map(wide))
            }
            DataType::Int64 => {
                let values = column.as_primitive::<Int64Type>();
                min(values)
                    .map(Bound::Integer)
                    .zip(max(values).map(Bound::Integer))
            }
            DataType::Date32 => {
                let values = column.as_primitive::<Date32Type>();
                min(values)
                    .map(Bound::Date)
                    .zip(max(values).map(Bound::Date))
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let values = column.as_primitive::<TimestampMicrosecondType>();
                min(values)
                    .map(Bound::Moment)
                    .zip(max(values).map(Bound::Moment))
            }
            DataType::Float64 => {
                let values = column.as_primitive::<datafusion::arrow::datatypes::Float64Type>();
                // NaN has no place in an order that all readers share.
                self.unbounded |= values.iter().flatten().any(f64::is_nan);
                min(values)
                    .map(Bound::Float)
                    .zip(max(values).map(Bound::Float))
            }
            DataType::Utf8 => {
                let values = column.as_string::<i32>();
                let text = |value: &str| Bound::Text(value.to_owned());
                min_string(values)
                    .map(text)
                    .zip(max_string(values).map(text))
            }
            _ => {
                self.unbounded = true;
                None
            }
        };
        let Some((min, max)) = bounds else {
            return;
        };
        self.bounds = Some(match self.bounds.take() {
            None => (min, max),
            Some((least, greatest)) => (
                if min.is_below(&least) { min } else { least },
                if greatest.is_below(&max) {
                    max
                } else {
                    greatest
                },
            ),
        });
    }
}

impl Bound {
    fn is_below(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) | (Self::Moment(a), Self::Moment(b)) => a < b,
            (Self::Date(a), Self::Date(b)) => a < b,
            (Self::Float(a), Self::Float(b)) => a < b,
            (Self::Text(a), Self::Text(b)) => a < b,
            _ => false,
        }
    }

    /// At or below every value.
    fn lower(&self) -> Option<Value> {
        match self {
            Self::Integer(value) => Some((*value).into()),
            Self::Float(value) => float(if *value == 0.0 { -0.0 } else { *value }),
            Self::Text(value) => Some(value.chars().take(TEXT_PREFIX).collect::<String>().into()),
            Self::Date(days) => date(*days),
            Self::Moment(micros) => moment(micros.div_euclid(1000)),
        }
    }

    /// At or above every value.
    fn upper(&self) -> Option<Value> {
        match self {
            Self::Float(value) => float(if *value == 0.0 { 0.0 } else { *value }),
            Self::Text(value) => round_up(value).map(Value::from),
            // Moments are kept to the millisecond.
            Self::Moment(micros) => moment(micros.checked_add(999)?.div_euclid(1000)),
            Self::Integer(_) | Self::Date(_) => self.lower(),
        }
    }
}

fn float(value: f64) -> Option<Value> {
    serde_json::Number::from_f64(value).map(Value::Number)
}

/// A text of at most [`TEXT_PREFIX`] characters that is not below `text`; `None` when there is none.
fn round_up(text: &str) -> Option<String> {
    if text.chars().nth(TEXT_PREFIX).is_none() {
        return Some(text.to_owned());
    }
    let mut prefix: Vec<char> = text.chars().take(TEXT_PREFIX).collect();
    while let Some(last) = prefix.pop() {
        // The next character in UTF-8 order; ranges of characters step over the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            prefix.push(next);
            return Some(prefix.into_iter().collect());
        }
    }
    None
}

const MILLIS_OF_A_DAY: i64 = 86_400_000;

/// Four-digit years only: other texts are not ordered as their moments are.
fn moment(millis: i64) -> Option<Value> {
    let text = Timestamp::from_millis(millis).to_string();
    let years_of_four_digits = -62_135_596_800_000..253_402_300_800_000;
    years_of_four_digits.contains(&millis).then(|| text.into())
}

fn date(days: i32) -> Option<Value> {
    let text = moment(i64::from(days) * MILLIS_OF_A_DAY)?;
    Some(text.as_str()?.get(..10)?.into())
}

/// The UTC date of a moment, as partition values are written.
pub(crate) fn date_text(days: i64) -> String {
    let text = Timestamp::from_millis(days.saturating_mul(MILLIS_OF_A_DAY)).to_string();
    text.split('T').next().unwrap_or(&text).to_owned()
}

/// Reads RFC 3339 with whatever offset and fraction other writers use.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let zone: Tz = "+00:00".parse().ok()?;
    let parsed = string_to_datetime(&zone, text).ok()?;
    Some(Timestamp::from_micros(parsed.timestamp_micros()))
}
