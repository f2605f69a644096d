//! Counts of distinct values by Apache DataSketches HLL sketches (HLL8, lgK 12), under Spark's
//! function names. Owns how values of each type are hashed, so that other engines' sketches of the
//! same values merge with ours. The bytes are those of the DataSketches family, in the one form
//! that `hll/codec.rs` writes; the sketch itself is the crate's, what a group holds is in `hll/group.rs`.

mod codec;
mod group;

use std::{
    hash::Hash,
    mem::size_of,
    sync::{Arc, LazyLock},
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BinaryBuilder, Int64Array},
        compute::cast,
        datatypes::{
            ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type,
            Decimal128Type, DurationMicrosecondType, DurationMillisecondType,
            DurationNanosecondType, DurationSecondType, Float64Type, Int8Type, Int16Type,
            Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
            Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
            TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
            UInt64Type,
        },
    },
    common::{Result, plan_err},
    logical_expr::{AggregateUDF, EmitTo, ScalarUDF},
};
use datasketches::hash::value::{canonical_float, raw_bytes};

use crate::{
    scalar::{self, Scalar},
    single_state::{Definition, Rows, SingleState, States, binary_array},
};
use group::Group;

/// `hll_sketch_agg(x)`: a sketch of the distinct values, as bytes; NULL and empty strings are
/// passed over, as in every DataSketches library. Without a value it is the empty sketch. The same
/// set of values gives the same bytes, however it was split.
pub fn hll_sketch_agg() -> Arc<AggregateUDF> {
    static HLL_SKETCH_AGG: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| SingleState::udaf(SketchAgg));
    Arc::clone(&HLL_SKETCH_AGG)
}

/// `hll_union_agg(sketch)`: the sketch of all values of all sketches; NULL passed over, NULL when
/// there was no sketch.
pub fn hll_union_agg() -> Arc<AggregateUDF> {
    static HLL_UNION_AGG: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| SingleState::udaf(UnionAgg));
    Arc::clone(&HLL_UNION_AGG)
}

/// `hll_union(sketch, sketch)`: both together; NULL when either is.
pub fn hll_union() -> Arc<ScalarUDF> {
    static HLL_UNION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Scalar::udf(Union));
    Arc::clone(&HLL_UNION)
}

/// `hll_sketch_estimate(sketch)`: the estimated number of distinct values. It depends on the set of
/// values only, never on order or split.
pub fn hll_sketch_estimate() -> Arc<ScalarUDF> {
    static HLL_SKETCH_ESTIMATE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Scalar::udf(Estimate));
    Arc::clone(&HLL_SKETCH_ESTIMATE)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SketchAgg;

impl Definition for SketchAgg {
    const NAME: &'static str = "hll_sketch_agg";
    const IDEMPOTENT: bool = true;

    fn state_type(input: &DataType) -> Result<DataType> {
        use DataType::*;
        match input {
            Null | Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64
            | Float16 | Float32 | Float64 | Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary
            | BinaryView | FixedSizeBinary(_) | Date32 | Date64 | Timestamp(..) | Time32(_)
            | Time64(_) | Duration(_) | Decimal32(..) | Decimal64(..) | Decimal128(..) => {
                Ok(Binary)
            }
            Dictionary(_, value) => Self::state_type(value),
            other => plan_err!("{} cannot hash {other}", Self::NAME),
        }
    }

    fn states(_: &DataType) -> Result<Box<dyn States>> {
        Ok(Box::new(Sketches::new(Self::NAME)))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct UnionAgg;

impl Definition for UnionAgg {
    const NAME: &'static str = "hll_union_agg";
    const IDEMPOTENT: bool = true;

    fn state_type(input: &DataType) -> Result<DataType> {
        match input {
            DataType::Null | DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                Ok(DataType::Binary)
            }
            other => plan_err!("{} takes sketches as binary, not {other}", Self::NAME),
        }
    }

    fn states(_: &DataType) -> Result<Box<dyn States>> {
        Ok(Box::new(Unions(Sketches::new(Self::NAME))))
    }
}

/// One sketch a group: takes values as well as sketches.
#[derive(Clone)]
struct Sketches {
    function: &'static str,
    groups: Vec<Group>,
    /// The bytes behind all groups, which start small and grow to 4 KiB each.
    heap: usize,
}

impl Sketches {
    fn new(function: &'static str) -> Self {
        Self {
            function,
            groups: Vec::new(),
            heap: 0,
        }
    }

