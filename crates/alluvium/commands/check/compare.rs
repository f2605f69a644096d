//! Expected and actual rows of one table of an inline test, paired and shown side by side.
//!
//! Only the columns that the test names are compared, and every row of the table must be expected. The order
//! of rows says nothing.

use std::fmt;

use alluvium_plan::{Finish, TableShape};
use alluvium_query::QueryError;
use chrono::DateTime;
use comfy_table::{Attribute, Cell, Color};
use datafusion::arrow::array::RecordBatch;
use indexmap::{IndexMap, IndexSet};
use serde_json::Value;

use crate::{
    cells,
    output::{empty_table, plain},
};

/// How far sums and averages of doubles may differ, relative to their size.
const FLOAT_TOLERANCE: f64 = 1e-9;
/// How far a quantile may be from the exact one: the relative error of its sketch.
const SKETCH_TOLERANCE: f64 = 0.01;
/// What stands where a test names a column that a test run does not have.
const UNKNOWN: &str = "(not known in a test)";

/// What was expected of a table and what came.
pub(super) struct Comparison {
    table: String,
    /// The columns that the test names.
    columns: Vec<String>,
    tolerances: Vec<f64>,
    /// Pairs that belong together; one side is missing where a row has no partner.
    #[allow(clippy::type_complexity)]
    pairs: Vec<(Option<Vec<Option<Value>>>, Option<Vec<Value>>)>,
}

