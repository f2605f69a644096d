//! Many small files to few large ones, with the same events in fewer rows (P36).
//!
//! Owns the reading of the files that are merged, the writing of what becomes of them, and the commit that puts one in
//! the place of the others. Does not own which files these are ([`choose`]), when that happens, or what merging a row
//! means: whoever calls this brings the merge.

mod choose;
mod filters;

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    sync::Arc,
};

use alluvium_plan::{CommittedFile, PartitionBy, TableShape};
use alluvium_types::{MemoryBudget, survived};
use datafusion::arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::StreamExt as _;
use parquet::{arrow::async_reader::ParquetRecordBatchStream, errors::ParquetError};
use serde_json::json;

pub use choose::{Choice, Effort, choose};

use crate::{
    Staged, Store, StoreError,
    action::{Draft, Effect, our_info},
    checksum::{Check, damage_of},
    commit::{Decision, Outcome, commit},
    damage::{Surviving, or_astray},
    definition::{PIPELINE, refuse_foreign},
    log::TableLog,
    parquet_reader::{ObjectReader, extent, open_checked, rows_of_batch},
    snapshot::Snapshot,
    stage::{Stager, most_held, relabel},
    table::read_shape,
};

/// How the merging of files ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionEnding {
    /// It is this version, or part of it when the log no longer tells which one it was.
    Committed {
        /// The Delta version.
        version: i64,
    },
    /// Some of these files are not part of the table any more: another server has merged or removed them.
    Overtaken,
}

/// Merges the files of one table. Any number of servers may do so beside each other and beside writers.
#[derive(Debug)]
pub struct Compactor {
    store: Store,
    log: TableLog,
    snapshot: Snapshot,
    partition_by: PartitionBy,
}

impl Store {
    /// Opens a table for merging its files.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none; or that it cannot be read or written by this release.
    pub async fn compactor(&self, table: &str) -> Result<Compactor, StoreError> {
        let log = self.table_log(table);
        let missing = || StoreError::Missing {
            table: log.table.clone(),
        };
        let mut snapshot = log.load().await?.ok_or_else(missing)?;
        snapshot.forget_removed();
        refuse_foreign(&log.table, &snapshot, pipeline(&snapshot))?;
        read_shape(&log.table, &snapshot)?;
        let partition_by = partition_by(&log.table, &snapshot)?;
        Ok(Compactor {
            store: self.clone(),
            log,
            snapshot,
            partition_by,
        })
    }
}

pub(crate) fn pipeline(snapshot: &Snapshot) -> &str {
    let configuration = &snapshot.metadata.configuration;
    configuration.get(PIPELINE).map_or("", String::as_str)
}

fn partition_by(table: &Arc<str>, snapshot: &Snapshot) -> Result<PartitionBy, StoreError> {
    let columns: Vec<Option<&str>> = snapshot
        .metadata
        .partition_columns
        .iter()
        .map(|name| Some(name.as_str()))
        .collect();
    [PartitionBy::None, PartitionBy::Day, PartitionBy::Month]
        .into_iter()
        .find(|known| {
            let wanted: Vec<Option<&str>> = known.column().into_iter().map(Some).collect();
            wanted == columns
        })
        .ok_or_else(|| StoreError::Unsupported {
            table: table.clone(),
            what: format!(
                "it is partitioned by {}",
                snapshot.metadata.partition_columns.join(", ")
            ),
        })
}

impl Compactor {
    /// Moves to the newest version.
    ///
    /// # Errors
    /// Transient ones; or that the table has become another one.
    pub async fn refresh(&mut self) -> Result<(), StoreError> {
        self.log.advance(&mut self.snapshot).await
    }

    /// The version in hand.
    pub fn version(&self) -> i64 {
        self.snapshot.version
    }

    /// The files of the version in hand.
    pub fn files(&self) -> &[CommittedFile] {
        &self.snapshot.files
    }

