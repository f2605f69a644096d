//! The proof that a table holds every offset once, or where it does not.
//!
//! Owns the walk over a table's whole history: ranges chain from the recorded start without gap or overlap, what each
//! commit says it covers is what it recorded, every balance holds, nobody else changed rows, and no version is
//! missing. What was passed over by hand is a gap too, but one that the history owns up to. It believes the history; that rows and ranges agree was the writer's promise.

use std::collections::BTreeMap;

use alluvium_types::{Balance, OffsetRange, TopicPartition};

use crate::{CommitKind, CommitRecord, Moved};

/// What the history of one table proves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditReport {
    /// What is covered of each partition.
    pub partitions: BTreeMap<TopicPartition, PartitionAudit>,
    /// Commits of panes.
    pub commits: u64,
    /// The sum of all balances.
    pub balance: Balance,
    /// Dead letters of these that were counted since (P23).
    pub replayed: u64,
    /// What was passed over by hand, oldest first.
    pub gaps: Vec<Gap>,
    /// What does not hold. Empty: proven.
    pub faults: Vec<AuditFault>,
}

impl AuditReport {
    /// Whether every offset is accounted for: it counts once, or lies in one of the gaps.
    pub fn is_proven(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Offsets that somebody has passed over by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The partition.
    pub partition: TopicPartition,
    /// What the table never reads of it.
    pub offsets: OffsetRange,
    /// The version that did it.
    pub version: i64,
    /// Its commit id.
    pub commit_id: Option<String>,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            partition, offsets, ..
        } = self;
        let (first, last) = (offsets.start(), offsets.end() - 1);
        let by = by_version(self.version, self.commit_id.as_deref());
        write!(
            f,
            "gap: offsets {first} to {last} of partition {partition} were passed over by hand{by}"
        )
    }
}

/// A version in words.
fn by_version(version: i64, commit_id: Option<&str>) -> String {
    match commit_id {
        Some(id) => format!(" by version {version} (commit {id})"),
        None => format!(" by version {version}"),
    }
}

/// One partition's part of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionAudit {
    /// From the recorded start to the last recorded offset, contiguous unless a gap or a fault says otherwise.
    pub covered: OffsetRange,
    /// Commits that moved it.
    pub commits: u64,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditFault {
    /// The version in which it shows.
    pub version: Option<i64>,
    /// Its commit id.
    pub commit_id: Option<String>,
    /// What, for a person.
    pub what: String,
}

impl std::fmt::Display for AuditFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.version {
            Some(version) => write!(f, "version {version}: {}", self.what)?,
            None => f.write_str(&self.what)?,
        }
        match &self.commit_id {
            Some(id) => write!(f, " (commit {id})"),
            None => Ok(()),
        }
    }
}

/// Checks one table's history, oldest first, as [`Store::history`](crate::Store::history) returns it.
pub fn audit(history: &[CommitRecord]) -> AuditReport {
    let mut walk = Walk::of(history);
    if history.is_empty() {
        walk.report.faults.push(AuditFault {
            version: None,
            commit_id: None,
            what: "unproven: there is no history".into(),
        });
    }
    for record in history {
        walk.check_version(record);
        walk.check(record);
    }
    walk.report
}

struct Walk<'h> {
    history: &'h [CommitRecord],
    report: AuditReport,
    next_version: i64,
    /// The commit up to which each partition was recorded, for messages.
    last: BTreeMap<TopicPartition, &'h CommitRecord>,
    /// Up to which version of the dead letters all were replayed.
    replayed: Option<i64>,
    /// Whether the table has nothing so far.
    is_empty: bool,
}

impl<'h> Walk<'h> {
    fn of(history: &'h [CommitRecord]) -> Self {
        Self {
            history,
            report: AuditReport::default(),
            next_version: 0,
            last: BTreeMap::new(),
            replayed: None,
            is_empty: true,
        }
    }

    fn fault(&mut self, record: &CommitRecord, what: String) {
        self.report.faults.push(AuditFault {
            version: Some(record.version),
            commit_id: record.commit_id.clone(),
            what,
        });
    }

