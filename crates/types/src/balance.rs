//! The arithmetic an auditor checks: what came in and what became of it (P13).

use serde::{Deserialize, Serialize};

use crate::Lateness;

/// Events of one table over some ranges: `events_in = counted + filtered + rejected` (P13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Events read.
    #[serde(rename = "in")]
    pub events_in: u64,
    /// Events of which at least one row survived filters and windows.
    pub counted: u64,
    /// Events that a `where` left out.
    pub filtered: u64,
    /// Events that became dead letters for this table.
    pub rejected: u64,
    /// Accepted events older than their partition's watermark just before them; they count.
    pub late: u64,
    /// How far behind it they were. Of events that were committed before this was told, nothing is known.
    #[serde(default, skip_serializing_if = "Lateness::is_empty")]
    pub late_by: Lateness,
}

/// The balance does not balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} events came in, but {} were counted, {} filtered and {} rejected",
    .0.events_in, .0.counted, .0.filtered, .0.rejected
)]
pub struct BalanceError(pub Balance);

impl Balance {
    /// Adds another stretch's figures.
    pub fn add(&mut self, other: &Self) {
        self.events_in += other.events_in;
        self.counted += other.counted;
        self.filtered += other.filtered;
        self.rejected += other.rejected;
        self.late += other.late;
        self.late_by.add(&other.late_by);
    }

    /// So many events were late, and by so much.
    pub fn with_late(self, late_by: Lateness) -> Self {
        Self {
            late: late_by.events(),
            late_by,
            ..self
        }
    }

    /// Returns itself when `events_in = counted + filtered + rejected`.
    ///
    /// # Errors
    /// [`BalanceError`] with the figures when it does not hold: a bug, never the input's fault.
    pub fn checked(self) -> Result<Self, BalanceError> {
        if self.events_in == self.counted + self.filtered + self.rejected {
            Ok(self)
        } else {
            Err(BalanceError(self))
        }
    }
}
