use super::*;
use crate::check::{breaks, holds};

fn clean_ups(rules: Rules, records: u8) -> CleanUps {
    let bounds = Bounds {
        writers: 2,
        records,
        late: 1,
    };
    CleanUps { bounds, rules }
}

#[test]
fn nobody_builds_on_a_dead_version() {
    holds(
        "clean-up 2 writers, 3 records",
        clean_ups(Rules::default(), 3),
    );
}

#[test]
fn without_the_rule_of_the_young_snapshot_it_loses() {
    let rules = Rules {
        young: Young::Never,
        ..Rules::default()
    };
    breaks("young never", clean_ups(rules, 3), NOTHING_FORGOTTEN);
}

/// A young snapshot directly before the put is not enough (P12): the put itself may take longer than the retention, and then
/// the yes is about a dead version.
#[test]
fn young_before_the_put_alone_loses() {
    let rules = Rules {
        young: Young::BeforeThePut,
        ..Rules::default()
    };
    breaks(
        "young before the put",
        clean_ups(rules, 3),
        NOTHING_FORGOTTEN,
    );
}

/// A put that lands on a dead version puts an entry beside the ledger's record of that version.
#[test]
fn an_auditor_who_believes_the_log_first_is_told_what_never_was() {
    let rules = Rules {
        history: History::LogFirst,
        ..Rules::default()
    };
    breaks("log before ledger", clean_ups(rules, 3), HISTORY_IS_TRUE);
}
