//! The law of every aggregate: any split of the rows into batches, partial aggregations and merges
//! gives the answer of one aggregation over all rows. Held through real `AggregateExec` plans.

#![allow(clippy::unwrap_used, clippy::type_complexity)]

use std::{collections::BTreeMap, sync::Arc};

use alluvium_functions as functions;
use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, DictionaryArray, Float64Array,
            Int32Array, Int64Array, RecordBatch, StringArray, StringViewArray, UInt32Array,
        },
        compute::{cast, concat, take_record_batch},
        datatypes::{DataType, Field, Float64Type, Int32Type, Schema, SchemaRef},
    },
    catalog::memory::MemorySourceConfig,
    common::{ScalarValue, config::ConfigOptions},
    logical_expr::{
        AggregateUDF, ColumnarValue, EmitTo, GroupsAccumulator, ScalarFunctionArgs, ScalarUDF,
    },
    physical_expr::{
        PhysicalExpr,
        aggregate::{AggregateExprBuilder, AggregateFunctionExpr},
        expressions::col,
    },
    physical_plan::{
        ExecutionPlan,
        aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy},
        collect,
    },
    prelude::SessionContext,
};
use proptest::prelude::*;

/// The aggregates that fold, with their argument and the one that merges their states.
fn folds() -> Vec<(Arc<AggregateUDF>, &'static str, Arc<AggregateUDF>)> {
    // Of other types they are DataFusion's.
    let mut folds = vec![
        (functions::min(), "double", functions::min()),
        (functions::max(), "double", functions::max()),
    ];
    for column in ["int", "bigint", "decimal", "double"] {
        folds.push((functions::sum(), column, functions::sum_merge()));
        folds.push((functions::avg_state(), column, functions::avg_merge()));
        folds.push((
            functions::ddsketch_agg(),
            column,
            functions::ddsketch_merge(),
        ));
    }
    for column in [
        "int",
        "bigint",
        "decimal",
        "double",
        "text",
        "view",
        "dictionary",
        "flag",
    ] {
        folds.push((
            functions::hll_sketch_agg(),
            column,
            functions::hll_union_agg(),
        ));
    }
    folds
}

#[derive(Clone, Debug)]
struct Row {
    key: u8,
    flag: Option<bool>,
    int: Option<i32>,
    bigint: Option<i64>,
    decimal: Option<i64>,
    double: Option<f64>,
    text: Option<String>,
}

fn row() -> impl Strategy<Value = Row> {
    let double = prop_oneof![
        4 => -1e3..1e3,
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => -1e-8..1e-8,
    ];
    (
        0..4_u8,
        any::<Option<bool>>(),
        any::<Option<i32>>(),
        any::<Option<i64>>(),
        proptest::option::of(-9_999_999_999..=9_999_999_999_i64),
        proptest::option::of(double),
        proptest::option::of("[a-e]{0,3}"),
    )
        .prop_map(|(key, flag, int, bigint, decimal, double, text)| Row {
            key,
            flag,
            int,
            bigint,
            decimal,
            double,
            text,
        })
}

fn batch(rows: &[Row]) -> RecordBatch {
    let texts = StringArray::from_iter(rows.iter().map(|row| row.text.as_deref()));
    let views = StringViewArray::from_iter(rows.iter().map(|row| row.text.as_deref()));
    let dictionary: DictionaryArray<Int32Type> =
        rows.iter().map(|row| row.text.as_deref()).collect();
    let decimals: Decimal128Array = rows.iter().map(|row| row.decimal.map(i128::from)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "key",
            Arc::new(StringArray::from_iter_values(
                rows.iter().map(|row| row.key.to_string()),
            )),
        ),
        (
            "flag",
            Arc::new(rows.iter().map(|row| row.flag).collect::<BooleanArray>()),
        ),
        (
            "int",
            Arc::new(rows.iter().map(|row| row.int).collect::<Int32Array>()),
        ),
        (
            "bigint",
            Arc::new(rows.iter().map(|row| row.bigint).collect::<Int64Array>()),
        ),
        (
            "decimal",
            Arc::new(decimals.with_precision_and_scale(10, 2).unwrap()),
        ),
        (
            "double",
            Arc::new(rows.iter().map(|row| row.double).collect::<Float64Array>()),
        ),
        ("text", Arc::new(texts)),
        ("view", Arc::new(views)),
        ("dictionary", Arc::new(dictionary)),
    ];
    let schema = Schema::new(
        columns
            .iter()
            .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
            .collect::<Vec<_>>(),
    );
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn expression(udaf: &Arc<AggregateUDF>, column: &str, schema: &SchemaRef) -> AggregateFunctionExpr {
    AggregateExprBuilder::new(Arc::clone(udaf), vec![col(column, schema).unwrap()])
        .schema(Arc::clone(schema))
        .alias("answer")
        .build()
        .unwrap()
}

