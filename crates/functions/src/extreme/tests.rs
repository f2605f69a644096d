#![allow(clippy::unwrap_used)]

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray as _},
        datatypes::Float64Type,
    },
    prelude::SessionContext,
};

/// The bits of the one double that a query answers with.
async fn bits(query: &str) -> u64 {
    let session = SessionContext::new();
    crate::register(&session);
    let batches = session.sql(query).await.unwrap().collect().await.unwrap();
    let column: &ArrayRef = batches.last().unwrap().column(0);
    let doubles = column.as_primitive::<Float64Type>();
    doubles.value(doubles.len() - 1).to_bits()
}

/// Every order of these values.
fn orders(values: &[&'static str]) -> Vec<Vec<&'static str>> {
    if values.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (place, value) in values.iter().enumerate() {
        let mut others = values.to_vec();
        others.remove(place);
        for mut order in orders(&others) {
            order.push(value);
            all.push(order);
        }
    }
    all
}

#[tokio::test]
async fn the_order_of_rows_changes_nothing() {
    const NAN: &str = "'NaN'::double";
    const MINUS_NAN: &str = "-('NaN'::double)";
    let cases = [
        (&[NAN, "1.0", "-2.0", MINUS_NAN][..], -2.0, f64::NAN),
        (&["-0.0", "0.0", "0.0"], 0.0, 0.0),
        (&[NAN, "NULL", MINUS_NAN], f64::NAN, f64::NAN),
        (
            &["'-inf'::double", NAN, "'inf'::double"],
            f64::NEG_INFINITY,
            f64::NAN,
        ),
    ];
    for (values, least, most) in cases {
        for order in orders(values) {
            let rows = order
                .iter()
                .enumerate()
                .map(|(place, value)| format!("({place}, {value}::double)"))
                .collect::<Vec<_>>()
                .join(", ");
            let rows = format!("(values {rows}) t(n, x)");
            for (function, expected) in [("min", least), ("max", most)] {
                for query in [
                    format!("select {function}(x) from {rows}"),
                    format!("select {function}(x) from {rows} group by n > 100"),
                    format!(
                        "select {function}(x) over (order by n rows between 9 preceding and current row) from {rows} order by n"
                    ),
                    format!("select {function}(x) over (order by n) from {rows} order by n"),
                ] {
                    assert_eq!(bits(&query).await, expected.to_bits(), "{query}");
                }
            }
        }
    }
}

#[tokio::test]
async fn other_types_are_as_ever() {
    let session = SessionContext::new();
    crate::register(&session);
    let query = "select min(a), max(a), min(b), max(b) from (values (1, 'x'), (2, 'y')) t(a, b)";
    let batches = session.sql(query).await.unwrap().collect().await.unwrap();
    let shown = datafusion::arrow::util::pretty::pretty_format_batches(&batches).unwrap();
    assert!(
        shown
            .to_string()
            .contains("| 1        | 2        | x        | y        |"),
        "{shown}"
    );
}
