//! The rows of a table's files, merged, in the order of their keys.
//!
//! Owns which files are open at once: those that hold the same windows, and of these no more than memory allows; the
//! rest waits its turn. Does not own the files, nor the choice of windows.

use std::{iter, sync::Arc, vec};

use alluvium_engine::{EngineError, MergedPanes, SortedPart, merge_sorted};
use alluvium_plan::{CommittedFile, TableShape};
use alluvium_store::{StoreError, TableReader};
use alluvium_types::Timestamp;
use datafusion::{arrow::array::RecordBatch, error::DataFusionError};
use tokio::runtime::Handle;

use super::{
    Windows,
    runs::{Room, RunError, Runs},
};

/// What a reader of a file holds of it at most, as it is stored: a row group.
const FILE_BYTES: usize = 16 << 20;
/// What is decoded of a file at once.
const BATCH_BYTES: usize = 256 << 10;
/// Rows of a merged batch.
const BATCH_ROWS: usize = 4096;
/// Files that are open at once, however small they are.
const MOST_FILES: usize = 64;

/// The rows of a table, one a window and group, in the table's pane schema. An error of the store travels as the engine's
/// ([`EngineError::into_external`]).
pub(super) struct StoredRows<'r> {
    reader: &'r TableReader,
    shape: Arc<TableShape>,
    windows: Windows,
    io: Handle,
    room: Room,
    /// Files that hold the same windows, in the order of these.
    groups: vec::IntoIter<Vec<CommittedFile>>,
    open: Option<MergedPanes>,
}

impl<'r> StoredRows<'r> {
    pub(super) fn new(
        reader: &'r TableReader,
        shape: Arc<TableShape>,
        windows: Windows,
        io: &Handle,
        room: &Room,
    ) -> Self {
        let files = reader.files().iter();
        let wanted = files.filter(|file| windows.may_be_in(file)).cloned();
        Self {
            reader,
            shape,
            windows,
            io: io.clone(),
            room: room.clone(),
            groups: groups(wanted.collect()).into_iter(),
            open: None,
        }
    }

    /// Merges files that hold the same windows.
    fn merge(&self, files: Vec<CommittedFile>) -> Result<MergedPanes, EngineError> {
        let mut sets = sets(files, self.room.budget.limit() / 4);
        if sets.len() == 1 {
            return self.merge_at_once(sets.remove(0));
        }
        let mut runs = Runs::new(self.shape.clone(), &self.room);
        for set in sets {
            let merged = self.merge_at_once(set)?;
            runs.add_sorted(merged).map_err(of_run)?;
        }
        runs.merged().map_err(of_run)
    }

    fn merge_at_once(&self, files: Vec<CommittedFile>) -> Result<MergedPanes, EngineError> {
        let parts = files
            .iter()
            .map(|file| self.part(file))
            .collect::<Result<_, _>>()?;
        merge_sorted(&self.shape, parts, BATCH_ROWS, &self.room.budget)
    }

    fn part(&self, file: &CommittedFile) -> Result<SortedPart, EngineError> {
        let opened = self.io.block_on(self.reader.open(file, BATCH_BYTES));
        let mut rows = opened.map_err(of_store)?;
        let (io, windows) = (self.io.clone(), self.windows);
        Ok(Box::new(iter::from_fn(move || {
            // The thread waits for its files: a merge is polled by hand.
            let batch = io.block_on(rows.next())?;
            let batch = batch.map_err(Into::into);
            Some(batch.and_then(|batch| Ok(windows.within(&batch)?)))
        })))
    }
}

