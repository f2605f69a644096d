//! Averages as a sum and a count, which merge, and the division at the end. Owns the state's
//! layout and the rounding; the totals are those of `sum`.

use std::{
    mem::size_of,
    sync::{Arc, LazyLock},
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, StructArray},
        buffer::NullBuffer,
        compute::cast,
        datatypes::{
            DECIMAL128_MAX_PRECISION, DECIMAL128_MAX_SCALE, DataType, Decimal128Type, Field,
            Fields, Float64Type, Int64Type,
        },
    },
    common::{Result, internal_err, plan_err},
    logical_expr::{AggregateUDF, EmitTo, ScalarUDF},
};

use crate::{
    scalar::{self, Scalar},
    single_state::{Definition, Rows, SingleState, States},
    sum::{Sums, Total, for_each_widened, overflow, sum_type},
};

/// Digits that an average of decimals has more than its values, as far as 38 digits allow.
const EXTRA_DIGITS: i8 = 4;

/// `avg_state(x)`: `struct<sum, count>`; the sum is that of `sum(x)`, the count of values never
/// NULL. Without a value the count is 0.
pub fn avg_state() -> Arc<AggregateUDF> {
    static AVG_STATE: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| SingleState::udaf(AvgState));
    Arc::clone(&AVG_STATE)
}

/// `avg_merge(state)`: adds stored averages up; NULL passed over, NULL when there was no state.
pub fn avg_merge() -> Arc<AggregateUDF> {
    static AVG_MERGE: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| SingleState::udaf(AvgMerge));
    Arc::clone(&AVG_MERGE)
}

/// `avg_finish(state)`: the average, of [`average_type`]; decimals are rounded half away from
/// zero. NULL when there was no value.
pub fn avg_finish() -> Arc<ScalarUDF> {
    static AVG_FINISH: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Scalar::udf(AvgFinish));
    Arc::clone(&AVG_FINISH)
}

/// The type of the average that a state of type `state` gives: for decimals with a fraction a
/// decimal of up to four more digits, else `Float64`. (The sum of `bigint` and of `decimal(p,0)`
/// have one type, so both give a double.)
pub fn average_type(state: &DataType) -> DataType {
    match sum_field(state) {
        Some(&DataType::Decimal128(_, scale)) if scale != 0 => DataType::Decimal128(
            DECIMAL128_MAX_PRECISION,
            (scale + EXTRA_DIGITS).min(DECIMAL128_MAX_SCALE),
        ),
        _ => DataType::Float64,
    }
}

fn sum_field(state: &DataType) -> Option<&DataType> {
    match state {
        DataType::Struct(fields) => match fields.as_ref() {
            [sum, count] if count.data_type() == &DataType::Int64 => Some(sum.data_type()),
            _ => None,
        },
        _ => None,
    }
}

