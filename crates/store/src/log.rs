//! The log of one Delta table: reading it whole, following it, and putting the next entry.
//!
//! Owns the names of log files, the choice of a log checkpoint, and the one fence of the whole crate: an entry is
//! put only as the very next version, only if nobody has put that version. So whoever commits has seen every commit
//! before his. Does not own what is committed, or what an ending means ([`crate::commit`]).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use datafusion::arrow::json::LineDelimitedWriter;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, path::Path};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

use crate::{
    StoreError,
    action::{Entry, Line},
    clock::Moment,
    snapshot::Snapshot,
};

/// Log entries read at once, at most.
const READ_AHEAD: usize = 16;

/// How often a load begins again because log clean-up took files that had just been listed.
const LOAD_ATTEMPTS: usize = 4;

#[derive(Clone, Debug)]
pub(crate) struct TableLog {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The table's folder below the storage root.
    pub(crate) folder: Path,
    /// The same as text, for messages and the ledger.
    pub(crate) table: Arc<str>,
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The version is ours.
    Landed,
    /// Somebody has that version: another writer, or an earlier try of ours whose reply was lost.
    Taken,
}

/// What lies in a log folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Versions with an entry, and when it was written (milliseconds by the store's clock).
    pub(crate) entries: BTreeMap<i64, i64>,
    /// Paths of the parts of log checkpoints, by version.
    checkpoints: BTreeMap<i64, BTreeMap<u32, (u32, Path)>>,
}

impl Listing {
    /// Complete checkpoints, newest first.
    pub(crate) fn complete_checkpoints(&self) -> impl Iterator<Item = (i64, Vec<&Path>)> {
        self.checkpoints
            .iter()
            .rev()
            .filter_map(|(version, parts)| {
                let (count, _) = parts.values().next()?;
                (parts.len() == *count as usize)
                    .then(|| (*version, parts.values().map(|(_, path)| path).collect()))
            })
    }

    fn take(&mut self, meta: &object_store::ObjectMeta) {
        let Some(name) = meta.location.filename() else {
            return;
        };
        let mut words = name.split('.');
        let Some(version) = words
            .next()
            .filter(|digits| digits.len() == 20)
            .and_then(|digits| digits.parse::<i64>().ok())
        else {
            return;
        };
        match words.collect::<Vec<_>>()[..] {
            ["json"] => {
                self.entries
                    .insert(version, meta.last_modified.timestamp_millis());
            }
            ["checkpoint", "parquet"] => {
                let part = BTreeMap::from([(1, (1, meta.location.clone()))]);
                self.checkpoints.insert(version, part);
            }
            ["checkpoint", part, count, "parquet"] => {
                let parts = self.checkpoints.entry(version).or_default();
                let whole = parts.get(&1).is_some_and(|(count, _)| *count == 1);
                if let (false, Ok(part), Ok(count)) = (whole, part.parse(), count.parse()) {
                    parts.insert(part, (count, meta.location.clone()));
                }
            }
            _ => {}
        }
    }
}

