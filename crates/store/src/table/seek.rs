//! Positions that are moved by hand.
//!
//! Owns the one commit that passes events over, and its refusal: a partition goes back only while nothing was read of it, for what
//! was read would count twice. Does not own the choice of an offset.
//!
//! It needs nobody to stand still. An epoch in flight meets another offset than the one that it starts at, so it is judged anew
//! (P7): if all of it was passed over it counts as done, and nothing of it gets into the table; otherwise it is overtaken.

use std::collections::BTreeMap;

use alluvium_types::TopicPartition;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{STREAMING, TableWriter, by_partition, still_fits};
use crate::{
    Checkpoint, StoreError,
    action::{Draft, our_info},
    audit,
    commit::{CommitName, Decision, Outcome},
    snapshot::Snapshot,
};

/// Where a partition stood, and where it stands since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, i64)", into = "(i64, i64)")]
pub struct Moved {
    /// The next offset to read before.
    pub from: i64,
    /// The next offset to read after.
    pub to: i64,
}

impl From<(i64, i64)> for Moved {
    fn from((from, to): (i64, i64)) -> Self {
        Self { from, to }
    }
}

impl From<Moved> for (i64, i64) {
    fn from(moved: Moved) -> Self {
        (moved.from, moved.to)
    }
}

impl TableWriter {
    /// The partitions of which the table has read nothing, and where they stand: these may be moved anywhere.
    ///
    /// # Errors
    /// When the table's history cannot be read.
    pub async fn unread(&self) -> Result<BTreeMap<TopicPartition, i64>, StoreError> {
        let history = self.store.history(&self.spec.name).await?;
        Ok(audit(&history)
            .partitions
            .into_iter()
            .filter(|(_, partition)| partition.commits == 0)
            .map(|(partition, audited)| (partition, audited.covered.end()))
            .collect())
    }

    /// Moves partitions to these offsets, all of them in one version; the answer names those that did not stand there already.
    /// What was passed over is never read, and is a gap of which the [audit](crate::audit()) tells. Partitions that stand as
    /// `unread` says are started anew instead, so that they may go back and have no gap.
    ///
    /// # Errors
    /// [`StoreError::NoPosition`] and [`StoreError::Backwards`], of which nothing is moved; a transient error when the ending is not known:
    /// calling again is safe.
    pub async fn seek(
        &mut self,
        targets: &BTreeMap<TopicPartition, i64>,
        unread: &BTreeMap<TopicPartition, i64>,
    ) -> Result<BTreeMap<TopicPartition, Moved>, StoreError> {
        let (names, spec, log) = (self.names.clone(), self.spec.clone(), self.log.clone());
        let mut moved = BTreeMap::new();
        let decide = |snapshot: &Snapshot| {
            still_fits(&log, &spec, snapshot)?;
            let recorded = Checkpoint::from_txns(&names, &snapshot.txns);
            moved.clear();
            for (partition, &to) in targets {
                let Some(&from) = recorded.offsets.get(partition) else {
                    return Err(StoreError::NoPosition {
                        table: log.table.clone(),
                        partition: partition.clone(),
                    });
                };
                // Whatever was committed since has moved it: from then on it has been read.
                let is_unread = unread.get(partition) == Some(&from);
                if to < from && !is_unread {
                    return Err(StoreError::Backwards {
                        table: log.table.clone(),
                        partition: partition.clone(),
                        recorded: from,
                        to,
                    });
                }
                if to != from {
                    moved.insert(partition.clone(), Moved { from, to });
                }
            }
            if moved.is_empty() {
                return Ok(Decision::Stop(()));
            }
            let mut txns = Vec::with_capacity(moved.len());
            for (partition, moved) in &moved {
                txns.push(names.offset(partition, moved.to));
                if recorded.leader_epochs.contains_key(partition) {
                    // Who led the partition when the record before that was written, nobody has read.
                    txns.push(names.no_leader_epoch(partition, moved.to));
                }
            }
            let mut info = our_info("seek", &spec.pipeline);
            info.insert(
                "seeks".into(),
                by_partition(moved.iter(), |moved| json!(moved)),
            );
            Ok(Decision::Write(Box::new(Draft {
                operation: STREAMING,
                info,
                txns,
                ..Draft::default()
            })))
        };
        Ok(match self.write(&CommitName::new(), decide).await? {
            Outcome::Landed(_) => moved,
            Outcome::Stopped(()) => BTreeMap::new(),
        })
    }
}
