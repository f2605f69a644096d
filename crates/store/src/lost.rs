//! Files that a table needs and that are not as they were committed.
//!
//! Owns the comparison of what the newest version names with what storage has: by length, for which nothing is read, or byte by byte
//! by their checksums.

use std::fmt;

use alluvium_plan::CommittedFile;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{Error, ObjectStore, ObjectStoreExt as _, path::Path};

use crate::{Store, StoreError, checksum::checksum_of};

/// How many files are asked for at once.
const AT_ONCE: usize = 16;

/// How closely files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Whether they are there, and how long they are.
    Length,
    /// All their bytes too, where the log has a checksum.
    Bytes,
}

/// What is there of a file that is not as the table's log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A file of so many bytes.
    Length(u64),
    /// A file of the same length with other bytes.
    OtherBytes,
}

/// A file that is not what the table's log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostFile {
    /// Its path in the object store, from the store's root.
    pub path: String,
    /// How long it is to be, in bytes.
    pub size: u64,
    /// What is there.
    pub found: Found,
}

impl fmt::Display for LostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, size, .. } = self;
        match self.found {
            Found::Nothing => write!(f, "the file {path} is gone, and the table needs it"),
            Found::Length(found) => write!(
                f,
                "the file {path} has {found} bytes, and {size} were committed"
            ),
            Found::OtherBytes => write!(
                f,
                "the file {path} is damaged: its checksum is not that of what was committed"
            ),
        }
    }
}

/// How the files of a version were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesFound {
    /// Those that are not as they were committed.
    pub lost: Vec<LostFile>,
    /// How many there are of which the log has no checksum: an older release wrote them, or another product has named them anew.
    pub without_checksum: usize,
}

impl Store {
    /// Looks for every file of a table's newest version.
    ///
    /// # Errors
    /// As [`Self::read_table`], or when storage fails.
    pub async fn find_files(&self, table: &str, look: Look) -> Result<FilesFound, StoreError> {
        let files = self.read_table(table).await?.files;
        let objects = &self.object_store();
        let looks = files.iter().map(|file| async move {
            let found = found(objects.as_ref(), file, look).await;
            let found = found.map_err(StoreError::object(format!("look for {}", file.path)))?;
            Ok(found.map(|found| LostFile {
                path: file.path.clone(),
                size: file.size,
                found,
            }))
        });
        let looked = futures::stream::iter(looks).buffered(AT_ONCE);
        let lost: Vec<Option<LostFile>> = looked.try_collect::<Vec<_>>().await?;
        let without = files.iter().filter(|file| file.checksum.is_none());
        Ok(FilesFound {
            lost: lost.into_iter().flatten().collect(),
            without_checksum: without.count(),
        })
    }
}

/// What there is of a file; `None`: all is as it was committed, as far as one looks.
async fn found(
    objects: &dyn ObjectStore,
    file: &CommittedFile,
    look: Look,
) -> Result<Option<Found>, Error> {
    let path = Path::from(file.path.as_str());
    let length = match objects.head(&path).await {
        Ok(meta) => meta.size,
        Err(Error::NotFound { .. }) => return Ok(Some(Found::Nothing)),
        Err(error) => return Err(error),
    };
    if length != file.size {
        return Ok(Some(Found::Length(length)));
    }
    match file.checksum.filter(|_| look == Look::Bytes) {
        Some(expected) if checksum_of(objects, &path).await? != expected => {
            Ok(Some(Found::OtherBytes))
        }
        _ => Ok(None),
    }
}
