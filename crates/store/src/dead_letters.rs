//! The dead letters of one pipeline: every rejected event once, with its bytes and the reason.
//!
//! Owns the table, and that a letter is unique by (topic, partition, offset, table) (P22). Letters are no second
//! record of progress (P21): the `txn`s here only fence writers off each other.
//!
//! Why no letter is there twice: the set of known letters belongs to the snapshot in hand, and a commit is put only as
//! the version after that snapshot. If it is refused, the letters of the versions in between are read first.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use alluvium_types::{Reject, Timestamp, TopicPartition};
use datafusion::arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, Int32Array, Int64Array, ListArray,
        RecordBatch, StringArray, StringBuilder, StructArray, TimestampMicrosecondArray,
    },
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Fields, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit},
};
use futures::TryStreamExt as _;
use serde_json::json;

use crate::{
    Checkpoint, Store, StoreError,
    action::{Draft, our_info},
    checkpoint::Names,
    clock::millis,
    commit::{CommitName, Decision, Outcome, commit},
    definition::refuse_foreign,
    ledger::open_plain,
    log::TableLog,
    parquet_reader::read_columns,
    snapshot::Snapshot,
    stage::Stager,
};

/// Letters of one batch: a letter may hold a large event.
const BATCH_ROWS: usize = 1024;

/// The key columns, in this order.
pub(crate) const KEY: [&str; 4] = ["topic", "partition", "offset", "table"];

/// What makes a letter the same letter; `None`: every table refused the event.
pub(crate) type Key = (TopicPartition, i64, Option<Arc<str>>);

/// Writes the dead letters of one pipeline.
#[derive(Debug)]
pub struct DeadLetters {
    store: Store,
    log: TableLog,
    pipeline: Arc<str>,
    names: Names,
    snapshot: Snapshot,
    known: Known,
}

/// Letters at or beyond `from`, complete for the files in `read`.
#[derive(Debug, Default)]
struct Known {
    from: BTreeMap<TopicPartition, i64>,
    keys: HashSet<Key>,
    read: HashSet<String>,
}

impl Known {
    /// Knows letters at or beyond these offsets from now on; those that it knows stay known, unless it has to reach further back.
    fn go_on_from(&mut self, from: BTreeMap<TopicPartition, i64>) {
        let is_covered = from
            .iter()
            .all(|(partition, start)| self.from.get(partition).is_some_and(|at| at <= start));
        if !is_covered {
            *self = Self::default();
        }
        self.keys.retain(|(partition, offset, _)| {
            from.get(partition).is_some_and(|start| offset >= start)
        });
        self.from = from;
    }
}

/// Why letters that are staged are not committed.
enum Stop {
    /// Letters came that may be the same.
    Unread,
    /// A sweep may have taken their files.
    TooOld,
}

/// What a commit of letters did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LettersWritten {
    /// The version that has them; `None`: all were known already.
    pub version: Option<i64>,
    /// How many were new.
    pub letters: usize,
}

impl DeadLetters {
    pub(crate) async fn open(store: Store, pipeline: &str) -> Result<Self, StoreError> {
        let log = store.dead_letters_log(pipeline);
        let mut snapshot = open_plain(&store, &log, pipeline, pipeline, &schema()).await?;
        refuse_foreign(&log.table, &snapshot, pipeline)?;
        snapshot.forget_removed();
        Ok(Self {
            names: Names::of_dead_letters(pipeline),
            pipeline: pipeline.into(),
            store,
            log,
            snapshot,
            known: Known::default(),
        })
    }

    /// The version in hand.
    pub fn version(&self) -> i64 {
        self.snapshot.version
    }

