//! What one query sees: tables at one moment, each read once however often the query names it.
//!
//! Owns the choice between what this process publishes and what storage holds, and the account of
//! what was read ([`AsOf`]). Does not own relations made from it ([`crate::catalog`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use alluvium_plan::{CommittedTable, Published, Publisher};
use alluvium_types::{Timestamp, TopicPartition};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    error::QueryError,
    names::{PANES, PUBLIC},
    panes::StoredRows,
    read_files::ReadFiles,
    running::Running,
    storage::{DeadLetters, Storage},
};

/// Whether answers include what is not committed yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// They do; a rebalance can take it back until it is committed (P33).
    #[default]
    Fresh,
    /// They do not, and never go back.
    Committed,
}

impl ReadMode {
    /// The value of `alluvium.read`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Committed => "committed",
        }
    }
}

/// What an answer includes, by table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AsOf {
    /// Every pane table and dead-letter table that was read, by its name with the schema.
    pub tables: BTreeMap<String, TableAsOf>,
}

/// What an answer includes of one table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TableAsOf {
    /// The committed Delta version.
    pub version: i64,
    /// The next offset of every partition, in-memory epochs included.
    #[serde(serialize_with = "by_partition_name")]
    pub offsets: BTreeMap<TopicPartition, i64>,
    /// The watermark of the committed version, RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub watermark: Option<Timestamp>,
    /// The in-memory epochs that are included.
    pub epochs: Vec<u64>,
}

fn by_partition_name<S: Serializer>(
    offsets: &BTreeMap<TopicPartition, i64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(offsets.len()))?;
    for (partition, offset) in offsets {
        map.serialize_entry(&partition.to_string(), offset)?;
    }
    map.end()
}

fn as_text<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// Storage, with a short memory so that a busy server does not list it for every query.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) storage: Arc<dyn Storage>,
    publisher: Option<Arc<Publisher>>,
    keep: Duration,
    kept: Mutex<Kept>,
    files: Option<Arc<ReadFiles>>,
    /// The queries that run now.
    pub(crate) running: Arc<Running>,
}

#[derive(Debug, Default)]
struct Kept {
    names: Option<(Instant, Arc<Names>)>,
    tables: BTreeMap<String, (Instant, CommittedTable)>,
}

/// What storage lists.
#[derive(Debug, Default)]
struct Names {
    tables: Vec<String>,
    dead_letters: Vec<String>,
}

impl Shelf {
    /// With a publisher, what other processes committed may be `keep` old, and small files are kept decoded in
    /// `files`; without one the process answers one question and ends.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        publisher: Option<Arc<Publisher>>,
        files: ReadFiles,
    ) -> Self {
        let keep = match publisher {
            Some(_) => Duration::from_secs(2),
            None => Duration::ZERO,
        };
        Self {
            files: publisher.is_some().then(|| Arc::new(files)),
            storage,
            publisher,
            keep,
            kept: Mutex::default(),
            running: Arc::default(),
        }
    }

    /// Forgets what was read before: files of it may be gone.
    pub(crate) fn forget(&self) {
        *self.kept() = Kept::default();
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        // Everything in it is replaced whole, so a panic elsewhere leaves it usable.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn names(&self) -> Result<Arc<Names>, QueryError> {
        if let Some((read, names)) = &self.kept().names
            && read.elapsed() < self.keep
        {
            return Ok(names.clone());
        }
        let names = Arc::new(Names {
            tables: self.storage.tables().await?,
            dead_letters: self.storage.dead_letter_tables().await?,
        });
        self.kept().names = Some((Instant::now(), names.clone()));
        Ok(names)
    }

    async fn table(&self, name: &str) -> Result<CommittedTable, QueryError> {
        if let Some((read, table)) = self.kept().tables.get(name)
            && read.elapsed() < self.keep
        {
            return Ok(table.clone());
        }
        let table = self.storage.read_table(name).await?;
        let entry = (Instant::now(), table.clone());
        self.kept().tables.insert(name.to_string(), entry);
        Ok(table)
    }

    fn view(
        &self,
        committed: &CommittedTable,
        epochs: &[Arc<alluvium_plan::MemoryEpoch>],
    ) -> Result<ViewedTable, QueryError> {
        let mut offsets = committed.offsets.as_ref().clone();
        for epoch in epochs {
            for (partition, range) in &epoch.ranges {
                offsets.insert(partition.clone(), range.end());
            }
        }
        let memory = epochs.iter().flat_map(|epoch| epoch.panes.iter().cloned());
        let rows = StoredRows::panes(
            &committed.shape,
            committed.files.clone(),
            memory,
            self.files.clone(),
        )?;
        Ok(ViewedTable {
            rows: Arc::new(rows),
            as_of: TableAsOf {
                version: committed.version,
                offsets,
                watermark: committed.watermark,
                epochs: epochs.iter().map(|epoch| epoch.epoch.0).collect(),
            },
            committed: committed.clone(),
        })
    }
}

