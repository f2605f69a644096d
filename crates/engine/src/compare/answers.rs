//! When two answers are the same.
//!
//! Owns that what analysts see is compared, and not the states behind it; and by how much sums of doubles may differ, which
//! depend on the order in which they were added up. Everything else is equal or is not.

use std::cmp::Ordering;

use alluvium_plan::{Finish, Rounding, TableShape};
use datafusion::arrow::{
    array::{Array, AsArray, DynComparator, Float64Array, Int64Array, make_comparator},
    compute::SortOptions,
    datatypes::{DataType, Float64Type, Int64Type},
};

use super::{DifferingMeasure, Held, scalar};
use crate::EngineError;

/// The measures of both batches at hand, side by side.
pub(super) struct Answers<'p> {
    shape: &'p TableShape,
    roundings: &'p [Rounding],
    columns: Vec<Pair>,
    /// Which batches these are.
    batches: (u64, u64),
}

enum Pair {
    Doubles(Box<Doubles>),
    Others(DynComparator),
}

struct Doubles {
    stored: Float64Array,
    recomputed: Float64Array,
    /// Present where an order of events shows.
    order: Option<Order>,
}

/// By how much an order of events shows.
struct Order {
    finish: Finish,
    counts: Int64Array,
    magnitudes: Float64Array,
}

impl Order {
    fn bound(&self, row: usize, stored: f64, recomputed: f64) -> f64 {
        let count = self.counts.value(row);
        if self.magnitudes.is_null(row) {
            return 0.0;
        }
        let bound = Rounding::bound(count, self.magnitudes.value(row));
        match self.finish {
            // Each side's division rounds once more.
            Finish::Average => {
                bound / count.max(1) as f64 + f64::EPSILON * stored.abs().max(recomputed.abs())
            }
            _ => bound,
        }
    }
}

impl Pair {
    fn is_equal(&self, rows: (usize, usize)) -> bool {
        match self {
            Self::Others(compare) => compare(rows.0, rows.1) == Ordering::Equal,
            Self::Doubles(doubles) => doubles.is_equal(rows),
        }
    }
}

impl Doubles {
    fn is_equal(&self, (stored_row, recomputed_row): (usize, usize)) -> bool {
        let is_null = (
            self.stored.is_null(stored_row),
            self.recomputed.is_null(recomputed_row),
        );
        if is_null != (false, false) {
            return is_null == (true, true);
        }
        let stored = self.stored.value(stored_row);
        let recomputed = self.recomputed.value(recomputed_row);
        if stored == recomputed || (stored.is_nan() && recomputed.is_nan()) {
            return true;
        }
        let order = self.order.as_ref();
        let bound = order.map_or(0.0, |order| order.bound(recomputed_row, stored, recomputed));
        // Beyond what a double holds nothing can be said, so that nothing but the same will do.
        bound.is_finite() && (stored - recomputed).abs() <= bound
    }
}

impl<'p> Answers<'p> {
    pub(super) fn new(shape: &'p TableShape, roundings: &'p [Rounding]) -> Self {
        Self {
            shape,
            roundings,
            columns: Vec::new(),
            batches: (0, 0),
        }
    }

    /// Whether the rows at hand, which are the same row, have other answers.
    pub(super) fn differ(
        &mut self,
        stored: Option<&Held>,
        recomputed: Option<&Held>,
    ) -> Result<bool, EngineError> {
        let (Some(stored), Some(recomputed)) = (stored, recomputed) else {
            return Ok(false);
        };
        let batches = (stored.number, recomputed.number);
        if self.batches != batches {
            self.columns = self.of_batches(stored, recomputed)?;
            self.batches = batches;
        }
        let rows = (stored.row, recomputed.row);
        Ok(self.columns.iter().any(|pair| !pair.is_equal(rows)))
    }

    /// The answers of these rows that are not the same, after [`Self::differ`].
    pub(super) fn differing(
        &self,
        stored: Option<&Held>,
        recomputed: Option<&Held>,
    ) -> Result<Vec<DifferingMeasure>, EngineError> {
        let (Some(stored), Some(recomputed)) = (stored, recomputed) else {
            return Ok(Vec::new());
        };
        let keys = 2 + self.shape.group_columns.len();
        let rows = (stored.row, recomputed.row);
        let measures = self.shape.measures.iter().zip(&self.columns).enumerate();
        measures
            .filter(|(_, (_, pair))| !pair.is_equal(rows))
            .map(|(position, (measure, _))| {
                Ok(DifferingMeasure {
                    name: measure.name.clone(),
                    stored: scalar(stored.finished.column(keys + position), stored.row)?,
                    recomputed: scalar(
                        recomputed.finished.column(keys + position),
                        recomputed.row,
                    )?,
                })
            })
            .collect()
    }

    fn of_batches(&self, stored: &Held, recomputed: &Held) -> Result<Vec<Pair>, EngineError> {
        let keys = 2 + self.shape.group_columns.len();
        let measures = self.shape.measures.iter().enumerate();
        measures
            .map(|(position, measure)| {
                let one = stored.finished.column(keys + position);
                let other = recomputed.finished.column(keys + position);
                if measure.data_type != DataType::Float64 {
                    let compare = make_comparator(one, other, SortOptions::default())?;
                    return Ok(Pair::Others(compare));
                }
                let mut roundings = self.roundings.iter();
                let rounding = roundings.find(|known| known.state == measure.state);
                let state = |position: usize| recomputed.panes.column(keys + position);
                let doubles = Doubles {
                    stored: one.as_primitive::<Float64Type>().clone(),
                    recomputed: other.as_primitive::<Float64Type>().clone(),
                    order: rounding.map(|rounding| Order {
                        finish: measure.finish,
                        counts: state(rounding.count).as_primitive::<Int64Type>().clone(),
                        magnitudes: state(rounding.magnitude)
                            .as_primitive::<Float64Type>()
                            .clone(),
                    }),
                };
                Ok(Pair::Doubles(Box::new(doubles)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_differs_by_its_sums_rounding_and_one_of_its_own() {
        let order = |finish| Order {
            finish,
            counts: Int64Array::from(vec![1000]),
            magnitudes: Float64Array::from(vec![5e6]),
        };
        let of_sum = Rounding::bound(1000, 5e6);
        assert_eq!(order(Finish::Value).bound(0, 5e6, 5e6), of_sum);
        let of_mean = order(Finish::Average).bound(0, 5e3, -6e3);
        assert_eq!(of_mean, of_sum / 1000.0 + f64::EPSILON * 6e3);
    }
}
