//! Makes a schedule that fails calmer, for as long as it fails.

use crate::{Outcome, Source, run};

/// The calmest schedule found, from the decisions of one that fails, in so many tries at most. What it fails with may be
/// something else.
pub fn shrink(failed: &Outcome, tries: usize) -> Outcome {
    let mut best = failed.choices.clone();
    let mut left = tries;
    let mut fails = |script: &[u16]| {
        if left == 0 {
            return None;
        }
        left -= 1;
        let outcome = run(Source::Script(script.to_vec()), false);
        (!outcome.violations.is_empty()).then_some(())
    };
    // The end first: after the last decision that matters everything is calm.
    let mut keep = best.len();
    while keep > 16 {
        let shorter = keep - keep / 4;
        if fails(&best[..shorter]).is_none() {
            break;
        }
        keep = shorter;
        best.truncate(keep);
    }
    let mut size = best.len() / 4;
    while size >= 4 {
        let mut from = 0;
        while from < best.len() {
            let to = (from + size).min(best.len());
            if best[from..to].iter().any(|&choice| choice != 0) {
                let mut calmer = best.clone();
                calmer[from..to].fill(0);
                if fails(&calmer).is_some() {
                    best = calmer;
                }
            }
            from = to;
        }
        size /= 4;
    }
    while best.last() == Some(&0) {
        best.pop();
    }
    run(Source::Script(best), true)
}
