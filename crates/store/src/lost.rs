//! Files that a table needs and that are not as they were committed.
//!
//! Owns the comparison of what the newest version names with what storage has: by length, for which nothing is read, or byte by byte
//! by their checksums.

use std::{collections::HashSet, fmt, sync::Arc};

use alluvium_plan::CommittedFile;
use futures::StreamExt as _;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, path::Path};

use crate::{
    CommitKind, Store, StoreError, checksum::damage_of, compact::pipeline, maintain::history,
};

/// How many files are asked for at once.
const AT_ONCE: usize = 16;

/// After so many files in a row that cannot be read it is the storage that is away, and the others are not looked for.
const AWAY: usize = 16;

/// How closely files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Whether they are there, and how long they are.
    Length,
    /// All their bytes too, where the log has a checksum.
    Bytes,
}

/// What is there of a file that is not as the table's log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A file of so many bytes.
    Length(u64),
    /// A file of the same length with other bytes.
    OtherBytes,
    /// A file that could not be read, and why.
    Unreadable(String),
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
        let Self { path, size, found } = self;
        match found {
            Found::Nothing => write!(f, "the file {path} is gone, and the table needs it"),
            Found::Length(found) => write!(
                f,
                "the file {path} has {found} bytes, and {size} were committed"
            ),
            Found::OtherBytes => write!(
                f,
                "the file {path} is damaged: its checksum is not that of what was committed"
            ),
            Found::Unreadable(why) => write!(f, "the file {path} could not be looked at: {why}"),
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

/// How the dead letters of a table's pipeline were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LettersFound {
    /// Their files.
    pub files: FilesFound,
    /// How many there are; `None` where they are gone, with their log.
    pub letters: Option<u64>,
    /// Fewer than events that the table refused, and none has expired: letters come before the commit that counts them (P21), so some
    /// were removed.
    pub are_too_few: bool,
}

impl Store {
    /// Looks for every file of a table's newest version.
    ///
    /// # Errors
    /// As [`Self::read_table`].
    pub async fn find_files(&self, table: &str, look: Look) -> Result<FilesFound, StoreError> {
        let files = self.read_table(table).await?.files;
        let mut found = find(&self.object_store(), &files, look).await;
        if !found.lost.is_empty() {
            // A long look may be overtaken by merges, and what these have replaced by a sweep.
            if let Ok(now) = self.read_table(table).await {
                let needed: HashSet<&str> = now.files.iter().map(|file| &*file.path).collect();
                found.lost.retain(|file| needed.contains(&*file.path));
            }
        }
        Ok(found)
    }

    /// Looks for the dead letters of a table that has refused so many events.
    ///
    /// # Errors
    /// As [`Self::read_table`] and [`Self::history`].
    pub async fn find_letters(
        &self,
        table: &str,
        refused: u64,
        look: Look,
    ) -> Result<LettersFound, StoreError> {
        let log = self.table_log(table);
        let missing = || StoreError::Missing {
            table: log.table.clone(),
        };
        let owner = log.load().await?.ok_or_else(missing)?;
        let letters = self.dead_letters_log(pipeline(&owner));
        let Some(snapshot) = letters.load().await? else {
            return Ok(LettersFound {
                are_too_few: refused > 0,
                ..LettersFound::default()
            });
        };
        let mut found = LettersFound {
            files: find(&self.object_store(), &snapshot.files, look).await,
            // A file that does not say how many it has may have any number.
            letters: Some(
                snapshot
                    .files
                    .iter()
                    .map(|file| file.rows.unwrap_or(u64::MAX))
                    .fold(0, u64::saturating_add),
            ),
            are_too_few: false,
        };
        if !found.files.lost.is_empty()
            && let Ok(Some(now)) = letters.load().await
        {
            // As above: letters may have expired meanwhile.
            found
                .files
                .lost
                .retain(|file| now.paths.contains(&file.path));
        }
        if found.letters.is_some_and(|there| there < refused) {
            let history = history(self, &letters).await?;
            let have_expired = history
                .iter()
                .any(|record| record.kind == CommitKind::Expiry);
            found.are_too_few = !have_expired;
        }
        Ok(found)
    }
}

async fn find(objects: &Arc<dyn ObjectStore>, files: &[CommittedFile], look: Look) -> FilesFound {
    let looks = files.iter().map(|file| async move {
        let found = found(objects.as_ref(), file, look).await;
        let found = found.unwrap_or_else(|error| match error {
            Error::NotFound { .. } => Some(Found::Nothing),
            error => Some(Found::Unreadable(error.to_string())),
        });
        found.map(|found| LostFile {
            path: file.path.clone(),
            size: file.size,
            found,
        })
    });
    let mut looked = futures::stream::iter(looks).buffered(AT_ONCE);
    let mut lost = Vec::new();
    let mut unreadable = 0;
    while let Some(found) = looked.next().await {
        let is_unreadable = |file: &LostFile| matches!(file.found, Found::Unreadable(_));
        unreadable = match found.as_ref().is_some_and(is_unreadable) {
            true => unreadable + 1,
            false => 0,
        };
        lost.extend(found);
        if unreadable == AWAY {
            break;
        }
    }
    let without = files.iter().filter(|file| file.checksum.is_none());
    FilesFound {
        lost,
        without_checksum: without.count(),
    }
}

/// What there is of a file; `None`: all is as it was committed, as far as one looks.
async fn found(
    objects: &dyn ObjectStore,
    file: &CommittedFile,
    look: Look,
) -> Result<Option<Found>, Error> {
    let length = objects.head(&Path::from(file.path.as_str())).await?.size;
    if length != file.size {
        return Ok(Some(Found::Length(length)));
    }
    let damage = match look {
        Look::Length => None,
        Look::Bytes => damage_of(objects, file).await?,
    };
    Ok(damage.map(|_| Found::OtherBytes))
}
