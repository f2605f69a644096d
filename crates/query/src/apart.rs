//! Which windows of a table need no merge, because all their rows lie in one file that has each key once (P34).
//!
//! Owns that judgement, as a function of what the log says of files and of what lies in memory. Where it is not certain, a
//! window is merged. Does not own the merge.

use alluvium_plan::{CommittedFile, TableShape};
use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        compute::{max, min},
        datatypes::TimestampMicrosecondType,
    },
    common::ScalarValue,
    logical_expr::{
        Expr, lit,
        utils::{conjunction, disjunction},
    },
};

/// Below so many rows that need no merge, two ways to read a table cost more than they save.
const WORTH_IT: u64 = 16 << 10;
/// Stretches of windows to merge that a plan names one by one; more are joined across the gaps between them.
const MOST_STRETCHES: usize = 16;

/// Windows that must be merged, as stretches of `window_start` in microseconds, both ends included, in order and apart. All
/// others lie in one file each, which has every key once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Merged(Vec<(i64, i64)>);

impl Merged {
    /// The windows to merge, when enough rows are left that need it not; `None`: merge all of them.
    pub(crate) fn of(files: &[CommittedFile], memory: &[RecordBatch]) -> Option<Self> {
        let mut bounds = Vec::with_capacity(files.len());
        for file in files {
            let (from, to) = file.window_start?;
            bounds.push((from.micros(), to.micros(), file));
        }
        bounds.sort_by_key(|(from, to, _)| (*from, *to));
        let mut stretches = Vec::new();
        let mut reached = i64::MIN;
        for (from, to, file) in &bounds {
            if !file.has_unique_keys {
                stretches.push((*from, *to));
            } else if *from <= reached {
                // Whatever lies in this file and an earlier one lies before both their ends.
                stretches.push((*from, reached.min(*to)));
            }
            reached = reached.max(*to);
        }
        for batch in memory {
            let starts = batch
                .column_by_name(TableShape::WINDOW_START)?
                .as_primitive_opt::<TimestampMicrosecondType>()?;
            stretches.extend(min(starts).zip(max(starts)));
        }
        let merged = Self::joined(stretches);
        let apart: u64 = bounds
            .iter()
            .filter(|(from, to, _)| !merged.covers(*from, *to))
            .map(|(_, _, file)| file.rows.unwrap_or(0))
            .sum();
        (apart >= WORTH_IT).then_some(merged)
    }

    fn joined(mut stretches: Vec<(i64, i64)>) -> Self {
        stretches.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::new();
        for (from, to) in stretches {
            match joined.last_mut().filter(|(_, end)| from <= *end) {
                Some((_, end)) => *end = to.max(*end),
                None => joined.push((from, to)),
            }
        }
        while joined.len() > MOST_STRETCHES {
            let gaps = joined.windows(2).map(|pair| pair[1].0 - pair[0].1);
            let Some((narrowest, _)) = gaps.enumerate().min_by_key(|(_, gap)| *gap) else {
                break;
            };
            joined[narrowest].1 = joined[narrowest + 1].1;
            joined.remove(narrowest + 1);
        }
        Self(joined)
    }

    fn covers(&self, from: i64, to: i64) -> bool {
        self.0
            .iter()
            .any(|(start, end)| *start <= from && to <= *end)
    }

    /// That `window_start` is one of these windows; `None` when there are none.
    pub(crate) fn holds(&self, window_start: &Expr) -> Option<Expr> {
        disjunction(self.0.iter().map(|(from, to)| {
            let after = window_start.clone().gt_eq(moment(*from));
            after.and(window_start.clone().lt_eq(moment(*to)))
        }))
    }

    /// That it is none of these; `None` when all are.
    pub(crate) fn lacks(&self, window_start: &Expr) -> Option<Expr> {
        conjunction(self.0.iter().map(|(from, to)| {
            let before = window_start.clone().lt(moment(*from));
            before.or(window_start.clone().gt(moment(*to)))
        }))
    }
}

