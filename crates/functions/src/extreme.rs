//! `min` and `max` whose answer over doubles does not depend on the order of rows. DataFusion's own keep whichever of a
//! number and a NaN came last, and whichever of the two zeros came first. Owns the order of doubles; everything of other types
//! is DataFusion's.

use std::{
    hash::{Hash, Hasher},
    sync::{Arc, LazyLock},
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray},
        buffer::NullBuffer,
        datatypes::{ArrowNativeTypeOp as _, DataType, FieldRef, Float32Type, Float64Type},
    },
    common::{Result, ScalarValue},
    functions_aggregate::min_max::{max_udaf, min_udaf},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
        ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
};

use crate::{
    double::canonical,
    single_state::{Groups, OneGroup, Rows, States},
};

/// `min(x)`: NULL when there is no value. NaN is one value and the largest double, as in Postgres, so it is the smallest only
/// where there is no other. The two zeros are one value, `0.0`.
pub fn min() -> Arc<AggregateUDF> {
    static MIN: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Extreme::udaf(End::Smallest));
    Arc::clone(&MIN)
}

/// `max(x)`: NULL when there is no value. NaN is one value and the largest double, as in Postgres; the two zeros are one
/// value, `0.0`.
pub fn max() -> Arc<AggregateUDF> {
    static MAX: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Extreme::udaf(End::Largest));
    Arc::clone(&MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Smallest,
    Largest,
}

#[derive(Debug)]
struct Extreme {
    end: End,
    /// DataFusion's function of the same name.
    plain: Arc<AggregateUDF>,
}

impl PartialEq for Extreme {
    fn eq(&self, other: &Self) -> bool {
        self.end == other.end
    }
}

impl Eq for Extreme {}

impl Hash for Extreme {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.end.hash(state);
    }
}

impl Extreme {
    fn udaf(end: End) -> Arc<AggregateUDF> {
        let plain = match end {
            End::Smallest => min_udaf(),
            End::Largest => max_udaf(),
        };
        Arc::new(AggregateUDF::from(Self { end, plain }))
    }

    /// No groups yet; `None` where the type has one order and DataFusion's function is right.
    fn states(&self, data_type: &DataType) -> Option<Box<dyn States>> {
        match data_type {
            DataType::Float32 => Some(Box::new(Extremes::<Float32Type>::new(self.end))),
            DataType::Float64 => Some(Box::new(Extremes::<Float64Type>::new(self.end))),
            _ => None,
        }
    }
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.plain.name()
    }

    fn signature(&self) -> &Signature {
        self.plain.signature()
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.plain.coerce_types(arg_types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.plain.return_type(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.plain.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match self.states(args.return_field.data_type()) {
            Some(states) => Ok(Box::new(OneGroup::new(states))),
            None => self.plain.accumulator(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.plain.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        match self.states(args.return_field.data_type()) {
            Some(states) => Ok(Box::new(Groups::new(states))),
            None => self.plain.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        let moving = self.plain.create_sliding_accumulator(args)?;
        Ok(Box::new(Moving(moving)))
    }

    fn is_descending(&self) -> Option<bool> {
        self.plain.is_descending()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.plain.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.plain.reverse_udf()
    }

    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        // Whoever writes files leaves NaN out of their bounds, or does not.
        match args.return_type {
            DataType::Float16 | DataType::Float32 | DataType::Float64 => None,
            _ => self.plain.value_from_stats(args),
        }
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.plain.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.plain.documentation()
    }
}

/// A floating point type.
trait Real: ArrowPrimitiveType + Send + Sync {
    /// One form of each value: one NaN, which Arrow's order puts last, and one zero.
    fn canonical(value: Self::Native) -> Self::Native;
}

impl Real for Float32Type {
    // Every single is a double too.
    fn canonical(value: f32) -> f32 {
        canonical(value.into()) as f32
    }
}

impl Real for Float64Type {
    fn canonical(value: f64) -> f64 {
        canonical(value)
    }
}

/// The smallest or largest value of all groups; NULL for a group without a value.
struct Extremes<T: Real> {
    end: End,
    values: Vec<T::Native>,
    seen: Vec<bool>,
}

impl<T: Real> Extremes<T> {
    fn new(end: End) -> Self {
        Self {
            end,
            values: Vec::new(),
            seen: Vec::new(),
        }
    }
}

impl<T: Real> States for Extremes<T> {
    fn grow(&mut self, total: usize) {
        self.values.resize(total, T::Native::default());
        self.seen.resize(total, false);
    }

    fn update(&mut self, values: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        rows.for_each_value(values.as_primitive::<T>(), |group, value| {
            let value = T::canonical(value);
            let kept = self.values[group];
            let is_further = match self.end {
                End::Smallest => value.is_lt(kept),
                End::Largest => value.is_gt(kept),
            };
            if is_further || !self.seen[group] {
                self.values[group] = value;
                self.seen[group] = true;
            }
            Ok(())
        })
    }

    fn merge(&mut self, states: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        self.update(states, rows)
    }

    fn emit(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let values = emit_to.take_needed(&mut self.values);
        let seen = NullBuffer::from(emit_to.take_needed(&mut self.seen));
        Ok(Arc::new(PrimitiveArray::<T>::new(
            values.into(),
            Some(seen),
        )))
    }

    fn heap_size(&self) -> usize {
        self.values.capacity() * size_of::<T::Native>() + self.seen.capacity()
    }

    fn fresh(&self) -> Box<dyn States> {
        Box::new(Self::new(self.end))
    }

    fn copied(&self) -> Box<dyn States> {
        Box::new(Self {
            end: self.end,
            values: self.values.clone(),
            seen: self.seen.clone(),
        })
    }
}

/// DataFusion's accumulator of a moving window frame, over one form of each double.
#[derive(Debug)]
struct Moving(Box<dyn Accumulator>);

fn canonical_arrays(arrays: &[ArrayRef]) -> Vec<ArrayRef> {
    let one = |array: &ArrayRef| -> ArrayRef {
        match array.data_type() {
            DataType::Float32 => Arc::new(
                array
                    .as_primitive::<Float32Type>()
                    .unary::<_, Float32Type>(Float32Type::canonical),
            ),
            DataType::Float64 => Arc::new(
                array
                    .as_primitive::<Float64Type>()
                    .unary::<_, Float64Type>(Float64Type::canonical),
            ),
            _ => array.clone(),
        }
    };
    arrays.iter().map(one).collect()
}

impl Accumulator for Moving {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(&canonical_arrays(values))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.retract_batch(&canonical_arrays(values))
    }

    fn supports_retract_batch(&self) -> bool {
        self.0.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(&canonical_arrays(states))
    }
}

#[cfg(test)]
mod tests;
