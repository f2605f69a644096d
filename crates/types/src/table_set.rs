//! Which of a pipeline's tables a piece of work is for.

/// A set of table positions in their plan. A plan holds at most [`TableSet::CAPACITY`] tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableSet(u64);

impl TableSet {
    /// The most tables one pipeline may have.
    pub const CAPACITY: usize = 64;

    /// The set of the first `count` tables.
    ///
    /// # Panics
    /// When `count` exceeds [`TableSet::CAPACITY`]; plans refuse more tables.
    pub fn all(count: usize) -> Self {
        assert!(count <= Self::CAPACITY, "a plan refuses more tables");
        if count == Self::CAPACITY {
            Self(u64::MAX)
        } else {
            Self((1 << count) - 1)
        }
    }

    /// This set and the table at `position`.
    #[must_use]
    pub fn with(self, position: usize) -> Self {
        assert!(position < Self::CAPACITY, "a plan refuses more tables");
        Self(self.0 | 1 << position)
    }

    /// Whether the table at `position` is in it.
    pub fn contains(self, position: usize) -> bool {
        position < Self::CAPACITY && self.0 >> position & 1 == 1
    }

    /// Whether no table is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}
