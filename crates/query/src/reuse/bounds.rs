//! What is known of a condition from the bounds of windows alone.

use std::sync::Arc;

use alluvium_plan::TableShape;
use datafusion::{
    logical_expr::Operator,
    parquet::file::{metadata::RowGroupMetaData, statistics::Statistics},
    physical_plan::{
        PhysicalExpr,
        expressions::{BinaryExpr, Column, Literal, NotExpr},
    },
    scalar::ScalarValue,
};

/// The first and the last moment of a column, in microseconds, where every row has one.
type Range = Option<(i64, i64)>;

/// Of the rows of a row group: where their windows start and end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    start: Range,
    end: Range,
}

impl Bounds {
    pub(super) fn of(group: &RowGroupMetaData) -> Self {
        Self {
            start: range(group, TableShape::WINDOW_START),
            end: range(group, TableShape::WINDOW_END),
        }
    }

    /// Whether `condition` is true of every row, or of none; `None` where neither is certain.
    pub(super) fn decide(&self, condition: &Arc<dyn PhysicalExpr>) -> Option<bool> {
        if let Some(not) = condition.downcast_ref::<NotExpr>() {
            return Some(!self.decide(not.arg())?);
        }
        let binary = condition.downcast_ref::<BinaryExpr>()?;
        let (left, right) = (binary.left(), binary.right());
        match binary.op() {
            Operator::And => match (self.decide(left), self.decide(right)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Operator::Or => match (self.decide(left), self.decide(right)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            operator => match (self.range(left), moment(right)) {
                (Some(range), Some(moment)) => compare(range, *operator, moment),
                _ => compare(self.range(right)?, operator.swap()?, moment(left)?),
            },
        }
    }

    fn range(&self, expr: &Arc<dyn PhysicalExpr>) -> Range {
        match expr.downcast_ref::<Column>()?.name() {
            TableShape::WINDOW_START => self.start,
            TableShape::WINDOW_END => self.end,
            _ => None,
        }
    }
}

fn moment(expr: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::TimestampMicrosecond(moment, _) => *moment,
        _ => None,
    }
}

fn compare((first, last): (i64, i64), operator: Operator, moment: i64) -> Option<bool> {
    let (all, none) = match operator {
        Operator::Lt => (last < moment, first >= moment),
        Operator::LtEq => (last <= moment, first > moment),
        Operator::Gt => (first > moment, last <= moment),
        Operator::GtEq => (first >= moment, last < moment),
        Operator::Eq => (
            first == moment && last == moment,
            moment < first || last < moment,
        ),
        Operator::NotEq => (
            moment < first || last < moment,
            first == moment && last == moment,
        ),
        _ => return None,
    };
    match (all, none) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

fn range(group: &RowGroupMetaData, name: &str) -> Range {
    let mut columns = group.columns().iter();
    let column = columns.find(|column| *column.column_path().parts() == [name])?;
    match column.statistics()? {
        Statistics::Int64(known) if known.null_count_opt() == Some(0) => {
            Some((*known.min_opt()?, *known.max_opt()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::physical_plan::expressions::{binary, col, lit, not};
    use proptest::prelude::*;

    use super::*;

    fn schema() -> datafusion::arrow::datatypes::Schema {
        use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
        let moment = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        Schema::new(vec![
            Field::new(TableShape::WINDOW_START, moment(), false),
            Field::new(TableShape::WINDOW_END, moment(), false),
            Field::new("key", DataType::Int64, true),
        ])
    }

    fn at(micros: i64) -> Arc<dyn PhysicalExpr> {
        lit(ScalarValue::TimestampMicrosecond(
            Some(micros),
            Some("UTC".into()),
        ))
    }

    fn condition() -> impl Strategy<Value = Arc<dyn PhysicalExpr>> {
        let operators = [
            Operator::Lt,
            Operator::LtEq,
            Operator::Gt,
            Operator::GtEq,
            Operator::Eq,
            Operator::NotEq,
        ];
        let sides = (
            any::<bool>(),
            any::<bool>(),
            prop::sample::select(operators.to_vec()),
            0i64..12,
        );
        let leaf = sides.prop_map(|(start, swapped, operator, moment)| {
            let schema = schema();
            let name = [TableShape::WINDOW_END, TableShape::WINDOW_START][usize::from(start)];
            let (column, moment) = (col(name, &schema).unwrap(), at(moment));
            match swapped {
                true => binary(moment, operator, column, &schema).unwrap(),
                false => binary(column, operator, moment, &schema).unwrap(),
            }
        });
        leaf.prop_recursive(3, 12, 2, |inner| {
            prop_oneof![
                inner.clone().prop_map(|inner| not(inner).unwrap()),
                (any::<bool>(), inner.clone(), inner).prop_map(|(and, one, other)| {
                    let operator = [Operator::Or, Operator::And][usize::from(and)];
                    binary(one, operator, other, &schema()).unwrap()
                }),
            ]
        })
    }

    proptest! {
        /// What is certain of the bounds is so of every row within them.
        #[test]
        fn what_is_certain_is_true_of_every_row(
            condition in condition(),
            rows in prop::collection::vec((0i64..12, 0i64..12), 1..8),
        ) {
            use datafusion::arrow::{array::{AsArray, Int64Array, TimestampMicrosecondArray}, record_batch::RecordBatch};
            let ends = |side: fn(&(i64, i64)) -> i64| {
                let moments = rows.iter().map(side);
                Some((moments.clone().min().unwrap(), moments.max().unwrap()))
            };
            let bounds = Bounds { start: ends(|row| row.0), end: ends(|row| row.1) };
            let column = |side: fn(&(i64, i64)) -> i64| {
                let moments: TimestampMicrosecondArray = rows.iter().map(side).map(Some).collect();
                Arc::new(moments.with_timezone("UTC"))
            };
            let keys = Arc::new(Int64Array::from(vec![None; rows.len()]));
            let batch = RecordBatch::try_new(
                Arc::new(schema()),
                vec![column(|row| row.0), column(|row| row.1), keys],
            ).unwrap();
            let truth = condition.evaluate(&batch).unwrap().into_array(rows.len()).unwrap();
            let truth = truth.as_boolean();
            match bounds.decide(&condition) {
                Some(true) => prop_assert_eq!(truth.true_count(), rows.len()),
                Some(false) => prop_assert_eq!(truth.false_count(), rows.len()),
                None => {}
            }
        }
    }

    #[test]
    fn what_is_not_about_windows_is_not_certain() {
        let bounds = Bounds {
            start: Some((5, 9)),
            end: None,
        };
        let schema = schema();
        let after = |name, moment| {
            let column = col(name, &schema).unwrap();
            binary(column, Operator::GtEq, moment, &schema).unwrap()
        };
        assert_eq!(
            bounds.decide(&after(TableShape::WINDOW_START, at(5))),
            Some(true)
        );
        assert_eq!(
            bounds.decide(&after(TableShape::WINDOW_START, at(10))),
            Some(false)
        );
        assert_eq!(bounds.decide(&after(TableShape::WINDOW_START, at(6))), None);
        // Its bounds are not known.
        assert_eq!(bounds.decide(&after(TableShape::WINDOW_END, at(5))), None);
        assert_eq!(bounds.decide(&after("key", lit(5i64))), None);
        let nothing = lit(ScalarValue::TimestampMicrosecond(None, Some("UTC".into())));
        assert_eq!(
            bounds.decide(&after(TableShape::WINDOW_START, nothing)),
            None
        );
    }
}
