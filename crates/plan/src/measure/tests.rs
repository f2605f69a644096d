use std::sync::Arc;

use super::*;
use crate::{
    TableShape,
    diagnostic::{Diagnostics, SourceFile},
    plan::EventColumn,
    tree::Style,
};

fn read(sql: &str) -> Result<Measure, String> {
    let columns: Vec<EventColumn> = [
        ("n", DataType::Int32),
        ("big", DataType::Int64),
        ("ratio", DataType::Float64),
        ("text", DataType::Utf8),
        ("flag", DataType::Boolean),
        ("day", DataType::Date32),
        ("price", DataType::Decimal128(10, 2)),
        ("ts", TableShape::window_type()),
    ]
    .map(|(name, data_type)| EventColumn {
        name: name.into(),
        data_type,
        optional: true,
        epoch_unit: None,
    })
    .into();
    let file = Arc::new(SourceFile::new("test.yaml", sql));
    let mut found = Diagnostics::default();
    let scalar = Scalar {
        text: sql.into(),
        shown: sql.into(),
        span: 0..sql.len(),
        style: Style::Plain,
    };
    let mut reader = Reader {
        file: &file,
        found: &mut found,
        advise: crate::advice::for_key,
    };
    let measure = measure(&Expressions::new(&columns), &scalar, &mut reader);
    match measure {
        Some(measure) if found.is_empty() => Ok(measure),
        _ => Err(found.to_string()),
    }
}

#[test]
fn measures_have_the_states_that_the_surface_promises() {
    let decimal = |precision, scale| DataType::Decimal128(precision, scale);
    for (sql, kind, state, value) in [
        (
            "count(*)",
            StateKind::Count,
            DataType::Int64,
            DataType::Int64,
        ),
        (
            "COUNT( text )",
            StateKind::Count,
            DataType::Int64,
            DataType::Int64,
        ),
        ("sum(n)", StateKind::Sum, DataType::Int64, DataType::Int64),
        (
            "sum(cast(n as smallint))",
            StateKind::Sum,
            DataType::Int64,
            DataType::Int64,
        ),
        ("sum(big)", StateKind::Sum, decimal(38, 0), decimal(38, 0)),
        (
            "sum(ratio)",
            StateKind::Sum,
            DataType::Float64,
            DataType::Float64,
        ),
        ("min(text)", StateKind::Min, DataType::Utf8, DataType::Utf8),
        (
            "max(ts)",
            StateKind::Max,
            TableShape::window_type(),
            TableShape::window_type(),
        ),
        (
            "min(day)",
            StateKind::Min,
            DataType::Date32,
            DataType::Date32,
        ),
        ("max(price)", StateKind::Max, decimal(10, 2), decimal(10, 2)),
        (
            "max(flag)",
            StateKind::Max,
            DataType::Boolean,
            DataType::Boolean,
        ),
        (
            "(sum(ratio + 1))",
            StateKind::Sum,
            DataType::Float64,
            DataType::Float64,
        ),
        (
            "approx_distinct(text)",
            StateKind::Hll,
            DataType::Binary,
            DataType::Int64,
        ),
        (
            "approx_distinct(n)",
            StateKind::Hll,
            DataType::Binary,
            DataType::Int64,
        ),
        (
            "approx_percentile_cont(n, 0.5)",
            StateKind::DdSketch,
            DataType::Binary,
            DataType::Float64,
        ),
        (
            "approx_percentile_cont(0.99) within group (order by price)",
            StateKind::DdSketch,
            DataType::Binary,
            DataType::Float64,
        ),
    ] {
        let measure = read(sql).unwrap_or_else(|told| panic!("{sql}: {told}"));
        assert_eq!(measure.kind, kind, "{sql}");
        assert_eq!(measure.state_type, state, "{sql}");
        assert_eq!(
            measure.finish.data_type(&measure.state_type),
            value,
            "{sql}"
        );
        if let Some(input) = &measure.input
            && kind != StateKind::Count
        {
            // Exactly what the fold will be given gives the promised state.
            let folded = kind
                .fold()
                .return_type(std::slice::from_ref(&input.data_type));
            assert_eq!(folded.unwrap(), state, "{sql}");
        }
    }
    for sql in ["avg(n)", "avg(big)", "avg(ratio)", "avg(price)"] {
        let measure = read(sql).unwrap_or_else(|told| panic!("{sql}: {told}"));
        assert!(matches!(measure.state_type, DataType::Struct(_)), "{sql}");
        assert_eq!(measure.finish, Finish::Average);
    }
    assert!(matches!(
        read("sum(price)").unwrap().state_type,
        DataType::Decimal128(38, 2)
    ));
}

#[test]
fn only_quantiles_of_one_input_and_filter_can_share() {
    let key = |sql: &str| {
        let measure = read(sql).unwrap();
        let (kind, input, filter) = measure.state_key();
        (kind, input.map(str::to_owned), filter.map(str::to_owned))
    };
    let median = key("approx_percentile_cont(ratio, 0.5)");
    assert_eq!(median, key("approx_percentile_cont( RATIO,0.9 )"));
    assert_eq!(
        median,
        key("approx_percentile_cont(0.9) within group (order by ratio)")
    );
    assert_ne!(
        median,
        key("approx_percentile_cont(ratio, 0.5) filter (where flag)")
    );
    assert_ne!(median, key("approx_percentile_cont(big, 0.5)"));
}

#[test]
fn what_cannot_merge_is_refused_with_a_way_out() {
    for (sql, advice) in [
        ("median(n)", "approx_percentile_cont(n, 0.5)"),
        ("count(distinct text)", "approx_distinct(text)"),
        ("sum(distinct n)", "group column"),
        ("max(distinct n)", "leave `distinct` out"),
        ("stddev(n)", "sum(n * n)"),
        ("array_agg(n)", "group column"),
        ("last_value(n)", "max(n)"),
        ("mean(n)", "avg(n)"),
        ("uniq(n)", "approx_distinct(n)"),
        ("countif(flag)", "filter (where flag)"),
        ("sum(n) / count(*)", "measure of its own"),
        ("cast(sum(n) as double)", "measure of its own"),
        ("sum(n) over ()", "over (…)"),
        ("n", "group_by"),
        ("upper(text)", "measures are"),
        ("sum(sum(n))", "under `measures`"),
        ("count(*) filter (where n)", "compare it"),
        ("count(*) filter (where count(*) > 1)", "under `measures`"),
        ("count()", "count(*)"),
        ("sum(*)", "sum(column)"),
        ("sum(n, n)", "sum(column)"),
        ("sum(text)", "cast(x as double)"),
        ("avg(flag)", "cast(x as double)"),
        ("sum(n order by ts)", "leave out order by"),
        (
            "approx_percentile_cont(n)",
            "approx_percentile_cont(column, 0.99)",
        ),
        ("approx_percentile_cont(n, 95)", "write 0.95"),
        ("approx_percentile_cont(n, ratio)", "0.5 for the median"),
        ("approx_percentile_cont(n, -0.5)", "0.5 for the median"),
        (
            "approx_percentile_cont(0.5) within group (order by n desc)",
            "1 - rank",
        ),
        (
            "min(n) within group (order by n)",
            "only approx_percentile_cont",
        ),
        ("max(string_to_array(text, ','))", "it takes texts"),
        ("sum(random())", "same answer"),
    ] {
        let told = read(sql).expect_err(sql);
        assert!(told.contains(advice), "{sql}: {told}");
    }
}
