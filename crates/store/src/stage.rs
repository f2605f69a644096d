//! Panes become Parquet files that nobody sees until a commit names them (P8).
//!
//! Owns encoding, the split into files by partition value, and the memory for it. Does not own the commit. Files get
//! names that never repeat, because the log takes a repeated one in silence.

use std::{ops::Range, sync::Arc};

use alluvium_plan::{PartitionBy, TableShape};
use alluvium_types::{MemoryBudget, Reservation};
use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StructArray, TimestampMicrosecondArray},
    compute::cast,
    datatypes::{DataType, Fields, SchemaRef},
};
use object_store::{ObjectStore, ObjectStoreExt as _, buffered::BufWriter, path::Path};
use parquet::{
    arrow::AsyncArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};

use crate::{
    StoreError, StoreRules,
    action::Add,
    checksum::SummedUpload,
    clock::{Moment, wall_millis},
    commit::CommitName,
    log::TableLog,
    stats::{FileStats, date_text},
};

/// Encoded bytes of a row group: small enough to skip many of them, and the most that waits in memory. Least where memory is
/// small, and usual.
const ROW_GROUP_BYTES: (usize, usize) = (4 << 20, 16 << 20);
/// Rows of a row group.
pub(crate) const ROW_GROUP_ROWS: usize = 128 << 10;
/// Rows of a page: what a query of one window and key has to decode at least.
const PAGE_ROWS: usize = 4 << 10;
/// Bytes of the dictionary of a state's column. Every read of a page needs the whole dictionary, and states that differ so
/// much gain nothing by one. Group columns repeat, and keep the usual mebibyte.
const STATE_DICTIONARY_BYTES: usize = 64 << 10;
const DICTIONARY_BYTES: usize = 1 << 20;
/// How many of the values that are not in a row group its bloom filter lets through: the usual share.
const FALSE_POSITIVES: f64 = 0.05;
/// Rows handed to the encoder at once, so that one large batch does not wait in memory twice.
const SLICE_ROWS: usize = 8 << 10;
/// A larger file goes up in parts of this size: least where memory is small, and usual. S3 takes no less than 5 MiB; what a budget of 64 MiB
/// commits at once is a little more, and one request is faster than the four of two parts.
const PART_BYTES: (usize, usize) = (6 << 20, 8 << 20);
/// The shares of a budget that a row group and a part may be.
const ROW_GROUP_SHARE: usize = 16;
const PART_SHARE: usize = 32;
/// A file that has grown so far is ended with its window, and another one begun.
const FILE_BYTES: usize = 256 << 20;

const MICROS_OF_A_DAY: i64 = 86_400_000_000;

/// Files that wait for a commit. Comes only from staging; a commit takes only this.
#[derive(Debug)]
pub struct Staged {
    pub(crate) name: CommitName,
    /// A log entry names them by [`Self::adds`] only.
    pub(crate) files: Vec<Add>,
    /// Before any of them was put.
    pub(crate) staged_at: Moment,
    rows: u64,
}

