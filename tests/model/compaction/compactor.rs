//! One server's merge: what was chosen, what was staged, and the way to a known ending.
//!
//! Owns the judgement "all of these files are still live". Does not own what a put does to the table.

use super::{Fence, File as Panes, Leftover, Reading, Rules, State};

/// What a server is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Nothing in flight.
    #[default]
    Idle,
    /// As idle, after a commit without a reply was found in the log.
    Resolved,
    /// The merged file is written.
    Staged,
    /// A put is on its way.
    Waiting,
    /// It was told that the version is taken, or nothing.
    Unsettled,
}

/// A log entry on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Put {
    /// The version it is put as.
    pub(crate) slot: u8,
    /// The file that comes.
    pub(crate) adds: Panes,
    /// The files that go.
    pub(crate) removes: Vec<Panes>,
}

/// One server that merges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Compactor {
    /// What it is at.
    pub(crate) phase: Phase,
    /// The version in hand.
    pub(crate) snapshot: u8,
    /// The version its put is for.
    pub(crate) slot: u8,
    chosen: Vec<Panes>,
    merge: u8,
    is_sent: bool,
}

/// What became of the staged file when the log was read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    /// It stays where it is.
    IsLeft,
    /// It is deleted.
    IsDeleted,
}

impl Compactor {
    pub(super) fn stage(snapshot: u8, chosen: Vec<Panes>, merge: u8) -> Self {
        Self {
            phase: Phase::Staged,
            snapshot,
            slot: 0,
            chosen,
            merge,
            is_sent: false,
        }
    }

    /// The number of its merge.
    pub(crate) fn merge(&self) -> u8 {
        self.merge
    }

    pub(super) fn send(&mut self) {
        self.slot = self.snapshot + 1;
        self.is_sent = true;
        self.phase = Phase::Waiting;
    }

    pub(super) fn put(&self) -> Put {
        let events = self.chosen.iter().fold(0, |all, file| all | file.events);
        Put {
            slot: self.slot,
            adds: Panes {
                events,
                merge: self.merge,
            },
            removes: self.chosen.clone(),
        }
    }

    /// The slot is taken. delta-rs goes on to the next one by itself, unless its conflict check forbids.
    pub(super) fn refused(&mut self, versions: &[u8], rules: &Rules) {
        let since = &versions[usize::from(self.snapshot)..];
        let passes = match rules.fence {
            Fence::NextVersion => false,
            Fence::Layout => since.iter().all(|merge| *merge == 0),
            Fence::Nothing => true,
        };
        match passes {
            true => self.slot = versions.len() as u8 + 1,
            false => self.phase = Phase::Unsettled,
        }
    }

    pub(super) fn read_on(&mut self, state: &State, how: Reading, rules: &Rules) -> File {
        // A load from a checkpoint knows the commit ids only of the versions after it.
        let known = match how {
            Reading::EntryByEntry => self.snapshot,
            Reading::FromCheckpoint => state.checkpoint,
        };
        let is_landed = state.versions[usize::from(known)..].contains(&self.merge);
        if is_landed {
            *self = Self {
                phase: Phase::Resolved,
                ..Self::default()
            };
            return File::IsLeft;
        }
        self.snapshot = state.newest();
        if self.is_all_live(state) {
            self.send();
            return File::IsLeft;
        }
        let is_left = match rules.leftover {
            Leftover::LeftIfSent => self.is_sent,
            Leftover::DeletedUnlessLive => state.live.contains(&self.put().adds),
            Leftover::Deleted => false,
        };
        match is_left {
            true => {
                *self = Self::default();
                File::IsLeft
            }
            false => File::IsDeleted,
        }
    }

    pub(super) fn is_all_live(&self, state: &State) -> bool {
        self.chosen.iter().all(|file| state.live.contains(file))
    }

    /// Whether the version it aimed at was put by such a one, and not by itself.
    pub(super) fn meets(&self, state: &State, such: impl Fn(u8) -> bool) -> bool {
        let slot = usize::from(self.slot);
        state
            .versions
            .get(slot - 1)
            .is_some_and(|version| *version != self.merge && such(*version))
    }
}
