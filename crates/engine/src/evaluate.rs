//! Expressions over a batch, failing row by row (P6).
//!
//! A batch is evaluated at once; only when that fails is it halved until the failing rows stand
//! alone. So what an expression does to an event is what it does to that event by itself: a batch
//! whose evaluation succeeds has no row that would fail alone, because DataFusion passes over an
//! operand only for rows that do not need it.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array},
        compute::{concat, prep_null_mask_filter},
    },
    physical_plan::PhysicalExpr,
};

use crate::EngineError;

/// The first failure of each row of a batch.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// In no order; at most one a row.
    pub(crate) rows: Vec<(usize, String)>,
}

impl Failures {
    /// Adds a row that has not failed before.
    fn add(&mut self, row: usize, message: String) {
        self.rows.push((row, message));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Orders by row and keeps the first failure of each.
    pub(crate) fn settle(&mut self) {
        self.rows.sort_by_key(|(row, _)| *row);
        self.rows.dedup_by_key(|(row, _)| *row);
    }

    /// Which of `rows` rows did not fail.
    pub(crate) fn survivors(&self, rows: usize) -> BooleanArray {
        let mut survives = vec![true; rows];
        for &(row, _) in &self.rows {
            survives[row] = false;
        }
        survives.into()
    }
}

/// Evaluates `expression` for every row of `batch`. A failing row has NULL, and is added to `failures`
/// if `needed` says that its value matters; without `needed` every value does.
pub(crate) fn evaluate(
    expression: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    needed: Option<&BooleanArray>,
    place: impl Fn() -> String,
    failures: &mut Failures,
) -> Result<ArrayRef, EngineError> {
    if let Ok(values) = at_once(expression, batch) {
        return Ok(values);
    }
    let mut pieces = Vec::new();
    let mut failed = Vec::new();
    halve(expression, batch, 0, &mut pieces, &mut failed)?;
    for (row, message) in failed {
        let matters = needed.is_none_or(|needed| needed.is_valid(row) && needed.value(row));
        if matters {
            failures.add(row, format!("{}: {message}", place()));
        }
    }
    let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
    Ok(concat(&pieces)?)
}

fn at_once(
    expression: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
) -> Result<ArrayRef, datafusion::error::DataFusionError> {
    expression.evaluate(batch)?.into_array(batch.num_rows())
}

fn halve(
    expression: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    first_row: usize,
    pieces: &mut Vec<ArrayRef>,
    failed: &mut Vec<(usize, String)>,
) -> Result<(), EngineError> {
    let rows = batch.num_rows();
    let half = rows / 2;
    // A batch of one row that failed is asked once more, for its message.
    let halves = if half == 0 {
        [(0, 0), (0, rows)]
    } else {
        [(0, half), (half, rows - half)]
    };
    for (start, length) in halves {
        if length == 0 {
            continue;
        }
        let part = batch.slice(start, length);
        match at_once(expression, &part) {
            Ok(values) => pieces.push(values),
            Err(error) if length == 1 => {
                failed.push((first_row + start, error.strip_backtrace()));
                let data_type = expression
                    .data_type(batch.schema_ref())
                    .unwrap_or(datafusion::arrow::datatypes::DataType::Null);
                pieces.push(new_null_array(&data_type, 1));
            }
            Err(_) => halve(expression, &part, first_row + start, pieces, failed)?,
        }
    }
    Ok(())
}

/// What a filter says, with NULL counted as no; `None` when it is not boolean.
pub(crate) fn as_selection(values: &ArrayRef) -> Option<BooleanArray> {
    let selection = values.as_boolean_opt()?;
    Some(if selection.null_count() > 0 {
        prep_null_mask_filter(selection)
    } else {
        selection.clone()
    })
}