impl Iterator for StoredRows<'_> {
    type Item = Result<RecordBatch, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.open.as_mut().and_then(Iterator::next) {
                return Some(batch);
            }
            let files = self.groups.next()?;
            match self.merge(files) {
                Ok(merged) => self.open = Some(merged),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Deals files out so that no two groups hold the same window, in the order of windows.
fn groups(mut files: Vec<CommittedFile>) -> Vec<Vec<CommittedFile>> {
    let bounds = |file: &CommittedFile| {
        let all = (i64::MIN, i64::MAX);
        file.window_start
            .map_or(all, |(first, last)| (first.micros(), last.micros()))
    };
    files.sort_by_key(bounds);
    let mut groups: Vec<Vec<CommittedFile>> = Vec::new();
    let mut reached = Timestamp::from_micros(i64::MIN);
    for file in files {
        let (first, last) = bounds(&file);
        match groups.last_mut() {
            Some(group) if first <= reached.micros() => group.push(file),
            _ => groups.push(vec![file]),
        }
        reached = reached.max(Timestamp::from_micros(last));
    }
    groups
}

/// Deals files out to sets that may be open at once: of so many bytes in all as readers hold of them.
fn sets(files: Vec<CommittedFile>, bytes: usize) -> Vec<Vec<CommittedFile>> {
    let mut sets: Vec<Vec<CommittedFile>> = Vec::new();
    let mut held = 0;
    for file in files {
        let size = usize::try_from(file.size).map_or(FILE_BYTES, |size| size.min(FILE_BYTES));
        match sets.last_mut() {
            // Two at least, or nothing would ever be merged.
            Some(set) if set.len() < 2 || (set.len() < MOST_FILES && held + size <= bytes) => {
                held += size;
                set.push(file);
            }
            _ => {
                held = size;
                sets.push(vec![file]);
            }
        }
    }
    sets
}

fn of_store(error: StoreError) -> EngineError {
    external(error)
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> EngineError {
    EngineError::Merge {
        source: Box::new(DataFusionError::External(Box::new(error))),
    }
}

fn of_run(error: RunError) -> EngineError {
    match error {
        RunError::Engine(error) => error,
        RunError::Disk(error) => external(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64, windows: Option<(i64, i64)>) -> CommittedFile {
        let moment = Timestamp::from_micros;
        CommittedFile {
            path: path.into(),
            size,
            rows: None,
            window_start: windows.map(|(first, last)| (moment(first), moment(last))),
            bounds: Arc::default(),
            partition_values: Default::default(),
            missing_states: Vec::new(),
            has_unique_keys: true,
            checksum: None,
        }
    }

    fn paths(groups: Vec<Vec<CommittedFile>>) -> Vec<String> {
        let joined = |group: Vec<CommittedFile>| {
            let paths: Vec<String> = group.into_iter().map(|file| file.path).collect();
            paths.concat()
        };
        groups.into_iter().map(joined).collect()
    }

    #[test]
    fn files_that_hold_the_same_windows_are_read_together() {
        let some = |windows: &[(i64, i64)]| {
            let names = ["a", "b", "c", "d", "e"].into_iter();
            let files = names.zip(windows);
            files
                .map(|(name, windows)| file(name, 1, Some(*windows)))
                .collect()
        };
        let dealt = |windows: &[(i64, i64)]| paths(groups(some(windows)));
        assert_eq!(dealt(&[(4, 5), (0, 1), (2, 3)]), ["b", "c", "a"]);
        // A long one holds together what lies in it.
        assert_eq!(dealt(&[(0, 9), (1, 2), (4, 5), (10, 11)]), ["abc", "d"]);
        assert_eq!(dealt(&[(0, 1), (1, 2), (2, 3), (4, 4)]), ["abc", "d"]);
        // Nobody knows which windows one without bounds holds.
        let mut files: Vec<CommittedFile> = some(&[(0, 1), (5, 6)]);
        files.push(file("x", 1, None));
        assert_eq!(paths(groups(files)).len(), 1);
        assert!(groups(Vec::new()).is_empty());
    }

    #[test]
    fn no_more_files_are_open_than_memory_allows() {
        let files = |count: usize, size: u64| -> Vec<CommittedFile> {
            (0..count).map(|_| file("a", size, None)).collect()
        };
        let lengths = |count, size, bytes| -> Vec<usize> {
            sets(files(count, size), bytes)
                .iter()
                .map(Vec::len)
                .collect()
        };
        assert_eq!(lengths(5, 10, 30), [3, 2]);
        assert_eq!(lengths(150, 1, 1 << 20), [64, 64, 22]);
        assert_eq!(lengths(4, 1 << 30, 1), [2, 2]);
    }
}
