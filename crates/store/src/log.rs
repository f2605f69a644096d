//! The log of one Delta table: reading it whole, following it, and putting the next entry.
//!
//! Owns the names of log files, the choice of a log checkpoint, and the one fence of the whole crate: an entry is
//! put only as the very next version, only if nobody has put that version. So whoever commits has seen every commit
//! before his. Does not own what is committed, or what an ending means ([`crate::commit`]).

use std::{collections::BTreeMap, sync::Arc};

use alluvium_types::survived;
use bytes::Bytes;
use datafusion::arrow::json::LineDelimitedWriter;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, path::Path};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{
    StoreError,
    action::{Entry, Line},
    clock::Moment,
    damage::or_astray,
    snapshot::Snapshot,
};

/// Log entries read at once, at most.
const READ_AHEAD: usize = 16;

/// How often a load begins again because log clean-up took files that had just been listed, or because a listing was not of one moment.
pub(crate) const LOAD_ATTEMPTS: usize = 4;

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
    /// The parts of log checkpoints, by version and by how many parts there are.
    checkpoints: BTreeMap<(i64, u32), BTreeMap<u32, Part>>,
}

/// A file of a log checkpoint.
#[derive(Clone, Debug)]
struct Part {
    path: Path,
    /// When it was written (milliseconds by the store's clock).
    written: i64,
}

impl Part {
    fn of(meta: &object_store::ObjectMeta) -> Self {
        Self {
            path: meta.location.clone(),
            written: meta.last_modified.timestamp_millis(),
        }
    }
}

impl Listing {
    /// Complete checkpoints, newest first.
    pub(crate) fn complete_checkpoints(&self) -> impl Iterator<Item = (i64, Vec<&Path>)> {
        self.checkpoints_until(i64::MAX)
    }

    /// Complete checkpoints that were written until then (milliseconds by the store's clock), newest first.
    pub(crate) fn checkpoints_until(&self, until: i64) -> impl Iterator<Item = (i64, Vec<&Path>)> {
        self.checkpoints
            .iter()
            .rev()
            .filter(|((_, count), parts)| parts.keys().copied().eq(1..=*count))
            .filter(move |(_, parts)| parts.values().all(|part| part.written <= until))
            .map(|((version, _), parts)| {
                (*version, parts.values().map(|part| &part.path).collect())
            })
    }

    /// The files of log checkpoints below a version that were written until then (milliseconds by the store's clock).
    pub(crate) fn checkpoint_files(&self, below: i64, until: i64) -> impl Iterator<Item = &Path> {
        self.checkpoints
            .range(..(below, 0))
            .flat_map(|(_, parts)| parts.values())
            .filter(move |part| part.written <= until)
            .map(|part| &part.path)
    }

    /// Takes what lies directly in the folder: below it people keep copies, and other products their own files.
    fn take(&mut self, folder: &Path, meta: &object_store::ObjectMeta) {
        let Some(name) = meta.location.filename() else {
            return;
        };
        if meta.location.parts_count() != folder.parts_count() + 1 {
            return;
        }
        let mut words = name.split('.');
        let Some(version) = words
            .next()
            .filter(|digits| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
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
                let part = BTreeMap::from([(1, Part::of(meta))]);
                self.checkpoints.insert((version, 1), part);
            }
            ["checkpoint", part, count, "parquet"] => {
                if let (Ok(part), Ok(count)) = (part.parse(), count.parse()) {
                    let parts = self.checkpoints.entry((version, count)).or_default();
                    parts.entry(part).or_insert_with(|| Part::of(meta));
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
                Err(StoreError::TornLog { version, .. }) => return Err(self.lack(version).await?),
                // The process slept meanwhile, and clean-up may have freed a place for what was then read of it (P12).
                Ok(Some(slept)) if !slept.is_young() && attempt < LOAD_ATTEMPTS => attempt += 1,
                loaded => return loaded,
            }
        }
    }

