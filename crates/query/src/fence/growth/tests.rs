use std::sync::Arc;

use datafusion::{
    arrow::datatypes::{Field, IntervalMonthDayNano},
    config::ConfigOptions,
    execution::SessionStateDefaults,
    logical_expr::ReturnFieldArgs,
};

use super::*;
use crate::fence::sizes::sizes;

fn text(text: &str) -> ScalarValue {
    ScalarValue::from(text)
}

fn number(number: i64) -> ScalarValue {
    ScalarValue::from(number)
}

fn list(values: &[ScalarValue]) -> ScalarValue {
    let data_type = values[0].data_type();
    ScalarValue::List(ScalarValue::new_list_nullable(values, &data_type))
}

/// Bytes that a function makes, as one value and in a column, and what was foretold.
fn made_and_foretold(function: &str, values: &[ScalarValue]) -> (usize, usize) {
    let functions = SessionStateDefaults::default_scalar_functions();
    let function = functions
        .iter()
        .find(|known| known.name() == function)
        .unwrap();
    let fields = values
        .iter()
        .map(|value| Arc::new(Field::new("value", value.data_type(), true)));
    let arg_fields: Vec<_> = fields.collect();
    let constants: Vec<Option<&ScalarValue>> = values.iter().map(Some).collect();
    let return_field = function
        .return_field_from_args(ReturnFieldArgs {
            arg_fields: &arg_fields,
            scalar_arguments: &constants,
        })
        .unwrap();
    let args: Vec<_> = values.iter().cloned().map(ColumnarValue::Scalar).collect();
    let foretold = Growth::of(function.name()).bounds(&args, 1).unwrap()[0];
    let made = function
        .invoke_with_args(ScalarFunctionArgs {
            args,
            arg_fields,
            number_rows: 1,
            return_field,
            config_options: Arc::new(ConfigOptions::new()),
        })
        .unwrap();
    let made = sizes(&made.into_array(1).unwrap()).unwrap();
    (made[0], foretold)
}

#[test]
fn no_function_of_the_list_makes_more_than_was_foretold() {
    let words = list(&[text("a"), text("bcd"), text("Zürich")]);
    let interval = |months, days| {
        ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(months, days, 0)))
    };
    let day = |day| ScalarValue::Date32(Some(day));
    let cases: [(&str, Vec<ScalarValue>); 22] = [
        ("repeat", vec![text("Zürich"), number(37)]),
        ("repeat", vec![text("x"), number(-1)]),
        ("lpad", vec![text("Zürich"), number(100)]),
        ("lpad", vec![text("x"), number(100), text("ü")]),
        ("rpad", vec![text("x"), number(100), text("aé€😀")]),
        ("range", vec![number(0), number(100), number(3)]),
        ("range", vec![number(17)]),
        (
            "generate_series",
            vec![number(100), number(-100), number(-7)],
        ),
        ("generate_series", vec![day(0), day(4_000), interval(1, 0)]),
        ("range", vec![day(0), day(400), interval(0, 1)]),
        ("array_repeat", vec![text("x"), number(100)]),
        ("array_repeat", vec![words.clone(), number(9)]),
        ("array_resize", vec![words.clone(), number(50), text("abc")]),
        (
            "array_resize",
            vec![list(&[number(1)]), number(50), number(2)],
        ),
        ("replace", vec![text("banana"), text("a"), text("xyz")]),
        ("replace", vec![text("banana"), text(""), text("xyz")]),
        (
            "regexp_replace",
            vec![text("banana"), text("."), text("\\0\\0-"), text("g")],
        ),
        (
            "regexp_replace",
            vec![text("banana"), text("(.*)"), text("\\1\\1\\1")],
        ),
        ("regexp_match", vec![text("banana"), text("((((.*))))")]),
        (
            "array_replace_all",
            vec![words.clone(), text("a"), text("a long text")],
        ),
        ("array_to_string", vec![words, text(", and ")]),
        (
            "array_to_string",
            vec![list(&[number(i64::MIN), number(1)]), text("----")],
        ),
    ];
    for (function, values) in cases {
        let (made, foretold) = made_and_foretold(function, &values);
        assert!(
            made <= foretold,
            "{function}({values:?}): {made} of {foretold}"
        );
    }
}

#[test]
fn what_is_refused_by_an_exact_bound_would_be_too_large() {
    for (function, values) in [
        ("repeat", vec![text("Zürich"), number(1_000)]),
        ("lpad", vec![text("x"), number(1_000)]),
        ("range", vec![number(0), number(1_000)]),
        ("array_repeat", vec![number(7), number(1_000)]),
    ] {
        let (made, foretold) = made_and_foretold(function, &values);
        assert!(
            foretold <= made + made / 2 + 8,
            "{function}: {made} of {foretold}"
        );
    }
}
