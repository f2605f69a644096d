//! Sums that never wrap. As in Postgres a sum is wider than what it adds up: of `int` a `bigint`,
//! of `bigint` a `decimal(38,0)`, of decimals the widest decimal, of floats a double. Owns the
//! totals of all groups, which averages use too.

mod distinct;

use std::{
    fmt,
    mem::size_of,
    sync::{Arc, LazyLock},
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, PrimitiveArray},
        buffer::NullBuffer,
        compute::cast,
        datatypes::{
            ArrowPrimitiveType, DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, DecimalType,
            Float64Type, Int64Type,
        },
    },
    common::{Result, ScalarValue, internal_err, plan_err},
    logical_expr::{Accumulator, AggregateUDF, EmitTo},
};

use crate::{
    double::canonical,
    error::FunctionError,
    single_state::{Definition, Rows, SingleState, States},
};

use distinct::DistinctSum;

/// `sum(x)`: NULL when there is no value; an error, never a wrapped number, when the total leaves
/// its type. Narrow integers give `Int64`, `Int64` and `UInt64` a `Decimal128(38, 0)`, decimals
/// `Decimal128(38, s)`, floats `Float64`.
pub fn sum() -> Arc<AggregateUDF> {
    static SUM: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| SingleState::udaf(Sum));
    Arc::clone(&SUM)
}

/// `sum_merge(state)`: adds stored sums and counts up; the same type in and out, NULL passed over,
/// NULL when there was no state.
pub fn sum_merge() -> Arc<AggregateUDF> {
    static SUM_MERGE: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| SingleState::udaf(SumMerge));
    Arc::clone(&SUM_MERGE)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sum;

impl Definition for Sum {
    const NAME: &'static str = "sum";

    fn state_type(input: &DataType) -> Result<DataType> {
        sum_type(Self::NAME, input)
    }

    fn states(input: &DataType) -> Result<Box<dyn States>> {
        sums(Self::NAME, sum_type(Self::NAME, input)?)
    }

    fn distinct_state(input: &DataType) -> Result<DataType> {
        Ok(distinct::state_type(&Self::state_type(input)?))
    }

    fn distinct(input: &DataType) -> Result<Box<dyn Accumulator>> {
        let data_type = Self::state_type(input)?;
        Ok(match data_type {
            DataType::Int64 => Box::new(DistinctSum::<Int64Type>::new(Self::NAME, data_type)),
            DataType::Float64 => Box::new(DistinctSum::<Float64Type>::new(Self::NAME, data_type)),
            _ => Box::new(DistinctSum::<Decimal128Type>::new(Self::NAME, data_type)),
        })
    }

    fn sliding(input: &DataType) -> Result<Box<dyn Accumulator>> {
        let data_type = sum_type(Self::NAME, input)?;
        Ok(match data_type {
            DataType::Int64 => Box::new(MovingSum::<Int64Type>::new(data_type)),
            DataType::Float64 => Box::new(MovingSum::<Float64Type>::new(data_type)),
            _ => Box::new(MovingSum::<Decimal128Type>::new(data_type)),
        })
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SumMerge;

impl Definition for SumMerge {
    const NAME: &'static str = "sum_merge";

    fn state_type(input: &DataType) -> Result<DataType> {
        match input {
            DataType::Int64
            | DataType::Float64
            | DataType::Decimal128(DECIMAL128_MAX_PRECISION, _) => Ok(input.clone()),
            other => plan_err!("{} cannot merge {other}: it is no stored sum", Self::NAME),
        }
    }

    fn states(input: &DataType) -> Result<Box<dyn States>> {
        sums(Self::NAME, Self::state_type(input)?)
    }
}

/// The type of a sum of values of type `input`; always one that [`Total`] is implemented for.
pub(crate) fn sum_type(function: &str, input: &DataType) -> Result<DataType> {
    use DataType::*;
    Ok(match input {
        Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32 | Null => Int64,
        Int64 | UInt64 => Decimal128(DECIMAL128_MAX_PRECISION, 0),
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) => {
            Decimal128(DECIMAL128_MAX_PRECISION, *scale)
        }
        Float16 | Float32 | Float64 => Float64,
        Dictionary(_, value) => return sum_type(function, value),
        other => return plan_err!("{function} cannot add up {other}"),
    })
}

fn sums(function: &'static str, data_type: DataType) -> Result<Box<dyn States>> {
    Ok(match data_type {
        DataType::Int64 => Box::new(Sums::<Int64Type>::new(function, data_type)),
        DataType::Float64 => Box::new(Sums::<Float64Type>::new(function, data_type)),
        _ => Box::new(Sums::<Decimal128Type>::new(function, data_type)),
    })
}

/// A type that totals are kept in.
pub(crate) trait Total: ArrowPrimitiveType + fmt::Debug + Send + Sync {
    /// `None` when the total does not fit.
    fn plus(total: Self::Native, value: Self::Native) -> Option<Self::Native>;
    /// `None` when the total does not fit.
    fn minus(total: Self::Native, value: Self::Native) -> Option<Self::Native>;
    /// Whether a column of the total's type can hold it.
    fn fits(total: Self::Native) -> bool;
    /// A whole number as a total without decimal places.
    fn whole(value: i64) -> Self::Native;
    /// Equal values have equal keys.
    fn key(value: Self::Native) -> u128;
    /// The value of a key.
    fn value(key: u128) -> Self::Native;
}

impl Total for Int64Type {
    fn plus(total: i64, value: i64) -> Option<i64> {
        total.checked_add(value)
    }

