//! Our functions in SQL, as a session of the query layer registers them.

use std::sync::Arc;

use alluvium_functions::{FunctionError, register};
use datafusion::{
    arrow::{
        array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray},
        datatypes::DataType,
        util::pretty::pretty_format_batches,
    },
    error::{DataFusionError, Result},
    prelude::{SessionConfig, SessionContext},
};

fn session() -> SessionContext {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    register(&context);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("k", Arc::new(StringArray::from(vec!["a", "a", "b", "b"]))),
        (
            "i",
            Arc::new(Int32Array::from(vec![
                Some(i32::MAX),
                Some(1),
                Some(7),
                None,
            ])),
        ),
        (
            "l",
            Arc::new(Int64Array::from(vec![i64::MAX, i64::MAX, 3, 4])),
        ),
        ("d", Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0, 5.0]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    context.register_batch("t", batch).unwrap();
    context
}

fn run(query: &str) -> Result<Vec<RecordBatch>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async { session().sql(query).await?.collect().await })
}

fn table(query: &str) -> String {
    pretty_format_batches(&run(query).unwrap())
        .unwrap()
        .to_string()
}

#[test]
fn sums_are_wider_than_their_values() {
    let sums = "select k, sum(i) as i, sum(l) as l, sum(d) as d from t group by k order by k";
    let batches = run(sums).unwrap();
    assert_eq!(batches[0].column(1).data_type(), &DataType::Int64);
    assert_eq!(
        batches[0].column(2).data_type(),
        &DataType::Decimal128(38, 0)
    );
    assert_eq!(
        table(sums),
        "\
+---+------------+----------------------+-----+
| k | i          | l                    | d   |
+---+------------+----------------------+-----+
| a | 2147483648 | 18446744073709551614 | 3.0 |
| b | 7          | 7                    | 8.0 |
+---+------------+----------------------+-----+"
    );
}

#[test]
fn sums_over_windows_grow_and_move() {
    let query = "select d, sum(l) over (order by d) as growing, \
                 sum(i) over (order by d rows between 1 preceding and current row) as moving \
                 from t order by d";
    assert_eq!(
        table(query),
        "\
+-----+----------------------+------------+
| d   | growing              | moving     |
+-----+----------------------+------------+
| 1.0 | 9223372036854775807  | 2147483647 |
| 2.0 | 18446744073709551614 | 2147483648 |
| 3.0 | 18446744073709551617 | 8          |
| 5.0 | 18446744073709551621 | 7          |
+-----+----------------------+------------+"
    );
}

#[test]
fn distinct_beside_sums() {
    let query = "select k, count(distinct d) as n, sum(l) as l, sum(i) as i, sum(distinct d) as s \
                 from t group by k order by k";
    assert_eq!(
        table(query),
        "\
+---+---+----------------------+------------+-----+
| k | n | l                    | i          | s   |
+---+---+----------------------+------------+-----+
| a | 2 | 18446744073709551614 | 2147483648 | 3.0 |
| b | 2 | 7                    | 7          | 8.0 |
+---+---+----------------------+------------+-----+"
    );
}

#[test]
fn distinct_values_count_once() {
    let query = "select sum(distinct v) as a, sum(v) as b, avg(v) as c, \
                 hll_sketch_estimate(hll_sketch_agg(distinct v)) as d \
                 from (values (1), (2), (null), (2), (1), (-4)) as t(v)";
    assert_eq!(
        table(query),
        "\
+----+---+-----+---+
| a  | b | c   | d |
+----+---+-----+---+
| -1 | 2 | 0.4 | 3 |
+----+---+-----+---+"
    );
    let refused = error("select avg_state(distinct d) from t");
    assert!(
        refused.contains("avg_state(DISTINCT ...) is not supported"),
        "{refused}"
    );
}

#[test]
fn sketches_and_averages_compose() {
    let query = "with parts as ( \
                   select k, avg_state(l) as a, hll_sketch_agg(d) as h, ddsketch_agg(d) as q \
                   from t group by k) \
                 select avg_finish(avg_merge(a)) as average, \
                        hll_sketch_estimate(hll_union_agg(h)) as users, \
                        ddsketch_quantile(ddsketch_merge(q), 1) as largest, \
                        ddsketch_quantile(ddsketch_merge(q), null) as unknown \
                 from parts";
    assert_eq!(
        table(query),
        "\
+----------------------+-------+---------+---------+
| average              | users | largest | unknown |
+----------------------+-------+---------+---------+
| 4.611686018427388e18 | 4     | 5.0     |         |
+----------------------+-------+---------+---------+"
    );
    let constant = "select hll_sketch_estimate(hll_union(hll_sketch_agg(d), hll_sketch_agg(l))) \
                    as both from t where k = 'b'";
    assert!(table(constant).contains("| 4    |"), "{}", table(constant));
}

#[test]
fn empty_input() {
    let query = "select sum(i) as s, avg_finish(avg_state(i)) as a, \
                 hll_sketch_estimate(hll_sketch_agg(k)) as n, \
                 ddsketch_quantile(ddsketch_agg(d), 0.5) as q, \
                 hll_union_agg(hll) is null as h \
                 from (select *, cast(null as bytea) as hll from t) where k = 'none'";
    assert_eq!(
        table(query),
        "\
+---+---+---+---+------+
| s | a | n | q | h    |
+---+---+---+---+------+
|   |   | 0 |   | true |
+---+---+---+---+------+"
    );
}

fn error(query: &str) -> String {
    run(query).unwrap_err().to_string()
}

#[test]
fn errors_say_what_is_wrong() {
    let measure = error("select measure(d) from t");
    assert!(
        measure.contains(
            "measure() was not resolved: it takes a measure of an Alluvium table, directly from \
             that table"
        ),
        "{measure}"
    );
    let damaged = error("select hll_sketch_estimate(x'0201')");
    assert!(damaged.contains("damaged HLL sketch"), "{damaged}");
    let damaged = error("select ddsketch_quantile(x'ff', 0.5)");
    assert!(damaged.contains("damaged DDSketch sketch"), "{damaged}");
    let rank = error("select ddsketch_quantile(ddsketch_agg(d), 99) from t");
    assert!(rank.contains("between 0 and 1, not 99"), "{rank}");
    let text = error("select sum(k) from t");
    assert!(text.contains("sum cannot add up Utf8"), "{text}");
}

#[test]
fn an_overflow_can_be_told_from_other_errors() {
    let query = "select sum(v) from (select cast(99999999999999999999999999999999999999 as \
                 decimal(38,0)) as v from t)";
    let error = run(query).unwrap_err();
    let DataFusionError::External(cause) = error.find_root() else {
        panic!("{error}");
    };
    assert!(matches!(
        cause.downcast_ref::<FunctionError>(),
        Some(FunctionError::Overflow { .. })
    ));
}