fn check_state(function: &str, state: &DataType) -> Result<DataType> {
    match sum_field(state) {
        Some(
            DataType::Int64 | DataType::Float64 | DataType::Decimal128(DECIMAL128_MAX_PRECISION, _),
        ) => Ok(state.clone()),
        _ => plan_err!("{function} takes the state of an average, not {state}"),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AvgState;

impl Definition for AvgState {
    const NAME: &'static str = "avg_state";

    fn state_type(input: &DataType) -> Result<DataType> {
        let sum = sum_type(Self::NAME, input)?;
        Ok(DataType::Struct(Fields::from(vec![
            Field::new("sum", sum, true),
            Field::new("count", DataType::Int64, false),
        ])))
    }

    fn states(input: &DataType) -> Result<Box<dyn States>> {
        averages(Self::NAME, &Self::state_type(input)?, Untouched::Empty)
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AvgMerge;

impl Definition for AvgMerge {
    const NAME: &'static str = "avg_merge";

    fn state_type(input: &DataType) -> Result<DataType> {
        check_state(Self::NAME, input)
    }

    fn states(input: &DataType) -> Result<Box<dyn States>> {
        averages(Self::NAME, input, Untouched::Null)
    }
}

/// What a group gives that no value or state ever reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Untouched {
    /// The state of no value.
    Empty,
    /// NULL: nothing is known of it.
    Null,
}

fn averages(
    function: &'static str,
    state: &DataType,
    untouched: Untouched,
) -> Result<Box<dyn States>> {
    let (DataType::Struct(fields), Some(sum)) = (state, sum_field(state)) else {
        return internal_err!("{function} keeps no {state}");
    };
    let (fields, sum) = (fields.clone(), sum.clone());
    Ok(match sum {
        DataType::Int64 => Box::new(Averages::<Int64Type>::new(function, fields, sum, untouched)),
        DataType::Float64 => Box::new(Averages::<Float64Type>::new(
            function, fields, sum, untouched,
        )),
        _ => Box::new(Averages::<Decimal128Type>::new(
            function, fields, sum, untouched,
        )),
    })
}

/// Sum and count of all groups.
struct Averages<T: Total> {
    function: &'static str,
    fields: Fields,
    sum_type: DataType,
    untouched: Untouched,
    sums: Sums<T>,
    counts: Vec<i64>,
    touched: Vec<bool>,
}

impl<T: Total> Averages<T> {
    fn new(
        function: &'static str,
        fields: Fields,
        sum_type: DataType,
        untouched: Untouched,
    ) -> Self {
        Self {
            function,
            fields,
            sums: Sums::new(function, sum_type.clone()),
            sum_type,
            untouched,
            counts: Vec::new(),
            touched: Vec::new(),
        }
    }
}

impl<T: Total> States for Averages<T> {
    fn grow(&mut self, total: usize) {
        self.sums.grow(total);
        self.counts.resize(total, 0);
        self.touched.resize(total, false);
    }

    fn update(&mut self, values: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        if self.untouched == Untouched::Null {
            return self.merge(values, rows);
        }
        let sum_type = self.sum_type.clone();
        for_each_widened::<T>(values, &sum_type, rows, |group, value| {
            self.counts[group] += 1;
            self.touched[group] = true;
            self.sums.add(group, value)
        })
    }

    fn merge(&mut self, states: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        let Some((sums, counts)) = parts::<T>(states) else {
            return internal_err!("{} cannot merge {}", self.function, states.data_type());
        };
        rows.for_each(|row, group| {
            self.touched[group] = true;
            if sums.is_valid(row) {
                self.sums.add(group, sums.value(row))?;
            }
            if counts.is_valid(row) {
                self.counts[group] = self.counts[group]
                    .checked_add(counts.value(row))
                    .ok_or_else(|| overflow(self.function, &DataType::Int64))?;
            }
            Ok(())
        })
    }

    fn emit(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.sums.emit(emit_to)?;
        let counts = Int64Array::from(emit_to.take_needed(&mut self.counts));
        let touched = emit_to.take_needed(&mut self.touched);
        let nulls = (self.untouched == Untouched::Null).then(|| NullBuffer::from(touched));
        Ok(Arc::new(StructArray::try_new(
            self.fields.clone(),
            vec![Arc::new(sums), Arc::new(counts)],
            nulls,
        )?))
    }

    fn heap_size(&self) -> usize {
        self.sums.heap_size() + self.counts.capacity() * size_of::<i64>() + self.touched.capacity()
    }

    fn fresh(&self) -> Box<dyn States> {
        Box::new(Self::new(
            self.function,
            self.fields.clone(),
            self.sum_type.clone(),
            self.untouched,
        ))
    }

    fn copied(&self) -> Box<dyn States> {
        Box::new(Self {
            sums: self.sums.clone(),
            counts: self.counts.clone(),
            touched: self.touched.clone(),
            fields: self.fields.clone(),
            sum_type: self.sum_type.clone(),
            ..*self
        })
    }
}

/// The sums and the counts of a column of states.
fn parts<T: Total>(
    states: &ArrayRef,
) -> Option<(&datafusion::arrow::array::PrimitiveArray<T>, &Int64Array)> {
    let [sums, counts] = states.as_struct_opt()?.columns() else {
        return None;
    };
    Some((sums.as_primitive_opt()?, counts.as_primitive_opt()?))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AvgFinish;

impl scalar::Definition for AvgFinish {
    const NAME: &'static str = "avg_finish";

    fn coerce(arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [state] => Ok(vec![check_state(Self::NAME, state)?]),
            _ => plan_err!("{} takes one argument", Self::NAME),
        }
    }

    fn result_type(arguments: &[DataType]) -> Result<DataType> {
        Ok(average_type(&check_state(Self::NAME, &arguments[0])?))
    }

    fn call(arguments: &[ArrayRef]) -> Result<ArrayRef> {
        let states = &arguments[0];
        let result = average_type(states.data_type());
        if let DataType::Decimal128(_, digits) = result {
            return decimal_averages(states, digits);
        }
        let (Some(DataType::Float64 | DataType::Int64 | DataType::Decimal128(_, 0)), Some(parts)) =
            (sum_field(states.data_type()), states.as_struct_opt())
        else {
            return internal_err!("{} got {}", Self::NAME, states.data_type());
        };
        let counts = parts.column(1).as_primitive::<Int64Type>();
        let sums = as_doubles(parts.column(0))?;
        let averages = (0..states.len()).map(|row| {
            let known = states.is_valid(row) && sums.is_valid(row) && counts.is_valid(row);
            (known && counts.value(row) > 0).then(|| sums.value(row) / counts.value(row) as f64)
        });
        Ok(Arc::new(averages.collect::<Float64Array>()))
    }
}

fn as_doubles(sums: &ArrayRef) -> Result<Float64Array> {
    if let Some(sums) = sums.as_primitive_opt::<Decimal128Type>() {
        return Ok(sums.unary(|sum| sum as f64));
    }
    Ok(cast(sums, &DataType::Float64)?
        .as_primitive::<Float64Type>()
        .clone())
}

fn decimal_averages(states: &ArrayRef, digits: i8) -> Result<ArrayRef> {
    let Some((sums, counts)) = parts::<Decimal128Type>(states) else {
        return internal_err!("an average of {}", states.data_type());
    };
    // Digits grow by at most four, so the power cannot overflow.
    let factor = 10_i128.pow(u32::from((digits - sums.scale()).unsigned_abs()));
    let result = DataType::Decimal128(DECIMAL128_MAX_PRECISION, digits);
    let averages = (0..states.len())
        .map(|row| {
            let known = states.is_valid(row) && sums.is_valid(row) && counts.is_valid(row);
            if !known || counts.value(row) <= 0 {
                return Ok(None);
            }
            divide(sums.value(row), counts.value(row), factor)
                .filter(|&average| Decimal128Type::fits(average))
                .map(Some)
                .ok_or_else(|| overflow(<AvgFinish as scalar::Definition>::NAME, &result))
        })
        .collect::<Result<Decimal128Array>>()?;
    Ok(Arc::new(averages.with_data_type(result.clone())))
}

/// `sum * factor / count`, rounded half away from zero; `None` when it does not fit.
fn divide(sum: i128, count: i64, factor: i128) -> Option<i128> {
    let count = i128::from(count);
    let whole = (sum / count).checked_mul(factor)?;
    // The rest is below 2^63 and the factor at most 10^4, so these products fit.
    let rest = (sum % count) * factor;
    let mut fraction = rest / count;
    if (rest % count).abs() * 2 >= count {
        fraction += rest.signum();
    }
    whole.checked_add(fraction)
}

#[cfg(test)]
mod tests;
