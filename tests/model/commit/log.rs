//! The log of one table, and what its versions add up to.
//!
//! Owns the slots, which are put once, and the counting of records. Does not own who puts what.

use super::{Bounds, PARTITIONS, Purpose, RECORDS};

/// By whom a partition is moved by hand: no writer.
const SOMEBODY: u8 = u8::MAX;

/// A log entry on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Put {
    /// The version it is put as.
    pub(crate) slot: u8,
    /// Whose it is.
    pub(crate) by: u8,
    /// What it says.
    pub(crate) purpose: Purpose,
    /// Where its ranges start.
    pub(crate) from: [u8; PARTITIONS],
    /// Where its ranges end; where they start, if it has none in a partition.
    pub(crate) to: [u8; PARTITIONS],
    /// The partitions whose offsets it records, a bit each.
    pub(crate) records: u8,
}

/// A table: what the oldest version in question says, and the versions since.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Log {
    base: [Option<u8>; PARTITIONS],
    tail: Vec<Entry>,
    /// How often each record is counted in the newest version.
    counts: [[u8; RECORDS]; PARTITIONS],
    starts: [Option<u8>; PARTITIONS],
    /// Events were committed.
    pub(crate) has_events: bool,
    /// The records that somebody moved over, a bit each.
    passed_over: [u8; PARTITIONS],
    /// The partitions that somebody moved, a bit each.
    moved: u8,
    /// An offset was recorded below one that was.
    pub(crate) went_back: bool,
    /// A range did not start where the one before had ended.
    pub(crate) is_torn: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Entry {
    by: u8,
    purpose: Purpose,
    from: [u8; PARTITIONS],
    to: [u8; PARTITIONS],
    recorded: [Option<u8>; PARTITIONS],
    touched: u8,
}

pub(super) fn has(set: u8, partition: usize) -> bool {
    set & 1 << partition != 0
}

impl Log {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self {
            base: [bounds.recorded; PARTITIONS],
            tail: Vec::new(),
            counts: [[0; RECORDS]; PARTITIONS],
            starts: [bounds.recorded; PARTITIONS],
            has_events: false,
            passed_over: [0; PARTITIONS],
            moved: 0,
            went_back: false,
            is_torn: false,
        }
    }

    /// The newest version.
    pub(crate) fn newest(&self) -> u8 {
        self.tail.len() as u8
    }

    /// What a version records of a partition.
    pub(crate) fn recorded(&self, version: u8, partition: usize) -> Option<u8> {
        match version {
            0 => self.base[partition],
            _ => self.tail[usize::from(version) - 1].recorded[partition],
        }
    }

    /// Whether a version records nothing of one of these.
    pub(super) fn lacks(&self, version: u8, partitions: u8) -> bool {
        (0..PARTITIONS).any(|p| has(partitions, p) && self.recorded(version, p).is_none())
    }

    /// How often a record is counted.
    pub(super) fn count(&self, partition: usize, record: u8) -> u8 {
        self.counts[partition][usize::from(record)]
    }

    /// Whether a version after `since` records something of these partitions.
    pub(super) fn touched_since(&self, since: u8, partitions: u8) -> bool {
        self.tail[usize::from(since)..]
            .iter()
            .any(|entry| entry.touched & partitions != 0)
    }

    /// Whether a version after `since` is this very commit.
    pub(super) fn has_since(&self, since: u8, put: &Put) -> bool {
        self.tail[usize::from(since)..].iter().any(|entry| {
            (entry.by, entry.purpose, entry.from, entry.to, entry.touched)
                == (put.by, put.purpose, put.from, put.to, put.records)
        })
    }

    /// The put takes effect, as the newest version.
    pub(super) fn land(&mut self, put: &Put) {
        let newest = self.newest();
        assert_eq!(put.slot, newest + 1, "only a free slot takes a put");
        let mut recorded: [Option<u8>; PARTITIONS] =
            std::array::from_fn(|p| self.recorded(newest, p));
        for (partition, recorded) in recorded.iter_mut().enumerate() {
            let (from, to) = (put.from[partition], put.to[partition]);
            if put.purpose.has_rows() {
                for record in from..to {
                    self.counts[partition][usize::from(record)] += 1;
                    self.has_events = true;
                }
            }
            if has(put.records, partition) {
                self.is_torn |= recorded.is_some_and(|at| at != from);
                self.went_back |= recorded.is_some_and(|at| at > to);
                self.starts[partition].get_or_insert(from);
                *recorded = Some(to);
            }
        }
        self.tail.push(Entry {
            by: put.by,
            purpose: put.purpose,
            from: put.from,
            to: put.to,
            recorded,
            touched: put.records,
        });
    }

    /// Somebody moves a partition that is recorded, as the newest version. What it passes over is a gap; where there are no events, or somebody
    /// believes so, the partition begins anew instead.
    pub(super) fn move_to(&mut self, partition: usize, to: u8, is_believed_empty: bool) {
        let newest = self.newest();
        let mut recorded: [Option<u8>; PARTITIONS] =
            std::array::from_fn(|p| self.recorded(newest, p));
        let at = recorded[partition].replace(to);
        let at = at.expect("only what is recorded can be moved");
        if !self.has_events || (is_believed_empty && to < at) {
            self.starts[partition] = Some(to);
        } else {
            self.passed_over[partition] |= (at..to).fold(0, |set, record| set | 1 << record);
        }
        self.moved |= 1 << partition;
        let offsets = recorded.map(Option::unwrap_or_default);
        self.tail.push(Entry {
            by: SOMEBODY,
            purpose: Purpose::Move,
            from: offsets,
            to: offsets,
            recorded,
            touched: 1 << partition,
        });
    }

    /// Whether somebody moved this partition.
    pub(super) fn is_moved(&self, partition: usize) -> bool {
        has(self.moved, partition)
    }

    /// Whether somebody moved over records.
    pub(super) fn has_passed_over(&self) -> bool {
        self.passed_over != [0; PARTITIONS]
    }

    pub(super) fn counts_are_exact(&self) -> bool {
        let newest = self.newest();
        (0..PARTITIONS).all(|partition| {
            let start = self.starts[partition].unwrap_or(0);
            let end = self.recorded(newest, partition).unwrap_or(start);
            (0..RECORDS as u8).all(|record| {
                let is_in = (start..end).contains(&record)
                    && !has(self.passed_over[partition], usize::from(record));
                self.count(partition, record) == u8::from(is_in)
            })
        })
    }

    /// Makes `version` the oldest one.
    pub(super) fn fold(&mut self, version: u8) {
        if version > 0 {
            self.base = std::array::from_fn(|p| self.recorded(version, p));
            self.tail.drain(..usize::from(version));
        }
    }

    pub(super) fn rename(&mut self, renamed: impl Fn(u8) -> u8) {
        for entry in &mut self.tail {
            entry.by = renamed(entry.by);
        }
    }
}