impl Staged {
    /// Rows in all files.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let sizes = self.files.iter().map(|file| file.size);
        u64::try_from(sizes.sum::<i64>()).unwrap_or(0)
    }

    /// How many files there are; none when every event was filtered.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// How often its commit was put so far: more than once where others took the version, or no answer came.
    pub fn puts(&self) -> u32 {
        self.name.puts()
    }

    /// The id that its commit will have.
    pub fn commit_id(&self) -> &str {
        &self.name.id
    }

    /// The files for the log entry that is put next. To be asked before every put: files that have grown old meanwhile may
    /// have been swept as orphans (P37).
    pub(crate) fn adds(
        &self,
        table: &Arc<str>,
        rules: &StoreRules,
    ) -> Result<Vec<Add>, StoreError> {
        if self.staged_at.age() >= rules.orphan_retention / 2 {
            return Err(StoreError::StagedTooOld {
                table: table.clone(),
            });
        }
        Ok(self.files.clone())
    }

    /// When the last of them was put, in milliseconds by the storage's clock; `None` where there is none. One question tells that, where
    /// asking the storage for its time would take three.
    pub(crate) async fn put_at(&self, log: &TableLog) -> Result<Option<i64>, StoreError> {
        let Some(last) = self.files.last() else {
            return Ok(None);
        };
        let path = full_path(&log.folder, &last.path);
        match log.store.head(&path).await {
            Ok(meta) => Ok(Some(meta.last_modified.timestamp_millis())),
            Err(object_store::Error::NotFound { .. }) => Err(StoreError::StagedTooOld {
                table: log.table.clone(),
            }),
            Err(source) => Err(StoreError::Object {
                doing: format!("look at {path}"),
                source,
            }),
        }
    }

    /// Removes the files, unless a log entry that names them may be on its way (O1); then they become orphans or part of
    /// the table.
    pub(crate) async fn remove_unsent(&self, log: &TableLog) {
        if !self.name.was_sent() {
            remove_files(&log.store, &log.folder, &self.files).await;
        }
    }

    /// Removes the files after a judgement of the version `stopped_at` has stopped their commit for good: the version that
    /// an entry of theirs was put as is passed.
    ///
    /// One may have landed before, though. Its reply may be lost, and a load that begins at a log checkpoint does not tell
    /// whose the versions before it are. So the table itself is read anew, and what it has, or what queries of its older
    /// versions may still read, stays.
    pub(crate) async fn remove_stopped(&self, log: &TableLog, stopped_at: i64) {
        if !self.name.was_sent() {
            return self.remove_unsent(log).await;
        }
        match log.load().await {
            Ok(Some(newest)) if newest.version >= stopped_at => {
                let named = |file: &Add| newest.has_or_had(&file.path);
                let unnamed: Vec<Add> = self
                    .files
                    .iter()
                    .filter(|file| !named(file))
                    .cloned()
                    .collect();
                remove_files(&log.store, &log.folder, &unnamed).await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(table = %log.table, %error, "staged files are left; what no version names will be swept");
            }
        }
    }
}

/// Writes files of one table.
pub(crate) struct Stager {
    store: Arc<dyn ObjectStore>,
    table: Arc<str>,
    folder: Path,
    schema: SchemaRef,
    partition_by: PartitionBy,
    reservation: Option<Reservation>,
    row_group_bytes: usize,
    part_bytes: usize,
    open: Option<OpenFile>,
    name: CommitName,
    /// Before the first file was put: a process may stand still before it hears that one was.
    begun: Moment,
    done: Vec<Add>,
    rows: u64,
    keys: Keys,
    filtered: Vec<Arc<str>>,
    file_bytes: usize,
}

/// What is known of the rows that are staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Nothing.
    Any,
    /// Each window and group comes once at most.
    Unique,
}

struct OpenFile {
    path: String,
    partition_value: Option<String>,
    writer: AsyncArrowWriter<SummedUpload>,
    stats: FileStats,
    /// The window of the last row, in microseconds.
    last_window: Option<i64>,
}

fn window_starts(batch: &RecordBatch) -> Option<&TimestampMicrosecondArray> {
    batch
        .column_by_name(TableShape::WINDOW_START)?
        .as_primitive_opt()
}

/// How many rows, from the first, are of this window.
fn rows_of(window: i64, rows: &RecordBatch) -> usize {
    let starts = window_starts(rows).map_or([].as_slice(), |starts| starts.values());
    starts.iter().take_while(|start| **start == window).count()
}

/// A share of a budget between its least and what is usual, which it is where nothing is counted.
fn share(budget: Option<&MemoryBudget>, parts: usize, (least, usual): (usize, usize)) -> usize {
    budget.map_or(usual, |budget| budget.share(parts, least, usual))
}

/// About the most bytes that writing a file counts against a budget: see [`Stager::write_here`].
pub(crate) fn most_held(budget: &MemoryBudget) -> usize {
    2 * share(Some(budget), ROW_GROUP_SHARE, ROW_GROUP_BYTES)
        + 2 * share(Some(budget), PART_SHARE, PART_BYTES)
}

