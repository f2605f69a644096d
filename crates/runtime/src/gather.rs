//! Puts the parts of an epoch together: what intake sealed and what every worker handed over.
//!
//! Owns the order: epochs come out complete and one after the other. Does not own what is done with them.

use std::collections::BTreeMap;

use alluvium_engine::EpochPart;
use alluvium_types::Epoch;

use crate::message::Sealed;

/// An epoch of which everything has arrived.
pub(crate) struct Complete {
    pub(crate) sealed: Sealed,
    pub(crate) parts: Vec<EpochPart>,
}

/// Epochs on their way, of one assignment generation.
pub(crate) struct Gather {
    workers: usize,
    open: BTreeMap<Epoch, (Option<Sealed>, Vec<EpochPart>)>,
}

impl Gather {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            open: BTreeMap::new(),
        }
    }

    pub(crate) fn seal(&mut self, sealed: Sealed) {
        let epoch = sealed.epoch;
        self.open.entry(epoch).or_default().0 = Some(sealed);
    }

    pub(crate) fn part(&mut self, epoch: Epoch, part: EpochPart) {
        self.open.entry(epoch).or_default().1.push(part);
    }

    /// Takes the oldest epoch if it is complete. A younger one waits for it: panes are shown and
    /// committed in the order of their ranges.
    pub(crate) fn next_complete(&mut self) -> Option<Complete> {
        let oldest = self.open.first_entry()?;
        let (sealed, parts) = oldest.get();
        if sealed.is_none() || parts.len() < self.workers {
            return None;
        }
        let (sealed, parts) = oldest.remove();
        Some(Complete {
            sealed: sealed?,
            parts,
        })
    }

    /// Forgets everything: its generation is over (P27).
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }
}