    /// Reads which letters exist at or beyond the smallest recorded offset of each partition; to be called at
    /// assignment, and later with larger offsets so that the set stays small. Returns how many there are.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn known(
        &mut self,
        from: &BTreeMap<TopicPartition, i64>,
    ) -> Result<usize, StoreError> {
        self.log.advance(&mut self.snapshot).await?;
        refuse_foreign(&self.log.table, &self.snapshot, &self.pipeline)?;
        self.known.go_on_from(from.clone());
        self.read_new_files(from).await?;
        Ok(self.known.keys.len())
    }

    /// Reads the keys of files that were not read yet, as far as they can have letters at or beyond these offsets: where each server has
    /// partitions of its own, nobody's are read.
    async fn read_new_files(
        &mut self,
        from: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), StoreError> {
        let fences = fences_of(&self.names, &self.snapshot);
        let sought: Vec<(&TopicPartition, i64)> = from
            .iter()
            .filter(|(partition, start)| {
                let fence = fences.get(partition);
                fence.is_some_and(|fence| fence > *start)
            })
            .map(|(partition, start)| (partition, *start))
            .collect();
        if sought.is_empty() {
            return Ok(());
        }
        for file in self.snapshot.files.iter() {
            if self.known.read.contains(&file.path) {
                continue;
            }
            let bounds = self.snapshot.letter_bounds.get(&file.path);
            let may_hold = bounds.is_none_or(|bounds| {
                sought
                    .iter()
                    .any(|(partition, start)| bounds.may_hold(partition, *start))
            });
            if !may_hold {
                continue;
            }
            let objects = self.store.object_store();
            for batch in read_columns(objects, &file.path, file.size, &KEY).await? {
                let keys = keys_of(&batch).ok_or_else(|| StoreError::Unsupported {
                    table: self.log.table.clone(),
                    what: format!("{} has other columns than dead letters", file.path),
                })?;
                let from = &self.known.from;
                self.known
                    .keys
                    .extend(keys.into_iter().filter(|(partition, offset, _)| {
                        from.get(partition).is_some_and(|start| offset >= start)
                    }));
            }
            self.known.read.insert(file.path.clone());
        }
        Ok(())
    }

    /// Commits those of `rejects` that are not there yet. On return all of them are durable, each once. Goes before
    /// the commit of the tables (P21).
    ///
    /// # Errors
    /// Transient ones, also when the ending is not known: commit the same rejects again.
    pub async fn commit(
        &mut self,
        rejects: &[Reject],
        pipeline_version: &str,
        rejected_at: Timestamp,
    ) -> Result<LettersWritten, StoreError> {
        if rejects.is_empty() {
            return Ok(LettersWritten::default());
        }
        let from = starts_of(rejects);
        // The known set must reach back to every reject's offset, or a known letter would pass for a new one.
        let mut known_from = self.known.from.clone();
        known_from.extend(from.clone());
        self.known.go_on_from(known_from);
        self.read_new_files(&from).await?;
        loop {
            let new = self.unknown(rejects);
            if new.is_empty() {
                return Ok(LettersWritten::default());
            }
            let letters = new.len();
            match self.try_commit(&new, pipeline_version, rejected_at).await? {
                Some(version) => {
                    let keys = new.iter().map(|reject| key_of(reject));
                    self.known.keys.extend(keys);
                    return Ok(LettersWritten {
                        version: Some(version),
                        letters,
                    });
                }
                // Somebody else was there first: his letters are read before ours are judged again.
                None => self.read_new_files(&from).await?,
            }
        }
    }

    fn unknown<'r>(&self, rejects: &'r [Reject]) -> Vec<&'r Reject> {
        let mut seen = HashSet::new();
        rejects
            .iter()
            .filter(|reject| {
                let key = key_of(reject);
                !self.known.keys.contains(&key) && seen.insert(key)
            })
            .collect()
    }

    /// One file, one entry as the version after the snapshot whose letters are known. `None`: that version was taken. By
    /// another writer, or by this very commit when the log no longer tells: reading the letters there shows it.
    async fn try_commit(
        &mut self,
        rejects: &[&Reject],
        pipeline_version: &str,
        rejected_at: Timestamp,
    ) -> Result<Option<i64>, StoreError> {
        let mut stager = Stager::new(
            self.store.object_store(),
            self.log.table.clone(),
            self.log.folder.clone(),
            schema(),
            alluvium_plan::PartitionBy::None,
            None,
        );
        for part in rejects.chunks(BATCH_ROWS) {
            let batch = letters(part, pipeline_version, stager.commit_id(), rejected_at);
            let batch = batch.map_err(|error| StoreError::Broken {
                table: self.log.table.clone(),
                what: error.to_string(),
            });
            let written = match batch {
                Ok(batch) => stager.write(&batch).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                stager.abandon().await;
                return Err(error);
            }
        }
        let staged = stager.finish().await?;
        let judged = self.snapshot.version;
        let rules = *self.store.rules();
        let (names, pipeline, log) = (&self.names, &self.pipeline, self.log.clone());
        let decide = |snapshot: &Snapshot| {
            // What came since has to be read, unless no letter of these is in it.
            let recorded = fences_of(names, snapshot);
            if snapshot.version != judged && !are_beyond(&recorded, rejects) {
                return Ok(Decision::Stop(Stop::Unread));
            }
            refuse_foreign(&log.table, snapshot, pipeline)?;
            let adds = match staged.adds(&log.table, &rules) {
                Err(StoreError::StagedTooOld { .. }) => {
                    return Ok(Decision::Stop(Stop::TooOld));
                }
                adds => adds?,
            };
            let mut info = our_info("dead_letters", pipeline);
            info.insert("pipeline_version".into(), json!(pipeline_version));
            info.insert("rows".into(), json!(staged.rows()));
            Ok(Decision::Write(Box::new(Draft {
                operation: "WRITE",
                info,
                adds,
                txns: fences(names, &recorded, rejects),
                ..Draft::default()
            })))
        };
        let patience = self.store.patience();
        let outcome = commit(
            &self.log,
            &mut self.snapshot,
            &staged.name,
            patience,
            decide,
        )
        .await?;
        match outcome {
            Outcome::Landed(version) => {
                let files = staged.files.iter();
                let paths = files.map(|file| self.snapshot.full_path(&file.path));
                self.known.read.extend(paths);
                Ok(Some(version))
            }
            Outcome::Stopped(Stop::TooOld) => {
                // What was sent may still land: then it is the sweep's to find out.
                staged.remove_unsent(&self.log).await;
                Ok(None)
            }
            Outcome::Stopped(Stop::Unread) => {
                // Versions were read on from the one that was judged, so no entry of ours can land any more.
                staged
                    .remove_stopped(&self.log, self.snapshot.version)
                    .await;
                Ok(None)
            }
        }
    }
}

