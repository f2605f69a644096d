use super::*;
use crate::check::{breaks, holds};

fn pipeline(rules: Rules) -> Letters {
    let bounds = Bounds {
        writers: 2,
        records: 3,
        late: 1,
    };
    Letters { bounds, rules }
}

#[test]
fn every_letter_is_there_once() {
    holds("letters, 2 writers, 2 tables", pipeline(Rules::default()));
}

#[test]
fn letters_that_nobody_compares_are_there_twice() {
    let rules = Rules {
        unique: Unique::No,
        ..Rules::default()
    };
    breaks("letters not compared", pipeline(rules), LETTERS_ONCE);
}

#[test]
fn letters_compared_with_an_old_version_are_there_twice() {
    let rules = Rules {
        unique: Unique::KnownOnly,
        ..Rules::default()
    };
    breaks("letters not fenced", pipeline(rules), LETTERS_ONCE);
}

#[test]
fn letters_after_the_tables_are_lost() {
    let rules = Rules {
        order: Order::TablesFirst,
        ..Rules::default()
    };
    breaks("letters last", pipeline(rules), NO_LETTER_MISSING);
}

/// Nothing is counted twice without the cut, but tables that stand at different offsets never go on.
#[test]
fn without_the_cut_tables_stand_still() {
    let rules = Rules {
        cut: Cut::Nowhere,
        ..Rules::default()
    };
    breaks("ranges not cut", pipeline(rules), READS_TO_THE_END);
}