impl Comparison {
    /// Pairs `expected` with the rows of `actual`.
    ///
    /// # Errors
    /// When an actual value has no text form.
    pub(super) fn new(
        table: &str,
        shape: &TableShape,
        expected: &[IndexMap<String, Value>],
        actual: &RecordBatch,
    ) -> Result<Self, QueryError> {
        let named: IndexSet<&String> = expected.iter().flat_map(IndexMap::keys).collect();
        let columns: Vec<String> = if named.is_empty() {
            // Nothing is expected at all: what came is shown whole.
            let all = actual.schema_ref().fields().iter();
            all.map(|field| field.name().clone()).collect()
        } else {
            named.into_iter().cloned().collect()
        };
        let tolerances = columns
            .iter()
            .map(|column| {
                let is_quantile = shape.measures.iter().any(|measure| {
                    *measure.name == **column && matches!(measure.finish, Finish::Quantile(_))
                });
                if is_quantile {
                    SKETCH_TOLERANCE
                } else {
                    FLOAT_TOLERANCE
                }
            })
            .collect();
        let values = columns
            .iter()
            .map(|column| match actual.column_by_name(column) {
                Some(array) => cells::values(array.as_ref()),
                None => Ok(vec![Value::from(UNKNOWN); actual.num_rows()]),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let came: Vec<Vec<Value>> = (0..actual.num_rows())
            .map(|row| values.iter().map(|column| column[row].clone()).collect())
            .collect();
        let wanted: Vec<Vec<Option<Value>>> = expected
            .iter()
            .map(|row| {
                columns
                    .iter()
                    .map(|column| row.get(column).cloned())
                    .collect()
            })
            .collect();
        let mut comparison = Self {
            table: table.to_owned(),
            columns,
            tolerances,
            pairs: Vec::new(),
        };
        comparison.pair(wanted, came);
        Ok(comparison)
    }

    /// Whether every expected row came and no other.
    pub(super) fn is_equal(&self) -> bool {
        self.pairs
            .iter()
            .all(|(expected, actual)| match (expected, actual) {
                (Some(expected), Some(actual)) => self.fits(expected, actual),
                _ => false,
            })
    }

    /// Finds the most partners that fit (augmenting paths: a row that names few columns must not take the only
    /// partner of one that names many), then sets the rest side by side in order.
    fn pair(&mut self, wanted: Vec<Vec<Option<Value>>>, came: Vec<Vec<Value>>) {
        let mut owner: Vec<Option<usize>> = vec![None; came.len()];
        for row in 0..wanted.len() {
            let mut seen = vec![false; came.len()];
            self.find_partner(row, &wanted, &came, &mut owner, &mut seen);
        }
        let mut alone: std::collections::VecDeque<usize> = (0..came.len())
            .filter(|&row| owner[row].is_none())
            .collect();
        let mut came: Vec<Option<Vec<Value>>> = came.into_iter().map(Some).collect();
        for (row, expected) in wanted.into_iter().enumerate() {
            let partner = owner
                .iter()
                .position(|&owner| owner == Some(row))
                .or_else(|| alone.pop_front());
            let actual = partner.and_then(|partner| came[partner].take());
            self.pairs.push((Some(expected), actual));
        }
        let left = came.into_iter().flatten().map(|row| (None, Some(row)));
        self.pairs.extend(left);
    }

    fn find_partner(
        &self,
        row: usize,
        wanted: &[Vec<Option<Value>>],
        came: &[Vec<Value>],
        owner: &mut [Option<usize>],
        seen: &mut [bool],
    ) -> bool {
        for candidate in 0..came.len() {
            if seen[candidate] || !self.fits(&wanted[row], &came[candidate]) {
                continue;
            }
            seen[candidate] = true;
            let is_free = match owner[candidate] {
                None => true,
                Some(other) => self.find_partner(other, wanted, came, owner, seen),
            };
            if is_free {
                owner[candidate] = Some(row);
                return true;
            }
        }
        false
    }

    fn fits(&self, expected: &[Option<Value>], actual: &[Value]) -> bool {
        expected
            .iter()
            .zip(actual)
            .zip(&self.tolerances)
            .all(|((expected, actual), &tolerance)| {
                expected
                    .as_ref()
                    .is_none_or(|expected| equal(expected, actual, tolerance))
            })
    }
}

/// Whether two values are the same to an analyst: `2` and `2.0`, a decimal's text and a number, two
/// spellings of one moment.
fn equal(expected: &Value, actual: &Value, tolerance: f64) -> bool {
    if expected == actual {
        return true;
    }
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    if expected.is_number() || actual.is_number() {
        if expected.is_i64() && actual.is_i64() {
            return false;
        }
        return match (number(expected), number(actual)) {
            (Some(expected), Some(actual)) => {
                (expected - actual).abs() <= tolerance * expected.abs().max(actual.abs())
            }
            _ => false,
        };
    }
    match (expected, actual) {
        (Value::String(expected), Value::String(actual)) => {
            let moment = |text: &str| DateTime::parse_from_rfc3339(text).ok();
            moment(expected).is_some_and(|time| Some(time) == moment(actual))
        }
        _ => false,
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = empty_table();
        table.enforce_styling();
        let side = |side: &str| {
            self.columns
                .iter()
                .map(move |column| Cell::new(format!("{side}\n{column}")))
                .collect::<Vec<_>>()
        };
        let mut header = vec![Cell::new("")];
        header.extend(side("expected"));
        header.extend(side("actual"));
        table.set_header(header);
        for (expected, actual) in &self.pairs {
            let fits = match (expected, actual) {
                (Some(expected), Some(actual)) => self.fits(expected, actual),
                _ => false,
            };
            let mut row = vec![match (fits, expected, actual) {
                (true, ..) => Cell::new("="),
                (false, Some(_), Some(_)) => differing("differs"),
                (false, Some(_), None) => differing("missing"),
                (false, None, _) => differing("unexpected"),
            }];
            for column in 0..self.columns.len() {
                let value = expected.as_ref().map(|row| &row[column]);
                row.push(match value {
                    Some(Some(value)) => Cell::new(shown(value)),
                    // A named row may leave this column open.
                    Some(None) => Cell::new("(any)"),
                    None => Cell::new(""),
                });
            }
            for column in 0..self.columns.len() {
                let Some(value) = actual.as_ref().map(|row| &row[column]) else {
                    row.push(Cell::new(""));
                    continue;
                };
                let wanted = expected.as_ref().and_then(|row| row[column].as_ref());
                let is_same =
                    wanted.is_none_or(|wanted| equal(wanted, value, self.tolerances[column]));
                row.push(if is_same {
                    Cell::new(shown(value))
                } else {
                    differing(&shown(value))
                });
            }
            table.add_row(row);
        }
        write!(f, "{}:\n{table}", self.table)
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        other => plain(other),
    }
}

fn differing(text: &str) -> Cell {
    Cell::new(text)
        .fg(Color::Red)
        .add_attribute(Attribute::Bold)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::{
        array::{Float64Array, Int64Array, StringArray, TimestampMicrosecondArray},
        datatypes::{DataType, Field, Schema},
    };
    use serde_json::json;

    use super::*;

    fn actual() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("window_start", TableShape::window_type(), false),
            Field::new("country", DataType::Utf8, true),
            Field::new("clicks", DataType::Int64, false),
            Field::new("ms", DataType::Float64, true),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(
                    TimestampMicrosecondArray::from(vec![1_772_366_400_000_000; 2])
                        .with_timezone("UTC"),
                ),
                Arc::new(StringArray::from(vec![Some("CH"), None])),
                Arc::new(Int64Array::from(vec![2, 1])),
                Arc::new(Float64Array::from(vec![Some(100.4), None])),
            ],
        )
        .unwrap()
    }

    fn compare(rows: Value) -> Comparison {
        let shape = TableShape {
            group_columns: Vec::new(),
            states: Vec::new(),
            measures: vec![alluvium_plan::MeasureShape {
                name: "ms".into(),
                expression: String::new(),
                state: 0,
                finish: Finish::Quantile(0.5),
                data_type: DataType::Float64,
            }],
        };
        let rows: Vec<serde_json::Map<String, Value>> = serde_json::from_value(rows).unwrap();
        let rows: Vec<IndexMap<String, Value>> = rows
            .into_iter()
            .map(|row| row.into_iter().collect())
            .collect();
        Comparison::new("t", &shape, &rows, &actual()).unwrap()
    }

    #[test]
    fn order_spelling_and_unnamed_columns_do_not_matter() {
        let comparison = compare(json!([
            {"clicks": 1.0, "country": null},
            {"window_start": "2026-03-01T13:00:00+01:00", "ms": 100, "clicks": 2},
        ]));
        assert!(comparison.is_equal(), "{comparison}");
    }

    #[test]
    fn a_row_that_names_little_does_not_take_anothers_partner() {
        let comparison = compare(json!([
            {"window_start": "2026-03-01T12:00:00Z"},
            {"window_start": "2026-03-01T12:00:00Z", "country": "CH"},
        ]));
        assert!(comparison.is_equal(), "{comparison}");
    }

    #[test]
    fn missing_unexpected_and_differing_rows_fail() {
        assert!(!compare(json!([{"clicks": 2}])).is_equal());
        assert!(!compare(json!([{"clicks": 2}, {"clicks": 1}, {"clicks": 1}])).is_equal());
        assert!(!compare(json!([{"clicks": 2}, {"clicks": 3}])).is_equal());
        assert!(!compare(json!([{"clicks": 2, "ms": 102.0}, {"clicks": 1}])).is_equal());
        assert!(
            !compare(json!([{"clicks": 2, "country": null}, {"clicks": 1, "country": "CH"}]))
                .is_equal()
        );
    }

    #[test]
    fn a_failure_shows_both_sides_of_a_row_on_one_line() {
        let text = compare(json!([{"country": "CH", "clicks": 3}, {"country": null, "clicks": 1}]))
            .to_string();
        let text = anstream::adapter::strip_str(&text).to_string();
        let differing = text.lines().find(|line| line.contains("differs")).unwrap();
        let cells: Vec<&str> = differing.split_whitespace().collect();
        assert_eq!(cells, ["differs", "3", "CH", "2", "CH"], "{text}");
        assert!(
            text.lines().any(|line| line.trim_start().starts_with("= ")),
            "{text}"
        );
    }
}
