use super::*;
use crate::check::{breaks, holds};

fn replays() -> Replays {
    Replays {
        servers: 2,
        letters: 3,
        appends: 1,
        cursor: Cursor::Place,
        judge: Judge::Cursor,
    }
}

#[test]
fn every_letter_is_replayed_once() {
    holds("replay 2 servers, 3 letters", replays());
}

#[test]
fn a_cursor_of_offsets_passes_over_letters_that_come_later() {
    let model = Replays {
        cursor: Cursor::Offset,
        ..replays()
    };
    breaks("cursor of offsets", model, ADDED_ONCE);
}

#[test]
fn without_judging_the_cursor_letters_are_added_twice() {
    let model = Replays {
        judge: Judge::Never,
        ..replays()
    };
    breaks("cursor not judged", model, ADDED_ONCE);
}