/// The table's files that the store has held for longer than `keep` at the moment `now` of its clock.
async fn older_than(
    store: &Store,
    log: &TableLog,
    snapshot: &Snapshot,
    keep: Duration,
    now: i64,
) -> Result<Vec<String>, StoreError> {
    if snapshot.files.is_empty() {
        return Ok(Vec::new());
    }
    let cutoff = now.saturating_sub(millis(keep));
    let written: HashMap<String, i64> = store
        .object_store()
        .list(Some(&log.folder))
        .map_ok(|meta| {
            let written = meta.last_modified.timestamp_millis();
            (meta.location.to_string(), written)
        })
        .try_collect()
        .await
        .map_err(StoreError::object(format!("list {}", log.folder)))?;
    let is_old = |path: &&String| written.get(*path).is_some_and(|written| *written <= cutoff);
    let paths = snapshot.files.iter().map(|file| &file.path);
    Ok(paths.filter(is_old).cloned().collect())
}

/// Takes files that the store has held for longer than `keep` at the moment `now` of its clock out of the table; returns how many. Their bytes stay until
/// they are swept, for queries of older versions.
pub(crate) async fn expire(
    store: &Store,
    log: &TableLog,
    snapshot: &mut Snapshot,
    pipeline: &str,
    keep: Duration,
    now: i64,
) -> Result<usize, StoreError> {
    let old = older_than(store, log, snapshot, keep, now).await?;
    if old.is_empty() {
        return Ok(0);
    }
    let name = CommitName::new();
    let prefix = format!("{}/", log.folder);
    let mut expired = 0;
    let decide = |snapshot: &Snapshot| {
        refuse_foreign(&log.table, snapshot, pipeline)?;
        // Another server may have taken some out meanwhile.
        let here = old.iter().filter(|path| snapshot.paths.contains(*path));
        let removes: Vec<String> = here
            .filter_map(|path| path.strip_prefix(&prefix).map(str::to_owned))
            .collect();
        expired = removes.len();
        if removes.is_empty() {
            return Ok(Decision::Stop(()));
        }
        Ok(Decision::Write(Box::new(Draft {
            operation: "DELETE",
            info: our_info("expiry", pipeline),
            removes,
            removed_at: now,
            ..Draft::default()
        })))
    };
    commit(log, snapshot, &name, store.patience(), decide).await?;
    Ok(expired)
}

/// The smallest offset of each partition.
fn starts_of(rejects: &[Reject]) -> BTreeMap<TopicPartition, i64> {
    let mut from: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    for reject in rejects {
        let start = from
            .entry(reject.partition.clone())
            .or_insert(reject.offset);
        *start = (*start).min(reject.offset);
    }
    from
}

/// By partition the offset after its last letter, also of one that has expired.
fn fences_of(names: &Names, snapshot: &Snapshot) -> BTreeMap<TopicPartition, i64> {
    Checkpoint::from_txns(names, &snapshot.txns).offsets
}

/// Whether all of these events lie behind every letter of their partitions.
fn are_beyond(recorded: &BTreeMap<TopicPartition, i64>, rejects: &[&Reject]) -> bool {
    rejects.iter().all(|reject| {
        let fence = recorded.get(&reject.partition);
        fence.is_none_or(|fence| reject.offset >= *fence)
    })
}

/// One `txn` a partition: the offset after its last letter, never lowered.
fn fences(
    names: &Names,
    recorded: &BTreeMap<TopicPartition, i64>,
    rejects: &[&Reject],
) -> Vec<crate::action::Txn> {
    let mut next: BTreeMap<&TopicPartition, i64> = BTreeMap::new();
    for reject in rejects {
        let known = recorded.get(&reject.partition).copied().unwrap_or(0);
        let end = next.entry(&reject.partition).or_insert(known);
        *end = (*end).max(reject.offset + 1);
    }
    next.into_iter()
        .map(|(partition, end)| names.offset(partition, end))
        .collect()
}

