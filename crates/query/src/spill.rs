//! What queries put on disk because it does not fit into their memory.
//!
//! Owns the count of it, for all queries together and for each, and the refusal of what would be too much. Does not own the files
//! themselves, which go with whoever wrote them, nor when something is spilled: operators and the memory pool decide that.

use std::{
    io::{self, Write},
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use datafusion::{
    common::Result,
    execution::{
        disk_manager::{DiskManager, DiskManagerBuilder},
        memory_pool::human_readable_size,
        spill_file::{SpillFile, SpillWriter, TempFileFactory},
    },
};
use futures::Stream;

use crate::error::{ErrorKind, QueryError};

/// The disk that queries share: files in the system's folder for temporary ones.
pub(crate) struct Disk {
    files: Arc<DiskManager>,
    /// Bytes of all queries together.
    all: Quota,
}

/// Bytes that may be taken, and that are.
#[derive(Debug)]
struct Quota {
    most: u64,
    taken: AtomicU64,
}

/// One query's part of the disk.
pub(crate) struct DiskShare {
    disk: Arc<Disk>,
    own: Arc<Quota>,
}

impl Disk {
    pub(crate) fn new(most: u64) -> Result<Arc<Self>> {
        // It counts by itself too, for all queries alike; the count here is the narrower one.
        let files = DiskManagerBuilder::default().with_max_temp_directory_size(u64::MAX);
        Ok(Arc::new(Self {
            files: Arc::new(files.build()?),
            all: Quota::of(most),
        }))
    }

    /// The part of one query that may take `most` of it; none: whatever is left.
    pub(crate) fn share(self: &Arc<Self>, most: Option<u64>) -> DiskShare {
        DiskShare {
            disk: self.clone(),
            own: Arc::new(Quota::of(most.unwrap_or(u64::MAX))),
        }
    }
}

impl Quota {
    fn of(most: u64) -> Self {
        Self {
            most,
            taken: AtomicU64::new(0),
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= self.most);
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl TempFileFactory for DiskShare {
    fn create_temp_file(&self, description: &str) -> Result<Arc<dyn SpillFile>> {
        Ok(Arc::new(Counted {
            file: self.disk.files.create_tmp_file(description)?,
            size: Arc::new(Size {
                bytes: AtomicU64::new(0),
                disk: self.disk.clone(),
                own: self.own.clone(),
            }),
        }))
    }
}

/// A file whose bytes are counted.
struct Counted {
    file: Arc<dyn SpillFile>,
    size: Arc<Size>,
}

/// Bytes of one file. They are given back when the file and its writer are gone.
struct Size {
    bytes: AtomicU64,
    disk: Arc<Disk>,
    own: Arc<Quota>,
}

impl Size {
    fn grow(&self, bytes: u64) -> io::Result<()> {
        if !self.own.take(bytes) {
            return Err(too_much(
                "this query",
                self.own.most,
                "`query: {disk: …}` in alluvium.yaml is the limit",
            ));
        }
        if !self.disk.all.take(bytes) {
            self.own.give_back(bytes);
            return Err(too_much(
                "all queries together",
                self.disk.all.most,
                "`disk: {query: …}` in alluvium.yaml is the limit",
            ));
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Size {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.own.give_back(bytes);
        self.disk.all.give_back(bytes);
    }
}

fn too_much(whose: &str, most: u64, limit: &str) -> io::Error {
    let most = human_readable_size(most as usize);
    let refusal = QueryError::new(
        ErrorKind::Disk,
        format!(
            "what does not fit into memory would take more than the {most} of disk that {whose} may have"
        ),
    );
    io::Error::other(refusal.hint(format!(
        "narrow it by window_start or by group columns; {limit}"
    )))
}

impl SpillFile for Counted {
    fn path(&self) -> Option<&Path> {
        self.file.path()
    }

    fn size(&self) -> Option<u64> {
        self.file.size()
    }

    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        self.file.read_stream()
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        Ok(Box::new(Writer {
            file: self.file.open_writer()?,
            size: self.size.clone(),
        }))
    }
}

struct Writer {
    file: Box<dyn SpillWriter>,
    size: Arc<Size>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.size.grow(bytes.len() as u64)?;
        // A write that fails, or takes less, leaves the count too high until the file goes: never too low.
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl SpillWriter for Writer {
    fn finish(&mut self) -> Result<()> {
        self.file.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &Arc<dyn SpillFile>, bytes: usize) -> io::Result<()> {
        let mut writer = file.open_writer().unwrap();
        writer.write_all(&vec![0; bytes])
    }

    fn refusal(error: io::Error) -> QueryError {
        let refused = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<QueryError>());
        refused.unwrap().clone()
    }

    #[test]
    fn all_files_of_a_query_and_all_queries_are_counted_until_the_files_go() {
        let disk = Disk::new(1000).unwrap();
        let (one, other) = (disk.share(Some(600)), disk.share(None));
        let [a, b] = [(); 2].map(|()| one.create_temp_file("test").unwrap());
        write(&a, 400).unwrap();
        write(&b, 200).unwrap();
        let refused = refusal(write(&b, 1).unwrap_err());
        assert_eq!(refused.code(), "53100");
        assert!(refused.message.contains("this query"), "{refused}");
        let c = other.create_temp_file("test").unwrap();
        write(&c, 400).unwrap();
        let refused = refusal(write(&c, 1).unwrap_err());
        assert!(
            refused.message.contains("all queries together"),
            "{refused}"
        );
        drop(a);
        write(&b, 400).unwrap();
        drop((b, c, one, other));
        assert_eq!(disk.all.taken.load(Ordering::Relaxed), 0);
    }
}
