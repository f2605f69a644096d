//! Panes that are gathered until all are there, however many these are, and come out in the order of their keys.
//!
//! Owns what is kept in memory and what is written to disk meanwhile. Files have no name: they are gone with the process,
//! however that ends. Does not own what merging a row means.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Seek},
    mem,
    path::PathBuf,
    sync::Arc,
};

use alluvium_engine::{EngineError, MergedPanes, SortedPart, merge_panes, merge_sorted, pane_size};
use alluvium_plan::TableShape;
use alluvium_types::{MemoryBudget, Reservation};
use datafusion::arrow::{
    array::RecordBatch,
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
};

/// Bytes of a batch in a file: as much is held of each file while they are merged.
const BATCH_BYTES: usize = 256 << 10;
/// Rows of a merged batch.
const BATCH_ROWS: usize = 4096;

/// What all runs of one work share.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) budget: MemoryBudget,
    /// Bytes of panes that one set of runs keeps in memory.
    pub(super) share: usize,
    /// Where files are made.
    pub(super) folder: PathBuf,
}

/// Why panes were not kept.
#[derive(Debug)]
pub(super) enum RunError {
    Engine(EngineError),
    Disk(DiskError),
}

/// Files for what does not fit into memory cannot be written or read. Also as the external error of a merge
/// ([`EngineError::into_external`]).
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct DiskError(pub(super) ArrowError);

impl From<EngineError> for RunError {
    fn from(error: EngineError) -> Self {
        // The disk's own error when what waits there is merged.
        match error.into_external::<DiskError>() {
            Ok(error) => Self::Disk(error),
            Err(error) => Self::Engine(error),
        }
    }
}

impl From<ArrowError> for RunError {
    fn from(error: ArrowError) -> Self {
        Self::Disk(DiskError(error))
    }
}

/// Runs that are open at once.
const MOST_FILES: usize = 32;

/// Panes of one shape, gathered in runs that are each in the order of their keys.
#[derive(Debug)]
pub(super) struct Runs {
    shape: Arc<TableShape>,
    room: Room,
    /// In no order.
    held: Vec<RecordBatch>,
    counted: Reservation,
    /// Each in order.
    files: Vec<File>,
}

