//! The snapshot that the runtime publishes and the query layer reads, swapped as one value.
//!
//! A query takes one [`Published`] and looks at nothing else: the committed files of each table at
//! one version, and the panes of epochs that continue exactly what that version records (P32). So
//! no row is counted twice or missed while a commit swaps.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use alluvium_types::{Epoch, OffsetRange, Timestamp, TopicPartition};
use datafusion::{arrow::array::RecordBatch, common::ScalarValue};

use crate::TableShape;

/// One Parquet file of a committed version.
#[derive(Clone, Debug, PartialEq)]
pub struct CommittedFile {
    /// Its path in the object store, from the store's root.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its number of rows, where the log says.
    pub rows: Option<u64>,
    /// Smallest and largest `window_start` in it, where the log says.
    pub window_start: Option<(Timestamp, Timestamp)>,
    /// What the log says of other columns that queries look for: `window_end` and group columns.
    pub bounds: Arc<[ColumnBounds]>,
    /// Values of partition columns, by name.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// State columns that it lacks because they are younger (P35).
    pub missing_states: Vec<Arc<str>>,
    /// Whether each window and group is certain to be in it once at most (P34).
    pub has_unique_keys: bool,
    /// The CRC-64/NVME of its bytes, where the log says.
    pub checksum: Option<u64>,
}

/// What the log says of one column in one file: no value lies outside, so a reader may pass the file over.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnBounds {
    /// The column.
    pub column: Arc<str>,
    /// At or below every value, in the column's type; NULL where the log does not say.
    pub least: ScalarValue,
    /// At or above every value, in the column's type; NULL where the log does not say.
    pub greatest: ScalarValue,
    /// In how many rows it is NULL, where the log says.
    pub nulls: Option<u64>,
}

/// One table at one committed version.
#[derive(Clone, Debug)]
pub struct CommittedTable {
    /// What it stores and answers, from its own metadata.
    pub shape: Arc<TableShape>,
    /// How long its windows are, where its metadata says.
    pub window: Option<Duration>,
    /// The Delta version.
    pub version: i64,
    /// The files of that version.
    pub files: Arc<Vec<CommittedFile>>,
    /// The recorded next offset of every partition.
    pub offsets: Arc<BTreeMap<TopicPartition, i64>>,
    /// The recorded watermark of every partition that has one (P25).
    pub watermarks: Arc<BTreeMap<TopicPartition, Timestamp>>,
    /// The table's watermark at that version, the smallest of all its partitions (P26); `None` while a
    /// partition has none.
    pub watermark: Option<Timestamp>,
}

/// Panes of one epoch that are in no committed version yet.
#[derive(Clone, Debug)]
pub struct MemoryEpoch {
    /// Which epoch; grows within one process.
    pub epoch: Epoch,
    /// What it covers, without empty ranges.
    pub ranges: BTreeMap<TopicPartition, OffsetRange>,
    /// Panes in the table's pane schema.
    pub panes: Vec<RecordBatch>,
}

/// One table as a query sees it.
#[derive(Clone, Debug)]
pub struct PublishedTable {
    /// The committed side.
    pub committed: CommittedTable,
    /// The side in memory, oldest first. Every epoch continues `committed.offsets` or an epoch before it
    /// in this list: whoever publishes guarantees it (P32).
    pub memory: Vec<Arc<MemoryEpoch>>,
}

/// Everything a query may see, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The tables by name.
    pub tables: BTreeMap<Arc<str>, PublishedTable>,
}

impl PublishedTable {
    /// The epochs that may be shown beside the committed version: each range starts at the offset that
    /// the version records, or continues an epoch shown before it (P32). Stops at the first that
    /// does not.
    pub fn visible(&self) -> impl Iterator<Item = &Arc<MemoryEpoch>> {
        let mut reached: BTreeMap<&TopicPartition, i64> = self
            .committed
            .offsets
            .iter()
            .map(|(partition, &offset)| (partition, offset))
            .collect();
        self.memory.iter().take_while(move |epoch| {
            let continues = epoch
                .ranges
                .iter()
                .all(|(partition, range)| reached.get(partition) == Some(&range.start()));
            if continues {
                for (partition, range) in &epoch.ranges {
                    reached.insert(partition, range.end());
                }
            }
            continues
        })
    }
}

/// The one place where the current [`Published`] of a process stands.
///
/// Readers take the whole value; writers replace it whole.
#[derive(Debug, Default)]
pub struct Publisher {
    current: RwLock<Arc<Published>>,
}

impl Publisher {
    /// The snapshot that holds now.
    pub fn current(&self) -> Arc<Published> {
        self.current
            .read()
            .expect("no writer panics while it holds this lock")
            .clone()
    }

    /// Replaces one table in one step; queries see the old or the new one.
    pub fn publish(&self, name: &Arc<str>, table: PublishedTable) {
        self.replace(|tables| {
            tables.insert(name.clone(), table);
        });
    }

    /// Nobody keeps this table up to date any more: what holds is what storage has.
    pub fn withdraw(&self, name: &str) {
        self.replace(|tables| {
            tables.remove(name);
        });
    }

    fn replace(&self, change: impl FnOnce(&mut BTreeMap<Arc<str>, PublishedTable>)) {
        let mut current = self
            .current
            .write()
            .expect("no writer panics while it holds this lock");
        let mut next = Published {
            tables: current.tables.clone(),
        };
        change(&mut next.tables);
        *current = Arc::new(next);
    }
}