fn key_of(reject: &Reject) -> Key {
    (
        reject.partition.clone(),
        reject.offset,
        reject.table.clone(),
    )
}

pub(crate) fn keys_of(batch: &RecordBatch) -> Option<Vec<Key>> {
    let topics = batch.column(0).as_string_opt::<i32>()?;
    let partitions = batch.column(1).as_primitive_opt::<Int32Type>()?;
    let offsets = batch.column(2).as_primitive_opt::<Int64Type>()?;
    let tables = batch.column(3).as_string_opt::<i32>()?;
    let key = |row: usize| {
        let table = tables.is_valid(row).then(|| tables.value(row).into());
        let partition = TopicPartition::new(topics.value(row), partitions.value(row));
        (partition, offsets.value(row), table)
    };
    Some((0..batch.num_rows()).map(key).collect())
}

fn moment() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn header_fields() -> Fields {
    Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Binary, true),
    ])
}

/// An ordered list, because Kafka allows a header's name twice.
fn headers_item() -> Arc<Field> {
    Arc::new(Field::new(
        "element",
        DataType::Struct(header_fields()),
        false,
    ))
}

pub(crate) fn schema() -> SchemaRef {
    let field = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
    Arc::new(Schema::new(vec![
        field("topic", DataType::Utf8, false),
        field("partition", DataType::Int32, false),
        field("offset", DataType::Int64, false),
        field("timestamp", moment(), true),
        field("key", DataType::Binary, true),
        field("headers", DataType::List(headers_item()), false),
        field("payload", DataType::Binary, true),
        field("error", DataType::Utf8, false),
        field("column", DataType::Utf8, true),
        field("stage", DataType::Utf8, false),
        field("table", DataType::Utf8, true),
        field("pipeline_version", DataType::Utf8, false),
        field("commit_id", DataType::Utf8, false),
        field("rejected_at", moment(), false),
    ]))
}

fn letters(
    rejects: &[&Reject],
    pipeline_version: &str,
    commit_id: &str,
    rejected_at: Timestamp,
) -> Result<RecordBatch, datafusion::arrow::error::ArrowError> {
    let text = |of: &dyn Fn(&Reject) -> Option<String>| -> ArrayRef {
        Arc::new(
            rejects
                .iter()
                .map(|reject| of(reject))
                .collect::<StringArray>(),
        )
    };
    let bytes = |of: &dyn for<'r> Fn(&'r Reject) -> Option<&'r [u8]>| -> ArrayRef {
        Arc::new(
            rejects
                .iter()
                .map(|reject| of(reject))
                .collect::<BinaryArray>(),
        )
    };
    let timestamps: TimestampMicrosecondArray = rejects
        .iter()
        .map(|reject| reject.timestamp.map(Timestamp::micros))
        .collect();
    let rejected = TimestampMicrosecondArray::from_value(rejected_at.micros(), rejects.len());
    let partitions = rejects
        .iter()
        .map(|reject| Some(reject.partition.partition));
    let offsets = rejects.iter().map(|reject| Some(reject.offset));
    let columns: Vec<ArrayRef> = vec![
        text(&|reject| Some(reject.partition.topic.to_string())),
        Arc::new(partitions.collect::<Int32Array>()),
        Arc::new(offsets.collect::<Int64Array>()),
        Arc::new(timestamps.with_timezone("UTC")),
        bytes(&|reject| reject.key.as_deref()),
        Arc::new(headers(rejects)?),
        bytes(&|reject| reject.payload.as_deref()),
        text(&|reject| Some(reject.error.clone())),
        text(&|reject| reject.column.clone()),
        text(&|reject| Some(reject.stage.name().to_owned())),
        text(&|reject| reject.table.as_deref().map(str::to_owned)),
        text(&|_| Some(pipeline_version.to_owned())),
        text(&|_| Some(commit_id.to_owned())),
        Arc::new(rejected.with_timezone("UTC")),
    ];
    RecordBatch::try_new(schema(), columns)
}

fn headers(rejects: &[&Reject]) -> Result<ListArray, datafusion::arrow::error::ArrowError> {
    let mut keys = StringBuilder::new();
    let mut values = BinaryBuilder::new();
    for header in rejects.iter().flat_map(|reject| &reject.headers) {
        keys.append_value(&header.name);
        values.append_option(header.value.as_deref());
    }
    let entries = StructArray::try_new(
        header_fields(),
        vec![Arc::new(keys.finish()), Arc::new(values.finish())],
        None,
    )?;
    let lengths = rejects.iter().map(|reject| reject.headers.len());
    ListArray::try_new(
        headers_item(),
        OffsetBuffer::from_lengths(lengths),
        Arc::new(entries),
        None,
    )
}
