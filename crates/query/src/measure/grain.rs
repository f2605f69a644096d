//! Which stretches of time a table's windows can be put together to.
//!
//! Owns the refusal of bins that are finer than the windows, or that cut them, as far as their length stands in the query. Does not
//! own what is merged ([`crate::measure`]).

use std::time::Duration;

use alluvium_plan::{TableShape, shown};
use datafusion::{
    arrow::datatypes::{DataType, IntervalUnit},
    common::{
        Result, ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, expr::ScalarFunction},
};

use super::refuse;
use crate::finals::FinalTable;

const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400 * SECOND;

/// Looks at one expression of a GROUP BY, over columns of the table's panes.
pub(super) fn refuse_finer(group: &Expr, table: &FinalTable) -> Result<()> {
    let Some(window) = table.window() else {
        return Ok(());
    };
    group.apply(|part| {
        if let Expr::ScalarFunction(function) = part
            && function.args.iter().skip(1).any(names_window)
            && let Some(bin) = bin(function)
        {
            judge(bin, window, table.name())?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// A stretch of time, in microseconds.
#[derive(Clone, Copy)]
enum Bin {
    Of(u64),
    /// Months differ; none is shorter than this.
    AtLeast(u64),
}

fn judge(bin: Bin, window: Duration, table: &str) -> Result<()> {
    let stored = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
    let (Bin::Of(length) | Bin::AtLeast(length)) = bin;
    let hint = format!("use whole multiples of {}", shown(window));
    if length < stored {
        let bin = shown(Duration::from_micros(length));
        let text = format!(
            "measure() cannot be finer than what is stored: {table} has windows of {}, and this is grouped by {bin}",
            shown(window)
        );
        return Err(refuse(text, hint));
    }
    if let Bin::Of(length) = bin
        && !length.is_multiple_of(stored)
    {
        let bin = shown(Duration::from_micros(length));
        let text = format!(
            "measure() cannot divide a window: {table} has windows of {}, and bins of {bin} cut them",
            shown(window)
        );
        return Err(refuse(text, hint));
    }
    Ok(())
}

fn names_window(expr: &Expr) -> bool {
    expr.column_refs().iter().any(|column| {
        [TableShape::WINDOW_START, TableShape::WINDOW_END].contains(&column.name.as_str())
    })
}

/// How long the stretches are that a function puts moments into; `None` where it does not, or where that is not written.
fn bin(function: &ScalarFunction) -> Option<Bin> {
    let first = literal(function.args.first()?)?;
    match function.name() {
        "date_bin" => interval(first),
        "date_trunc" => match first {
            ScalarValue::Utf8(Some(unit))
            | ScalarValue::LargeUtf8(Some(unit))
            | ScalarValue::Utf8View(Some(unit)) => truncated(&unit.to_ascii_lowercase()),
            _ => None,
        },
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        Expr::Cast(cast) => literal(&cast.expr)?.cast_to(cast.field.data_type()).ok(),
        Expr::Alias(alias) => literal(&alias.expr),
        _ => None,
    }
}

fn interval(written: ScalarValue) -> Option<Bin> {
    let wanted = DataType::Interval(IntervalUnit::MonthDayNano);
    let ScalarValue::IntervalMonthDayNano(Some(interval)) = written.cast_to(&wanted).ok()? else {
        return None;
    };
    let rest =
        i128::from(interval.days) * i128::from(DAY) + i128::from(interval.nanoseconds) / 1_000;
    match (u64::try_from(interval.months), u64::try_from(rest)) {
        (Ok(0), Ok(micros)) => Some(Bin::Of(micros)),
        (Ok(months), Ok(micros)) => Some(Bin::AtLeast(months * 28 * DAY + micros)),
        // What is negative is refused by the function itself.
        _ => None,
    }
}

fn truncated(unit: &str) -> Option<Bin> {
    Some(match unit {
        "microsecond" => Bin::Of(1),
        "millisecond" => Bin::Of(1_000),
        "second" => Bin::Of(SECOND),
        "minute" => Bin::Of(60 * SECOND),
        "hour" => Bin::Of(3_600 * SECOND),
        "day" => Bin::Of(DAY),
        "week" => Bin::Of(7 * DAY),
        "month" => Bin::AtLeast(28 * DAY),
        "quarter" => Bin::AtLeast(90 * DAY),
        "year" => Bin::AtLeast(365 * DAY),
        _ => return None,
    })
}
