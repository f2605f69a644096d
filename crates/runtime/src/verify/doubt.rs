//! What makes a second computation another one than the first, in words.
//!
//! Owns the words. Does not own how it is found out ([`Account`](super::account::Account)).

use std::fmt;

use alluvium_store::AuditFault;
use alluvium_types::TopicPartition;

/// What speaks against taking the second computation for what the table was made from. It may explain rows that
/// differ, and need not matter to those that were compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The table's history is not proven.
    History(AuditFault),
    /// The log has not as many events as commits have read.
    Events {
        /// Events that the commits read.
        counted: u64,
        /// Events that the log has there now.
        found: u64,
        /// The first commit to which that applies.
        version: i64,
    },
    /// Today's definition refuses events that a commit has taken.
    TakenThen {
        /// How many.
        events: u64,
        /// The first commit to which that applies.
        version: i64,
        /// The first such event, or one that the commit refused as well.
        partition: TopicPartition,
        /// Its offset.
        offset: i64,
        /// What is wrong with it today.
        error: String,
    },
    /// Today's definition takes events that a commit has refused, and no letter tells which ones.
    RefusedThen {
        /// How many.
        events: u64,
        /// The first commit to which that applies.
        version: i64,
    },
    /// There are more letters than refused events: which ones the table has taken cannot be told.
    Undecided {
        /// Letters.
        events: u64,
        /// The first commit to which that applies.
        version: i64,
    },
    /// A replay has sent another number of letters than can be told today.
    Replay {
        /// The version that it is.
        version: i64,
        /// Letters that it sent.
        letters: u64,
        /// Letters that it would send as far as can be told today.
        known: u64,
    },
    /// Today's definition refuses events that a replay has taken.
    ReplayedThen {
        /// How many.
        events: u64,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::History(fault) => write!(
                f,
                "its history is not proven: {fault}; `alluvium audit` lists everything"
            ),
            Self::Events {
                counted,
                found,
                version,
            } => write!(
                f,
                "its commits read {counted} events where Kafka's log has {found} now, the first such commit is version \
                 {version}: compaction or a deletion took events out, or the log was written anew"
            ),
            Self::TakenThen {
                events,
                version,
                partition,
                offset,
                error,
            } => write!(
                f,
                "{events} events are refused today that its commits took, the first such commit is version {version} \
                 (refused there today: {partition} at {offset}, {error}): verify with the pipeline file that was \
                 in force then"
            ),
            Self::RefusedThen { events, version } => write!(
                f,
                "{events} events are taken today that its commits refused, the first such commit is version {version}, and \
                 there are no dead letters of them that tell which ones"
            ),
            Self::Undecided { events, version } => write!(
                f,
                "of {events} events there are dead letters that may be another table's or another reading's, the first commit \
                 that read some is version {version}: rows with their keys are set aside"
            ),
            Self::Replay {
                version,
                letters,
                known,
            } => write!(
                f,
                "the replay that is version {version} sent {letters} dead letters, {known} of which can be told today"
            ),
            Self::ReplayedThen { events } => write!(
                f,
                "{events} events are refused today that a replay took: verify with the pipeline file that was in force then"
            ),
        }
    }
}