/// One table as one query sees it.
#[derive(Clone, Debug)]
pub(crate) struct ViewedTable {
    pub(crate) committed: CommittedTable,
    pub(crate) rows: Arc<StoredRows>,
    as_of: TableAsOf,
}

/// What one query sees.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) shelf: Arc<Shelf>,
    published: Arc<Published>,
    mode: ReadMode,
    names: Result<Arc<Names>, QueryError>,
    viewed: tokio::sync::Mutex<BTreeMap<String, ViewedTable>>,
    as_of: Mutex<AsOf>,
}

impl View {
    /// Takes the published snapshot, once for the whole query (P32). What this process does not publish is read
    /// from storage when the query names it.
    pub(crate) async fn open(shelf: Arc<Shelf>, mode: ReadMode) -> Self {
        let published = match &shelf.publisher {
            Some(publisher) => publisher.current(),
            None => Arc::default(),
        };
        // A table that is published can be read while storage does not answer; so a listing that
        // fails only matters to who needs it.
        let names = shelf.names().await;
        Self {
            shelf,
            published,
            mode,
            names,
            viewed: tokio::sync::Mutex::default(),
            as_of: Mutex::default(),
        }
    }

    /// The names of all pane tables.
    pub(crate) fn tables(&self) -> Vec<String> {
        let published = self.published.tables.keys().map(|name| name.to_string());
        let mut names: Vec<String> = published.collect();
        if let Ok(listed) = &self.names {
            names.extend(listed.tables.iter().cloned());
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The names of all pipelines with rejects.
    pub(crate) fn dead_letter_tables(&self) -> Vec<String> {
        match &self.names {
            Ok(listed) => listed.dead_letters.clone(),
            Err(_) => Vec::new(),
        }
    }

    /// Fails when storage could not be listed, so that "there is no such table" is never said of one that could
    /// not be looked for.
    fn listed(&self) -> Result<&Names, QueryError> {
        match &self.names {
            Ok(names) => Ok(names),
            Err(error) => Err(error.clone()),
        }
    }

    /// One pane table; `None` when there is none of this name.
    pub(crate) async fn table(&self, name: &str) -> Result<Option<ViewedTable>, QueryError> {
        let mut viewed = self.viewed.lock().await;
        if let Some(table) = viewed.get(name) {
            return Ok(Some(table.clone()));
        }
        let table = match self.published.tables.get(name) {
            Some(table) => {
                // What was read of it before is older, and may be asked for again when nobody here writes the table any more.
                self.shelf.kept().tables.remove(name);
                let epochs: Vec<_> = match self.mode {
                    ReadMode::Fresh => table.visible().cloned().collect(),
                    ReadMode::Committed => Vec::new(),
                };
                self.shelf.view(&table.committed, &epochs)?
            }
            None => {
                if !self.listed()?.tables.iter().any(|listed| listed == name) {
                    return Ok(None);
                }
                self.shelf.view(&self.shelf.table(name).await?, &[])?
            }
        };
        viewed.insert(name.to_string(), table.clone());
        Ok(Some(table))
    }

    /// Notes that the query reads this table.
    pub(crate) fn read(&self, relation: String, table: &ViewedTable) {
        self.note(relation, table.as_of.clone());
    }

    /// The rejects of one pipeline; `None` when there is none of this name.
    pub(crate) async fn dead_letters(&self, name: &str) -> Result<Option<DeadLetters>, QueryError> {
        if !self
            .listed()?
            .dead_letters
            .iter()
            .any(|listed| listed == name)
        {
            return Ok(None);
        }
        let letters = self.shelf.storage.read_dead_letters(name).await?;
        let as_of = TableAsOf {
            version: letters.version,
            ..TableAsOf::default()
        };
        self.note(format!("dead_letters.{name}"), as_of);
        Ok(Some(letters))
    }

    /// Whether a query that read `then` would read the same through this view. Of rejects that is not known.
    pub(crate) async fn is_still(&self, then: &AsOf) -> Result<bool, QueryError> {
        for (relation, table) in &then.tables {
            let now = match relation.split_once('.') {
                Some((PUBLIC | PANES, name)) => self.table(name).await?,
                _ => None,
            };
            if now.is_none_or(|now| now.as_of != *table) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What was read until now.
    pub(crate) fn as_of(&self) -> AsOf {
        self.as_of
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note(&self, relation: String, table: TableAsOf) {
        self.as_of
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tables
            .insert(relation, table);
    }
}