    /// Opens the files of a choice, for reading side by side in batches of about `batch_bytes` bytes each.
    ///
    /// # Errors
    /// That a file cannot be read, or is not what its table says.
    pub async fn open(&self, choice: &Choice, batch_bytes: usize) -> Result<Inputs, StoreError> {
        let lacked: BTreeSet<&Arc<str>> = choice
            .files()
            .first()
            .into_iter()
            .flat_map(|file| &file.missing_states)
            .collect();
        let mut shape = TableShape::clone(&*read_shape(&self.log.table, &self.snapshot)?);
        // Files that lack a state become a file that lacks it (P35).
        let states = std::mem::take(&mut shape.states);
        shape.measures.clear();
        shape.states = states
            .into_iter()
            .filter(|state| !lacked.contains(&state.name))
            .collect();
        let schema = shape.pane_schema();
        let mut opened = Vec::with_capacity(choice.files().len());
        let (mut rows, mut bytes) = (0_u64, 0_u64);
        for file in choice.files() {
            let (builder, check) = open_checked(self.store.object_store(), file).await?;
            let (of_file, bytes_of_file) = extent(&builder);
            if let Some(said) = file.rows.filter(|said| *said != of_file) {
                let what = format!("it has {of_file} rows, and {said} were committed");
                let wrong = ParquetError::General(what);
                return Err(StoreError::unreadable(&file.path)(wrong));
            }
            rows = rows.saturating_add(of_file);
            bytes = bytes.saturating_add(bytes_of_file);
            opened.push((file, builder, check));
        }
        let objects = self.store.object_store();
        let filtered = filters::filtered_columns(&objects, choice, &shape, rows).await?;
        let batch_rows = rows_of_batch(batch_bytes, (rows, bytes));
        let files = opened
            .into_iter()
            .map(|(file, builder, check)| {
                let builder = builder.with_batch_size(batch_rows);
                PaneFile::new(&file.path, builder, &schema, check)
            })
            .collect::<Result<_, _>>()?;
        Ok(Inputs {
            shape,
            files,
            rows,
            batch_rows,
            filtered,
            file_bytes: choice.bytes_of_a_file(),
        })
    }

