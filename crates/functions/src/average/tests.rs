use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int32Array, Int64Array,
            StructArray,
        },
        datatypes::{DataType, Decimal128Type, Field, Float64Type},
    },
    logical_expr::EmitTo,
};
use proptest::prelude::*;

use super::{AvgFinish, AvgMerge, AvgState, average_type, divide};
use crate::{
    scalar::Definition as _,
    single_state::{Definition, Rows},
};

fn state(values: &ArrayRef) -> ArrayRef {
    let mut states = AvgState::states(values.data_type()).unwrap();
    states.grow(1);
    let groups = vec![0; values.len()];
    states
        .update(values, &Rows::new(values, &groups, None))
        .unwrap();
    states.emit(EmitTo::All).unwrap()
}

fn average(values: ArrayRef) -> ArrayRef {
    let state = state(&values);
    let result = AvgFinish::call(std::slice::from_ref(&state)).unwrap();
    assert_eq!(result.data_type(), &average_type(state.data_type()));
    result
}

fn double(values: ArrayRef) -> f64 {
    average(values).as_primitive::<Float64Type>().value(0)
}

#[test]
fn integers_and_doubles_give_a_double() {
    assert_eq!(double(Arc::new(Int32Array::from(vec![1, 2]))), 1.5);
    assert_eq!(
        double(Arc::new(Int64Array::from(vec![i64::MAX, i64::MAX]))),
        i64::MAX as f64
    );
    assert_eq!(double(Arc::new(Float64Array::from(vec![0.5, 1.0]))), 0.75);
    let nothing = average(Arc::new(Int32Array::from(vec![None])));
    assert!(nothing.is_null(0));
}

#[test]
fn decimals_get_four_more_digits_and_round_half_away_from_zero() {
    let cents = |values: Vec<i128>| {
        let values = Decimal128Array::from(values);
        let values = values.with_precision_and_scale(10, 2).unwrap();
        let average = average(Arc::new(values));
        let average = average.as_primitive::<Decimal128Type>();
        (average.value(0), average.precision(), average.scale())
    };
    // 0.01 / 3 = 0.003333…, 0.02 / 3 = 0.006666…, with six digits
    assert_eq!(cents(vec![1, 0, 0]), (3_333, 38, 6));
    assert_eq!(cents(vec![2, 0, 0]), (6_667, 38, 6));
    assert_eq!(cents(vec![-2, 0, 0]), (-6_667, 38, 6));
    // 0.01 / 32 = 0.0003125: the half goes away from zero.
    let mut values = vec![0; 31];
    values.push(1);
    assert_eq!(cents(values.clone()), (313, 38, 6));
    values[31] = -1;
    assert_eq!(cents(values), (-313, 38, 6));
}

#[test]
fn digits_end_at_38() {
    let fields = |scale| {
        DataType::Struct(
            vec![
                Field::new("sum", DataType::Decimal128(38, scale), true),
                Field::new("count", DataType::Int64, false),
            ]
            .into(),
        )
    };
    assert_eq!(average_type(&fields(36)), DataType::Decimal128(38, 38));
    assert_eq!(average_type(&fields(2)), DataType::Decimal128(38, 6));
    assert_eq!(average_type(&fields(0)), DataType::Float64);
    assert_eq!(average_type(&fields(-3)), DataType::Decimal128(38, 1));
}

#[test]
fn an_average_that_does_not_fit_is_an_error() {
    let values = Decimal128Array::from(vec![10_i128.pow(37)]);
    let values: ArrayRef = Arc::new(values.with_precision_and_scale(38, 2).unwrap());
    let error = AvgFinish::call(&[state(&values)]).unwrap_err().to_string();
    assert!(error.contains("avg_finish overflowed"), "{error}");
}

#[test]
fn a_merge_refuses_what_is_no_state() {
    let pair = DataType::Struct(
        vec![
            Field::new("sum", DataType::Utf8, true),
            Field::new("count", DataType::Int64, false),
        ]
        .into(),
    );
    assert!(AvgMerge::state_type(&pair).is_err());
    assert!(AvgMerge::state_type(&DataType::Int64).is_err());
    assert!(AvgFinish::coerce(&[DataType::Float64]).is_err());
}

#[test]
fn null_states_have_no_average() {
    let known = state(&(Arc::new(Int32Array::from(vec![4])) as ArrayRef));
    let unknown = datafusion::arrow::array::new_null_array(known.data_type(), 1);
    let states = datafusion::arrow::compute::concat(&[unknown.as_ref(), known.as_ref()]).unwrap();
    assert!(states.as_any().is::<StructArray>());
    let averages = AvgFinish::call(&[states]).unwrap();
    let averages = averages.as_primitive::<Float64Type>();
    assert!(averages.is_null(0));
    assert_eq!(averages.value(1), 4.0);
}

proptest! {
    #[test]
    fn division_agrees_with_long_division(
        sum in -(1_i128 << 100)..(1_i128 << 100),
        count in 1..i64::MAX,
        digits in 0..=4_u32,
    ) {
        let factor = 10_i128.pow(digits);
        // 2^100 · 10^4 fits into 128 bits, so the plain way can judge.
        let (scaled, wide) = (sum * factor, i128::from(count));
        let half_up = (2 * scaled.abs() + wide) / (2 * wide);
        prop_assert_eq!(divide(sum, count, factor), Some(half_up * scaled.signum()));
    }
}