    fn minus(total: i64, value: i64) -> Option<i64> {
        total.checked_sub(value)
    }

    fn fits(_: i64) -> bool {
        true
    }

    fn whole(value: i64) -> i64 {
        value
    }

    fn key(value: i64) -> u128 {
        value as u128
    }

    fn value(key: u128) -> i64 {
        key as i64
    }
}

impl Total for Decimal128Type {
    fn plus(total: i128, value: i128) -> Option<i128> {
        total.checked_add(value)
    }

    fn minus(total: i128, value: i128) -> Option<i128> {
        total.checked_sub(value)
    }

    // The 128 bits reach a little further than 38 digits; what a column cannot hold is refused
    // when it is emitted.
    fn fits(total: i128) -> bool {
        Self::is_valid_decimal_precision(total, DECIMAL128_MAX_PRECISION)
    }

    fn whole(value: i64) -> i128 {
        value.into()
    }

    fn key(value: i128) -> u128 {
        value as u128
    }

    fn value(key: u128) -> i128 {
        key as i128
    }
}

impl Total for Float64Type {
    fn plus(total: f64, value: f64) -> Option<f64> {
        Some(total + value)
    }

    fn minus(total: f64, value: f64) -> Option<f64> {
        Some(total - value)
    }

    fn fits(_: f64) -> bool {
        true
    }

    fn whole(value: i64) -> f64 {
        value as f64
    }

    fn key(value: f64) -> u128 {
        canonical(value).to_bits().into()
    }

    fn value(key: u128) -> f64 {
        f64::from_bits(key as u64)
    }
}

/// The totals of all groups; NULL for a group without a value.
pub(crate) struct Sums<T: Total> {
    function: &'static str,
    data_type: DataType,
    totals: Vec<T::Native>,
    seen: Vec<bool>,
}

// Derived, it would ask for a `T` that can be cloned.
impl<T: Total> Clone for Sums<T> {
    fn clone(&self) -> Self {
        Self {
            function: self.function,
            data_type: self.data_type.clone(),
            totals: self.totals.clone(),
            seen: self.seen.clone(),
        }
    }
}

impl<T: Total> Sums<T> {
    pub(crate) fn new(function: &'static str, data_type: DataType) -> Self {
        Self {
            function,
            data_type,
            totals: Vec::new(),
            seen: Vec::new(),
        }
    }

    pub(crate) fn fresh(&self) -> Self {
        Self::new(self.function, self.data_type.clone())
    }

    pub(crate) fn grow(&mut self, total: usize) {
        self.totals.resize(total, T::Native::default());
        self.seen.resize(total, false);
    }

    #[inline]
    pub(crate) fn add(&mut self, group: usize, value: T::Native) -> Result<()> {
        let Some(total) = T::plus(self.totals[group], value) else {
            return Err(overflow(self.function, &self.data_type));
        };
        self.totals[group] = total;
        self.seen[group] = true;
        Ok(())
    }

