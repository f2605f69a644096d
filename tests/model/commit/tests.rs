use super::*;
use crate::check::{breaks, holds};

/// Two late puts at once: one lands in a slot, so a third differs from two only by being refused too.
const LATE: usize = 2;

fn commits(rules: Rules, writers: usize, partitions: usize, records: u8) -> Commits {
    let bounds = Bounds {
        writers,
        partitions,
        records,
        late: LATE,
        recorded: Some(0),
        moves: 0,
    };
    Commits { bounds, rules }
}

fn moved(rules: Rules, writers: usize, partitions: usize, records: u8) -> Commits {
    let mut model = commits(rules, writers, partitions, records);
    model.bounds.moves = 2;
    model
}

fn unstarted(rules: Rules, writers: usize, partitions: usize, records: u8) -> Commits {
    let mut model = commits(rules, writers, partitions, records);
    model.bounds.recorded = None;
    model
}

const STRONG: Rules = Rules {
    judge: Judge::AsAWhole,
    fence: Fence::NextVersion,
    built: Built::FromJudged,
    silence: Silence::JudgeAgain,
    refusal: Refusal::JudgeAgain,
    start: Start::RecordedFirst,
    offsets: Offsets::WithTheRows,
    back: Back::WhileEmpty,
};

const DELTA: Rules = Rules {
    fence: Fence::SameIds,
    ..STRONG
};

#[test]
fn two_writers_of_two_partitions() {
    holds("commit 2 writers 2x2", commits(STRONG, 2, 2, 2));
}

#[test]
fn three_writers_of_one_partition() {
    holds("commit 3 writers 1x3", commits(STRONG, 3, 1, 3));
}

#[test]
fn three_writers_of_two_partitions() {
    holds("commit 3 writers 2x1", commits(STRONG, 3, 2, 1));
}

#[test]
fn a_conflict_check_does_as_well() {
    holds(
        "commit, conflict check, 2 writers 2x1",
        commits(DELTA, 2, 2, 1),
    );
    holds(
        "commit, conflict check, 3 writers 1x3",
        commits(DELTA, 3, 1, 3),
    );
}

#[test]
fn starts_are_recorded_first() {
    holds("start 2 writers 1x3", unstarted(STRONG, 2, 1, 3));
    holds("start 2 writers 2x1", unstarted(STRONG, 2, 2, 1));
}

#[test]
fn people_move_partitions_meanwhile() {
    holds("moved 2 writers 1x3", moved(STRONG, 2, 1, 3));
    holds("moved 2 writers 2x1", moved(STRONG, 2, 2, 1));
    let mut begins_in_the_middle = moved(STRONG, 2, 1, 2);
    begins_in_the_middle.bounds.recorded = Some(1);
    holds("moved 2 writers 1x2 from 1", begins_in_the_middle);
}

#[test]
fn moved_back_because_it_was_empty_once_it_counts_twice() {
    let rules = Rules {
        back: Back::OnceEmpty,
        ..STRONG
    };
    breaks("empty by hearsay", moved(rules, 2, 1, 2), COUNTED_ONCE);
}

#[test]
fn judged_by_no_offset_it_counts_what_was_passed_over() {
    let rules = Rules {
        judge: Judge::Never,
        ..STRONG
    };
    breaks(
        "moved, no equality check",
        moved(rules, 1, 1, 2),
        COUNTED_ONCE,
    );
}

fn weak(name: &str, rules: Rules, property: &'static str) {
    breaks(name, commits(rules, 2, 2, 2), property);
}

#[test]
fn without_judging_it_counts_twice() {
    let judge = Judge::Never;
    weak("no equality check", Rules { judge, ..STRONG }, COUNTED_ONCE);
    weak(
        "no equality check, conflict check",
        Rules { judge, ..DELTA },
        COUNTED_ONCE,
    );
}

#[test]
fn without_a_fence_it_counts_twice() {
    let rules = Rules {
        fence: Fence::Nothing,
        ..STRONG
    };
    weak("no fence", rules, COUNTED_ONCE);
}

#[test]
fn built_from_another_snapshot_than_was_judged_it_counts_twice() {
    let built = Built::FromRefreshed;
    weak(
        "refreshed, next version",
        Rules { built, ..STRONG },
        COUNTED_ONCE,
    );
    weak(
        "refreshed, conflict check",
        Rules { built, ..DELTA },
        COUNTED_ONCE,
    );
}

#[test]
fn sent_again_without_judging_it_counts_twice() {
    let silence = Silence::SendAgain;
    weak("blind retry", Rules { silence, ..STRONG }, COUNTED_ONCE);
    weak(
        "blind retry, conflict check",
        Rules { silence, ..DELTA },
        COUNTED_ONCE,
    );
}

#[test]
fn a_refusal_taken_for_success_forgets_what_is_not_in_the_table() {
    let refusal = Refusal::CountsAsDone;
    weak(
        "refusal is success",
        Rules { refusal, ..STRONG },
        NOTHING_FORGOTTEN,
    );
    weak(
        "refusal is success, conflict check",
        Rules { refusal, ..DELTA },
        NOTHING_FORGOTTEN,
    );
}

#[test]
fn judged_range_by_range_it_counts_twice() {
    let judge = Judge::RangeByRange;
    weak("range by range", Rules { judge, ..STRONG }, COUNTED_ONCE);
}

#[test]
fn offsets_before_the_rows_lose() {
    let rules = Rules {
        offsets: Offsets::BeforeTheRows,
        ..STRONG
    };
    weak("offsets first", rules, COUNTED_ONCE);
    weak("offsets first, for good", rules, READS_TO_THE_END);
}

#[test]
fn fetched_before_the_start_is_recorded_it_loses() {
    let rules = Rules {
        start: Start::FetchedFirst,
        ..STRONG
    };
    breaks(
        "fetched first",
        unstarted(rules, 2, 1, 2),
        NOTHING_FORGOTTEN,
    );
}
