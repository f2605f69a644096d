//! Some schedules with every run of the tests; `simulate` runs as many as are wanted.

use alluvium_simulation::{Counts, Kind, Source, run};

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
    for kind in [
        Kind::Kill,
        Kind::Zombie,
        Kind::CutOff,
        Kind::Drain,
        Kind::Growth,
        Kind::HoursPass,
        Kind::PutBefore,
        Kind::AmbiguousCommit,
        Kind::PutLate,
        Kind::PutTwice,
        Kind::PutExists,
        Kind::FailedRead,
        Kind::UnderLeader,
        Kind::Overtaken,
        Kind::Merge,
        Kind::Cleaned,
        Kind::Letter,
        Kind::MemoryChecked,
    ] {
        assert!(counts.of(kind) > 0, "{kind:?} never happened:\n{counts}");
    }
}

#[test]
fn a_schedule_can_be_run_again() {
    let first = run(Source::Seed(7), true);
    let again = run(Source::Script(first.choices.clone()), true);
    assert_eq!(first.choices.len(), again.choices.len());
}