impl Stager {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        table: Arc<str>,
        folder: Path,
        schema: SchemaRef,
        partition_by: PartitionBy,
        budget: Option<&MemoryBudget>,
    ) -> Self {
        Self {
            store,
            table,
            folder,
            schema,
            partition_by,
            reservation: budget.map(|budget| budget.reserve(0)),
            row_group_bytes: share(budget, ROW_GROUP_SHARE, ROW_GROUP_BYTES),
            part_bytes: share(budget, PART_SHARE, PART_BYTES),
            open: None,
            name: CommitName::new(),
            begun: Moment::now(),
            done: Vec::new(),
            rows: 0,
            keys: Keys::Any,
            filtered: Vec::new(),
            file_bytes: FILE_BYTES,
        }
    }

    /// With files of about so many bytes.
    pub(crate) fn with_file_bytes(mut self, bytes: u64) -> Self {
        self.file_bytes = usize::try_from(bytes).unwrap_or(FILE_BYTES);
        self
    }

    /// With a bloom filter of these columns in each row group.
    pub(crate) fn with_filters_of(mut self, columns: Vec<Arc<str>>) -> Self {
        self.filtered = columns;
        self
    }

    /// Whoever stages promises that each window and group comes once at most, so that readers need not merge them.
    pub(crate) fn with_unique_keys(mut self) -> Self {
        self.keys = Keys::Unique;
        self
    }

    /// The id that the rows' commit will have.
    pub(crate) fn commit_id(&self) -> &str {
        &self.name.id
    }

    /// Writes one batch. Sorted batches make few files: a file ends where the partition value changes.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        let batch = self.conform(batch)?;
        for (value, rows) in self.runs(&batch) {
            let mut start = rows.start;
            while start < rows.end {
                let length = SLICE_ROWS.min(rows.end - start);
                self.write_slice(value.as_deref(), &batch.slice(start, length))
                    .await?;
                start += length;
            }
        }
        Ok(())
    }

    /// The same values under the table's own fields: metadata and nullability of a batch may differ from the table's.
    fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch, StoreError> {
        let broken = |what: String| StoreError::Broken {
            table: self.table.clone(),
            what,
        };
        if batch.num_columns() != self.schema.fields().len() {
            return Err(broken(format!(
                "a batch has {} columns, the table has {}",
                batch.num_columns(),
                self.schema.fields().len()
            )));
        }
        let columns = self
            .schema
            .fields()
            .iter()
            .zip(batch.columns())
            .zip(batch.schema_ref().fields())
            .map(|((field, column), given)| {
                let types = (field.data_type(), column.data_type());
                if field.name() != given.name() || !types.0.equals_datatype(types.1) {
                    return Err(broken(format!(
                        "a batch has column {} {}, the table has {} {}",
                        given.name(),
                        types.1,
                        field.name(),
                        types.0
                    )));
                }
                relabel(column, field.data_type()).map_err(|error| broken(error.to_string()))
            })
            .collect::<Result<_, _>>()?;
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| broken(error.to_string()))
    }

    /// Stretches of rows with the same partition value.
    fn runs(&self, batch: &RecordBatch) -> Vec<(Option<String>, Range<usize>)> {
        let whole = || vec![(None, 0..batch.num_rows())];
        if self.partition_by == PartitionBy::None {
            return whole();
        }
        let Some(starts) = window_starts(batch) else {
            return whole();
        };
        let mut runs: Vec<(Option<String>, Range<usize>)> = Vec::new();
        let mut last_day = None;
        for (row, micros) in starts.values().iter().enumerate() {
            let day = micros.div_euclid(MICROS_OF_A_DAY);
            match runs.last_mut().filter(|_| last_day == Some(day)) {
                Some((_, rows)) => rows.end = row + 1,
                None => runs.push((Some(self.partition_value(day)), row..row + 1)),
            }
            last_day = Some(day);
        }
        runs
    }

    fn partition_value(&self, day: i64) -> String {
        let mut text = date_text(day);
        if self.partition_by == PartitionBy::Month {
            let kept = text.len() - 2;
            text.truncate(kept);
            text.push_str("01");
        }
        text
    }

    async fn write_slice(
        &mut self,
        value: Option<&str>,
        rows: &RecordBatch,
    ) -> Result<(), StoreError> {
        let fitting = self.fitting(value, rows);
        if fitting > 0 {
            self.write_here(&rows.slice(0, fitting)).await?;
        }
        if fitting < rows.num_rows() {
            self.end_file().await?;
            self.open = Some(self.begin_file(value)?);
            let others = rows.slice(fitting, rows.num_rows() - fitting);
            self.write_here(&others).await?;
        }
        Ok(())
    }

    /// How many of these rows, from the first, belong into the file that is open. A file ends with its window: then it shares
    /// none with the next one, and readers need not merge them.
    fn fitting(&self, value: Option<&str>, rows: &RecordBatch) -> usize {
        let here = self
            .open
            .as_ref()
            .filter(|file| file.partition_value.as_deref() == value);
        match here {
            None => 0,
            Some(file) if file.writer.bytes_written() < self.file_bytes => rows.num_rows(),
            Some(file) => file.last_window.map_or(0, |last| rows_of(last, rows)),
        }
    }

    async fn write_here(&mut self, rows: &RecordBatch) -> Result<(), StoreError> {
        let file = self.open.as_mut().expect("a file was begun");
        file.stats.add(rows);
        file.last_window = window_starts(rows).and_then(|starts| starts.values().last().copied());
        let written = file.writer.write(rows).await;
        // What is encoded is there twice when a row group ends: as pages, and as the bytes of them all. Behind that one part is
        // on its way and the next one is gathered.
        let encoded = file.writer.memory_size();
        let behind = file.writer.bytes_written() + encoded;
        let held = 2 * encoded + behind.min(2 * self.part_bytes);
        self.hold(held);
        written.map_err(|source| self.failed(source))?;
        self.rows += rows.num_rows() as u64;
        Ok(())
    }

    fn begin_file(&self, value: Option<&str>) -> Result<OpenFile, StoreError> {
        let id = uuid::Uuid::now_v7();
        let path = match self.partition_by.column().zip(value) {
            Some((column, value)) => format!("{column}={value}/{id}.zstd.parquet"),
            None => format!("{id}.zstd.parquet"),
        };
        let target = full_path(&self.folder, &path);
        // One part after the other: over a link that is slow, parts that go at the same time would all be too late.
        let upload = BufWriter::with_capacity(self.store.clone(), target, self.part_bytes)
            .with_max_concurrency(1);
        let properties =
            writer_properties(self.schema.fields(), &self.filtered, self.row_group_bytes);
        let upload = SummedUpload::new(upload);
        let writer = AsyncArrowWriter::try_new(upload, self.schema.clone(), Some(properties))
            .map_err(|source| self.failed(source))?;
        Ok(OpenFile {
            path,
            partition_value: value.map(str::to_owned),
            writer,
            stats: FileStats::default(),
            last_window: None,
        })
    }

    async fn end_file(&mut self) -> Result<(), StoreError> {
        let Some(mut file) = self.open.take() else {
            return Ok(());
        };
        // A file that failed while it was ended is not kept for aborting: its upload is closed already.
        let ended = file.writer.finish().await;
        ended.map_err(|source| self.failed(source))?;
        self.hold(0);
        let partition_values = self
            .partition_by
            .column()
            .map(|column| (column.to_owned(), file.partition_value))
            .into_iter()
            .collect();
        let size = file.writer.bytes_written();
        let mut add = Add {
            path: file.path,
            partition_values,
            size: i64::try_from(size).unwrap_or(i64::MAX),
            modification_time: wall_millis(),
            data_change: true,
            stats: Some(file.stats.to_json(self.schema.fields())),
            ..Add::default()
        };
        add.tag_checksum(file.writer.into_inner().sum());
        if self.keys == Keys::Unique {
            add.tag_unique_keys();
        }
        self.done.push(add);
        Ok(())
    }

    fn hold(&mut self, bytes: usize) {
        if let Some(reservation) = &mut self.reservation {
            reservation.resize(bytes);
        }
    }

    fn failed(&self, source: parquet::errors::ParquetError) -> StoreError {
        StoreError::Write {
            table: self.table.clone(),
            source,
        }
    }

    /// From here on all files are durable, and not visible.
    pub(crate) async fn finish(mut self) -> Result<Staged, StoreError> {
        if let Err(error) = self.end_file().await {
            self.abandon().await;
            return Err(error);
        }
        Ok(Staged {
            name: self.name,
            files: self.done,
            staged_at: self.begun,
            rows: self.rows,
        })
    }

    /// Takes back what was written so far. What cannot be removed is an orphan, which is swept later.
    pub(crate) async fn abandon(mut self) {
        if let Some(file) = self.open.take() {
            let mut upload = file.writer.into_inner().into_inner();
            // Nothing was put yet when the file is smaller than a part; then there is nothing to abort either.
            if let Err(error) = upload.abort().await {
                tracing::debug!(table = %self.table, %error, "could not abort an upload");
            }
        }
        remove_files(&self.store, &self.folder, &self.done).await;
    }
}

