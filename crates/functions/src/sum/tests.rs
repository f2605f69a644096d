use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, Decimal128Array, Float32Array, Int8Array, Int32Array,
            Int64Array, UInt32Array, UInt64Array,
        },
        datatypes::{DataType, Decimal128Type},
    },
    common::{Result, ScalarValue},
    logical_expr::{Accumulator, EmitTo},
};

use super::{Sum, SumMerge};
use crate::single_state::{Definition, Rows};

fn total<D: Definition>(values: ArrayRef) -> Result<ScalarValue> {
    let mut states = D::states(values.data_type())?;
    states.grow(1);
    let groups = vec![0; values.len()];
    states.update(&values, &Rows::new(&values, &groups, None))?;
    let sum = states.emit(EmitTo::All)?;
    assert_eq!(sum.data_type(), &D::state_type(values.data_type())?);
    ScalarValue::try_from_array(&sum, 0)
}

fn decimals(values: Vec<i128>, precision: u8, scale: i8) -> ArrayRef {
    let values = Decimal128Array::from(values);
    Arc::new(values.with_precision_and_scale(precision, scale).unwrap())
}

#[test]
fn a_sum_is_wider_than_its_values() {
    let sum = |values: ArrayRef| total::<Sum>(values).unwrap();
    assert_eq!(
        sum(Arc::new(Int32Array::from(vec![i32::MAX; 3]))),
        ScalarValue::Int64(Some(3 * i64::from(i32::MAX)))
    );
    assert_eq!(
        sum(Arc::new(Int8Array::from(vec![-128, -128]))),
        ScalarValue::Int64(Some(-256))
    );
    assert_eq!(
        sum(Arc::new(UInt32Array::from(vec![u32::MAX, 1]))),
        ScalarValue::Int64(Some(1 << 32))
    );
    assert_eq!(
        sum(Arc::new(Int64Array::from(vec![i64::MAX, i64::MAX]))),
        ScalarValue::Decimal128(Some(2 * i128::from(i64::MAX)), 38, 0)
    );
    assert_eq!(
        sum(Arc::new(UInt64Array::from(vec![u64::MAX, u64::MAX]))),
        ScalarValue::Decimal128(Some(2 * i128::from(u64::MAX)), 38, 0)
    );
    assert_eq!(
        sum(decimals(vec![12_345, 5], 7, 2)),
        ScalarValue::Decimal128(Some(12_350), 38, 2)
    );
    assert_eq!(
        sum(Arc::new(Float32Array::from(vec![0.5, 0.25]))),
        ScalarValue::Float64(Some(0.75))
    );
    assert_eq!(
        sum(Arc::new(Int32Array::from(vec![None, None]))),
        ScalarValue::Int64(None)
    );
}

#[test]
fn text_cannot_be_added_up() {
    let error = Sum::state_type(&DataType::Utf8).unwrap_err().to_string();
    assert!(error.contains("sum cannot add up Utf8"), "{error}");
    let error = SumMerge::state_type(&DataType::Int32)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no stored sum"), "{error}");
}

#[test]
fn an_overflow_is_an_error_and_never_wraps() {
    let counts: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, 1]));
    let error = total::<SumMerge>(counts).unwrap_err().to_string();
    assert!(
        error.contains("sum_merge overflowed: the result does not fit into Int64"),
        "{error}"
    );

    // 38 digits are fewer than 128 bits hold.
    let digits = 10_i128.pow(38) - 1;
    assert_eq!(
        total::<Sum>(decimals(vec![digits - 1, 1], 38, 0)).unwrap(),
        ScalarValue::Decimal128(Some(digits), 38, 0)
    );
    for values in [vec![digits, 1], vec![digits; 3], vec![-digits, -1]] {
        let error = total::<Sum>(decimals(values, 38, 4)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("does not fit into Decimal128(38, 4)"),
            "{error}"
        );
    }
}

#[test]
fn a_moving_sum_gives_back_what_leaves_its_frame() {
    let mut sum: Box<dyn Accumulator> = Sum::sliding(&DataType::Int64).unwrap();
    let values =
        |values: Vec<Option<i64>>| -> Vec<ArrayRef> { vec![Arc::new(Int64Array::from(values))] };
    assert_eq!(
        sum.evaluate().unwrap(),
        ScalarValue::Decimal128(None, 38, 0)
    );
    sum.update_batch(&values(vec![Some(5), None, Some(i64::MAX)]))
        .unwrap();
    sum.retract_batch(&values(vec![Some(5), None])).unwrap();
    assert_eq!(
        sum.evaluate().unwrap(),
        ScalarValue::Decimal128(Some(i64::MAX.into()), 38, 0)
    );
    sum.retract_batch(&values(vec![Some(i64::MAX)])).unwrap();
    assert_eq!(
        sum.evaluate().unwrap(),
        ScalarValue::Decimal128(None, 38, 0)
    );
}

#[test]
fn emitted_decimals_keep_their_scale() {
    let values = decimals(vec![1, 2], 12, 3);
    let mut states = Sum::states(values.data_type()).unwrap();
    states.grow(2);
    states
        .update(&values, &Rows::new(&values, &[0, 1], None))
        .unwrap();
    let first = states.emit(EmitTo::First(1)).unwrap();
    let first = first.as_primitive::<Decimal128Type>();
    assert_eq!((first.value(0), first.scale()), (1, 3));
}
