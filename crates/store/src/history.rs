//! One commit as an auditor reads it, from the log or from the ledger (P13, P37).
//!
//! Owns the reading of `commitInfo` and the JSON form that the ledger keeps. Does not own the proof
//! ([`audit`](crate::audit)).

use std::{collections::BTreeMap, fmt, sync::Arc};

use alluvium_types::{Balance, OffsetRange, Timestamp, TopicPartition};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Moved, Replayed,
    action::{Entry, Stats},
    checkpoint::{Checkpoint, Names, parse_partition},
};

/// What a version was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitKind {
    /// The table was created.
    Create,
    /// New measures got their columns.
    Grow,
    /// Starting offsets were recorded (P15).
    Start,
    /// Panes and offsets.
    Commit,
    /// Watermarks without an event (P25).
    Watermark,
    /// Dead letters.
    DeadLetters,
    /// Dead letters were kept long enough.
    Expiry,
    /// Files were merged; the same events lie in fewer rows (P36).
    Compact,
    /// Dead letters were sent through the pipeline again (P23).
    Replay,
    /// Positions were moved by hand.
    Seek,
    /// Nothing but a place in the log, before files that no version names are deleted (P37).
    Sweep,
    /// Not by this product, or by a version of it that does more; with Delta's name of the operation.
    Other(String),
}

impl CommitKind {
    fn parse(text: &str) -> Self {
        match text {
            "create" => Self::Create,
            "grow" => Self::Grow,
            "start" => Self::Start,
            "commit" => Self::Commit,
            "watermark" => Self::Watermark,
            "dead_letters" => Self::DeadLetters,
            "expiry" => Self::Expiry,
            "compact" => Self::Compact,
            "replay" => Self::Replay,
            "seek" => Self::Seek,
            "sweep" => Self::Sweep,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for CommitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Grow => "grow",
            Self::Start => "start",
            Self::Commit => "commit",
            Self::Watermark => "watermark",
            Self::DeadLetters => "dead_letters",
            Self::Expiry => "expiry",
            Self::Compact => "compact",
            Self::Replay => "replay",
            Self::Seek => "seek",
            Self::Sweep => "sweep",
            Self::Other(operation) => operation,
        })
    }
}

/// One version of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitRecord {
    /// The table's place below the storage root: `tables/<name>` or `dead_letters/<pipeline>`.
    pub table: Arc<str>,
    /// The id of the table that lay there, if the version tells: a folder can get another table after the first was dropped.
    pub table_id: Option<Arc<str>>,
    /// The version.
    pub version: i64,
    /// When its writer put it, by the writer's clock.
    pub timestamp: Option<Timestamp>,
    /// The writer's id of it.
    pub commit_id: Option<String>,
    /// The id of the commit that was the version before when it was put; only one that was that version is ever named.
    pub follows: Option<String>,
    /// What it was made for.
    pub kind: CommitKind,
    /// The pipeline that made it.
    pub pipeline: Option<String>,
    /// Its definition's version.
    pub pipeline_version: Option<String>,
    /// Offsets that it covers.
    pub ranges: BTreeMap<TopicPartition, OffsetRange>,
    /// Offsets that it starts partitions at.
    pub starts: BTreeMap<TopicPartition, i64>,
    /// Partitions that it moves by hand.
    pub seeks: BTreeMap<TopicPartition, Moved>,
    /// Offsets that it records as `txn`, which is what the next writer goes by.
    pub recorded: BTreeMap<TopicPartition, i64>,
    /// What became of its events.
    pub balance: Option<Balance>,
    /// Watermarks that it moved.
    pub watermarks: BTreeMap<TopicPartition, Timestamp>,
    /// Rows that it added, as far as its files say.
    pub rows_added: u64,
    /// Files that it added.
    pub files_added: u64,
    /// Files that it removed.
    pub files_removed: u64,
    /// Whether it added or removed rows, rather than only laying them out anew.
    pub changes_rows: bool,
    /// What it did with dead letters.
    pub replayed: Option<Replayed>,
}

/// The same with keys that JSON can have.
#[derive(Serialize, Deserialize)]
struct Written {
    table: Arc<str>,
    #[serde(default)]
    table_id: Option<Arc<str>>,
    version: i64,
    timestamp: Option<Timestamp>,
    commit_id: Option<String>,
    #[serde(default)]
    follows: Option<String>,
    kind: String,
    pipeline: Option<String>,
    pipeline_version: Option<String>,
    ranges: BTreeMap<String, OffsetRange>,
    starts: BTreeMap<String, i64>,
    #[serde(default)]
    seeks: BTreeMap<String, Moved>,
    recorded: BTreeMap<String, i64>,
    balance: Option<Balance>,
    watermarks: BTreeMap<String, Timestamp>,
    rows_added: u64,
    files_added: u64,
    files_removed: u64,
    changes_rows: bool,
    #[serde(default)]
    replayed: Option<Replayed>,
}

impl CommitRecord {
    /// Whether it is of the table with this id. Versions that do not tell are.
    pub(crate) fn is_of(&self, table_id: &str) -> bool {
        self.table_id.as_deref().is_none_or(|id| id == table_id)
    }

