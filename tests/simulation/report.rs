//! How often each fault took effect. Schedules that hurt nothing prove nothing.

use std::{collections::BTreeMap, fmt};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process was started.
    Start,
    /// A process was killed.
    Kill,
    /// A process was asked to end, and did.
    Drain,
    /// A process stood still for longer than its session.
    Zombie,
    /// A process lost Kafka for longer than its session.
    CutOff,
    /// A process started under the name of one that was still there.
    SameName,
    /// Partitions were dealt out anew.
    Rebalance,
    /// A member of the group was found to be another's past.
    Fenced,
    /// A partition went on behind a record whose leader was recorded.
    UnderLeader,
    /// A table had moved on.
    Overtaken,
    /// A member read its partitions anew from where its tables stand.
    Afresh,
    /// Files were merged and old ones deleted by hand.
    ByHand,
    /// A topic got a partition.
    Growth,
    /// Hours passed at once.
    HoursPass,
    /// A put never happened.
    PutBefore,
    /// A put happened without an answer.
    PutAfter,
    /// A log entry landed and its writer was not told.
    AmbiguousCommit,
    /// A put happened after its writer had been told that it failed.
    PutLate,
    /// A put happened twice.
    PutTwice,
    /// A name was said to be taken that was free.
    PutExists,
    /// A read, list or delete failed.
    FailedRead,
    /// A call took long.
    SlowCall,
    /// Kafka did not answer a question.
    NoAnswer,
    /// A partition halted, as retention had removed what was to be read next.
    Expired,
    /// Somebody passed events over by hand.
    PassedOver,
    /// Somebody moved a partition of a table that had nothing.
    BegunElsewhere,
    /// A commit of events.
    Commit,
    /// A commit that merged files.
    Merge,
    /// Log entries were cleaned up.
    Cleaned,
    /// An event was produced.
    Event,
    /// A dead letter was found.
    Letter,
    /// What is in memory was compared with what was produced.
    MemoryChecked,
}

impl Kind {
    const MUST_HAPPEN: [Self; 20] = [
        Self::Kill,
        Self::Zombie,
        Self::CutOff,
        Self::Drain,
        Self::Growth,
        Self::HoursPass,
        Self::PutBefore,
        Self::AmbiguousCommit,
        Self::PutLate,
        Self::PutTwice,
        Self::PutExists,
        Self::FailedRead,
        Self::UnderLeader,
        Self::Overtaken,
        Self::Expired,
        Self::PassedOver,
        Self::Merge,
        Self::Cleaned,
        Self::Letter,
        Self::MemoryChecked,
    ];
}

/// How often each kind happened.
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<Kind, u64>);

impl Counts {
    pub(crate) fn add(&mut self, kind: Kind) {
        self.add_many(kind, 1);
    }

    pub(crate) fn add_many(&mut self, kind: Kind, count: u64) {
        if count > 0 {
            *self.0.entry(kind).or_default() += count;
        }
    }

    /// Adds those of another simulation.
    pub fn merge(&mut self, other: &Self) {
        for (&kind, &count) in &other.0 {
            self.add_many(kind, count);
        }
    }

    /// How often one kind happened.
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }

    /// What some hundred schedules must have met and these did not: then they prove nothing about it.
    pub fn missing(&self) -> Vec<Kind> {
        let is_missing = |kind: &Kind| self.of(*kind) == 0;
        Kind::MUST_HAPPEN.into_iter().filter(is_missing).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, count) in &self.0 {
            writeln!(f, "{:>12}  {kind:?}", count)?;
        }
        Ok(())
    }
}