    fn check_version(&mut self, record: &CommitRecord) {
        let expected = self.next_version;
        self.next_version = record.version + 1;
        match record.version {
            version if version == expected => {}
            version if version > expected => self.fault(
                record,
                format!(
                    "unproven: versions {expected} to {} are in neither the log nor the ledger",
                    version - 1
                ),
            ),
            _ => self.fault(record, "the history is not in order".into()),
        }
    }

    fn check(&mut self, record: &'h CommitRecord) {
        for (partition, &start) in &record.starts {
            self.check_start(record, partition, start);
        }
        for (partition, &moved) in &record.seeks {
            self.check_seek(record, partition, moved);
        }
        for (partition, &range) in &record.ranges {
            self.check_range(record, partition, range);
        }
        self.check_recorded(record);
        self.is_empty &= !record.is_of_events();
        match &record.kind {
            CommitKind::Commit => {
                self.report.commits += 1;
                match record.balance {
                    Some(balance) => {
                        if let Err(error) = balance.checked() {
                            self.fault(record, format!("the balance does not hold: {error}"));
                        }
                        self.report.balance.add(&balance);
                    }
                    None => self.fault(record, "unproven: the commit has no balance".into()),
                }
                if record.ranges.is_empty() {
                    self.fault(record, "the commit adds panes but covers no offsets".into());
                }
            }
            CommitKind::Replay => self.check_replay(record),
            kind if record.changes_rows && record.ranges.is_empty() => {
                let what =
                    format!("`{kind}` changed rows without saying which offsets they came from");
                self.fault(record, what);
            }
            _ => {}
        }
    }

    /// Replays go on where the one before ended, or letters were counted twice or passed over (P23).
    fn check_replay(&mut self, record: &CommitRecord) {
        let Some(replayed) = record.replayed else {
            let what = "unproven: the replay does not say which letters it took";
            return self.fault(record, what.into());
        };
        if replayed.after != self.replayed || Some(replayed.up_to) <= replayed.after {
            let shown = |version: Option<i64>| match version {
                Some(version) => format!("version {version}"),
                None => "the first".into(),
            };
            let what = format!(
                "dead letters were replayed up to {}; this replay takes those after {} up to version {}",
                shown(self.replayed),
                shown(replayed.after),
                replayed.up_to
            );
            self.fault(record, what);
        }
        self.replayed = self.replayed.max(Some(replayed.up_to));
        self.report.replayed += replayed.counted;
    }

    fn check_start(&mut self, record: &'h CommitRecord, partition: &TopicPartition, start: i64) {
        if let Some(known) = self.report.partitions.get(partition) {
            let what = format!(
                "partition {partition} is started at {start}, but it was recorded up to {} already",
                known.covered.end()
            );
            self.fault(record, what);
            return;
        }
        self.begin(record, partition, OffsetRange::empty_at(start), 0);
    }

    /// A partition of which nothing was said before.
    fn begin(
        &mut self,
        record: &'h CommitRecord,
        partition: &TopicPartition,
        covered: OffsetRange,
        commits: u64,
    ) {
        self.last.insert(partition.clone(), record);
        let audited = PartitionAudit { covered, commits };
        self.report.partitions.insert(partition.clone(), audited);
    }

    /// What was moved by hand goes on from where it stood, and goes forward as soon as the table has something.
    fn check_seek(&mut self, record: &'h CommitRecord, partition: &TopicPartition, moved: Moved) {
        let Moved { from, to } = moved;
        let Some(known) = self.report.partitions.get_mut(partition) else {
            self.begin(record, partition, OffsetRange::empty_at(to), 0);
            let what = format!(
                "unproven: partition {partition} is moved from {from} to {to} but has no recorded start"
            );
            return self.fault(record, what);
        };
        let covered = known.covered;
        let reached = covered.end();
        match OffsetRange::new(reached, to) {
            _ if from != reached => {
                let what = format!(
                    "partition {partition} is moved from {from} to {to}, but was recorded up to {reached}{}",
                    self.recorded_by(partition)
                );
                self.fault(record, what);
            }
            _ if self.is_empty => {
                known.covered = OffsetRange::empty_at(to);
                self.last.insert(partition.clone(), record);
            }
            Ok(offsets) => {
                known.covered = OffsetRange::new(covered.start(), to).unwrap_or(covered);
                self.last.insert(partition.clone(), record);
                self.report.gaps.push(Gap {
                    partition: partition.clone(),
                    offsets,
                    version: record.version,
                    commit_id: record.commit_id.clone(),
                });
            }
            Err(_) => {
                let what = format!(
                    "overlap: partition {partition} was recorded up to {reached}{}, and is moved back to {to}: what is \
                     read from there on counts twice",
                    self.recorded_by(partition)
                );
                self.fault(record, what);
            }
        }
    }