fn moment(micros: i64) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(
        Some(micros),
        Some("UTC".into()),
    ))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use alluvium_types::Timestamp;
    use datafusion::arrow::{
        array::{ArrayRef, TimestampMicrosecondArray},
        record_batch::RecordBatch,
    };
    use proptest::prelude::*;

    use super::*;

    fn file(from: i64, to: i64, has_unique_keys: bool) -> CommittedFile {
        CommittedFile {
            path: format!("{from}-{to}"),
            size: 1,
            rows: Some(WORTH_IT),
            window_start: Some((Timestamp::from_micros(from), Timestamp::from_micros(to))),
            bounds: Arc::default(),
            partition_values: BTreeMap::new(),
            missing_states: Vec::new(),
            has_unique_keys,
            checksum: None,
        }
    }

    fn in_memory(starts: &[i64]) -> RecordBatch {
        let column: ArrayRef =
            Arc::new(TimestampMicrosecondArray::from(starts.to_vec()).with_timezone("UTC"));
        RecordBatch::try_from_iter([(TableShape::WINDOW_START, column)]).unwrap()
    }

    #[test]
    fn windows_of_one_file_are_apart() {
        let merged = Merged::of(&[file(0, 9, true), file(10, 19, true)], &[]).unwrap();
        assert_eq!(merged, Merged(Vec::new()));
        // Neighbours share the window that a commit has cut.
        let merged = Merged::of(&[file(10, 20, true), file(0, 10, true)], &[]).unwrap();
        assert_eq!(merged, Merged(vec![(10, 10)]));
        let late = [file(0, 10, true), file(11, 20, true), file(4, 12, true)];
        assert_eq!(
            Merged::of(&late, &[]).unwrap(),
            Merged(vec![(4, 10), (11, 12)])
        );
    }

    #[test]
    fn what_is_not_certain_is_merged() {
        let files = [file(0, 9, false), file(10, 19, true)];
        assert_eq!(Merged::of(&files, &[]).unwrap(), Merged(vec![(0, 9)]));
        let files = [file(0, 9, true), file(10, 19, true)];
        let merged = Merged::of(&files, &[in_memory(&[3, 5])]).unwrap();
        assert_eq!(merged, Merged(vec![(3, 5)]));
        let mut without_bounds = file(0, 9, true);
        without_bounds.window_start = None;
        assert_eq!(Merged::of(&[without_bounds, file(10, 19, true)], &[]), None);
        // Little is left.
        assert_eq!(Merged::of(&[file(0, 9, true), file(0, 9, true)], &[]), None);
    }

    proptest! {
        /// Of any files, a window that is left out lies in one file only, and that one has each key once.
        #[test]
        fn a_window_that_is_left_out_lies_in_one_file(
            files in prop::collection::vec((0i64..200, 0i64..20, prop::bool::weighted(0.9)), 1..60),
            memory in prop::collection::vec(0i64..220, 0..3),
        ) {
            let files: Vec<CommittedFile> =
                files.iter().map(|(from, size, unique)| file(*from, from + size, *unique)).collect();
            let batches: Vec<RecordBatch> =
                memory.iter().map(|start| in_memory(&[*start])).collect();
            if let Some(Merged(stretches)) = Merged::of(&files, &batches) {
                prop_assert!(stretches.len() <= MOST_STRETCHES);
                for window in 0..220 {
                    if stretches.iter().any(|(from, to)| (*from..=*to).contains(&window)) {
                        continue;
                    }
                    let holding: Vec<&CommittedFile> = files
                        .iter()
                        .filter(|file| {
                            let (from, to) = file.window_start.unwrap();
                            (from.micros()..=to.micros()).contains(&window)
                        })
                        .collect();
                    prop_assert!(holding.len() <= 1);
                    prop_assert!(holding.iter().all(|file| file.has_unique_keys));
                    prop_assert!(!memory.contains(&window));
                }
            }
        }
    }
}
