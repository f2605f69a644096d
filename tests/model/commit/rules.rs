//! The rules of a commit, and what weaker ones would be.
//!
//! Owns the choices. The first of each is what the code does, as [`Rules::default`]; `Fence::SameIds` is the other
//! strong one, which the protocol's text speaks of.

/// The rules that every writer of a model keeps to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// P7.
    pub(crate) judge: Judge,
    /// P9.
    pub(crate) fence: Fence,
    /// P9: from which snapshot.
    pub(crate) built: Built,
    /// P10.
    pub(crate) silence: Silence,
    /// P11.
    pub(crate) refusal: Refusal,
    /// P15.
    pub(crate) start: Start,
    /// Rows and offsets in one version.
    pub(crate) offsets: Offsets,
    /// P7, of moves by hand.
    pub(crate) back: Back,
}

/// How an epoch is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Judge {
    /// All of its ranges start at the recorded offsets, or it is not committed.
    #[default]
    AsAWhole,
    /// One range that starts there is enough; the others are counted with it and not recorded.
    RangeByRange,
    /// Not at all.
    Never,
}

/// What refuses a put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fence {
    /// The put is the very next version after the judged one, or nothing: what the code does.
    #[default]
    NextVersion,
    /// The next free version, unless a version after the judged one touches the same ids: delta-rs' conflict check.
    SameIds,
    /// The next free version.
    Nothing,
}

/// From which snapshot a commit is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Built {
    /// The one that was judged.
    #[default]
    FromJudged,
    /// The newest one, read after judging.
    FromRefreshed,
}

/// What follows when no reply came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Read on; look for the own commit; judge again.
    #[default]
    JudgeAgain,
    /// Send the same again, as the next version.
    SendAgain,
}

/// What follows a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Read on; look for the own commit; judge again.
    #[default]
    JudgeAgain,
    /// "Somebody has put that version" is taken for "it is in the table".
    CountsAsDone,
}

/// What comes first in a partition of which nothing is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Start {
    /// A commit of the start; nothing is fetched before.
    #[default]
    RecordedFirst,
    /// Fetching; the first commit of rows is judged against nothing.
    FetchedFirst,
}

/// When a partition may be moved back by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Back {
    /// While the table has no events, in the version that the move is put after.
    #[default]
    WhileEmpty,
    /// Where somebody has seen, at any moment before, that it has none.
    OnceEmpty,
}

/// Where offsets are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Offsets {
    /// In the version that has the rows.
    #[default]
    WithTheRows,
    /// In a version before it.
    BeforeTheRows,
}
