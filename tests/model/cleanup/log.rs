//! One log: what every version really was, and what its slot holds now.
//!
//! Owns slots, the newest log checkpoint and the ledger. Does not own what writers believe.

use super::{History, RECORDS, RETENTION};

/// A log entry on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Put {
    pub(super) slot: u8,
    pub(super) from: u8,
    pub(super) to: u8,
}

/// What a reader of a slot finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Entry {
    /// The version.
    True,
    /// A later put into the slot of a version that was cleaned up; it says this offset.
    Dead { to: u8 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Slot {
    /// What the version really records.
    recorded: u8,
    entry: Option<Entry>,
    /// Ticks since the entry was put.
    age: u8,
    ledger: Option<Entry>,
}

/// The log of one table with one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Log {
    /// What the oldest version in question records; it has the number 0.
    base: u8,
    /// The versions since.
    slots: Vec<Slot>,
    counts: [u8; RECORDS],
    /// The version of the newest log checkpoint.
    pub(super) checkpoint: u8,
}

impl Log {
    pub(super) fn newest(&self) -> u8 {
        self.slots.len() as u8
    }

    fn slot(&self, version: u8) -> &Slot {
        &self.slots[usize::from(version) - 1]
    }

    /// What a version really records.
    pub(super) fn recorded(&self, version: u8) -> u8 {
        match version {
            0 => self.base,
            _ => self.slot(version).recorded,
        }
    }

    /// What a reader finds at a version; with a dead entry, what that says.
    pub(super) fn read(&self, version: u8) -> Option<u8> {
        if version > self.newest() {
            return None;
        }
        match self.slot(version).entry? {
            Entry::True => Some(self.recorded(version)),
            Entry::Dead { to } => Some(to),
        }
    }

    pub(super) fn is_free(&self, version: u8) -> bool {
        self.read(version).is_none()
    }

    pub(super) fn count(&self, record: u8) -> u8 {
        self.counts[usize::from(record)]
    }

    /// The put takes effect: as the newest version, or on a dead one.
    pub(super) fn land(&mut self, put: &Put) {
        assert!(self.is_free(put.slot), "only a free slot takes a put");
        if put.slot <= self.newest() {
            let slot = &mut self.slots[usize::from(put.slot) - 1];
            slot.entry = Some(Entry::Dead { to: put.to });
            slot.age = 0;
            return;
        }
        for record in put.from..put.to {
            self.counts[usize::from(record)] += 1;
        }
        self.slots.push(Slot {
            recorded: put.to,
            entry: Some(Entry::True),
            age: 0,
            ledger: None,
        });
    }

    pub(super) fn tick(&mut self) {
        for slot in &mut self.slots {
            if slot.entry.is_some() {
                slot.age = (slot.age + 1).min(RETENTION);
            }
        }
    }

    /// P37: what is old goes to the ledger, if that does not have the version yet, and then away.
    pub(super) fn clean_up(&mut self) {
        let before_checkpoint = usize::from(self.checkpoint).saturating_sub(1);
        for slot in &mut self.slots[..before_checkpoint] {
            if slot.age >= RETENTION
                && let Some(entry) = slot.entry.take()
            {
                slot.ledger.get_or_insert(entry);
                slot.age = 0;
            }
        }
    }

    pub(super) fn counts_are_exact(&self) -> bool {
        let end = self.recorded(self.newest());
        (0..RECORDS as u8).all(|record| self.count(record) == u8::from(record < end))
    }

    pub(super) fn is_whole_after_checkpoint(&self) -> bool {
        self.slots[usize::from(self.checkpoint)..]
            .iter()
            .all(|slot| slot.entry == Some(Entry::True))
    }

    pub(super) fn history_is_true(&self, history: History) -> bool {
        self.slots.iter().all(|slot| {
            let told = match history {
                History::LedgerFirst => slot.ledger.or(slot.entry),
                History::LogFirst => slot.entry.or(slot.ledger),
            };
            told == Some(Entry::True)
        })
    }

    /// Makes `version` the oldest one.
    pub(super) fn fold(&mut self, version: u8) {
        self.base = self.recorded(version);
        self.slots.drain(..usize::from(version));
        self.checkpoint = self.checkpoint.saturating_sub(version);
    }

    pub(super) fn has_dead_version(&self) -> bool {
        let is_dead = |slot: &Slot| matches!(slot.entry, Some(Entry::Dead { .. }));
        self.slots.iter().any(is_dead)
    }
}
