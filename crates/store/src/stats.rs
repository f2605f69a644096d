//! The statistics of one file, as the log keeps them: row count, bounds, NULL counts.
//!
//! Owns what may be said, and what is believed of what others said: a bound that is not certain is left out, because readers
//! prune by it. Every column's NULLs are counted, which also tells which states a file has (P35). Does not own the file.

use std::sync::Arc;

use alluvium_plan::ColumnBounds;
use alluvium_types::Timestamp;
use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch, timezone::Tz},
        buffer::NullBuffer,
        compute::{
            kernels::cast_utils::{Parser, string_to_datetime},
            max, max_string, min, min_string,
        },
        datatypes::{
            DataType, Date32Type, Field, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
        },
    },
    common::ScalarValue,
};
use serde_json::{Map, Value};

use crate::action::Stats;

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
    pub(crate) fn to_json(&self, fields: &[Arc<Field>]) -> String {
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

/// Whether bounds of a column of this type are kept for readers. Doubles are not: writers disagree about NaN and about
/// the zero below nought.
pub(crate) fn is_bounded(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8
            | DataType::Int32
            | DataType::Int64
            | DataType::Date32
            | DataType::Timestamp(TimeUnit::Microsecond, _)
    )
}

/// What the statistics of a file, whoever wrote them, say of a column; `None` when that is nothing. Texts are cut to
/// [`TEXT_PREFIX`], so what is kept of a file is bounded.
pub(crate) fn column_bounds(
    stats: &Stats,
    column: &Arc<str>,
    field: &Field,
) -> Option<ColumnBounds> {
    let value = |values: &std::collections::HashMap<String, Value>, side| {
        read_bound(values.get(column.as_ref())?, field.data_type(), side)
    };
    let unknown = ScalarValue::try_from(field.data_type()).ok()?;
    let bounds = value(&stats.min_values, Side::Least)
        .zip(value(&stats.max_values, Side::Greatest))
        .filter(|(least, greatest)| least <= greatest);
    let nulls = stats
        .null_count
        .get(column.as_ref())
        .and_then(Value::as_u64);
    if bounds.is_none() && nulls.is_none() {
        return None;
    }
    let (least, greatest) = bounds.unwrap_or_else(|| (unknown.clone(), unknown));
    Some(ColumnBounds {
        column: column.clone(),
        least,
        greatest,
        nulls,
    })
}

#[derive(Clone, Copy)]
enum Side {
    Least,
    Greatest,
}

/// A bound as the log spells it, in the column's type; `None` when it cannot be read or is not certain.
fn read_bound(value: &Value, data_type: &DataType, side: Side) -> Option<ScalarValue> {
    Some(match data_type {
        DataType::Int32 => ScalarValue::Int32(Some(value.as_i64()?.try_into().ok()?)),
        DataType::Int64 => ScalarValue::Int64(Some(value.as_i64()?)),
        DataType::Date32 => ScalarValue::Date32(Some(Date32Type::parse(value.as_str()?)?)),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let moment = parse_timestamp(value.as_str()?)?;
            let moment = match side {
                Side::Least => moment,
                Side::Greatest => round_up_to_millis(moment),
            };
            ScalarValue::TimestampMicrosecond(Some(moment.micros()), zone.clone())
        }
        DataType::Utf8 => {
            let text = value.as_str()?;
            ScalarValue::Utf8(Some(match side {
                Side::Least => text.chars().take(TEXT_PREFIX).collect(),
                Side::Greatest => round_up(text)?,
            }))
        }
        _ => return None,
    })
}

