//! SQL functions that Alluvium adds to DataFusion: sums that never wrap, extremes that do not depend on
//! the order of rows, averages and sketches as mergeable states, and `measure()`.
//!
//! Every aggregate here has exactly one state column, and its type is the type of the result. A
//! partial aggregation therefore emits what a table stores, and merging stored states is an
//! aggregation like any other. Every answer is split-invariant: any split of the input gives the
//! same one, bit for bit (sums and averages of doubles: within rounding).
//!
//! Does not own which measure is kept in which state: that is `alluvium-plan`.

mod average;
mod ddsketch;
mod double;
mod error;
mod extreme;
mod hll;
mod measure;
mod scalar;
mod single_state;
mod sum;

use std::sync::Arc;

use datafusion::{
    logical_expr::{AggregateUDF, ScalarUDF},
    prelude::SessionContext,
};

pub use average::{average_type, avg_finish, avg_merge, avg_state};
pub use ddsketch::{ddsketch_agg, ddsketch_merge, ddsketch_quantile};
pub use double::canonical;
pub use error::FunctionError;
pub use extreme::{max, min};
pub use hll::{hll_sketch_agg, hll_sketch_estimate, hll_union, hll_union_agg};
pub use measure::measure;
pub use sum::{sum, sum_merge};

/// Makes a session ours: all functions are registered, and the optimizer rule is gone that takes
/// any function named `sum` for one whose sum of sums has the type of the sum.
pub fn register(session: &SessionContext) {
    for aggregate in aggregates() {
        session.register_udaf(aggregate.as_ref().clone());
    }
    for scalar in scalars() {
        session.register_udf(scalar.as_ref().clone());
    }
    session.remove_optimizer_rule("single_distinct_aggregation_to_group_by");
}

/// Every aggregate to register in a SQL session. `sum`, `min` and `max` take the place of DataFusion's.
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    vec![
        sum(),
        sum_merge(),
        min(),
        max(),
        avg_state(),
        avg_merge(),
        hll_sketch_agg(),
        hll_union_agg(),
        ddsketch_agg(),
        ddsketch_merge(),
        measure(),
    ]
}

/// Every scalar function to register in a SQL session.
pub fn scalars() -> Vec<Arc<ScalarUDF>> {
    vec![
        avg_finish(),
        hll_union(),
        hll_sketch_estimate(),
        ddsketch_quantile(),
    ]
}