pub(crate) fn full_path(folder: &Path, relative: &str) -> Path {
    let mut path = folder.clone();
    path.extend(Path::from(relative).parts());
    path
}

/// Removes staged files of which it is certain that no log entry names them.
async fn remove_files(store: &Arc<dyn ObjectStore>, folder: &Path, files: &[Add]) {
    for file in files {
        let path = full_path(folder, &file.path);
        if let Err(error) = store.delete(&path).await {
            tracing::debug!(%path, %error, "could not remove a staged file; it will be swept as an orphan");
        }
    }
}

/// Gives the fields of nested types the table's names and nullability; values stay as they are.
pub(crate) fn relabel(
    column: &ArrayRef,
    wanted: &DataType,
) -> Result<ArrayRef, datafusion::arrow::error::ArrowError> {
    match (column.as_struct_opt(), wanted) {
        _ if column.data_type() == wanted => Ok(column.clone()),
        (Some(values), DataType::Struct(fields)) => {
            let children = fields
                .iter()
                .zip(values.columns())
                .map(|(field, child)| relabel(child, field.data_type()))
                .collect::<Result<_, _>>()?;
            let relabelled =
                StructArray::try_new(fields.clone(), children, values.nulls().cloned())?;
            Ok(Arc::new(relabelled))
        }
        _ => cast(column, wanted),
    }
}

