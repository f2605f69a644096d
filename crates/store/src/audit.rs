//! The proof that a table holds every offset once, or where it does not.
//!
//! Owns the walk over a table's whole history: ranges chain from the recorded start without gap or overlap, what each
//! commit says it covers is what it recorded, every balance holds, nobody else changed rows, and no version is
//! missing. It believes the history; that rows and ranges agree was the writer's promise.

use std::collections::BTreeMap;

use alluvium_types::{Balance, OffsetRange, TopicPartition};

use crate::{CommitKind, CommitRecord};

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
    /// What does not hold. Empty: proven.
    pub faults: Vec<AuditFault>,
}

impl AuditReport {
    /// Whether nothing speaks against the table.
    pub fn is_proven(&self) -> bool {
        self.faults.is_empty()
    }
}

/// One partition's part of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionAudit {
    /// From the recorded start to the last recorded offset, contiguous unless a fault says otherwise.
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
    let mut walk = Walk::default();
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

#[derive(Default)]
struct Walk {
    report: AuditReport,
    next_version: i64,
    /// The last commit that moved a partition, for messages.
    last: BTreeMap<TopicPartition, i64>,
    /// Up to which version of the dead letters all were replayed.
    replayed: Option<i64>,
}

impl Walk {
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

    fn check(&mut self, record: &CommitRecord) {
        for (partition, &start) in &record.starts {
            self.check_start(record, partition, start);
        }
        for (partition, &range) in &record.ranges {
            self.check_range(record, partition, range);
        }
        self.check_recorded(record);
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

    fn check_start(&mut self, record: &CommitRecord, partition: &TopicPartition, start: i64) {
        if let Some(known) = self.report.partitions.get(partition) {
            let what = format!(
                "partition {partition} is started at {start}, but it was recorded up to {} already",
                known.covered.end()
            );
            self.fault(record, what);
            return;
        }
        self.last.insert(partition.clone(), record.version);
        self.report.partitions.insert(
            partition.clone(),
            PartitionAudit {
                covered: OffsetRange::empty_at(start),
                commits: 0,
            },
        );
    }

    fn check_range(
        &mut self,
        record: &CommitRecord,
        partition: &TopicPartition,
        range: OffsetRange,
    ) {
        let before = self.last.insert(partition.clone(), record.version);
        let Some(known) = self.report.partitions.get_mut(partition) else {
            self.report.partitions.insert(
                partition.clone(),
                PartitionAudit {
                    covered: range,
                    commits: 1,
                },
            );
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
        let before = before.map_or(String::new(), |version| format!(" by version {version}"));
        if range.start() > reached {
            let what = format!(
                "gap: partition {partition} was recorded up to {reached}{before}, this range is {range}: \
                 offsets {reached} to {} are missing",
                range.start() - 1
            );
            self.fault(record, what);
        } else if range.start() < reached {
            let what = format!(
                "overlap: partition {partition} was recorded up to {reached}{before}, this range is {range}: \
                 offsets {} to {} count twice",
                range.start(),
                reached.min(range.end()) - 1
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