/// Runs one aggregation by `key` over the batches.
fn aggregate(
    mode: AggregateMode,
    expression: &Arc<AggregateFunctionExpr>,
    filter: Option<&str>,
    batches: &[RecordBatch],
    input_schema: &SchemaRef,
) -> RecordBatch {
    let input: Arc<dyn ExecutionPlan> =
        MemorySourceConfig::try_new_exec(&[batches.to_vec()], batches[0].schema(), None).unwrap();
    let key = col("key", &input.schema()).unwrap();
    let filter: Option<Arc<dyn PhysicalExpr>> =
        filter.map(|column| col(column, input_schema).unwrap());
    let plan = AggregateExec::try_new(
        mode,
        PhysicalGroupBy::new_single(vec![(key, "key".to_string())]),
        vec![Arc::clone(expression)],
        vec![filter],
        input,
        Arc::clone(input_schema),
    )
    .unwrap();
    let plan: Arc<dyn ExecutionPlan> = Arc::new(plan);
    let schema = plan.schema();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let batches = runtime
        .block_on(collect(plan, SessionContext::new().task_ctx()))
        .unwrap();
    datafusion::arrow::compute::concat_batches(&schema, &batches).unwrap()
}

fn call(function: Arc<ScalarUDF>, arguments: &[ArrayRef]) -> ArrayRef {
    let types: Vec<DataType> = arguments
        .iter()
        .map(|argument| argument.data_type().clone())
        .collect();
    let number_rows = arguments[0].len();
    let result = function
        .invoke_with_args(ScalarFunctionArgs {
            args: arguments
                .iter()
                .map(|argument| ColumnarValue::Array(Arc::clone(argument)))
                .collect(),
            arg_fields: types
                .iter()
                .map(|data_type| Arc::new(Field::new("argument", data_type.clone(), true)))
                .collect(),
            number_rows,
            return_field: Arc::new(Field::new(
                "result",
                function.return_type(&types).unwrap(),
                true,
            )),
            config_options: Arc::new(ConfigOptions::default()),
        })
        .unwrap();
    result.into_array(number_rows).unwrap()
}

/// What analysts see of a column of states.
fn answers(udaf: &AggregateUDF, states: &ArrayRef) -> Vec<ArrayRef> {
    match udaf.name() {
        "avg_state" | "avg_merge" => vec![call(functions::avg_finish(), &[Arc::clone(states)])],
        // The bytes of an HLL sketch are the answer: they are canonical.
        "ddsketch_agg" | "ddsketch_merge" => [0.0, 0.01, 0.5, 0.77, 0.99, 1.0]
            .into_iter()
            .map(|rank| {
                let ranks = Float64Array::from(vec![rank; states.len()]);
                let quantile = functions::ddsketch_quantile();
                call(quantile, &[Arc::clone(states), Arc::new(ranks)])
            })
            .collect(),
        _ => vec![Arc::clone(states)],
    }
}

