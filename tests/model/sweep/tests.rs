use super::*;
use crate::check::{breaks, holds};

fn sweeps(checked: Checked, fence: Fence) -> Sweeps {
    Sweeps {
        writers: 2,
        records: 3,
        sweeps: 2,
        checked,
        fence,
    }
}

#[test]
fn no_version_names_a_file_that_was_swept() {
    holds(
        "sweep 2 writers, 3 records",
        sweeps(Checked::BeforeEveryPut, Fence::NextVersion),
    );
}

/// A commit is begun with fresh files, gets no reply, sleeps for days before it reads on, and puts once more.
#[test]
fn looked_at_only_when_begun_a_file_may_be_gone() {
    breaks(
        "age looked at when begun",
        sweeps(Checked::WhenBegun, Fence::NextVersion),
        FILES_EXIST,
    );
}

/// A put is on its way for days; its files are swept before it arrives.
#[test]
fn without_a_version_of_its_own_a_sweep_can_be_overtaken_by_a_put() {
    breaks(
        "swept without a fence",
        sweeps(Checked::BeforeEveryPut, Fence::Absent),
        FILES_EXIST,
    );
}