/// Other writers cut the largest moment to milliseconds.
pub(crate) fn round_up_to_millis(moment: Timestamp) -> Timestamp {
    match moment.micros().rem_euclid(1000) {
        0 => moment.saturating_add_micros(999),
        _ => moment,
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

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        Date32Array, Int32Array, StringArray, TimestampMicrosecondArray,
    };
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn bounds_of(json: &str, data_type: DataType) -> Option<ColumnBounds> {
        let stats: Stats = serde_json::from_str(json).unwrap();
        column_bounds(&stats, &"k".into(), &Field::new("k", data_type, true))
    }

    fn moments() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    #[test]
    fn what_is_read_back_holds_every_value() {
        let seed = rand::random();
        let mut random = StdRng::seed_from_u64(seed);
        let letters: Vec<char> = "aé\u{d7ff}\u{e000}\u{ffff}\u{10ffff}".chars().collect();
        for _ in 0..200 {
            let rows = random.random_range(1..6);
            let texts: Vec<Option<String>> = (0..rows)
                .map(|_| {
                    let length = random.random_range(0..40);
                    let mut letter = || letters[random.random_range(0..letters.len())];
                    let text = (0..length).map(|_| letter()).collect();
                    random.random_bool(0.8).then_some(text)
                })
                .collect();
            let mut number = || random.random_bool(0.8).then(|| random.random::<i32>());
            let numbers: Vec<Option<i32>> = (0..rows).map(|_| number()).collect();
            let micros = numbers
                .iter()
                .map(|number| number.map(|number| i64::from(number) * 7_001));
            let days = numbers
                .iter()
                .map(|number| number.map(|number| number % 700_000));
            let columns: [ArrayRef; 4] = [
                Arc::new(StringArray::from(texts)),
                Arc::new(Date32Array::from_iter(days)),
                Arc::new(TimestampMicrosecondArray::from_iter(micros).with_timezone("UTC")),
                Arc::new(Int32Array::from(numbers)),
            ];
            for column in columns {
                let batch = RecordBatch::try_from_iter([("k", column.clone())]).unwrap();
                let mut stats = FileStats::default();
                stats.add(&batch);
                let json = stats.to_json(batch.schema().fields());
                let Some(bounds) = bounds_of(&json, column.data_type().clone()) else {
                    panic!("seed {seed}: nothing is known of {column:?}");
                };
                assert_eq!(
                    bounds.nulls,
                    Some(column.null_count() as u64),
                    "seed {seed}"
                );
                for row in 0..column.len() {
                    let value = ScalarValue::try_from_array(&column, row).unwrap();
                    let held = value.is_null()
                        || bounds.least.is_null()
                        || (bounds.least <= value && value <= bounds.greatest);
                    assert!(held, "seed {seed}: {value:?} is not in {bounds:?}");
                }
            }
        }
    }

    #[test]
    fn of_other_writers_only_what_is_certain_is_believed() {
        let text = r#"{"minValues": {"k": "2026-03-01T12:00:00.001Z"}, "maxValues": {"k": "2026-03-01T14:00:00.001+02:00"}}"#;
        let bounds = bounds_of(text, moments()).unwrap();
        assert_eq!(bounds.nulls, None);
        let moment = |micros| ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()));
        assert_eq!(bounds.least, moment(1_772_366_400_001_000));
        assert_eq!(bounds.greatest, moment(1_772_366_400_001_999));

        let long = "x".repeat(1000);
        let text = format!(r#"{{"minValues": {{"k": "{long}"}}, "maxValues": {{"k": "{long}"}}}}"#);
        let bounds = bounds_of(&text, DataType::Utf8).unwrap();
        assert_eq!(bounds.least, ScalarValue::from("x".repeat(32)));
        assert_eq!(bounds.greatest, ScalarValue::from("x".repeat(31) + "y"));

        for (text, data_type) in [
            (r#"{"minValues": {"k": 1}}"#, DataType::Int64),
            (
                r#"{"minValues": {"k": 2}, "maxValues": {"k": 1}}"#,
                DataType::Int64,
            ),
            (
                r#"{"minValues": {"k": 1}, "maxValues": {"k": 3000000000}}"#,
                DataType::Int32,
            ),
            (
                r#"{"minValues": {"k": 1}, "maxValues": {"k": 2}}"#,
                DataType::Utf8,
            ),
            (
                r#"{"minValues": {"k": "soon"}, "maxValues": {"k": "later"}}"#,
                moments(),
            ),
            (
                r#"{"minValues": {"k": 0.0}, "maxValues": {"k": 1.0}}"#,
                DataType::Float64,
            ),
        ] {
            assert_eq!(bounds_of(text, data_type), None, "{text}");
        }
        let bounds = bounds_of(r#"{"nullCount": {"k": 3}}"#, DataType::Utf8).unwrap();
        assert!(bounds.least.is_null() && bounds.greatest.is_null());
        assert_eq!(bounds.nulls, Some(3));
    }
}