    #[inline]
    fn add(&mut self, group: usize, value: impl Hash) {
        let grown = self.groups[group].add(value);
        self.heap = self.heap.wrapping_add_signed(grown);
    }

    fn add_bytes(&mut self, group: usize, bytes: &[u8]) {
        // Java and C++ pass empty strings over.
        if !bytes.is_empty() {
            self.add(group, raw_bytes::from_slice(bytes));
        }
    }

    fn add_integers<T>(&mut self, values: &ArrayRef, rows: &Rows<'_>) -> Result<()>
    where
        T: ArrowPrimitiveType,
        T::Native: Into<i64>,
    {
        rows.for_each_value(values.as_primitive::<T>(), |group, value| {
            let value: i64 = value.into();
            self.add(group, value);
            Ok(())
        })
    }

    fn add_decimals<T>(&mut self, values: &ArrayRef, rows: &Rows<'_>) -> Result<()>
    where
        T: ArrowPrimitiveType,
        T::Native: Into<i128>,
    {
        rows.for_each_value(values.as_primitive::<T>(), |group, value| {
            let value: i128 = value.into();
            self.add_bytes(group, &value.to_le_bytes());
            Ok(())
        })
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Group> {
        let groups = emit_to.take_needed(&mut self.groups);
        self.heap -= groups.iter().map(Group::heap_size).sum::<usize>();
        groups
    }
}

impl States for Sketches {
    fn grow(&mut self, total: usize) {
        self.groups.resize_with(total, Group::default);
    }

    fn update(&mut self, values: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        use DataType::*;
        match values.data_type() {
            Null => Ok(()),
            Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView
            | FixedSizeBinary(_) => rows.for_each_bytes(values, |group, bytes| {
                self.add_bytes(group, bytes);
                Ok(())
            }),
            Dictionary(_, value) => self.update(&cast(values, value)?, rows),
            Boolean => rows.for_each_item(values.as_boolean(), |group, value| {
                self.add(group, i64::from(value));
                Ok(())
            }),
            Int8 => self.add_integers::<Int8Type>(values, rows),
            Int16 => self.add_integers::<Int16Type>(values, rows),
            Int32 => self.add_integers::<Int32Type>(values, rows),
            Int64 => self.add_integers::<Int64Type>(values, rows),
            UInt8 => self.add_integers::<UInt8Type>(values, rows),
            UInt16 => self.add_integers::<UInt16Type>(values, rows),
            UInt32 => self.add_integers::<UInt32Type>(values, rows),
            UInt64 => rows.for_each_value(values.as_primitive::<UInt64Type>(), |group, value| {
                self.add(group, value);
                Ok(())
            }),
            Float16 | Float32 => self.update(&cast(values, &Float64)?, rows),
            Float64 => rows.for_each_value(values.as_primitive::<Float64Type>(), |group, value| {
                self.add(group, canonical_float::from_f64(value));
                Ok(())
            }),
            Date32 => self.add_integers::<Date32Type>(values, rows),
            Date64 => self.add_integers::<Date64Type>(values, rows),
            Time32(TimeUnit::Second) => self.add_integers::<Time32SecondType>(values, rows),
            Time32(_) => self.add_integers::<Time32MillisecondType>(values, rows),
            Time64(TimeUnit::Microsecond) => {
                self.add_integers::<Time64MicrosecondType>(values, rows)
            }
            Time64(_) => self.add_integers::<Time64NanosecondType>(values, rows),
            Timestamp(unit, _) => match unit {
                TimeUnit::Second => self.add_integers::<TimestampSecondType>(values, rows),
                TimeUnit::Millisecond => {
                    self.add_integers::<TimestampMillisecondType>(values, rows)
                }
                TimeUnit::Microsecond => {
                    self.add_integers::<TimestampMicrosecondType>(values, rows)
                }
                TimeUnit::Nanosecond => self.add_integers::<TimestampNanosecondType>(values, rows),
            },
            Duration(unit) => match unit {
                TimeUnit::Second => self.add_integers::<DurationSecondType>(values, rows),
                TimeUnit::Millisecond => self.add_integers::<DurationMillisecondType>(values, rows),
                TimeUnit::Microsecond => self.add_integers::<DurationMicrosecondType>(values, rows),
                TimeUnit::Nanosecond => self.add_integers::<DurationNanosecondType>(values, rows),
            },
            Decimal32(..) => self.add_decimals::<Decimal32Type>(values, rows),
            Decimal64(..) => self.add_decimals::<Decimal64Type>(values, rows),
            Decimal128(..) => self.add_decimals::<Decimal128Type>(values, rows),
            other => plan_err!("{} cannot hash {other}", self.function),
        }
    }

    fn merge(&mut self, states: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        if states.data_type() == &DataType::Null {
            return Ok(());
        }
        rows.for_each_bytes(states, |group, bytes| {
            let grown = self.groups[group].merge(bytes)?;
            self.heap = self.heap.wrapping_add_signed(grown);
            Ok(())
        })
    }

    fn emit(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = self.take(emit_to);
        binary_array(
            self.function,
            groups.iter().map(|group| Some(group.bytes())),
        )
    }

    fn heap_size(&self) -> usize {
        self.groups.capacity() * size_of::<Group>() + self.heap
    }

    fn fresh(&self) -> Box<dyn States> {
        Box::new(Self::new(self.function))
    }

    fn copied(&self) -> Box<dyn States> {
        Box::new(self.clone())
    }
}

/// Sketches of groups that are fed with sketches only.
#[derive(Clone)]
struct Unions(Sketches);

impl States for Unions {
    fn grow(&mut self, total: usize) {
        self.0.grow(total);
    }

    fn update(&mut self, values: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        self.0.merge(values, rows)
    }

    fn merge(&mut self, states: &ArrayRef, rows: &Rows<'_>) -> Result<()> {
        self.0.merge(states, rows)
    }

    fn emit(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = self.0.take(emit_to);
        binary_array(
            self.0.function,
            groups
                .iter()
                .map(|group| (!matches!(group, Group::Empty)).then(|| group.bytes())),
        )
    }

    fn heap_size(&self) -> usize {
        self.0.heap_size()
    }

    fn fresh(&self) -> Box<dyn States> {
        Box::new(Self(Sketches::new(self.0.function)))
    }

    fn copied(&self) -> Box<dyn States> {
        Box::new(self.clone())
    }
}

/// Any binary type is read as plain binary.
fn coerce_sketches(function: &str, arguments: &[DataType], wanted: usize) -> Result<Vec<DataType>> {
    if arguments.len() != wanted {
        return plan_err!(
            "{function} takes {wanted} argument(s), not {}",
            arguments.len()
        );
    }
    arguments.iter().map(UnionAgg::state_type).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Union;

impl scalar::Definition for Union {
    const NAME: &'static str = "hll_union";

    fn coerce(arguments: &[DataType]) -> Result<Vec<DataType>> {
        coerce_sketches(Self::NAME, arguments, 2)
    }

    fn result_type(_: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn call(arguments: &[ArrayRef]) -> Result<ArrayRef> {
        let (left, right) = (
            arguments[0].as_binary::<i32>(),
            arguments[1].as_binary::<i32>(),
        );
        let mut unions = BinaryBuilder::new();
        for pair in left.iter().zip(right) {
            let (Some(left), Some(right)) = pair else {
                unions.append_null();
                continue;
            };
            let mut union = Group::default();
            union.merge(left)?;
            union.merge(right)?;
            unions.append_value(union.bytes());
        }
        Ok(Arc::new(unions.finish()))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Estimate;

impl scalar::Definition for Estimate {
    const NAME: &'static str = "hll_sketch_estimate";

    fn coerce(arguments: &[DataType]) -> Result<Vec<DataType>> {
        coerce_sketches(Self::NAME, arguments, 1)
    }

    fn result_type(_: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn call(arguments: &[ArrayRef]) -> Result<ArrayRef> {
        let estimates = arguments[0].as_binary::<i32>().iter().map(|bytes| {
            // `estimate()` would depend on the order of the updates.
            bytes
                .map(|bytes| Ok(codec::read(bytes)?.composite_estimate().round() as i64))
                .transpose()
        });
        Ok(Arc::new(estimates.collect::<Result<Int64Array>>()?))
    }
}

#[cfg(test)]
mod tests;
