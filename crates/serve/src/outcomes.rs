//! What every door tells about its queries in metrics.

use std::time::Duration;

/// A query at `door` ended, or began to be answered, with this: a SQLSTATE or `ok`.
pub(crate) fn count(door: &'static str, code: &str) {
    metrics::counter!("alluvium_queries_total", "door" => door, "code" => code.to_owned())
        .increment(1);
}

/// The answer to a query is there after `took`: its first rows, or `failure`, why there are none.
pub(crate) fn answered(door: &'static str, took: Duration, failure: Option<&str>) {
    count(door, failure.unwrap_or("ok"));
    metrics::histogram!("alluvium_query_first_rows_seconds", "door" => door)
        .record(took.as_secs_f64());
}
