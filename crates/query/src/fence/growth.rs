//! How many bytes a function will make of its arguments, before it is called.
//!
//! Owns the list of functions whose outcome grows faster than their arguments, with a bound for each: all others copy what
//! they are given at most a few times. Sizes are summed row by row only where a cheap look at whole columns does not do.

use std::ops::Range;

use datafusion::{
    arrow::{
        array::{Array, AsArray},
        compute::cast,
        datatypes::{DataType, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit},
    },
    common::{Result, ScalarValue},
    logical_expr::{ColumnarValue, ScalarFunctionArgs},
};

use super::{
    MOST_OF_ONE_VALUE,
    outcome::{self, PIECE},
    sizes::{Leaf, weights},
};

/// Most that a value may have by a bound which its true size can be far below.
const MOST_OF_ONE_BOUND: usize = 4 * MOST_OF_ONE_VALUE;
/// How often functions that are not in the list copy their arguments, ...
const COPIES: usize = 3;
/// ... and what they may add to each row: a hash, a number as text.
const ADDED: usize = 64;
/// Seconds of the shortest month.
const MONTH: f64 = 28.0 * DAY;
const DAY: f64 = 86_400.0;

/// How the size of an outcome follows from arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Growth {
    /// `f(…)`: what comes in comes out, some times over.
    Copied,
    /// `repeat(text, n)`
    Times,
    /// `array_repeat(value, n)`
    ElementTimes,
    /// `lpad(text, n, fill)`
    Padded,
    /// `range(from, to, step)`
    Counted,
    /// `array_resize(list, n, value)`
    Resized,
    /// `replace(text, from, to)`
    Replaced,
    /// `regexp_replace(text, pattern, to, flags)`
    Rewritten,
    /// `regexp_match(text, pattern)`: each bracket answers a part of the text
    Matched,
    /// `array_replace(list, from, to)`
    ElementsReplaced,
    /// `array_to_string(list, between, null)`
    ElementsJoined,
}

impl Growth {
    /// How the function of this name grows.
    pub(super) fn of(name: &str) -> Self {
        match name {
            "repeat" => Self::Times,
            "array_repeat" | "list_repeat" => Self::ElementTimes,
            "lpad" | "rpad" => Self::Padded,
            "range" | "generate_series" => Self::Counted,
            "array_resize" | "list_resize" => Self::Resized,
            "replace" => Self::Replaced,
            "regexp_replace" => Self::Rewritten,
            "regexp_match" => Self::Matched,
            "array_replace" | "array_replace_n" | "array_replace_all" | "list_replace"
            | "list_replace_n" | "list_replace_all" => Self::ElementsReplaced,
            "array_to_string" | "list_to_string" | "array_join" | "list_join" => {
                Self::ElementsJoined
            }
            _ => Self::Copied,
        }
    }

    /// Whether the bound is what the outcome will have, but for a few bytes.
    fn is_exact(self) -> bool {
        matches!(
            self,
            Self::Times | Self::ElementTimes | Self::Padded | Self::Counted | Self::Resized
        )
    }