/// The answers by key.
fn by_key(udaf: &AggregateUDF, batch: &RecordBatch) -> BTreeMap<String, Vec<ScalarValue>> {
    let keys = batch.column(0).as_string::<i32>();
    let answers = answers(udaf, batch.column(1));
    (0..batch.num_rows())
        .map(|row| {
            let values = answers
                .iter()
                .map(|answer| ScalarValue::try_from_array(answer, row).unwrap())
                .collect();
            (keys.value(row).to_string(), values)
        })
        .collect()
}

/// Doubles added in another order are equal within rounding, everything else bit for bit.
fn assert_same(
    what: &str,
    inexact: bool,
    left: &BTreeMap<String, Vec<ScalarValue>>,
    right: &BTreeMap<String, Vec<ScalarValue>>,
) {
    if !inexact {
        assert_eq!(left, right, "{what}");
        return;
    }
    assert_eq!(left.len(), right.len(), "{what}");
    for (key, values) in left {
        for (left, right) in values.iter().zip(&right[key]) {
            match (left, right) {
                (ScalarValue::Float64(Some(left)), ScalarValue::Float64(Some(right))) => assert!(
                    // Relative to what was added, at most 1e3 a value.
                    left.to_bits() == right.to_bits()
                        || left.is_nan() && right.is_nan()
                        || (left - right).abs() <= 1e-9 * left.abs().max(1e3),
                    "{what}: {left} {right}"
                ),
                _ => assert_eq!(left, right, "{what}"),
            }
        }
    }
}

