use super::*;
use crate::check::{breaks, holds};

fn compactions(rules: Rules) -> Compactions {
    let bounds = Bounds {
        compactors: 2,
        appends: 3,
        merges: 3,
        late: 2,
    };
    Compactions { bounds, rules }
}

const STRONG: Rules = Rules {
    fence: Fence::NextVersion,
    leftover: Leftover::LeftIfSent,
};

#[test]
fn merges_change_no_totals() {
    holds("compaction", compactions(STRONG));
}

#[test]
fn a_layout_fence_does_as_well() {
    let rules = Rules {
        fence: Fence::Layout,
        ..STRONG
    };
    holds("compaction, layout fence", compactions(rules));
}

#[test]
fn without_the_layout_fence_it_counts_twice() {
    let rules = Rules {
        fence: Fence::Nothing,
        ..STRONG
    };
    breaks("no layout fence", compactions(rules), SAME_TOTALS);
    let mut two_servers = compactions(rules);
    two_servers.bounds.late = 0;
    breaks("no layout fence, two servers", two_servers, SAME_TOTALS);
}

/// Whether a file is live does not hang on commit ids, and no put of its maker can land any more once a version without
/// the files it was made from was read.
#[test]
fn a_file_that_is_not_live_may_be_deleted() {
    let rules = Rules {
        leftover: Leftover::DeletedUnlessLive,
        ..STRONG
    };
    holds("compaction, deleted unless live", compactions(rules));
}

/// A merge lands without a reply, its snapshot grows old, a load from a newer log checkpoint does not know whose version
/// that was, and its own file is taken for one that nobody names.
#[test]
fn a_file_is_not_deleted_because_its_commit_is_not_found() {
    let rules = Rules {
        leftover: Leftover::Deleted,
        ..STRONG
    };
    breaks("deleted, not found", compactions(rules), FILES_EXIST);
}