impl Runs {
    pub(super) fn new(shape: Arc<TableShape>, room: &Room) -> Self {
        Self {
            shape,
            counted: room.budget.reserve(0),
            room: room.clone(),
            held: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Takes in panes in no order, a key in any number of rows.
    pub(super) fn add(&mut self, panes: Vec<RecordBatch>) -> Result<(), RunError> {
        self.hold(panes);
        if self.counted.bytes() <= self.room.share {
            return Ok(());
        }
        let held = mem::take(&mut self.held);
        let merged = merge_panes(&self.shape, vec![held], &self.room.budget)?;
        let merged: Vec<RecordBatch> = merged.collect::<Result<_, _>>()?;
        self.counted.resize(0);
        if size(&merged) <= self.room.share / 2 {
            self.hold(merged);
            return Ok(());
        }
        self.add_sorted(merged.into_iter().map(Ok))
    }

    fn hold(&mut self, panes: Vec<RecordBatch>) {
        let bytes = self.counted.bytes() + size(&panes);
        self.counted.resize(bytes);
        self.held.extend(panes);
    }

    /// Takes in panes in the order of their keys, as a file.
    pub(super) fn add_sorted(
        &mut self,
        panes: impl Iterator<Item = Result<RecordBatch, EngineError>>,
    ) -> Result<(), RunError> {
        let file = tempfile::tempfile_in(&self.room.folder).map_err(ArrowError::from)?;
        let mut writer = StreamWriter::try_new(BufWriter::new(file), &self.shape.pane_schema())?;
        for batch in panes {
            let batch = batch?;
            let rows = batch.num_rows();
            let row_bytes = pane_size(&batch).div_ceil(rows.max(1)).max(1);
            let step = (BATCH_BYTES / row_bytes).clamp(16, BATCH_ROWS);
            for start in (0..rows).step_by(step) {
                writer.write(&batch.slice(start, step.min(rows - start)))?;
            }
        }
        let buffer = writer.into_inner()?;
        let mut file = buffer
            .into_inner()
            .map_err(|error| ArrowError::from(error.into_error()))?;
        file.rewind().map_err(ArrowError::from)?;
        self.files.push(file);
        if self.files.len() < MOST_FILES {
            return Ok(());
        }
        // As many are open at most, and a key that comes again and again takes room once.
        let files = mem::take(&mut self.files);
        let merged = self.merge(files, None)?;
        self.add_sorted(merged)
    }

    fn merge(&self, files: Vec<File>, rest: Option<MergedPanes>) -> Result<MergedPanes, RunError> {
        let mut parts: Vec<SortedPart> = Vec::with_capacity(files.len() + 1);
        if let Some(rest) = rest {
            parts.push(Box::new(rest.map(|batch| batch.map_err(Into::into))));
        }
        for file in files {
            let rows = StreamReader::try_new(BufReader::new(file), None)?;
            parts.push(Box::new(
                rows.map(|batch| batch.map_err(|error| DiskError(error).into())),
            ));
        }
        let budget = &self.room.budget;
        Ok(merge_sorted(&self.shape, parts, BATCH_ROWS, budget)?)
    }

    /// Everything that was taken in, one row a key, in the order of the keys.
    pub(super) fn merged(mut self) -> Result<MergedPanes, RunError> {
        let held = mem::take(&mut self.held);
        let rest = merge_panes(&self.shape, vec![held], &self.room.budget)?;
        if self.files.is_empty() {
            return Ok(rest);
        }
        let files = mem::take(&mut self.files);
        self.merge(files, Some(rest))
    }
}

fn size(panes: &[RecordBatch]) -> usize {
    panes.iter().map(pane_size).sum()
}

#[cfg(test)]
mod tests {
    use alluvium_plan::{StateKind, StateShape};
    use datafusion::arrow::{
        array::{AsArray, Int64Array, TimestampMicrosecondArray},
        datatypes::{DataType, Field, Int64Type},
    };

    use super::*;

    fn shape() -> Arc<TableShape> {
        Arc::new(TableShape {
            group_columns: vec![Arc::new(Field::new("k", DataType::Int64, true))],
            states: vec![StateShape {
                name: "n".into(),
                kind: StateKind::Count,
                data_type: DataType::Int64,
            }],
            measures: Vec::new(),
        })
    }

    /// One row a key, each counting once.
    fn panes(keys: impl Iterator<Item = i64>) -> RecordBatch {
        let keys: Vec<i64> = keys.collect();
        let moments = |at: i64| {
            let array = TimestampMicrosecondArray::from(vec![at; keys.len()]);
            Arc::new(array.with_timezone("UTC"))
        };
        let ones = Int64Array::from(vec![1; keys.len()]);
        let columns = vec![
            moments(0) as _,
            moments(60) as _,
            Arc::new(Int64Array::from(keys.clone())) as _,
            Arc::new(ones) as _,
        ];
        RecordBatch::try_new(shape().pane_schema(), columns).unwrap()
    }

    fn counts(runs: Runs) -> Vec<(i64, i64)> {
        let merged = runs.merged().unwrap();
        merged
            .flat_map(|batch| {
                let batch = batch.unwrap();
                let column = |at: usize| {
                    batch
                        .column(at)
                        .as_primitive::<Int64Type>()
                        .values()
                        .clone()
                };
                column(2)
                    .iter()
                    .copied()
                    .zip(column(3).iter().copied())
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn what_waits_on_disk_is_what_would_wait_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let budget = MemoryBudget::new(64 << 20);
        let room = |share: usize| Room {
            budget: budget.clone(),
            share,
            folder: folder.path().to_owned(),
        };
        const KEYS: i64 = 20_000;
        let filled = |share: usize| {
            let mut runs = Runs::new(shape(), &room(share));
            for round in 0..12 {
                // Every key three times in all, in no order.
                let keys = (0..KEYS / 4).map(|at| (at * 7 + round * KEYS / 4) % KEYS);
                runs.add(vec![panes(keys.clone()), panes(0..0)]).unwrap();
            }
            runs
        };
        let (small, large) = (filled(64 << 10), filled(usize::MAX));
        assert!(small.files.len() > 3, "{} files", small.files.len());
        assert!(large.files.is_empty());
        assert!(small.counted.bytes() <= 64 << 10);
        let expected = counts(large);
        assert!(expected.is_sorted() && expected.len() > 1_000);
        assert_eq!(
            expected.iter().map(|(_, count)| count).sum::<i64>(),
            12 * KEYS / 4
        );
        assert_eq!(counts(small), expected);
        assert_eq!(budget.used(), 0);
        assert_eq!(
            folder.path().read_dir().unwrap().count(),
            0,
            "no file has a name"
        );
    }

    #[test]
    fn however_many_keys_come_few_runs_are_open() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room {
            budget: MemoryBudget::new(64 << 20),
            share: 1,
            folder: folder.path().to_owned(),
        };
        let mut runs = Runs::new(shape(), &room);
        for _ in 0..100 {
            runs.add(vec![panes(0..50)]).unwrap();
        }
        assert!(runs.files.len() < MOST_FILES);
        assert_eq!(
            counts(runs),
            (0..50).map(|key| (key, 100)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_the_disk_does_not_take_or_has_lost_is_told_as_its_fault() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room {
            budget: MemoryBudget::new(64 << 20),
            share: 1,
            folder: folder.path().to_owned(),
        };
        let mut runs = Runs::new(shape(), &room);
        runs.add(vec![panes(0..1_000)]).unwrap();
        let nowhere = Room {
            folder: folder.path().join("nowhere"),
            ..room.clone()
        };
        let refused = Runs::new(shape(), &nowhere).add(vec![panes(0..9)]);
        assert!(matches!(refused, Err(RunError::Disk(_))));

        let file = &runs.files[0];
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        let failed = runs.merged().unwrap().find_map(Result::err).unwrap();
        failed.into_external::<DiskError>().unwrap();
    }

    #[test]
    fn few_keys_stay_in_memory_however_often_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room {
            budget: MemoryBudget::new(64 << 20),
            share: 64 << 10,
            folder: folder.path().to_owned(),
        };
        let mut runs = Runs::new(shape(), &room);
        for _ in 0..1_000 {
            runs.add(vec![panes(0..50)]).unwrap();
        }
        assert!(runs.files.is_empty());
        assert_eq!(
            counts(runs),
            (0..50).map(|key| (key, 1_000)).collect::<Vec<_>>()
        );
    }
}
