//! Quantiles by DDSketch: relative error 1 %, and merging is exact in any order. Owns the three
//! functions; the sketch is in `ddsketch/sketch.rs`, its bytes in `ddsketch/codec.rs`.

mod bins;
mod codec;
mod sketch;

use std::{
    mem::size_of,
    sync::{Arc, LazyLock},
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Float64Array},
        datatypes::{DataType, Float64Type},
    },
    common::{Result, plan_err},
    logical_expr::{AggregateUDF, EmitTo, ScalarUDF},
};

use crate::{
    error::FunctionError,
    scalar::{self, Scalar},
    single_state::{Definition, Rows, SingleState, States, binary_array},
    sum::widen,
};

use sketch::Sketch;

/// `ddsketch_agg(x)`: a sketch of the distribution of the values, as bytes. NULL and values that
/// are not finite are passed over; without a value it is the empty sketch. The bytes end in a
/// floating sum for other readers, so equal distributions have equal answers, not always equal
/// bytes.
pub fn ddsketch_agg() -> Arc<AggregateUDF> {
    static DDSKETCH_AGG: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| SingleState::udaf(SketchAgg));
    Arc::clone(&DDSKETCH_AGG)
}

/// `ddsketch_merge(sketch)`: the sketch of all values of all sketches; NULL passed over, NULL when
/// there was no sketch.
pub fn ddsketch_merge() -> Arc<AggregateUDF> {
    static DDSKETCH_MERGE: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| SingleState::udaf(SketchMerge));
    Arc::clone(&DDSKETCH_MERGE)
}

/// `ddsketch_quantile(sketch, rank)`: the element ⌊rank · (n − 1)⌋ of the sorted values, within 1 %;
/// exact for ranks 0 and 1. NULL when the sketch is empty. Values of less than 1e-9 count as zero,
/// and where the values of one sign spread over more than 17 decimal places, the smallest of them
/// (nearest to zero) lose the promise of 1 %.
pub fn ddsketch_quantile() -> Arc<ScalarUDF> {
    static DDSKETCH_QUANTILE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Scalar::udf(Quantile));
    Arc::clone(&DDSKETCH_QUANTILE)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SketchAgg;

impl Definition for SketchAgg {
    const NAME: &'static str = "ddsketch_agg";

    fn state_type(input: &DataType) -> Result<DataType> {
        match input {
            DataType::Null
            | DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => Ok(DataType::Binary),
            DataType::Dictionary(_, value) => Self::state_type(value),
            number if number.is_integer() || number.is_floating() => Ok(DataType::Binary),
            other => plan_err!("{} takes numbers, not {other}", Self::NAME),
        }
    }

    fn states(_: &DataType) -> Result<Box<dyn States>> {
        Ok(Box::new(Sketches::new(Self::NAME, Input::Values)))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SketchMerge;

impl Definition for SketchMerge {
    const NAME: &'static str = "ddsketch_merge";

    fn state_type(input: &DataType) -> Result<DataType> {
        match input {
            DataType::Null | DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                Ok(DataType::Binary)
            }
            other => plan_err!("{} takes sketches as binary, not {other}", Self::NAME),
        }
    }

    fn states(_: &DataType) -> Result<Box<dyn States>> {
        Ok(Box::new(Sketches::new(Self::NAME, Input::Sketches)))
    }
}

/// What an aggregate is fed with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// Numbers; a group without any is an empty sketch.
    Values,
    /// Sketches; a group without any is NULL.
    Sketches,
}

/// One sketch a group.
#[derive(Clone)]
struct Sketches {
    function: &'static str,
    input: Input,
    sketches: Vec<Sketch>,
    /// Whether any sketch came; only a merge asks.
    touched: Vec<bool>,
    /// The bytes behind all sketches.
    bins: usize,
}

impl Sketches {
    fn new(function: &'static str, input: Input) -> Self {
        Self {
            function,
            input,
            sketches: Vec::new(),
            touched: Vec::new(),
            bins: 0,
        }
    }

    #[inline]
    fn change<R>(&mut self, group: usize, change: impl FnOnce(&mut Sketch) -> R) -> R {
        let sketch = &mut self.sketches[group];
        let before = sketch.heap_size();
        let result = change(sketch);
        self.bins = self.bins + sketch.heap_size() - before;
        self.touched[group] = true;
        result
    }
}

impl States for Sketches {
    fn grow(&mut self, total: usize) {
        self.sketches.resize_with(total, Sketch::default);
        self.touched.resize(total, false);
    }

    fn update(&mut self, values: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        if self.input == Input::Sketches {
            return self.merge(values, rows);
        }
        let values = widen::<Float64Type>(values, &DataType::Float64)?;
        rows.for_each_value(&values, |group, value| {
            if value.is_finite() {
                // What is fed with values has no use for `touched`.
                let grown = self.sketches[group].add(value);
                self.bins = self.bins.wrapping_add_signed(grown);
            }
            Ok(())
        })
    }

    fn merge(&mut self, states: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        if states.data_type() == &DataType::Null {
            return Ok(());
        }
        rows.for_each_bytes(states, |group, bytes| {
            let other = codec::read(bytes)?;
            Ok(self.change(group, |sketch| sketch.merge(&other))?)
        })
    }

    fn emit(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sketches = emit_to.take_needed(&mut self.sketches);
        let touched = emit_to.take_needed(&mut self.touched);
        self.bins -= sketches.iter().map(Sketch::heap_size).sum::<usize>();
        let states = sketches.iter().zip(touched).map(|(sketch, touched)| {
            (touched || self.input == Input::Values).then(|| codec::write(sketch))
        });
        binary_array(self.function, states)
    }

    fn heap_size(&self) -> usize {
        self.sketches.capacity() * size_of::<Sketch>() + self.touched.capacity() + self.bins
    }

    fn fresh(&self) -> Box<dyn States> {
        Box::new(Self::new(self.function, self.input))
    }

    fn copied(&self) -> Box<dyn States> {
        let mut copy = self.clone();
        // A copied vector may have less capacity than its original.
        copy.bins = copy.sketches.iter().map(Sketch::heap_size).sum();
        Box::new(copy)
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Quantile;

impl scalar::Definition for Quantile {
    const NAME: &'static str = "ddsketch_quantile";

    fn coerce(arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [sketch, rank] if rank.is_numeric() || rank.is_null() => {
                Ok(vec![SketchMerge::state_type(sketch)?, DataType::Float64])
            }
            _ => plan_err!("{} takes a sketch and a rank between 0 and 1", Self::NAME),
        }
    }

    fn result_type(_: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn call(arguments: &[ArrayRef]) -> Result<ArrayRef> {
        let sketches = arguments[0].as_binary::<i32>();
        let ranks = arguments[1].as_primitive::<Float64Type>();
        let quantiles = sketches.iter().zip(ranks).map(|pair| {
            let (Some(bytes), Some(rank)) = pair else {
                return Ok(None);
            };
            if !(0.0..=1.0).contains(&rank) {
                return Err(FunctionError::Rank(rank).into());
            }
            Ok(codec::read(bytes)?.quantile(rank))
        });
        Ok(Arc::new(quantiles.collect::<Result<Float64Array>>()?))
    }
}

#[cfg(test)]
mod tests;
