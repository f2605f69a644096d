//! Positions that are moved by hand.
//!
//! Owns the one commit that passes events over, and its refusal: a partition goes back only while the table has nothing, for what
//! was read would count twice. Does not own the choice of an offset.
//!
//! It needs nobody to stand still. An epoch in flight meets another offset than the one that it starts at, so it is judged anew
//! (P7): if all of it was passed over it counts as done, and nothing of it gets into the table; otherwise it is overtaken.

use std::{collections::BTreeMap, sync::Arc};

use alluvium_types::{ErrorClass, TopicId, TopicPartition};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{STREAMING, TableWriter, by_partition, still_fits};
use crate::{
    Checkpoint, CommitRecord, StoreError,
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

/// Where a partition is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To this offset, or not at all.
    To(i64),
    /// To this offset; where the table has read beyond it, the partition stays.
    NotBefore(i64),
}

/// What a seek came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sought {
    /// The partitions that did not stand there already.
    pub moved: BTreeMap<TopicPartition, Moved>,
    /// Whether the table had nothing: its partitions begin anew then, and what they were moved over is no gap.
    pub was_empty: bool,
}

enum Stop {
    /// Every partition stands where it is to stand.
    Nothing,
    /// Whether the table has anything is known of another version.
    LookAgain,
}

/// How often a table is looked at that others keep moving.
const LOOKS: u32 = 20;

impl TableWriter {
    /// Moves partitions, all of them in one version. What was passed over is never read, and is a gap of which the
    /// [audit](crate::audit()) tells. A table that has nothing yet begins anew instead: its partitions may go back, and have no gap.
    /// `topics` holds the ids of the topics whose offsets the goals are, as far as the broker gives any (P18).
    ///
    /// # Errors
    /// [`StoreError::NoPosition`], [`StoreError::Backwards`] and [`StoreError::OtherTopic`], of which nothing is moved; a transient error when
    /// the ending is not known: calling again is safe.
    pub async fn seek(
        &mut self,
        goals: &BTreeMap<TopicPartition, Goal>,
        topics: &BTreeMap<Arc<str>, TopicId>,
    ) -> Result<Sought, StoreError> {
        for _ in 0..LOOKS {
            // That it has nothing holds for the version up to which its history was read, and for no later one: it may have been
            // read meanwhile, and moved back to where it stood.
            let empty_at = match self.store.history(&self.spec.name).await {
                Ok(history) => {
                    has_nothing(&history).then(|| history.last().map(|last| last.version))
                }
                Err(error) if error.class() == ErrorClass::Transient => return Err(error),
                // The table reads well without what is damaged of its history, and goes forward without it.
                Err(error) => {
                    tracing::warn!(table = %self.spec.name, "what the table has read cannot be told: {error}");
                    None
                }
            };
            if let Some(sought) = self.try_seek(goals, topics, empty_at.flatten()).await? {
                return Ok(sought);
            }
            self.refresh().await?;
        }
        Err(StoreError::Crowded {
            table: self.log.table.clone(),
            attempts: LOOKS,
        })
    }

    async fn try_seek(
        &mut self,
        goals: &BTreeMap<TopicPartition, Goal>,
        topics: &BTreeMap<Arc<str>, TopicId>,
        empty_at: Option<i64>,
    ) -> Result<Option<Sought>, StoreError> {
        let (names, spec, log) = (self.names.clone(), self.spec.clone(), self.log.clone());
        let mut sought = Sought::default();
        let decide = |snapshot: &Snapshot| {
            still_fits(&log, &spec, snapshot)?;
            let recorded = Checkpoint::from_txns(&names, &snapshot.txns);
            if empty_at.is_some_and(|version| version != snapshot.version) {
                return Ok(Decision::Stop(Stop::LookAgain));
            }
            let is_empty = empty_at.is_some();
            sought = Sought {
                moved: BTreeMap::new(),
                was_empty: is_empty,
            };
            for (partition, &goal) in goals {
                let ids = (recorded.topics.get(&partition.topic)).zip(topics.get(&partition.topic));
                if let Some((&recorded, &found)) = ids.filter(|(recorded, found)| recorded != found)
                {
                    return Err(StoreError::OtherTopic {
                        table: log.table.clone(),
                        topic: partition.topic.clone(),
                        recorded,
                        found,
                    });
                }
                let Some(&from) = recorded.offsets.get(partition) else {
                    return Err(StoreError::NoPosition {
                        table: log.table.clone(),
                        partition: partition.clone(),
                    });
                };
                let to = match goal {
                    Goal::NotBefore(to) if !is_empty => to.max(from),
                    Goal::To(to) | Goal::NotBefore(to) => to,
                };
                if to < from && !is_empty {
                    return Err(StoreError::Backwards {
                        table: log.table.clone(),
                        partition: partition.clone(),
                        recorded: from,
                        to,
                    });
                }
                if to != from {
                    sought.moved.insert(partition.clone(), Moved { from, to });
                }
            }
            if sought.moved.is_empty() {
                return Ok(Decision::Stop(Stop::Nothing));
            }
            let mut txns = Vec::with_capacity(sought.moved.len());
            for (partition, moved) in &sought.moved {
                txns.push(names.offset(partition, moved.to));
                if recorded.leader_epochs.contains_key(partition) {
                    // Who led the partition when the record before that was written, nobody has read.
                    txns.push(names.no_leader_epoch(partition, moved.to));
                }
            }
            let mut info = our_info("seek", &spec.pipeline);
            info.insert(
                "seeks".into(),
                by_partition(sought.moved.iter(), |moved| json!(moved)),
            );
            Ok(Decision::Write(Box::new(Draft {
                operation: STREAMING,
                info,
                txns,
                ..Draft::default()
            })))
        };
        Ok(match self.write(&CommitName::new(), decide).await? {
            Outcome::Landed(_) | Outcome::Stopped(Stop::Nothing) => Some(sought),
            Outcome::Stopped(Stop::LookAgain) => None,
        })
    }
}

/// Whether a whole history shows that nothing was ever read. Without all of it nobody knows.
fn has_nothing(history: &[CommitRecord]) -> bool {
    audit(history).is_proven() && !history.iter().any(CommitRecord::is_of_events)
}
