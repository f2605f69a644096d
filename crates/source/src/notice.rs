//! What the drain tells whoever serves it.

use alluvium_types::{ErrorClass, Generation, TopicPartition};

use crate::Halt;

/// What happened while the drain was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// From here on batches of this generation come, from these partitions only.
    Assigned {
        /// The generation every batch of this assignment carries.
        generation: Generation,
        /// All partitions of the assignment, also halted ones.
        partitions: Vec<TopicPartition>,
    },
    /// Nothing is assigned any more.
    Revoked,
    /// The group assigned these partitions, but their offsets cannot be read yet. Asked again.
    StartsUnknown {
        /// The partitions that wait.
        partitions: Vec<TopicPartition>,
    },
    /// Nothing is taken from this partition until the next assignment (P18).
    Halted {
        /// The partition.
        partition: TopicPartition,
        /// Why.
        halt: Halt,
    },
    /// The client or a broker complains; the client goes on trying.
    Error {
        /// Whether a person must act.
        class: ErrorClass,
        /// What it says.
        text: String,
    },
    /// Another process has taken this instance's place in the group (P29). Nothing comes any more.
    Fenced(String),
}