fn writer_properties(
    fields: &Fields,
    filtered: &[Arc<str>],
    row_group_bytes: usize,
) -> WriterProperties {
    let [quick, level] = [1, 3].map(|level| ZstdLevel::try_new(level).expect("a level of zstd"));
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_created_by(concat!("alluvium ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_max_row_group_bytes(Some(row_group_bytes))
        .set_dictionary_page_size_limit(STATE_DICTIONARY_BYTES);
    for field in fields {
        // Only states carry metadata.
        if field.metadata().is_empty() {
            let path = ColumnPath::from(field.name().as_str());
            properties = properties.set_column_dictionary_page_size_limit(path, DICTIONARY_BYTES);
        }
        // Bounds leave NaN out, which is the largest double in every answer: whoever skips by them loses rows.
        if matches!(field.data_type(), DataType::Float64) {
            let path = ColumnPath::from(field.name().as_str());
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
        // Sketches hardly repeat: a dictionary of them only costs memory, and looking longer finds no more.
        if matches!(field.data_type(), DataType::Binary) {
            let path = ColumnPath::from(field.name().as_str());
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_compression(path, Compression::ZSTD(quick));
        }
    }
    for column in filtered {
        let path = ColumnPath::from(column.as_ref());
        // It shrinks to what is in it when it is written.
        properties = properties
            .set_column_bloom_filter_fpp(path.clone(), FALSE_POSITIVES)
            .set_column_bloom_filter_max_ndv(path, ROW_GROUP_ROWS as u64);
    }
    properties.build()
}