    /// Whether both are of one commit of one version.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        match (&self.commit_id, &other.commit_id) {
            (Some(one), Some(other)) => one == other,
            // By another product, which gives its commits no ids.
            _ => self == other,
        }
    }

    /// Whether events came into the table by it, or were taken from what was to come.
    pub(crate) fn is_of_events(&self) -> bool {
        self.changes_rows || !self.ranges.is_empty() || self.kind == CommitKind::Replay
    }

    pub(crate) fn from_entry(table: &Arc<str>, entry: &Entry) -> Self {
        let info = entry.commit_info();
        let ours = entry.our_info();
        let text = |key: &str| Some(ours?.get(key)?.as_str()?.to_owned());
        let pipeline = text("pipeline");
        let txns = entry
            .lines
            .iter()
            .filter_map(|line| line.txn.as_ref())
            .map(|txn| (txn.app_id.clone(), txn.version))
            .collect();
        let recorded = pipeline.as_deref().map_or_else(BTreeMap::new, |pipeline| {
            Checkpoint::from_txns(&Names::of_pipeline(pipeline), &txns).offsets
        });
        let kind = text("kind").map_or_else(
            || {
                let operation = info.and_then(|info| info.get("operation")?.as_str());
                CommitKind::Other(operation.unwrap_or("unknown").to_owned())
            },
            |kind| CommitKind::parse(&kind),
        );
        let mut adds = entry.lines.iter().filter_map(|line| line.add.as_ref());
        let mut removes = entry.lines.iter().filter_map(|line| line.remove.as_ref());
        let rows = |stats: &Option<String>| -> Option<u64> {
            serde_json::from_str::<Stats>(stats.as_deref()?)
                .ok()?
                .num_records
        };
        Self {
            table: table.clone(),
            table_id: entry.table_id().map(Into::into),
            version: entry.version,
            timestamp: info
                .and_then(|info| info.get("timestamp")?.as_i64())
                .map(Timestamp::from_millis),
            commit_id: text("commit_id"),
            follows: text("follows"),
            kind,
            pipeline,
            pipeline_version: text("pipeline_version"),
            ranges: map_of(ours, "ranges"),
            starts: map_of(ours, "starts"),
            seeks: map_of(ours, "seeks"),
            recorded,
            balance: ours
                .and_then(|ours| serde_json::from_value(ours.get("balance")?.clone()).ok()),
            watermarks: map_of(ours, "watermarks"),
            rows_added: adds.clone().filter_map(|add| rows(&add.stats)).sum(),
            files_added: adds.clone().count() as u64,
            files_removed: removes.clone().count() as u64,
            changes_rows: adds.any(|add| add.data_change)
                || removes.any(|remove| remove.data_change),
            replayed: ours
                .and_then(|ours| serde_json::from_value(ours.get("replayed")?.clone()).ok()),
        }
    }

    pub(crate) fn to_json(&self) -> String {
        fn keys<T: Clone>(map: &BTreeMap<TopicPartition, T>) -> BTreeMap<String, T> {
            map.iter()
                .map(|(partition, value)| (partition.to_string(), value.clone()))
                .collect()
        }
        let written = Written {
            table: self.table.clone(),
            table_id: self.table_id.clone(),
            version: self.version,
            timestamp: self.timestamp,
            commit_id: self.commit_id.clone(),
            follows: self.follows.clone(),
            kind: self.kind.to_string(),
            pipeline: self.pipeline.clone(),
            pipeline_version: self.pipeline_version.clone(),
            ranges: keys(&self.ranges),
            starts: keys(&self.starts),
            seeks: keys(&self.seeks),
            recorded: keys(&self.recorded),
            balance: self.balance,
            watermarks: keys(&self.watermarks),
            rows_added: self.rows_added,
            files_added: self.files_added,
            files_removed: self.files_removed,
            changes_rows: self.changes_rows,
            replayed: self.replayed,
        };
        serde_json::to_string(&written).expect("plain values with text keys become JSON")
    }

    pub(crate) fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        fn keys<T>(map: BTreeMap<String, T>) -> BTreeMap<TopicPartition, T> {
            map.into_iter()
                .filter_map(|(key, value)| Some((parse_partition(&key)?, value)))
                .collect()
        }
        let written: Written = serde_json::from_str(text)?;
        Ok(Self {
            table: written.table,
            table_id: written.table_id,
            version: written.version,
            timestamp: written.timestamp,
            commit_id: written.commit_id,
            follows: written.follows,
            kind: CommitKind::parse(&written.kind),
            pipeline: written.pipeline,
            pipeline_version: written.pipeline_version,
            ranges: keys(written.ranges),
            starts: keys(written.starts),
            seeks: keys(written.seeks),
            recorded: keys(written.recorded),
            balance: written.balance,
            watermarks: keys(written.watermarks),
            rows_added: written.rows_added,
            files_added: written.files_added,
            files_removed: written.files_removed,
            changes_rows: written.changes_rows,
            replayed: written.replayed,
        })
    }
}

/// A map of `commitInfo` that is keyed by `topic/partition`. What cannot be read is left out; the audit sees the hole.
fn map_of<T: for<'de> Deserialize<'de>>(
    ours: Option<&Value>,
    key: &str,
) -> BTreeMap<TopicPartition, T> {
    ours.and_then(|ours| ours.get(key)?.as_object())
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            Some((
                parse_partition(key)?,
                serde_json::from_value(value.clone()).ok()?,
            ))
        })
        .collect()
}