    /// A bound for each row.
    fn bounds(self, args: &[ColumnarValue], rows: usize) -> Result<Vec<usize>> {
        let bytes = |place: usize| weights(args.get(place), rows, Leaf::Bytes);
        let elements = |place: usize| weights(args.get(place), rows, Leaf::Elements);
        let numbers = |place: usize| numbers(args.get(place), rows);
        let each = |bound: &dyn Fn(usize) -> usize| (0..rows).map(bound).collect();
        Ok(match self {
            Self::Copied => {
                let mut sum = vec![0_usize; rows];
                for place in 0..args.len() {
                    for (sum, bytes) in sum.iter_mut().zip(bytes(place)?) {
                        *sum = sum.saturating_add(bytes);
                    }
                }
                sum
            }
            Self::Times => {
                let (one, times) = (bytes(0)?, numbers(1)?);
                each(&|row| one[row].saturating_mul(times[row]))
            }
            Self::ElementTimes => {
                let (one, times) = (bytes(0)?, numbers(1)?);
                // Each element has a place beside its bytes.
                each(&|row| (one[row] + 4).saturating_mul(times[row]))
            }
            Self::Padded => {
                let (own, wanted) = (bytes(0)?, numbers(1)?);
                // Bytes of the widest character: a space where nothing else is said.
                let width = match args.get(2) {
                    None => 1,
                    Some(fill) => text_of(fill).map_or(4, |fill| {
                        fill.chars().map(char::len_utf8).max().unwrap_or(1)
                    }),
                };
                each(&|row| wanted[row].saturating_mul(width).saturating_add(own[row]))
            }
            Self::Counted => return counts(args, rows),
            Self::Resized => {
                let (own, wanted, value) = (bytes(0)?, numbers(1)?, bytes(2)?);
                each(&|row| wanted[row].saturating_mul(value[row].max(8) + 4) + own[row])
            }
            Self::Replaced => {
                let (own, from, to) = (bytes(0)?, bytes(1)?, bytes(2)?);
                each(&|row| {
                    let found = match from[row] {
                        0 => own[row] + 1,
                        from => own[row] / from,
                    };
                    found.saturating_mul(to[row]) + own[row]
                })
            }
            Self::Rewritten => {
                let (own, to) = (bytes(0)?, bytes(2)?);
                let flags = args.get(3).map(text_of);
                let is_global = flags.is_some_and(|flags| flags.is_none_or(|f| f.contains('g')));
                each(&|row| {
                    let found = if is_global { own[row] + 1 } else { 1 };
                    // `\1` stands for a part of the text, and all parts together are not more than the text.
                    let parts = (to[row] / 2).saturating_mul(own[row]);
                    found.saturating_mul(to[row]).saturating_add(parts) + own[row]
                })
            }
            Self::Matched => {
                let (own, pattern) = (bytes(0)?, bytes(1)?);
                let brackets = args.get(1).and_then(text_of);
                let brackets = brackets.map(|pattern| pattern.matches('(').count());
                each(&|row| {
                    let parts = brackets.unwrap_or(pattern[row]) + 1;
                    (own[row] + 16).saturating_mul(parts)
                })
            }
            Self::ElementsReplaced => {
                let (own, elements, to) = (bytes(0)?, elements(0)?, bytes(2)?);
                each(&|row| {
                    elements[row]
                        .saturating_mul(to[row])
                        .saturating_add(own[row])
                })
            }
            Self::ElementsJoined => {
                let (own, elements) = (bytes(0)?, elements(0)?);
                let (between, null) = (bytes(1)?, bytes(2)?);
                each(&|row| {
                    // A number of eight bytes has up to twenty-four as text.
                    elements[row]
                        .saturating_mul(between[row] + null[row])
                        .saturating_add(own[row].saturating_mul(3))
                })
            }
        })
    }
}

/// What is known of an outcome before it is made.
pub(super) enum Bounds {
    /// Not worth a second look.
    Small,
    /// So many bytes.
    Exact(usize),
    /// At most so much that it must be made in pieces of rows.
    Pieces(Vec<Range<usize>>),
}

impl Bounds {
    /// # Errors
    /// When one value would be too large.
    pub(super) fn of(growth: Growth, function: &str, args: &ScalarFunctionArgs) -> Result<Self> {
        let are_constant = args
            .args
            .iter()
            .all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if are_constant { 1 } else { args.number_rows };
        let is_copied = growth == Growth::Copied;
        if is_copied && copied(&args.args, rows) <= PIECE {
            return Ok(Self::Small);
        }
        let bounds = growth.bounds(&args.args, rows)?;
        let largest = bounds.iter().max().copied().unwrap_or(0);
        let makes_numbers = args.return_type().is_primitive() || args.return_type().is_null();
        let most = match growth.is_exact() {
            true => MOST_OF_ONE_VALUE,
            false => MOST_OF_ONE_BOUND,
        };
        if largest > most && !makes_numbers {
            return Err(outcome::too_large(function, largest).into_datafusion());
        }
        let all = bounds.iter().copied().fold(0, usize::saturating_add);
        if growth.is_exact() {
            return Ok(match all {
                small if small <= outcome::SMALL => Self::Small,
                all => Self::Exact(all),
            });
        }
        let times = if is_copied { COPIES } else { 1 };
        if are_constant || !is_copied && all <= PIECE {
            return Ok(Self::Small);
        }
        let mut pieces = Vec::new();
        let (mut begin, mut sum) = (0, 0_usize);
        for (row, bound) in bounds.iter().enumerate() {
            let bound = bound.saturating_mul(times);
            if row > begin && sum.saturating_add(bound) > PIECE {
                pieces.push(begin..row);
                (begin, sum) = (row, 0);
            }
            sum = sum.saturating_add(bound);
        }
        pieces.push(begin..rows);
        // One piece is worth it too: its columns are parts of larger ones.
        Ok(Self::Pieces(pieces))
    }
}