    /// What it means that a version is not in what was listed: it is only not listed, or it is gone.
    async fn lack(&self, version: i64) -> Result<StoreError, StoreError> {
        Ok(if self.has_entry(version).await? {
            StoreError::TornLog {
                table: self.table.clone(),
                version,
            }
        } else {
            StoreError::LostEntry {
                table: self.table.clone(),
                entry: self.entry_path(version).to_string(),
            }
        })
    }

    pub(crate) async fn has_entry(&self, version: i64) -> Result<bool, StoreError> {
        let path = self.entry_path(version);
        match self.store.head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(StoreError::Object {
                doing: format!("look for {path}"),
                source,
            }),
        }
    }

    async fn try_load(&self) -> Result<Option<Snapshot>, StoreError> {
        let read_at = Moment::now();
        let hint = self.last_checkpoint().await?;
        if let Some(hint) = &hint {
            // Most of a long log lies before its newest checkpoint and need not even be listed.
            let listing = self.list_from(hint.version).await?;
            let newest = listing.complete_checkpoints().next();
            if newest.is_some_and(|(version, _)| version >= hint.version)
                && let Ok(Some(snapshot)) = self.add_up(&listing, Some(hint), read_at).await
            {
                return Ok(Some(snapshot));
            }
        }
        let listing = self.list().await?;
        self.add_up(&listing, hint.as_ref(), read_at).await
    }

    /// What `_last_checkpoint` says; it is only a hint, so one that cannot be read is as good as none (S9).
    pub(crate) async fn last_checkpoint(&self) -> Result<Option<Hint>, StoreError> {
        let hint = self
            .hint()
            .await?
            .and_then(|bytes| serde_json::from_slice::<Hint>(&bytes).ok());
        Ok(hint.filter(|hint| hint.version >= 0))
    }

    /// The newest complete checkpoint of this version or a later one.
    pub(crate) async fn newest_checkpoint(&self, from: i64) -> Result<Option<i64>, StoreError> {
        let listing = self.list_from(from).await?;
        let newest = listing.complete_checkpoints().next();
        Ok(newest
            .map(|(version, _)| version)
            .filter(|version| *version >= from))
    }

    /// The bytes of `_last_checkpoint`.
    pub(crate) async fn hint(&self) -> Result<Option<Bytes>, StoreError> {
        self.get(&self.hint_path()).await
    }

    pub(crate) fn hint_path(&self) -> Path {
        self.log_folder().join("_last_checkpoint")
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
        let folder = self.log_folder();
        while let Some(meta) = objects
            .try_next()
            .await
            .map_err(StoreError::object(format!(
                "list the log of {}",
                self.table
            )))?
        {
            listing.take(&folder, &meta);
        }
        Ok(listing)
    }

    async fn add_up(
        &self,
        listing: &Listing,
        hint: Option<&Hint>,
        read_at: Moment,
    ) -> Result<Option<Snapshot>, StoreError> {
        let mut checkpoint = None;
        let mut unreadable = None;
        let mut passed_over = Vec::new();
        for (version, parts) in listing.complete_checkpoints() {
            match self.read_checkpoint(version, &parts, hint).await {
                Ok(lines) => {
                    checkpoint = Some((version, lines));
                    break;
                }
                // A checkpoint is only a shortcut: an older one, or the entries themselves, say the same (S9).
                Err(error) if error.is_corrupt_file() => {
                    tracing::warn!(table = %self.table, version, %error, "passing over a log checkpoint");
                    unreadable = Some(error);
                    passed_over.push((version, parts.into_iter().cloned().collect()));
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
        let ends_with_entry = !entries.is_empty();
        let mut snapshot =
            Snapshot::replay(&self.table, &self.folder, checkpoint, entries, read_at)?;
        snapshot.passed_over = passed_over;
        if !ends_with_entry {
            // A log checkpoint does not tell which commit it ends with, and the next one names it. What it stands in for need not be there.
            if let Ok(Some(entry)) = self.read_entry(snapshot.version).await
                && entry.refuse_stray(&snapshot.metadata.id).is_ok()
                && snapshot.is_young()
            {
                snapshot.remember_commit(&entry);
            }
        }
        Ok(Some(snapshot))
    }

    /// Checkpoint rows as the same lines that entries consist of. What the hint knows about them must be true.
    pub(crate) async fn read_checkpoint(
        &self,
        version: i64,
        parts: &[&Path],
        hint: Option<&Hint>,
    ) -> Result<Vec<Line>, StoreError> {
        let mut lines = Vec::new();
        for path in parts {
            let bytes = match self.get(path).await? {
                Some(bytes) => bytes,
                None => {
                    return Err(StoreError::TornLog {
                        table: self.table.clone(),
                        version,
                    });
                }
            };
            let shown = path.to_string();
            // Here and not on a thread for blocking work: whoever loads a table waits for it anyway, and a schedule of the simulation
            // can only be run again when nothing happens beside it.
            let part = or_astray(survived(|| checkpoint_lines(bytes))).map_err(|source| {
                StoreError::UnreadableFile {
                    path: shown,
                    source,
                }
            })?;
            lines.extend(part);
        }
        let wrong = |what: &str| StoreError::UnreadableFile {
            path: parts
                .first()
                .map(|path| path.to_string())
                .unwrap_or_default(),
            source: parquet::errors::ParquetError::General(what.into()),
        };
        let describes_itself = lines.iter().any(|line| line.protocol.is_some())
            && lines.iter().any(|line| line.meta_data.is_some());
        if !describes_itself {
            return Err(wrong(
                "it is no log checkpoint: protocol or schema is missing",
            ));
        }
        let expected = hint.filter(|hint| hint.version == version);
        match expected.and_then(Hint::sum) {
            Some(sum) if sum != sum_of(&lines) => Err(wrong(
                "it is damaged or of another table: `_last_checkpoint` beside it has the sum of other lines",
            )),
            _ => Ok(lines),
        }
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
        let mut ahead = 2;
        while snapshot.is_young() {
            let read_at = Moment::now();
            let next = snapshot.version + 1;
            // Two at first, then more at once: where many write, many versions came since.
            let mut entries = futures::stream::iter(next..next + ahead)
                .map(|version| self.read_entry(version))
                .buffered(READ_AHEAD);
            while let Some(entry) = entries.try_next().await? {
                match entry {
                    // An entry may have come late into a place that was freed meanwhile.
                    _ if !snapshot.is_young() => return self.reload(snapshot).await,
                    None => {
                        let behind = entries.try_next().await?;
                        if !self.is_hole(snapshot.version + 1, behind).await? {
                            snapshot.read_at = read_at;
                            return Ok(());
                        }
                        return self.reload(snapshot).await;
                    }
                    Some(entry) if entry.changes_table() => {
                        if entry.refuse_stray(&snapshot.metadata.id).is_ok() {
                            snapshot.remember(&entry);
                        }
                        return self.reload(snapshot).await;
                    }
                    Some(entry) => {
                        snapshot.refuse_stray(&self.table, &entry)?;
                        snapshot.apply(&entry);
                    }
                }
            }
            ahead = (2 * ahead).min(READ_AHEAD as i64);
        }
        self.reload(snapshot).await
    }

    /// Whether a version that was not there is a hole and not the end of the log: what lies behind one must not be overlooked
    /// (S9). A wider one is seen by whoever reads the log whole. `behind` is the next version, where it was read already.
    async fn is_hole(
        &self,
        version: i64,
        behind: Option<Option<Entry>>,
    ) -> Result<bool, StoreError> {
        let is_more = match behind {
            Some(entry) => entry.is_some(),
            None => self.has_entry(version + 1).await?,
        };
        // It may have been put between the two looks.
        Ok(is_more && !self.has_entry(version).await?)
    }

    /// Reads the log anew.
    ///
    /// # Errors
    /// That it has become another one, or is not there any more.
    pub(crate) async fn reload(&self, snapshot: &mut Snapshot) -> Result<(), StoreError> {
        let vanished = || StoreError::Vanished {
            table: self.table.clone(),
            version: snapshot.version,
        };
        let mut newest = self.load().await?.ok_or_else(vanished)?;
        if newest.metadata.id != snapshot.metadata.id {
            return Err(StoreError::Replaced {
                table: self.table.clone(),
            });
        }
        if newest.version < snapshot.version {
            // What was recorded once is never unrecorded: events would be counted again.
            return Err(self.lack(snapshot.version).await?);
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

/// What `_last_checkpoint` says of the newest log checkpoint.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Hint {
    pub(crate) version: i64,
    #[serde(default)]
    tags: Option<BTreeMap<String, serde_json::Value>>,
}

impl Hint {
    /// What the lines of that checkpoint sum up to; `None` where nobody said it, in a way that is known here and whole (R7).
    fn sum(&self) -> Option<&str> {
        let tag = self.tags.as_ref()?.get(SUM_TAG)?.as_str()?;
        let (sum, own) = tag.rsplit_once(':')?;
        (sum.starts_with(SUM_FORMAT) && own == own_sum(sum)).then_some(sum)
    }
}

/// The tag in `_last_checkpoint` of what the lines of that checkpoint sum up to.
pub(crate) const SUM_TAG: &str = "alluvium.lines";
/// What a sum of this kind begins with.
const SUM_FORMAT: &str = "1:";

/// The tag's value: a sum, and a checksum of that.
pub(crate) fn tag_of(sum: &str) -> String {
    format!("{sum}:{}", own_sum(sum))
}

fn own_sum(sum: &str) -> String {
    format!("{:08x}", crc_fast::crc32_iscsi(sum.as_bytes()))
}

/// A checksum of what a log checkpoint says, in whatever order and bytes: two servers may write the same one at once, and
/// a tombstone is there or not as time passes. Parquet has none of its own here, and a damaged one reads as another table.
///
/// It is stored, so what it is made of never changes under the same number (R7).
pub(crate) fn sum_of(lines: &[Line]) -> String {
    let mut count = 0_u64;
    let mut sum = 0_u64;
    let mut take = |kind: &str, value: serde_json::Result<Vec<u8>>| {
        let mut bytes = kind.as_bytes().to_vec();
        bytes.extend(value.expect("log lines are plain values"));
        count += 1;
        sum = sum.wrapping_add(u64::from(crc_fast::crc32_iscsi(&bytes)));
    };
    for line in lines {
        if let Some(add) = &line.add {
            take("add", serde_json::to_vec(add));
        }
        if let Some(txn) = &line.txn {
            take("txn", serde_json::to_vec(txn));
        }
        if let Some(metadata) = &line.meta_data {
            take("metaData", serde_json::to_vec(metadata));
        }
        if let Some(protocol) = &line.protocol {
            take("protocol", serde_json::to_vec(protocol));
        }
    }
    format!("{SUM_FORMAT}{count}:{sum:x}")
}

/// Decodes every column, those too of which nothing is wanted: the library does so when it writes the next checkpoint, and a
/// decoder that panics over them would end the process there.
fn checkpoint_lines(bytes: Bytes) -> Result<Vec<Line>, parquet::errors::ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let wanted = ["add", "remove", "txn", "metaData", "protocol"];
    let fields = builder.schema().fields().iter().enumerate();
    let wanted: Vec<usize> = fields
        .filter(|(_, field)| wanted.contains(&field.name().as_str()))
        .map(|(position, _)| position)
        .collect();
    let mut lines = Vec::new();
    for batch in builder.build()? {
        let mut json = Vec::new();
        let mut writer = LineDelimitedWriter::new(&mut json);
        writer.write(&batch?.project(&wanted)?)?;
        writer.finish()?;
        for line in serde_json::Deserializer::from_slice(&json).into_iter() {
            lines.push(
                line.map_err(|error| parquet::errors::ParquetError::External(Box::new(error)))?,
            );
        }
    }
    Ok(lines)
}