    /// The first file of a choice that has other bytes than were written, after the merge has failed for what was in them; `None`: all are
    /// as they were, as far as can be told.
    ///
    /// # Errors
    /// When one cannot be read, and no other is damaged.
    pub async fn damaged(
        &self,
        choice: &Choice,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<Option<StoreError>, StoreError> {
        let objects = self.store.object_store();
        let mut unread = Ok(None);
        for file in choice.files() {
            if should_stop() {
                break;
            }
            match damage_of(objects.as_ref(), file).await {
                Ok(None) => {}
                Ok(Some(damage)) => return Ok(Some(StoreError::unreadable(&file.path)(damage))),
                Err(error) => {
                    unread = Err(StoreError::object(format!("read {}", file.path))(error));
                }
            }
        }
        unread
    }

    /// Begins the file, or the files one after the other, that take the place of others. Nobody sees it until [`Self::commit`] names it (P8).
    pub fn begin(&self, inputs: &Inputs, budget: &MemoryBudget) -> CompactedFile {
        let stager = Stager::new(
            self.store.object_store(),
            self.log.table.clone(),
            self.log.folder.clone(),
            inputs.shape.pane_schema(),
            self.partition_by,
            Some(budget),
        );
        let stager = stager
            .with_unique_keys()
            .with_filters_of(inputs.filtered.clone());
        CompactedFile(match inputs.file_bytes {
            Some(bytes) => stager.with_file_bytes(bytes),
            None => stager,
        })
    }

    /// Puts what was written in the place of the files it was made from, in one version, once: only if all of these are
    /// still part of the version before (P36).
    ///
    /// # Errors
    /// [`StoreError::EndingUnknown`] and other transient ones: commit the same `staged` again (P10), or leave it: then it
    /// becomes an orphan or part of the table, and answers are the same.
    pub async fn commit(
        &mut self,
        choice: &Choice,
        rows_before: u64,
        staged: &Staged,
    ) -> Result<CompactionEnding, StoreError> {
        let rules = *self.store.rules();
        let pipeline = pipeline(&self.snapshot).to_owned();
        let log = self.log.clone();
        let prefix = format!("{}/", self.log.folder);
        let removed_at = match staged.put_at(&self.log).await? {
            Some(moment) => moment,
            None => self.store.now().await?,
        };
        let decide = |snapshot: &Snapshot| {
            refuse_foreign(&log.table, snapshot, &pipeline)?;
            let live = |file: &CommittedFile| snapshot.paths.contains(&file.path);
            if !choice.files().iter().all(live) {
                return Ok(Decision::Stop(()));
            }
            let removes = choice
                .files()
                .iter()
                .filter_map(|file| file.path.strip_prefix(&prefix).map(str::to_owned))
                .collect();
            let mut info = our_info("compact", &pipeline);
            info.insert(
                "files".into(),
                json!([choice.files().len(), staged.files()]),
            );
            info.insert("rows".into(), json!([rows_before, staged.rows()]));
            Ok(Decision::Write(Box::new(Draft {
                operation: "OPTIMIZE",
                info,
                adds: staged.adds(&log.table, &rules)?,
                removes,
                removed_at,
                effect: Effect::LaysOutAnew,
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
            Outcome::Landed(version) => Ok(CompactionEnding::Committed { version }),
            Outcome::Stopped(()) => {
                let version = self.snapshot.version;
                // Files are gone, so a version was read that has taken them out: another's, or ours if it has what we made.
                let mut made = staged.files.iter();
                if made.any(|file| self.snapshot.has(&file.path)) {
                    return Ok(CompactionEnding::Committed { version });
                }
                staged.remove_stopped(&self.log, version).await;
                Ok(CompactionEnding::Overtaken)
            }
        }
    }
}

/// What is merged: the files, open, and their common shape.
#[derive(Debug)]
pub struct Inputs {
    shape: TableShape,
    files: Vec<PaneFile>,
    rows: u64,
    batch_rows: usize,
    /// Columns of which the result has bloom filters.
    filtered: Vec<Arc<str>>,
    /// Bytes of a file of the result, when it is more than one.
    file_bytes: Option<u64>,
}

impl Inputs {
    /// The shape of all of them: the table's, without the states that they lack. It has no measures.
    pub fn shape(&self) -> &TableShape {
        &self.shape
    }

    /// Rows in all files.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows of a batch.
    pub fn batch_rows(&self) -> usize {
        self.batch_rows
    }

    /// The files.
    pub fn into_files(self) -> Vec<PaneFile> {
        self.files
    }
}

/// One file of panes, read a batch at a time in the order it was written in: by window, then group. At its end it is known whether
/// its bytes are those that were written.
pub struct PaneFile {
    path: String,
    schema: SchemaRef,
    positions: Vec<usize>,
    stream: Surviving<ParquetRecordBatchStream<ObjectReader>>,
    check: Option<Check>,
}

impl fmt::Debug for PaneFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaneFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl PaneFile {
    pub(crate) fn new(
        path: &str,
        builder: parquet::arrow::ParquetRecordBatchStreamBuilder<ObjectReader>,
        schema: &SchemaRef,
        check: Option<Check>,
    ) -> Result<Self, StoreError> {
        let unreadable = |source| StoreError::UnreadableFile {
            path: path.to_owned(),
            source,
        };
        let names: HashSet<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        let roots = builder
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| names.contains(field.name().as_str()))
            .map(|(position, _)| position);
        let mask = parquet::arrow::ProjectionMask::roots(builder.parquet_schema(), roots);
        let builder = builder.with_projection(mask);
        let stream = or_astray(survived(|| builder.build())).map_err(unreadable)?;
        let positions = schema
            .fields()
            .iter()
            .map(|field| stream.schema().index_of(field.name()))
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(error.into()))?;
        Ok(Self {
            path: path.to_owned(),
            schema: schema.clone(),
            positions,
            stream: Surviving::new(stream),
            check,
        })
    }

    /// The next rows, in the pane schema of [`Inputs::shape`]; `None` at the end.
    ///
    /// # Errors
    /// That the file cannot be read, or, at its end, that it has other bytes than were written; nothing follows then.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, StoreError>> {
        let Some(batch) = self.stream.next().await else {
            let compared = self.check.take()?.finish().await;
            return compared
                .map_err(StoreError::unreadable(&self.path))
                .err()
                .map(Err);
        };
        let conformed = batch.and_then(|batch| {
            let columns = self
                .positions
                .iter()
                .zip(self.schema.fields())
                .map(|(position, field)| relabel(batch.column(*position), field.data_type()))
                .collect::<Result<_, _>>()?;
            Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
        });
        Some(conformed.map_err(StoreError::unreadable(&self.path)))
    }
}

/// The file that takes the place of others, while it is written.
pub struct CompactedFile(Stager);

impl fmt::Debug for CompactedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactedFile").finish_non_exhaustive()
    }
}

impl CompactedFile {
    /// About the most bytes that writing it counts against a budget.
    pub fn most_held(budget: &MemoryBudget) -> usize {
        most_held(budget)
    }

    /// Writes merged rows; batches come sorted by window and group, and each of these once.
    ///
    /// # Errors
    /// As of the store; then [`Self::abandon`] it.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        self.0.write(batch).await
    }

    /// Ends it; it waits for its commit.
    ///
    /// # Errors
    /// As of the store; what was written is taken back.
    pub async fn finish(self) -> Result<Staged, StoreError> {
        self.0.finish().await
    }

    /// Takes back what was written.
    pub async fn abandon(self) {
        self.0.abandon().await;
    }
}