    /// By which version a partition was recorded as far as it is.
    fn recorded_by(&self, partition: &TopicPartition) -> String {
        let last = self.last.get(partition);
        last.map_or(String::new(), |last| {
            by_version(last.version, last.commit_id.as_deref())
        })
    }

    /// Which versions before this one have covered some of these offsets.
    fn covered_by(
        &self,
        before: &CommitRecord,
        partition: &TopicPartition,
        offsets: OffsetRange,
    ) -> String {
        let of_partition = |record: &'h CommitRecord| {
            let range = *record.ranges.get(partition)?;
            let overlaps = range.start() < offsets.end() && offsets.start() < range.end();
            overlaps.then_some(record)
        };
        let earlier = self.history.iter();
        let earlier = earlier.take_while(|record| record.version < before.version);
        let mut earlier = earlier.filter_map(of_partition);
        let Some(first) = earlier.next() else {
            return String::new();
        };
        let first = by_version(first.version, first.commit_id.as_deref());
        match earlier.count() {
            0 => format!(", the first time{first}"),
            more => format!(", the first time{first} and {more} more"),
        }
    }

    fn check_range(
        &mut self,
        record: &'h CommitRecord,
        partition: &TopicPartition,
        range: OffsetRange,
    ) {
        let before = self.recorded_by(partition);
        let Some(known) = self.report.partitions.get_mut(partition) else {
            self.begin(record, partition, range, 1);
            let what = format!("unproven: partition {partition} has {range} but no recorded start");
            self.fault(record, what);
            return;
        };
        known.commits += 1;
        let reached = known.covered.end();
        // Go on from the later end, so that one hole or overlap is one fault and not one in every commit after it.
        let end = range.end().max(reached);
        known.covered = OffsetRange::new(known.covered.start().min(range.start()), end)
            .unwrap_or(known.covered);
        if range.end() >= reached {
            self.last.insert(partition.clone(), record);
        }
        if range.start() > reached {
            let what = format!(
                "gap: partition {partition} was recorded up to {reached}{before}, this range is {range}: \
                 offsets {reached} to {} are missing",
                range.start() - 1
            );
            self.fault(record, what);
        } else if range.start() < reached {
            let twice = OffsetRange::new(range.start(), reached.min(range.end())).unwrap_or(range);
            let what = format!(
                "overlap: partition {partition} was recorded up to {reached}{before}, this range is {range}: \
                 offsets {} to {} count twice{}",
                twice.start(),
                twice.end() - 1,
                self.covered_by(record, partition, twice)
            );
            self.fault(record, what);
        }
    }

    /// What a commit says about itself must be what the next writer will go by.
    fn check_recorded(&mut self, record: &CommitRecord) {
        for (partition, &recorded) in &record.recorded {
            let said = record
                .ranges
                .get(partition)
                .map(|range| range.end())
                .or_else(|| record.starts.get(partition).copied())
                .or_else(|| Some(self.report.partitions.get(partition)?.covered.end()));
            if said != Some(recorded) {
                let what = match said {
                    Some(said) => format!(
                        "partition {partition} is recorded at {recorded}, but its ranges end at {said}"
                    ),
                    None => format!(
                        "unproven: partition {partition} is recorded at {recorded} without a range"
                    ),
                };
                self.fault(record, what);
            }
        }
        for (partition, range) in &record.ranges {
            if !record.recorded.contains_key(partition) {
                let what =
                    format!("partition {partition} has {range} but its offset was not recorded");
                self.fault(record, what);
            }
        }
    }
}
