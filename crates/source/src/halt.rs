//! Why a partition stands still.
//!
//! Owns the reasons and what a person can do about each. Does not own the decision to go on: that
//! is an operator's, because every way on either loses events or counts them twice (P18).

use std::{fmt, sync::Arc};

use alluvium_types::TopicId;

/// Why nothing is taken from a partition any more (P18). It lasts until the next assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The broker refuses the offset, and its log's ends do not explain why or could not be
    /// learned. If the log covers the offset, it was truncated and written anew.
    OutOfRange {
        /// The offset to read next.
        offset: i64,
        /// The broker's words.
        text: String,
    },
    /// The log begins behind the recorded offset: retention has removed events that are not in the
    /// table.
    BeforeLow {
        /// The offset to read next.
        recorded: i64,
        /// Where the log begins.
        low: i64,
    },
    /// The log ends before the recorded offset: it was truncated, or the topic was created again.
    BeyondHigh {
        /// The offset to read next.
        recorded: i64,
        /// Where the log ends.
        high: i64,
    },
    /// The topic was deleted and created again: its id is another one.
    Recreated {
        /// Its name.
        topic: Arc<str>,
        /// The offset to read next, of the former topic.
        offset: i64,
        /// The id that the topic has now.
        found: TopicId,
    },
    /// The log was cut off before the offset to read next, and may have been written anew from there.
    Truncated {
        /// The offset to read next.
        offset: i64,
        /// Where the part of the log ends that is still what was read.
        end: i64,
    },
    /// Bytes that cannot be read: a checksum that does not hold, or an unknown compression.
    Unreadable {
        /// Where.
        offset: i64,
        /// What is wrong with them.
        text: String,
    },
    /// Nobody recorded where the partition starts.
    Unrecorded,
    /// Stopped from outside the source.
    Operator {
        /// Who or why.
        reason: String,
    },
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { offset, text } => write!(
                f,
                "the broker has no record at offset {offset} of those that were read ({text}); compare it \
                 with the log's ends: if the log covers it, it was cut off and written anew; restore the \
                 topic, or read it by a new pipeline with tables of its own"
            ),
            Self::BeforeLow { recorded, low } => write!(
                f,
                "the table continues at offset {recorded}, but the log begins at {low}: retention \
                 removed {} offsets before they were read; lengthen the topic's retention, and go on without them: \
                 `alluvium seek PIPELINE --partition P --to earliest`, which `alluvium audit` tells as a gap",
                low - recorded
            ),
            Self::BeyondHigh { recorded, high } => write!(
                f,
                "the table continues at offset {recorded}, but the log ends at {high}: it was \
                 truncated or the topic was created again; read a new topic by a new pipeline with \
                 tables of its own"
            ),
            Self::Recreated {
                topic,
                offset,
                found,
            } => write!(
                f,
                "the topic was deleted and created again, so offset {offset} means another event \
                 now; read it by a new pipeline with tables of its own or, if the same events are at the \
                 same offsets again, write `continued_by: {{{topic}: {found}}}` beside `topics` and restart"
            ),
            Self::Truncated { offset, end } => write!(
                f,
                "the table continues at offset {offset}, but the log was cut off at {end} by a \
                 change of leader: what the table counted from there on is no longer in the topic; \
                 read the topic by a new pipeline with tables of its own"
            ),
            Self::Unreadable { offset, text } => write!(
                f,
                "the records at offset {offset} cannot be read ({text}); repair the topic and restart once the broker \
                 serves them whole, or go on without them: `alluvium seek PIPELINE --partition P --to OFFSET`"
            ),
            Self::Unrecorded => f.write_str(
                "the table records no start for it; restart the server so that the start is \
                 recorded",
            ),
            Self::Operator { reason } => write!(f, "{reason}; restart the server to go on"),
        }
    }
}