impl TableLog {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, folder: Path) -> Self {
        let table = folder.as_ref().into();
        Self {
            store,
            folder,
            table,
        }
    }

    pub(crate) fn log_folder(&self) -> Path {
        self.folder.clone().join("_delta_log")
    }

    pub(crate) fn entry_path(&self, version: i64) -> Path {
        self.log_folder().join(format!("{version:020}.json"))
    }

    /// Everything in the log folder.
    pub(crate) async fn list(&self) -> Result<Listing, StoreError> {
        self.take_all(self.store.list(Some(&self.log_folder())))
            .await
    }

    /// The newest version; `None` when there is no table.
    pub(crate) async fn load(&self) -> Result<Option<Snapshot>, StoreError> {
        let mut attempt = 1;
        loop {
            match self.try_load().await {
                // Clean-up ran between the listing and the reading.
                Err(StoreError::TornLog { .. }) if attempt < LOAD_ATTEMPTS => attempt += 1,
                loaded => return loaded,
            }
        }
    }

    async fn try_load(&self) -> Result<Option<Snapshot>, StoreError> {
        let read_at = Moment::now();
        if let Some(hinted) = self.last_checkpoint().await? {
            // Most of a long log lies before its newest checkpoint and need not even be listed.
            let listing = self.list_from(hinted).await?;
            let newest = listing.complete_checkpoints().next();
            if newest.is_some_and(|(version, _)| version >= hinted)
                && let Ok(Some(snapshot)) = self.add_up(&listing, read_at).await
            {
                return Ok(Some(snapshot));
            }
        }
        let listing = self.list().await?;
        self.add_up(&listing, read_at).await
    }

    /// What `_last_checkpoint` says; it is only a hint, so one that cannot be read is as good as none (S9).
    pub(crate) async fn last_checkpoint(&self) -> Result<Option<i64>, StoreError> {
        #[derive(serde::Deserialize)]
        struct Hint {
            version: i64,
        }
        let hint = self
            .get(&self.log_folder().join("_last_checkpoint"))
            .await?;
        let parsed = hint.and_then(|bytes| serde_json::from_slice::<Hint>(&bytes).ok());
        Ok(parsed.map(|hint| hint.version))
    }

    async fn list_from(&self, version: i64) -> Result<Listing, StoreError> {
        let folder = self.log_folder();
        // Sorts directly before everything of that version.
        let offset = folder.clone().join(format!("{version:020}"));
        self.take_all(self.store.list_with_offset(Some(&folder), &offset))
            .await
    }

    async fn take_all(
        &self,
        mut objects: BoxStream<'static, object_store::Result<object_store::ObjectMeta>>,
    ) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        while let Some(meta) = objects
            .try_next()
            .await
            .map_err(StoreError::object(format!(
                "list the log of {}",
                self.table
            )))?
        {
            listing.take(&meta);
        }
        Ok(listing)
    }

    async fn add_up(
        &self,
        listing: &Listing,
        read_at: Moment,
    ) -> Result<Option<Snapshot>, StoreError> {
        let mut checkpoint = None;
        let mut unreadable = None;
        for (version, parts) in listing.complete_checkpoints() {
            match self.read_checkpoint(&parts).await {
                Ok(lines) => {
                    checkpoint = Some((version, lines));
                    break;
                }
                // A checkpoint is only a shortcut: an older one, or the entries themselves, say the same (S9).
                Err(error) if error.is_corrupt_file() => {
                    tracing::warn!(table = %self.table, version, %error, "passing over a log checkpoint");
                    unreadable = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let first = checkpoint.as_ref().map_or(0, |(version, _)| version + 1);
        let versions: Vec<i64> = listing
            .entries
            .range(first..)
            .map(|(version, _)| *version)
            .collect();
        if versions.is_empty() && checkpoint.is_none() {
            return match unreadable {
                Some(error) => Err(error),
                None => Ok(None),
            };
        }
        // A partial listing must not pass for a shorter log (S14).
        if let Some((expected, _)) = (first..)
            .zip(&versions)
            .find(|(expected, listed)| expected != *listed)
        {
            return Err(unreadable.unwrap_or(StoreError::TornLog {
                table: self.table.clone(),
                version: expected,
            }));
        }
        let entries: Vec<Entry> = futures::stream::iter(versions)
            .map(|version| async move {
                self.read_entry(version).await?.ok_or(StoreError::TornLog {
                    table: self.table.clone(),
                    version,
                })
            })
            .buffered(READ_AHEAD)
            .try_collect()
            .await?;
        Snapshot::replay(&self.table, &self.folder, checkpoint, entries, read_at).map(Some)
    }

    /// Checkpoint rows as the same lines that entries consist of.
    async fn read_checkpoint(&self, parts: &[&Path]) -> Result<Vec<Line>, StoreError> {
        let mut lines = Vec::new();
        for path in parts {
            let bytes = match self.get(path).await? {
                Some(bytes) => bytes,
                None => {
                    return Err(StoreError::TornLog {
                        table: self.table.clone(),
                        version: 0,
                    });
                }
            };
            let shown = path.to_string();
            let part = tokio::task::spawn_blocking(move || checkpoint_lines(bytes))
                .await
                .map_err(|error| parquet::errors::ParquetError::External(Box::new(error)))
                .and_then(|lines| lines)
                .map_err(|source| StoreError::UnreadableFile {
                    path: shown,
                    source,
                })?;
            lines.extend(part);
        }
        Ok(lines)
    }

    /// One entry; `None` when that version does not exist (yet, or any more).
    pub(crate) async fn read_entry(&self, version: i64) -> Result<Option<Entry>, StoreError> {
        let Some(bytes) = self.get(&self.entry_path(version)).await? else {
            return Ok(None);
        };
        Entry::parse(version, &bytes)
            .map(Some)
            .map_err(|source| StoreError::UnreadableEntry {
                table: self.table.clone(),
                version,
                source,
            })
    }

    async fn get(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let read = async { self.store.get(path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::Object {
                doing: format!("read {path}"),
                source,
            }),
        }
    }

    /// Moves `snapshot` to the newest version. On return it was the newest at some moment after the call.
    ///
    /// A snapshot that is no longer young is loaded anew: the entries it would need may be cleaned up, and a missing
    /// entry would pass for the end of the log (P12).
    pub(crate) async fn advance(&self, snapshot: &mut Snapshot) -> Result<(), StoreError> {
        let mut ahead = 1;
        while snapshot.is_young() {
            let read_at = Moment::now();
            let next = snapshot.version + 1;
            // One at first, then more at once: where many write, many versions came since.
            let mut entries = futures::stream::iter(next..next + ahead)
                .map(|version| self.read_entry(version))
                .buffered(READ_AHEAD);
            while let Some(entry) = entries.try_next().await? {
                match entry {
                    None if snapshot.is_young() => {
                        snapshot.read_at = read_at;
                        return Ok(());
                    }
                    None => return self.reload(snapshot).await,
                    Some(entry) if entry.changes_table() => {
                        snapshot.remember(&entry);
                        return self.reload(snapshot).await;
                    }
                    Some(entry) => snapshot.apply(&entry),
                }
            }
            ahead = (2 * ahead).min(READ_AHEAD as i64);
        }
        self.reload(snapshot).await
    }

    async fn reload(&self, snapshot: &mut Snapshot) -> Result<(), StoreError> {
        let missing = || StoreError::Missing {
            table: self.table.clone(),
        };
        let mut newest = self.load().await?.ok_or_else(missing)?;
        if newest.metadata.id != snapshot.metadata.id {
            return Err(StoreError::Replaced {
                table: self.table.clone(),
            });
        }
        newest.inherit(snapshot);
        *snapshot = newest;
        Ok(())
    }

    /// Puts the entry of `version`, if nobody has put it.
    pub(crate) async fn put_entry(
        &self,
        version: i64,
        bytes: Vec<u8>,
    ) -> Result<Put, object_store::Error> {
        let path = self.entry_path(version);
        match self
            .store
            .put_opts(&path, bytes.into(), PutMode::Create.into())
            .await
        {
            Ok(_) => Ok(Put::Landed),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Taken),
            Err(error) => Err(error),
        }
    }
}

fn checkpoint_lines(bytes: Bytes) -> Result<Vec<Line>, parquet::errors::ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let wanted = ["add", "remove", "txn", "metaData", "protocol"];
    let roots = builder
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| wanted.contains(&field.name().as_str()))
        .map(|(position, _)| position);
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let mut lines = Vec::new();
    for batch in builder.with_projection(mask).build()? {
        let mut json = Vec::new();
        let mut writer = LineDelimitedWriter::new(&mut json);
        writer.write(&batch?)?;
        writer.finish()?;
        for line in serde_json::Deserializer::from_slice(&json).into_iter() {
            lines.push(
                line.map_err(|error| parquet::errors::ParquetError::External(Box::new(error)))?,
            );
        }
    }
    Ok(lines)
}
