//! Bytes in, panes out.
//!
//! Decodes events ([`JsonDecoder`]), folds them into the mergeable states of each table
//! ([`EpochFold`]), settles which of them were late ([`PartitionTimes`]), merges panes
//! ([`merge_panes`], [`merge_sorted`]), and compares a table's rows with the same computed again
//! ([`compare_panes`]). No threads, no input or output, no clock, no log: everything here is a
//! function of its arguments, and what happens to an event depends on nothing but its bytes, its
//! Kafka record and the plan (P5).

mod canonical;
mod compare;
mod decode;
mod error;
mod evaluate;
mod fold;
mod lateness;
mod leaf;
mod merge;
mod once;
mod pool;
#[cfg(test)]
mod testing;

pub use compare::{Comparison, Difference, DifferenceKind, DifferingMeasure, Sides, compare_panes};
pub use decode::{DecodeError, JsonDecoder};
pub use error::EngineError;
pub use fold::{EpochFold, EpochPart, TablePart, pane_size};
pub use lateness::{ObservedBatch, PartitionTimes};
pub use merge::{MergedPanes, SortedPart, merge_panes, merge_sorted};
pub use once::{OneRun, run_once};
