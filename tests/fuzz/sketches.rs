//! Bytes of sketches: refused or read, never a panic, and what is read merges to the same in either order.

use std::{slice, sync::Arc};

use alluvium_functions::{ddsketch_merge, ddsketch_quantile, hll_sketch_estimate, hll_union};
use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, BinaryArray, Float64Array},
        datatypes::{DataType, Field, Float64Type},
    },
    common::{Result, ScalarValue, config::ConfigOptions},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF},
    physical_expr::{aggregate::AggregateExprBuilder, expressions::col},
};

/// The first byte says where the rest is cut into two sketches.
///
/// # Panics
/// When a merge depends on the order.
pub fn sketches(data: &[u8]) {
    let [cut, bytes @ ..] = data else { return };
    let (left, right) = bytes.split_at(bytes.len() * usize::from(*cut) / 255);
    let column = |bytes: &[u8]| -> ArrayRef { Arc::new(BinaryArray::from(vec![bytes])) };
    let (left, right) = (column(left), column(right));
    for pair in [[&left, &right], [&left, &left]] {
        let [one, other] = pair.map(Arc::clone);
        let merged = call(
            &hll_union(),
            vec![one.clone(), other.clone()],
            DataType::Binary,
        );
        let turned = call(&hll_union(), vec![other, one], DataType::Binary);
        // Whether it is refused must not depend on the order either; the words may name the other sketch first.
        assert_eq!(merged.as_ref().ok(), turned.as_ref().ok());
        if let Ok(merged) = merged {
            call(&hll_sketch_estimate(), vec![merged], DataType::Int64)
                .expect("a union can be estimated");
        }
    }
    for rank in [0.0, 0.5, 1.0] {
        let merged = merge(&left, &right).and_then(|sketch| quantile(sketch, rank));
        let turned = merge(&right, &left).and_then(|sketch| quantile(sketch, rank));
        assert_eq!(merged.ok(), turned.ok());
    }
}

fn call(
    function: &Arc<ScalarUDF>,
    arguments: Vec<ArrayRef>,
    returns: DataType,
) -> Result<ArrayRef> {
    let arg_fields = arguments
        .iter()
        .map(|argument| Arc::new(Field::new("x", argument.data_type().clone(), true)))
        .collect();
    function
        .invoke_with_args(ScalarFunctionArgs {
            args: arguments.into_iter().map(ColumnarValue::Array).collect(),
            arg_fields,
            number_rows: 1,
            return_field: Arc::new(Field::new("x", returns, true)),
            config_options: Arc::new(ConfigOptions::default()),
        })?
        .into_array(1)
}

fn merge(left: &ArrayRef, right: &ArrayRef) -> Result<ArrayRef> {
    let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(vec![Field::new(
        "x",
        DataType::Binary,
        true,
    )]));
    let aggregate = AggregateExprBuilder::new(ddsketch_merge(), vec![col("x", &schema)?])
        .schema(schema)
        .alias("x")
        .build()?;
    let mut accumulator = aggregate.create_accumulator()?;
    accumulator.update_batch(slice::from_ref(left))?;
    accumulator.update_batch(slice::from_ref(right))?;
    match accumulator.evaluate()? {
        ScalarValue::Binary(sketch) => Ok(Arc::new(BinaryArray::from(vec![sketch.as_deref()]))),
        other => panic!("a merge gives {other:?}"),
    }
}

fn quantile(sketch: ArrayRef, rank: f64) -> Result<Option<u64>> {
    let ranks = Arc::new(Float64Array::from(vec![rank]));
    let quantile = call(&ddsketch_quantile(), vec![sketch, ranks], DataType::Float64)?;
    // Bits, so that a NaN equals itself.
    Ok(quantile
        .as_primitive::<Float64Type>()
        .iter()
        .next()
        .flatten()
        .map(f64::to_bits))
}