    pub(crate) fn emit(&mut self, emit_to: EmitTo) -> Result<PrimitiveArray<T>> {
        let totals = emit_to.take_needed(&mut self.totals);
        let seen = NullBuffer::from(emit_to.take_needed(&mut self.seen));
        if !totals.iter().all(|&total| T::fits(total)) {
            return Err(overflow(self.function, &self.data_type));
        }
        let array = PrimitiveArray::<T>::new(totals.into(), Some(seen));
        Ok(array.with_data_type(self.data_type.clone()))
    }

    pub(crate) fn heap_size(&self) -> usize {
        self.totals.capacity() * size_of::<T::Native>() + self.seen.capacity()
    }
}

impl<T: Total> States for Sums<T> {
    fn grow(&mut self, total: usize) {
        self.grow(total);
    }

    fn update(&mut self, values: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        let data_type = self.data_type.clone();
        for_each_widened::<T>(values, &data_type, rows, |group, value| {
            self.add(group, value)
        })
    }

    fn merge(&mut self, states: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        self.update(states, rows)
    }

    fn emit(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(Arc::new(self.emit(emit_to)?))
    }

    fn heap_size(&self) -> usize {
        self.heap_size()
    }

    fn fresh(&self) -> Box<dyn States> {
        Box::new(self.fresh())
    }

    fn copied(&self) -> Box<dyn States> {
        Box::new(self.clone())
    }
}

/// Calls `fold` with the group of each selected row and its value as `T`, which is at least as wide; without copying where
/// values are that already, or whole numbers that one step widens.
#[inline]
pub(crate) fn for_each_widened<T: Total>(
    values: &ArrayRef,
    data_type: &DataType,
    rows: &Rows<'_>,
    mut fold: impl FnMut(usize, T::Native) -> Result<()>,
) -> Result<()> {
    if let DataType::Decimal128(_, 0) = data_type
        && let Some(whole) = values.as_primitive_opt::<Int64Type>()
    {
        return rows.for_each_value(whole, |group, value| fold(group, T::whole(value)));
    }
    rows.for_each_value(&widen::<T>(values, data_type)?, fold)
}

/// The values as `T`, which is at least as wide; without copying where they are that already.
pub(crate) fn widen<T: Total>(
    values: &ArrayRef,
    data_type: &DataType,
) -> Result<PrimitiveArray<T>> {
    let widened = match values.as_primitive_opt::<T>() {
        Some(same) => return Ok(same.clone()),
        None => cast(values, data_type)?,
    };
    match widened.as_primitive_opt::<T>() {
        Some(widened) => Ok(widened.clone()),
        None => internal_err!("{} is no total of {}", data_type, values.data_type()),
    }
}

pub(crate) fn overflow(
    function: &'static str,
    data_type: &DataType,
) -> datafusion::error::DataFusionError {
    FunctionError::Overflow {
        function,
        data_type: data_type.clone(),
    }
    .into()
}

/// A sum over a moving window frame.
struct MovingSum<T: Total> {
    data_type: DataType,
    total: T::Native,
    values: usize,
}

impl<T: Total> MovingSum<T> {
    fn new(data_type: DataType) -> Self {
        Self {
            data_type,
            total: T::Native::default(),
            values: 0,
        }
    }

    fn fold(
        &mut self,
        values: &[ArrayRef],
        step: fn(T::Native, T::Native) -> Option<T::Native>,
    ) -> Result<usize> {
        let values = widen::<T>(&values[0], &self.data_type)?;
        for value in values.iter().flatten() {
            self.total =
                step(self.total, value).ok_or_else(|| overflow(Sum::NAME, &self.data_type))?;
        }
        Ok(values.len() - values.null_count())
    }
}

impl<T: Total> fmt::Debug for MovingSum<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MovingSum")
            .field("total", &self.total)
            .field("values", &self.values)
            .finish()
    }
}

impl<T: Total> Accumulator for MovingSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values += self.fold(values, T::plus)?;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values -= self.fold(values, T::minus)?;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if !T::fits(self.total) {
            return Err(overflow(Sum::NAME, &self.data_type));
        }
        let total = (self.values > 0).then_some(self.total);
        ScalarValue::new_primitive::<T>(total, &self.data_type)
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

#[cfg(test)]
mod tests;
