//! Files that a table needs and that are not there.
//!
//! Owns the comparison of what the newest version names with what storage has, by length alone: nothing is read, so a file whose bytes
//! have changed passes.

use std::fmt;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{Error, ObjectStoreExt as _, path::Path};

use crate::{Store, StoreError};

/// How many files are asked for at once.
const AT_ONCE: usize = 16;

/// A file that is not what the table's log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostFile {
    /// Its path in the object store, from the store's root.
    pub path: String,
    /// How long it is to be, in bytes.
    pub size: u64,
    /// How long it is; `None`: it is not there.
    pub found: Option<u64>,
}

impl fmt::Display for LostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, size, .. } = self;
        match self.found {
            Some(found) => write!(
                f,
                "the file {path} has {found} bytes, and {size} were committed"
            ),
            None => write!(f, "the file {path} is gone, and the table needs it"),
        }
    }
}

impl Store {
    /// Looks for every file of a table's newest version.
    ///
    /// # Errors
    /// As [`Self::read_table`], or when storage fails.
    pub async fn lost_files(&self, table: &str) -> Result<Vec<LostFile>, StoreError> {
        let files = self.read_table(table).await?.files;
        let objects = &self.object_store();
        let looks = files.iter().map(|file| async move {
            let found = match objects.head(&Path::from(file.path.as_str())).await {
                Ok(meta) => Some(meta.size),
                Err(Error::NotFound { .. }) => None,
                Err(source) => {
                    let doing = format!("look for {}", file.path);
                    return Err(StoreError::Object { doing, source });
                }
            };
            let is_lost = found != Some(file.size);
            Ok(is_lost.then(|| LostFile {
                path: file.path.clone(),
                size: file.size,
                found,
            }))
        });
        let looked = futures::stream::iter(looks).buffered(AT_ONCE);
        let lost: Vec<Option<LostFile>> = looked.try_collect().await?;
        Ok(lost.into_iter().flatten().collect())
    }
}
