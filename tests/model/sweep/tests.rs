use super::*;
use crate::check::{breaks, holds};

fn sweeps(checked: Checked) -> Sweeps {
    Sweeps {
        writers: 2,
        records: 3,
        checked,
    }
}

#[test]
fn no_version_names_a_file_that_was_swept() {
    holds(
        "sweep 2 writers, 3 records",
        sweeps(Checked::BeforeEveryPut),
    );
}

/// A commit is begun with fresh files, gets no reply, sleeps for days before it reads on, and puts once more.
#[test]
fn looked_at_only_when_begun_a_file_may_be_gone() {
    breaks(
        "age looked at when begun",
        sweeps(Checked::WhenBegun),
        FILES_EXIST,
    );
}