/// What a function that copies will make at most, by the sizes of whole columns.
fn copied(args: &[ColumnarValue], rows: usize) -> usize {
    let bytes = args.iter().map(|argument| match argument {
        ColumnarValue::Array(array) => array.get_array_memory_size(),
        ColumnarValue::Scalar(value) => outcome::size(value).saturating_mul(rows),
    });
    bytes
        .fold(0, usize::saturating_add)
        .saturating_mul(COPIES)
        .saturating_add(rows * ADDED)
}

/// A text that is the same in all rows.
fn text_of(argument: &ColumnarValue) -> Option<String> {
    match argument {
        ColumnarValue::Scalar(value) => Some(value.try_as_str()??.to_owned()),
        ColumnarValue::Array(_) => None,
    }
}

/// Values as numbers, row by row; none and what is below nothing are nothing.
fn numbers(argument: Option<&ColumnarValue>, rows: usize) -> Result<Vec<usize>> {
    Ok(signed(argument, rows, &DataType::Int64)?
        .into_iter()
        .map(|number| usize::try_from(number.unwrap_or(0)).unwrap_or(0))
        .collect())
}

fn signed(
    argument: Option<&ColumnarValue>,
    rows: usize,
    by_way_of: &DataType,
) -> Result<Vec<Option<i64>>> {
    Ok(match argument {
        None => vec![None; rows],
        Some(ColumnarValue::Scalar(value)) => {
            let number = value.cast_to(by_way_of)?.cast_to(&DataType::Int64)?;
            let ScalarValue::Int64(number) = number else {
                return Ok(vec![None; rows]);
            };
            vec![number; rows]
        }
        Some(ColumnarValue::Array(array)) => {
            let numbers = cast(&cast(array, by_way_of)?, &DataType::Int64)?;
            numbers.as_primitive::<Int64Type>().iter().collect()
        }
    })
}

/// Bytes of the lists that `range` and `generate_series` make.
fn counts(args: &[ColumnarValue], rows: usize) -> Result<Vec<usize>> {
    let is_number = |argument: &ColumnarValue| {
        let data_type = argument.data_type();
        data_type.is_numeric() || data_type.is_null()
    };
    let seconds = DataType::Timestamp(TimeUnit::Second, None);
    let by_way_of = match args.first() {
        Some(first) if is_number(first) => DataType::Int64,
        _ => seconds,
    };
    let (from, to) = match args {
        [to] => (None, Some(to)),
        [from, to, ..] => (Some(from), Some(to)),
        [] => (None, None),
    };
    let (from, to) = (
        signed(from, rows, &by_way_of)?,
        signed(to, rows, &by_way_of)?,
    );
    let steps = match args.get(2) {
        None => vec![Some(1.0); rows],
        Some(step) if is_number(step) => signed(Some(step), rows, &DataType::Int64)?
            .into_iter()
            .map(|step| step.map(|step| step as f64))
            .collect(),
        Some(step) => intervals(step, rows)?,
    };
    let bounds = (0..rows).map(|row| {
        let (Some(to), Some(step)) = (to[row], steps[row]) else {
            return 0;
        };
        let way = to as f64 - from[row].unwrap_or(0) as f64;
        match way / step {
            // Nothing lies in that direction, or the step is none and the function says so.
            steps if steps < 0.0 || step == 0.0 => 0,
            steps => (steps as usize).saturating_add(1).saturating_mul(8),
        }
    });
    Ok(bounds.collect())
}

/// Lengths of intervals in seconds, rather too short; zero for none at all.
fn intervals(argument: &ColumnarValue, rows: usize) -> Result<Vec<Option<f64>>> {
    let array = argument.to_array(rows)?;
    let array = cast(&array, &DataType::Interval(IntervalUnit::MonthDayNano))?;
    let intervals = array.as_primitive::<IntervalMonthDayNanoType>();
    let length = intervals.iter().map(|interval| {
        interval.map(|interval| {
            let (months, days) = (f64::from(interval.months), f64::from(interval.days));
            let length = months * MONTH + days * DAY + interval.nanoseconds as f64 / 1e9;
            let is_none = interval.months == 0 && interval.days == 0 && interval.nanoseconds == 0;
            match length {
                // A month less its days: it may stand still.
                0.0 if !is_none => f64::MIN_POSITIVE,
                length => length,
            }
        })
    });
    Ok(length.collect())
}

#[cfg(test)]
mod tests;
