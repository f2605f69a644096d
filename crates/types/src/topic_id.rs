//! Which of several topics of one name.
//!
//! Owns the number that tells a topic from one that was made later under the same name. Does not own
//! what follows from a difference.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Tells a topic from another of the same name that was made after it was deleted: the first 63 bits
/// of the id that the broker gives every topic, so that it fits where offsets are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(i64);

impl TopicId {
    /// Of the two halves of the broker's id; `None` for the nil id, which stands for "has none".
    pub fn from_halves(most: u64, least: u64) -> Option<Self> {
        (most != 0 || least != 0).then(|| Self((most >> 1).cast_signed()))
    }

    /// Of a recorded number.
    pub fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// The number to record.
    pub fn number(self) -> i64 {
        self.0
    }

    /// Whether `found` is known to be another topic than the `recorded` one. Where one of them is not
    /// known, nothing is.
    pub fn is_another(recorded: Option<Self>, found: Option<Self>) -> bool {
        matches!((recorded, found), (Some(recorded), Some(found)) if recorded != found)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_first_63_bits_and_the_nil_id_is_none() {
        assert_eq!(TopicId::from_halves(0, 0), None);
        let id = TopicId::from_halves(u64::MAX, 5).unwrap();
        assert_eq!(id.number(), i64::MAX, "never below zero");
        assert_eq!(TopicId::from_halves(u64::MAX, 7), Some(id));
        assert_eq!(TopicId::from_number(id.number()), id);
        assert_ne!(TopicId::from_halves(2, 0), TopicId::from_halves(4, 0));
    }

    #[test]
    fn only_two_ids_that_are_known_can_differ() {
        let (one, two) = (TopicId::from_number(1), TopicId::from_number(2));
        assert!(TopicId::is_another(Some(one), Some(two)));
        for (recorded, found) in [
            (Some(one), Some(one)),
            (Some(one), None),
            (None, Some(one)),
            (None, None),
        ] {
            assert!(!TopicId::is_another(recorded, found));
        }
    }
}
