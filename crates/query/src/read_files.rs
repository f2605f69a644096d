//! Small files that were read before, kept decoded.
//!
//! A table that commits every second has thousands of small files, and opening one costs more than folding its rows.
//! Committed files never change and their names are never used twice, so what was read of one stays right for
//! as long as the table names it; and it is what was written, as far as the log says what that was ([`whole`](crate::whole)).
//!
//! Owns which files are kept and how much memory that takes, out of what queries have. Does not own reading them.

use std::{
    cmp::Reverse,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use alluvium_plan::CommittedFile;
use datafusion::{
    arrow::{datatypes::SchemaRef, record_batch::RecordBatch},
    execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation},
};
use lru::LruCache;

/// Larger files prune and skip better than they keep.
const SMALL: u64 = 256 << 10;
/// Of what queries have, the share that is kept at most.
const SHARE: usize = 4;
/// How many files are kept at most.
const MOST_FILES: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");
/// A decoded file is rarely more than so many times as large as the file.
const EXPANSION: u64 = 8;

/// The files of one scan by where their rows come from.
#[derive(Debug, Default)]
pub(crate) struct Split<'a> {
    /// Rows that were kept.
    pub(crate) kept: Vec<RecordBatch>,
    /// To be read whole and kept.
    pub(crate) to_keep: Vec<&'a CommittedFile>,
    /// To be opened for this scan only: large ones, and small ones without room.
    pub(crate) scanned: Vec<&'a CommittedFile>,
}

/// Decoded files, most recently used first.
#[derive(Debug)]
pub(crate) struct ReadFiles {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    files: LruCache<String, RecordBatch>,
    memory: MemoryReservation,
}

impl ReadFiles {
    /// Keeps up to a quarter of the `memory` bytes of `pool`.
    pub(crate) fn new(pool: &Arc<dyn MemoryPool>, memory: usize) -> Self {
        Self {
            most: memory / SHARE,
            kept: Mutex::new(Kept {
                files: LruCache::new(MOST_FILES),
                memory: MemoryConsumer::new("files read before").register(pool),
            }),
        }
    }

