//! The two counters that order work: epochs of the data path, generations of the assignment.
//!
//! Owns the shared generation that everything on the data path watches (P27). Does not own what
//! anybody does when it changes.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

/// The number of a piece of input between two barriers, counted from 1 within one process.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One state of the partition assignment. Work of an older generation is dropped (P27).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The current [`Generation`], shared by every thread of one pipeline (P27).
///
/// It travels beside the channels, not through them, because they are full when it matters.
#[derive(Clone, Debug, Default)]
pub struct AssignmentGeneration(Arc<AtomicU64>);

impl AssignmentGeneration {
    /// The generation that holds now.
    pub fn current(&self) -> Generation {
        Generation(self.0.load(Ordering::Acquire))
    }

    /// Makes all earlier work stale and returns the new generation.
    pub fn advance(&self) -> Generation {
        Generation(self.0.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Whether `generation` is the one that holds now.
    pub fn is_current(&self, generation: Generation) -> bool {
        self.current() == generation
    }
}
