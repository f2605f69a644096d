//! Some schedules with every run of the tests; `simulate` runs as many as are wanted.

use alluvium_simulation::{Counts, Source, run};

/// What a test run has time for.
const SCHEDULES: u64 = 150;

#[test]
fn no_schedule_loses_or_doubles_an_event() {
    let mut counts = Counts::default();
    for seed in 1..=SCHEDULES {
        let outcome = run(Source::Seed(seed), false);
        assert!(
            outcome.violations.is_empty(),
            "seed {seed} (simulate --tell {seed}): {:#?}",
            outcome.violations
        );
        counts.merge(&outcome.counts);
    }
    let missing = counts.missing();
    assert!(missing.is_empty(), "{missing:?} never happened:\n{counts}");
}

#[test]
fn a_schedule_can_be_run_again() {
    let first = run(Source::Seed(7), true);
    let again = run(Source::Script(first.choices.clone()), true);
    assert_eq!(first.choices.len(), again.choices.len());
}