    /// Takes out of `files` those whose rows come from here: kept ones, and those that there is room for, newest windows first.
    /// No query drives out what it reads itself, so a table with more small files than fit has those that do at hand.
    /// Rows that were kept with another schema than `schema` are read again.
    pub(crate) fn split<'a>(&self, files: Vec<&'a CommittedFile>, schema: &SchemaRef) -> Split<'a> {
        let mut split = Split::default();
        let mut missing = Vec::new();
        let mut kept = self.kept();
        let mut room = self.most;
        for file in files {
            // What a file lacks is read as NULL; only its own schema tells that apart from a stored NULL (P35).
            if file.size > SMALL || !file.missing_states.is_empty() {
                split.scanned.push(file);
                continue;
            }
            match kept.files.get(&file.path) {
                Some(rows) if rows.schema_ref() == schema => {
                    room = room.saturating_sub(rows.get_array_memory_size());
                    split.kept.push(rows.clone());
                }
                _ => missing.push(file),
            }
        }
        drop(kept);
        let mut places = MOST_FILES.get() - split.kept.len();
        missing.sort_by_key(|file| Reverse(file.window_start.map(|(_, newest)| newest)));
        for file in missing {
            let bytes = usize::try_from(file.size.saturating_mul(EXPANSION)).unwrap_or(usize::MAX);
            if bytes <= room && places > 0 {
                room -= bytes;
                places -= 1;
                split.to_keep.push(file);
            } else {
                split.scanned.push(file);
            }
        }
        split
    }

    /// Keeps the rows of a file, where memory allows. Those that were used longest ago make room.
    pub(crate) fn keep(&self, file: &CommittedFile, rows: RecordBatch) {
        let bytes = rows.get_array_memory_size();
        let mut kept = self.kept();
        if let Some(before) = kept.files.pop(&file.path) {
            kept.memory.shrink(before.get_array_memory_size());
        }
        while kept.memory.size() + bytes > self.most {
            let Some((_, oldest)) = kept.files.pop_lru() else {
                return;
            };
            kept.memory.shrink(oldest.get_array_memory_size());
        }
        // A pool without room says that a query needs it more.
        if kept.memory.try_grow(bytes).is_ok()
            && let Some((_, oldest)) = kept.files.push(file.path.clone(), rows)
        {
            kept.memory.shrink(oldest.get_array_memory_size());
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        // Between two statements the account may be too high, never too low; so a panic elsewhere leaves it usable.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::{ArrayRef, Int64Array},
            datatypes::{DataType, Field, Schema},
        },
        execution::memory_pool::GreedyMemoryPool,
    };

    use super::*;

    const ROWS: i64 = 1024;

    fn file(number: usize, size: u64) -> CommittedFile {
        CommittedFile {
            path: format!("{number}.parquet"),
            size,
            rows: None,
            window_start: None,
            bounds: Default::default(),
            partition_values: Default::default(),
            missing_states: Vec::new(),
            has_unique_keys: false,
            checksum: None,
        }
    }

    fn rows(value: i64) -> RecordBatch {
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(
            (0..ROWS).map(|row| row + value),
        ));
        RecordBatch::try_from_iter([("n", values)]).unwrap()
    }

    fn pool(bytes: usize) -> Arc<dyn MemoryPool> {
        Arc::new(GreedyMemoryPool::new(bytes))
    }

    /// What is kept of one file.
    fn get(kept: &ReadFiles, file: &CommittedFile, schema: &SchemaRef) -> Option<RecordBatch> {
        kept.split(vec![file], schema).kept.pop()
    }

    #[test]
    fn what_is_kept_stays_within_its_share_and_the_oldest_goes_first() {
        let one = rows(0).get_array_memory_size();
        let pool = pool(16 * one);
        let kept = ReadFiles::new(&pool, 16 * one);
        let schema = rows(0).schema();
        for number in 0..4 {
            kept.keep(&file(number, 1), rows(number as i64));
        }
        assert_eq!(pool.reserved(), 4 * one);
        assert_eq!(get(&kept, &file(0, 1), &schema), Some(rows(0)));
        kept.keep(&file(4, 1), rows(4));
        assert_eq!(pool.reserved(), 4 * one);
        assert_eq!(get(&kept, &file(1, 1), &schema), None, "the oldest went");
        assert_eq!(
            get(&kept, &file(0, 1), &schema),
            Some(rows(0)),
            "it was used since"
        );
        kept.keep(&file(4, 1), rows(4));
        assert_eq!(pool.reserved(), 4 * one, "kept twice counts once");
    }

    #[test]
    fn a_full_pool_keeps_nothing() {
        let pool = pool(10);
        let kept = ReadFiles::new(&pool, 1 << 20);
        kept.keep(&file(0, 1), rows(0));
        assert_eq!(pool.reserved(), 0);
        assert_eq!(get(&kept, &file(0, 1), &rows(0).schema()), None);
    }

    #[test]
    fn a_file_of_another_schema_is_read_again() {
        let kept = ReadFiles::new(&pool(1 << 20), 1 << 20);
        kept.keep(&file(0, 1), rows(0));
        let other = Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, true)]));
        assert_eq!(get(&kept, &file(0, 1), &other), None);
    }

    #[test]
    fn large_files_and_files_that_lack_a_state_are_not_kept() {
        let kept = ReadFiles::new(&pool(1 << 20), 1 << 20);
        let mut lacking = file(2, 10);
        lacking.missing_states = vec!["s".into()];
        let (small, large) = (file(0, 10), file(1, SMALL + 1));
        let split = kept.split(vec![&small, &large, &lacking], &rows(0).schema());
        assert_eq!(split.to_keep, [&small]);
        assert_eq!(split.scanned, [&large, &lacking]);
    }

    #[test]
    fn of_too_many_files_the_newest_are_kept_and_stay() {
        let one = rows(0).get_array_memory_size();
        let kept = ReadFiles::new(&pool(64 * one), 16 * one);
        let schema = rows(0).schema();
        let many: Vec<_> = (0..100_i64)
            .map(|number| {
                let mut file = file(number as usize, one as u64 / EXPANSION);
                let at = alluvium_types::Timestamp::from_micros(number);
                file.window_start = Some((at, at));
                file
            })
            .collect();
        let split = kept.split(many.iter().collect(), &schema);
        assert!(split.kept.is_empty());
        assert_eq!(split.to_keep.len(), 4);
        assert_eq!(split.to_keep[0], &many[99]);
        assert_eq!(split.scanned.len(), 96);
        for file in split.to_keep {
            kept.keep(file, rows(1));
        }
        // However often all of them are read.
        for _ in 0..3 {
            let split = kept.split(many.iter().collect(), &schema);
            assert_eq!(split.kept.len(), 4);
            assert!(split.to_keep.is_empty());
            assert_eq!(split.scanned.len(), 96);
        }
        // Files of another query take the place of those that were used longest ago.
        let other: Vec<_> = (200..202).map(|number| file(number, 1)).collect();
        let split = kept.split(other.iter().collect(), &schema);
        assert_eq!(split.to_keep.len(), 2);
        for file in split.to_keep {
            kept.keep(file, rows(2));
        }
        assert_eq!(kept.split(many.iter().collect(), &schema).kept.len(), 2);
    }
}