/// Deals batches out into `parts` lists.
fn deal<T: Clone>(values: &[T], places: &[u8], parts: u8) -> Vec<Vec<T>> {
    let mut dealt = vec![Vec::new(); usize::from(parts)];
    for (value, place) in values.iter().zip(places.iter().cycle()) {
        dealt[usize::from(place % parts)].push(value.clone());
    }
    dealt.retain(|part| !part.is_empty());
    dealt
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn any_split_gives_the_same_answer(
        rows in proptest::collection::vec(row(), 1..120),
        places in proptest::collection::vec(any::<u8>(), 1..120),
        parts in 1..6_u8,
        filtered in any::<bool>(),
    ) {
        let filter = filtered.then_some("flag");
        let whole = batch(&rows);
        let schema = whole.schema();
        let split: Vec<RecordBatch> =
            deal(&rows, &places, parts).iter().map(|rows| batch(rows)).collect();
        for (udaf, column, merge) in folds() {
            let what = format!("{}({column})", udaf.name());
            let inexact = column == "double" && ["sum", "avg_state"].contains(&udaf.name());
            let fold = Arc::new(expression(&udaf, column, &schema));
            let single = aggregate(
                AggregateMode::Single, &fold, filter, std::slice::from_ref(&whole), &schema,
            );
            let expected = by_key(&udaf, &single);

            let partials: Vec<RecordBatch> = split
                .iter()
                .map(|part| aggregate(
                    AggregateMode::Partial, &fold, filter, std::slice::from_ref(part), &schema,
                ))
                .collect();
            for partial in &partials {
                prop_assert_eq!(partial.num_columns(), 2);
                prop_assert_eq!(
                    partial.column(1).data_type(), single.column(1).data_type(), "{}", &what
                );
            }
            let reduced: Vec<RecordBatch> = deal(&partials, &places, 2)
                .iter()
                .map(|part| aggregate(AggregateMode::PartialReduce, &fold, None, part, &schema))
                .collect();
            let result = aggregate(AggregateMode::Final, &fold, None, &reduced, &schema);
            assert_same(&what, inexact, &expected, &by_key(&udaf, &result));

            // Stored states merged by the merging function, twice over.
            let stored = partials[0].schema();
            let merging =
                Arc::new(expression(&merge, stored.field(1).name(), &stored));
            let merged: Vec<RecordBatch> = deal(&partials, &places, 3)
                .iter()
                .map(|part| aggregate(AggregateMode::Partial, &merging, None, part, &stored))
                .collect();
            for merged in &merged {
                prop_assert_eq!(
                    merged.column(1).data_type(), single.column(1).data_type(), "{}", &what
                );
            }
            let result = aggregate(AggregateMode::Final, &merging, None, &merged, &stored);
            assert_same(&what, inexact, &expected, &by_key(&merge, &result));
        }
    }

    #[test]
    fn groups_may_be_emitted_in_pieces_and_rows_become_states(
        rows in proptest::collection::vec(row(), 1..60),
        first in 0..4_usize,
    ) {
        let batch = batch(&rows);
        let schema = batch.schema();
        let groups: Vec<usize> = rows.iter().map(|row| usize::from(row.key)).collect();
        let filter = batch.column_by_name("flag").unwrap().as_boolean();
        for (udaf, column, _) in folds() {
            let expression = expression(&udaf, column, &schema);
            let values = [Arc::clone(batch.column_by_name(column).unwrap())];
            let fresh = || expression.create_groups_accumulator().unwrap();

            let mut whole = fresh();
            whole.update_batch(&values, &groups, Some(filter), 4).unwrap();
            let empty = fresh().size();
            prop_assert!(whole.size() > empty);
            let expected = whole.evaluate(EmitTo::All).unwrap();
            prop_assert_eq!(expected.len(), 4);
            prop_assert_eq!(whole.size(), empty, "{}({})", udaf.name(), column);

            let mut pieces = fresh();
            pieces.update_batch(&values, &groups, Some(filter), 4).unwrap();
            let head = pieces.evaluate(EmitTo::First(first)).unwrap();
            prop_assert_eq!(head.len(), first);
            // What is left is shifted down and can still be folded into.
            let rest: Vec<usize> = vec![0; rows.len()];
            let tail = pieces.state(EmitTo::First(1)).unwrap();
            let pieces_left = 3 - first;
            pieces.update_batch(&values, &rest, None, pieces_left.max(1)).unwrap();
            prop_assert_eq!(pieces.state(EmitTo::All).unwrap()[0].len(), pieces_left.max(1));
            let head = concat(&[head.as_ref(), tail[0].as_ref()]).unwrap();
            let beginning = expected.slice(0, first + 1);
            prop_assert_eq!(head.as_ref(), beginning.as_ref());

            // Each row as a state of its own, merged again.
            let states = fresh().convert_to_state(&values, Some(filter)).unwrap();
            prop_assert_eq!(states[0].len(), rows.len());
            let mut merged = fresh();
            merged.merge_batch(&states, &groups, 4).unwrap();
            let merged = merged.evaluate(EmitTo::All).unwrap();
            let finished = answers(&udaf, &merged);
            prop_assert_eq!(finished, answers(&udaf, &expected), "{}({})", udaf.name(), column);
        }
    }

    #[test]
    fn one_group_without_a_key_agrees_with_groups(
        rows in proptest::collection::vec(row(), 0..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let batch = batch(&rows);
        let schema = batch.schema();
        let cut = cut.index(rows.len() + 1);
        for (udaf, column, _) in folds() {
            let expression = expression(&udaf, column, &schema);
            let values = Arc::clone(batch.column_by_name(column).unwrap());
            let mut groups = expression.create_groups_accumulator().unwrap();
            groups.update_batch(&[Arc::clone(&values)], &vec![0; rows.len()], None, 1).unwrap();
            let expected = answers(&udaf, &groups.evaluate(EmitTo::All).unwrap());

            let mut left = expression.create_accumulator().unwrap();
            let mut right = expression.create_accumulator().unwrap();
            left.update_batch(&[values.slice(0, cut)]).unwrap();
            right.update_batch(&[values.slice(cut, rows.len() - cut)]).unwrap();
            // Asking changes nothing.
            left.evaluate().unwrap();
            let state: Vec<ArrayRef> =
                right.state().unwrap().iter().map(|state| state.to_array().unwrap()).collect();
            prop_assert_eq!(state.len(), 1);
            left.merge_batch(&state).unwrap();
            let result = left.evaluate().unwrap().to_array().unwrap();
            let result = answers(&udaf, &result);
            for (left, right) in expected.iter().zip(&result) {
                let both = [left, right].map(|answer| cast(answer, &DataType::Float64));
                match (column, both) {
                    ("double", [Ok(left), Ok(right)]) if left.is_valid(0) => {
                        let left = left.as_primitive::<Float64Type>().value(0);
                        let right = right.as_primitive::<Float64Type>().value(0);
                        prop_assert!(
                            left == right || left.is_nan() && right.is_nan()
                                || (left - right).abs() <= 1e-9 * left.abs().max(1e3)
                        );
                    }
                    _ => prop_assert_eq!(left, right, "{}({})", udaf.name(), column),
                }
            }
        }
    }
}

#[test]
fn groups_that_nothing_reached() {
    let rows: Vec<Row> = Vec::new();
    let batch = batch(&rows);
    let schema = batch.schema();
    for (udaf, column, merge) in folds() {
        let fold = expression(&udaf, column, &schema);
        let mut states = fold.create_groups_accumulator().unwrap();
        let values = [Arc::clone(batch.column_by_name(column).unwrap())];
        states.update_batch(&values, &[], None, 2).unwrap();
        let state = states.evaluate(EmitTo::All).unwrap();
        assert_eq!(state.len(), 2);
        // A sum and an extreme are NULL; an average and a sketch are states of no value.
        let is_null = ["sum", "min", "max"].contains(&udaf.name());
        assert_eq!(state.null_count() == 2, is_null);

        // No state at all is NULL, whatever the kind: the measure may be younger than the pane.
        let stored = Arc::new(Schema::new(vec![Field::new(
            "state",
            state.data_type().clone(),
            true,
        )]));
        let mut merged: Box<dyn GroupsAccumulator> = expression(&merge, "state", &stored)
            .create_groups_accumulator()
            .unwrap();
        let unknown = datafusion::arrow::array::new_null_array(state.data_type(), 3);
        merged
            .update_batch(&[unknown], &[0, 0, 1], None, 2)
            .unwrap();
        assert_eq!(merged.evaluate(EmitTo::All).unwrap().null_count(), 2);
    }
}

#[test]
fn a_sliced_batch_with_nulls_folds_its_own_rows_only() {
    let rows: Vec<Row> = (0..40)
        .map(|row| Row {
            key: 0,
            flag: (row % 3 != 0).then_some(row % 2 == 0),
            int: (row % 5 != 0).then_some(row),
            bigint: None,
            decimal: None,
            double: None,
            text: None,
        })
        .collect();
    let batch = batch(&rows);
    let expression = expression(&functions::sum(), "int", &batch.schema());
    let part = batch.slice(7, 20);
    let mut sums = expression.create_groups_accumulator().unwrap();
    let flags = part.column_by_name("flag").unwrap().as_boolean();
    // What lies under a NULL must not matter.
    let unknown = !flags.nulls().unwrap().inner();
    let filter = BooleanArray::new(flags.values() | &unknown, flags.nulls().cloned());
    let filter = &filter;
    let values = [Arc::clone(part.column_by_name("int").unwrap())];
    sums.update_batch(&values, &[0; 20], Some(filter), 1)
        .unwrap();
    let expected: i64 = rows[7..27]
        .iter()
        .filter(|row| row.flag == Some(true))
        .filter_map(|row| row.int.map(i64::from))
        .sum();
    let sum = sums.evaluate(EmitTo::All).unwrap();
    assert_eq!(sum.as_ref(), &Int64Array::from(vec![expected]));

    let shuffled = UInt32Array::from((0..20_u32).rev().collect::<Vec<_>>());
    let part = take_record_batch(&part, &shuffled).unwrap();
    let filter = part.column_by_name("flag").unwrap().as_boolean();
    let values = [Arc::clone(part.column_by_name("int").unwrap())];
    sums.update_batch(&values, &[0; 20], Some(filter), 1)
        .unwrap();
    let sum = sums.evaluate(EmitTo::All).unwrap();
    assert_eq!(sum.as_ref(), &Int64Array::from(vec![expected]));
}
