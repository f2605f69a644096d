//! What a query is going to read, counted while it is planned, and the most that it may.
//!
//! Owns the refusal before the first byte is read: a query that forgets its windows over years of files is told so at once
//! instead of after a minute. Does not own which files are left after pruning ([`crate::panes`]).

use std::sync::atomic::{AtomicU64, Ordering};

use alluvium_plan::CommittedFile;

use datafusion::execution::memory_pool::human_readable_size;

use crate::error::{ErrorKind, QueryError};

/// Files of one query that their statistics did not rule out. A file that two scans open counts twice.
#[derive(Debug)]
pub(crate) struct Estimate {
    most_bytes: u64,
    files: AtomicU64,
    bytes: AtomicU64,
    rows: AtomicU64,
}

/// An upper bound of what is read: of the files only some columns, row groups and pages are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToRead {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows, as far as the log knows.
    pub rows: u64,
}

impl Estimate {
    pub(crate) fn within(most_bytes: u64) -> Self {
        Self {
            most_bytes,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rows: AtomicU64::new(0),
        }
    }

    /// Counts the files of one scan.
    ///
    /// # Errors
    /// When all scans together would read more than the query may.
    pub(crate) fn add(&self, files: &[&CommittedFile]) -> Result<(), QueryError> {
        let bytes = files.iter().map(|file| file.size).sum();
        let rows = files.iter().filter_map(|file| file.rows).sum();
        self.files.fetch_add(files.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.rows.fetch_add(rows, Ordering::Relaxed);
        let so_far = self.so_far();
        if so_far.bytes <= self.most_bytes {
            return Ok(());
        }
        let ToRead { files, bytes, rows } = so_far;
        let [bytes, most] =
            [bytes, self.most_bytes].map(|bytes| human_readable_size(bytes as usize));
        Err(QueryError::new(
            ErrorKind::TooMuchToRead,
            format!(
                "the query would read up to {rows} rows of {files} files with {bytes}, and may read {most}"
            ),
        )
        .hint("add a filter on window_start; `query: {scan: …}` in alluvium.yaml is the limit"))
    }

    /// Forgets what was counted: the query is planned anew.
    pub(crate) fn begin_again(&self) {
        for count in [&self.files, &self.bytes, &self.rows] {
            count.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn so_far(&self) -> ToRead {
        ToRead {
            files: self.files.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64, rows: Option<u64>) -> CommittedFile {
        CommittedFile {
            path: "f".into(),
            size,
            rows,
            window_start: None,
            bounds: Default::default(),
            partition_values: Default::default(),
            missing_states: Vec::new(),
            has_unique_keys: false,
            checksum: None,
        }
    }

    #[test]
    fn scans_add_up_and_the_one_too_many_is_refused() {
        let estimate = Estimate::within(5 << 20);
        let (one, other) = (file(2 << 20, Some(10)), file(3 << 20, None));
        estimate.add(&[&one, &other]).unwrap();
        let counted = ToRead {
            files: 2,
            bytes: 5 << 20,
            rows: 10,
        };
        assert_eq!(estimate.so_far(), counted);
        estimate.add(&[]).unwrap();
        let refused = estimate.add(&[&one]).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TooMuchToRead);
        assert_eq!(
            refused.message,
            "the query would read up to 20 rows of 3 files with 7.0 MB, and may read 5.0 MB"
        );
    }
}
