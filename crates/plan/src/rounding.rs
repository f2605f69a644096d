//! How far a sum of doubles may differ from the same sum in another order.
//!
//! Owns the states that tell it, for whoever computes a table's rows a second time. Everything else that a table
//! keeps does not depend on the order of events. Does not own the comparison.

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{DataType, Schema},
    common::config::ConfigOptions,
    error::DataFusionError,
    functions::math::abs,
    physical_expr::{PhysicalExpr, ScalarFunctionExpr, expressions::CastExpr},
};

use crate::{StateFold, StateKind, StateShape, TablePlan};

/// Where the states stand that bound the rounding of a state of doubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// The state: a sum or an average of doubles.
    pub state: usize,
    /// How many values it added up.
    pub count: usize,
    /// The sum of their absolute values.
    pub magnitude: usize,
}

impl Rounding {
    /// The most by which two sums of `count` values can differ that were added up in different orders, when their
    /// absolute values add up to `magnitude`, itself such a sum. Infinite where sums leave what a double holds.
    ///
    /// Source: N. J. Higham, "Accuracy and Stability of Numerical Algorithms", section 4.2: any order of `n - 1` additions is off by
    /// at most `γ(n - 1) Σ|x|` with `γ(n) = nu / (1 - nu)`.
    pub fn bound(count: i64, magnitude: f64) -> f64 {
        const UNIT: f64 = f64::EPSILON / 2.0;
        let additions = count.saturating_sub(1).max(0) as f64 * UNIT;
        if additions >= 0.25 {
            return f64::INFINITY;
        }
        let gamma = additions / (1.0 - additions);
        // The magnitude is too small by its own rounding at most.
        2.0 * gamma * magnitude / (1.0 - gamma)
    }
}

impl TablePlan {
    /// The same table with two more states, behind its own, for each state whose value depends on the order of
    /// events; and where they stand. Measures and the states before them are as they were.
    ///
    /// # Errors
    /// When an absolute value cannot be asked for, which is a bug.
    pub fn with_rounding(
        &self,
        decoded: &Schema,
    ) -> Result<(Self, Vec<Rounding>), DataFusionError> {
        let mut wider = self.clone();
        let mut roundings = Vec::new();
        for (state, (shape, fold)) in self.shape.states.iter().zip(&self.folds).enumerate() {
            let Some(input) = fold.input.as_ref().filter(|_| adds_doubles(shape)) else {
                continue;
            };
            let (count, magnitude) = (wider.folds.len(), wider.folds.len() + 1);
            let added = [
                (StateKind::Count, DataType::Int64, input.clone()),
                (StateKind::Sum, DataType::Float64, absolute(input, decoded)?),
            ];
            for (kind, data_type, input) in added {
                wider.shape.states.push(StateShape {
                    name: format!("_{}", wider.folds.len()).into(),
                    kind,
                    data_type,
                });
                wider.folds.push(StateFold {
                    input: Some(input),
                    filter: fold.filter.clone(),
                });
            }
            roundings.push(Rounding {
                state,
                count,
                magnitude,
            });
        }
        Ok((wider, roundings))
    }
}

fn adds_doubles(state: &StateShape) -> bool {
    match (state.kind, &state.data_type) {
        (StateKind::Sum, data_type) => *data_type == DataType::Float64,
        (StateKind::Avg, DataType::Struct(fields)) => fields
            .iter()
            .any(|field| *field.data_type() == DataType::Float64),
        _ => false,
    }
}

fn absolute(
    input: &Arc<dyn PhysicalExpr>,
    decoded: &Schema,
) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let double: Arc<dyn PhysicalExpr> = match input.data_type(decoded)? {
        DataType::Float64 => input.clone(),
        _ => Arc::new(CastExpr::new(input.clone(), DataType::Float64, None)),
    };
    let config = Arc::new(ConfigOptions::default());
    let call = ScalarFunctionExpr::try_new(abs(), vec![double], decoded, config)?;
    Ok(Arc::new(call))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Environment, SourceFile, load_pipeline};

    #[test]
    fn only_sums_and_averages_of_doubles_depend_on_an_order() {
        let pipeline = "\
version: 1
source: {kafka: {connection: main, topics: [events], start: earliest}}
decode: {json: {schema: event.yaml}}
event_time: {column: ts}
commit_every: 10s
tables:
  t:
    window: {tumbling: 1m}
    measures:
      n: count(*)
      whole: sum(i)
      exact: sum(d)
      total: sum(x) filter (where i > 0)
      mean: avg(x)
      mean_of_whole: avg(i)
      largest: max(x)
      p50: approx_percentile_cont(x, 0.5)
";
        let schema =
            "version: 1\ncolumns: {ts: timestamp, i: int, x: double, d: \"decimal(9,2)\"}\n";
        let source = SourceFile::new("pipelines/t.yaml", pipeline);
        let mut read = |_: &Path| Ok(schema.as_bytes().to_vec());
        let (plan, _) = load_pipeline(&source, &mut read, &Environment::default())
            .unwrap_or_else(|found| panic!("{found}"));
        let table = &plan.tables[0];
        let (wider, roundings) = table.with_rounding(&plan.decoded).unwrap();
        let named: Vec<&str> = roundings
            .iter()
            .map(|rounding| &*wider.shape.states[rounding.state].name)
            .collect();
        assert_eq!(named, ["total", "mean"]);
        assert_eq!(wider.shape.states[..8], table.shape.states[..]);
        assert_eq!(wider.shape.measures, table.shape.measures);
        for rounding in roundings {
            let (count, magnitude) = (rounding.count, rounding.magnitude);
            assert_eq!(wider.shape.states[count].kind, StateKind::Count);
            assert_eq!(wider.shape.states[magnitude].kind, StateKind::Sum);
            let filtered = table.folds[rounding.state].filter.is_some();
            assert_eq!(wider.folds[magnitude].filter.is_some(), filtered);
        }
    }

    #[test]
    fn another_order_stays_within_the_bound_and_another_value_does_not() {
        let values: Vec<f64> = (0..100_000)
            .map(|at| f64::from(at % 997) * 0.1 * if at % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        let forth: f64 = values.iter().sum();
        let back: f64 = values.iter().rev().sum();
        let magnitude: f64 = values.iter().map(|value| value.abs()).sum();
        let bound = Rounding::bound(values.len() as i64, magnitude);
        assert_ne!(forth, back, "the order shows");
        assert!((forth - back).abs() <= bound, "{forth} {back} {bound}");
        assert!(bound < 0.1, "one value more or less is beyond it: {bound}");
        assert_eq!(Rounding::bound(1, 5.0), 0.0);
        assert_eq!(Rounding::bound(0, 0.0), 0.0);
    }
}
