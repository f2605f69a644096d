//! A table at one version, held in memory and moved forward entry by entry.
//!
//! Owns what the lines of a log add up to: schema, live files, recorded numbers. Moving forward costs what the new
//! entry holds, not what the table holds. Does not own reading the log ([`TableLog`](crate::log::TableLog)) or the
//! meaning of the recorded numbers ([`Checkpoint`](crate::Checkpoint)).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use alluvium_plan::{CommittedFile, TableShape};
use alluvium_types::TopicPartition;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use deltalake_core::{
    StructType,
    kernel::engine::arrow_conversion::{TryIntoArrow as _, TryIntoKernel as _},
};
use object_store::path::Path;

use crate::{
    StoreError,
    action::{Add, Definition, Entry, Line, Metadata, Protocol, Stats},
    clock::Moment,
    stats::{column_bounds, is_bounded, round_up_to_millis},
};

/// How many foreign and own commit ids are remembered for resolving lost replies (P10).
const REMEMBERED_COMMITS: usize = 1024;
/// How many versions of a pipeline's files are remembered.
const REMEMBERED_DEFINITIONS: usize = 8;
/// After so long it is looked whether what was committed is still there.
const LOOK_BACK_AFTER: Duration = Duration::from_secs(30);
/// Bounds of so many columns are kept of each file, the first ones of a table's keys.
const MOST_BOUNDED: usize = 16;

#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) version: i64,
    pub(crate) protocol: Protocol,
    pub(crate) metadata: Metadata,
    pub(crate) schema: SchemaRef,
    pub(crate) files: Arc<Vec<CommittedFile>>,
    pub(crate) paths: HashSet<String>,
    /// Recorded numbers by application id.
    pub(crate) txns: BTreeMap<String, i64>,
    /// Files that a commit removed, with the moment in milliseconds; queries of older versions may still read them. `None`
    /// where nobody asks: a table whose files are merged gathers thousands a day.
    removed: Option<BTreeMap<String, i64>>,
    /// Where the events lie whose letters a file has, by path.
    pub(crate) letter_bounds: HashMap<String, LetterBounds>,
    /// The newest log checkpoint that is known.
    pub(crate) checkpoint: Option<i64>,
    /// Log checkpoints that could not be read, when the log was added up without them: version and files.
    pub(crate) passed_over: Vec<(i64, Vec<Path>)>,
    /// Commits that this snapshot moved over, newest last.
    recent: VecDeque<(String, i64)>,
    /// By which versions of the pipeline's files events were committed since somebody asked.
    definitions: BTreeSet<Definition>,
    /// The last version that was committed from here, ...
    own: Option<i64>,
    /// ... and whether others had committed since the one before.
    is_shared: bool,
    /// A version that was there, and when that was looked at.
    witness: (i64, Moment),
    /// When it was last known to be the newest version.
    pub(crate) read_at: Moment,
    folder: Path,
    states: Vec<Arc<str>>,
    /// Columns whose bounds are kept, beside `window_start`.
    bounded: Vec<(Arc<str>, FieldRef)>,
}

/// Where the events lie whose letters a file has, by its statistics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LetterBounds {
    /// The first and the last partition, of whichever topics.
    partitions: Option<(i64, i64)>,
    last_offset: i64,
}

impl LetterBounds {
    /// Whether the file can have a letter of the partition at this offset or behind it.
    pub(crate) fn may_hold(&self, partition: &TopicPartition, from: i64) -> bool {
        let number = i64::from(partition.partition);
        let is_between = |(first, last)| (first..=last).contains(&number);
        self.last_offset >= from && self.partitions.is_none_or(is_between)
    }
}

impl Snapshot {
    /// Adds up the lines of a log: those of a checkpoint first, then entry by entry.
    pub(crate) fn replay(
        table: &Arc<str>,
        folder: &Path,
        checkpoint: Option<(i64, Vec<Line>)>,
        entries: Vec<Entry>,
        read_at: Moment,
    ) -> Result<Self, StoreError> {
        let unsupported = |what: &str| StoreError::Unsupported {
            table: table.clone(),
            what: what.into(),
        };
        let checkpoint_version = checkpoint.as_ref().map(|(version, _)| *version);
        let version = entries
            .last()
            .map(|entry| entry.version)
            .or(checkpoint_version)
            .ok_or_else(|| unsupported("its log is empty"))?;
        let mut protocol = None;
        let mut metadata = None;
        for line in checkpoint
            .iter()
            .flat_map(|(_, lines)| lines)
            .chain(entries.iter().flat_map(|entry| &entry.lines))
        {
            protocol = line.protocol.as_ref().or(protocol);
            metadata = line.meta_data.as_ref().or(metadata);
        }
        let protocol = protocol
            .cloned()
            .ok_or_else(|| unsupported("its log has no protocol"))?;
        let metadata = metadata
            .cloned()
            .ok_or_else(|| unsupported("its log has no schema"))?;
        readable(&protocol).map_err(|what| unsupported(&what))?;
        let schema = arrow_schema(&metadata.schema_string).map_err(|what| unsupported(&what))?;
        let (states, bounded) = match TableShape::from_pane_schema(&schema) {
            Ok(shape) => {
                let bounded = bounded_columns(&shape);
                let states = shape.states.into_iter().map(|state| state.name);
                (states.collect(), bounded)
            }
            Err(_) => (Vec::new(), Vec::new()),
        };
        let mut snapshot = Self {
            version,
            protocol,
            metadata,
            schema,
            files: Arc::default(),
            paths: HashSet::new(),
            txns: BTreeMap::new(),
            removed: Some(BTreeMap::new()),
            letter_bounds: HashMap::new(),
            checkpoint: checkpoint_version,
            passed_over: Vec::new(),
            recent: VecDeque::new(),
            definitions: BTreeSet::new(),
            own: None,
            is_shared: false,
            witness: (version, read_at),
            read_at,
            folder: folder.clone(),
            states,
            bounded,
        };
        if let Some((_, lines)) = &checkpoint {
            snapshot.add_up(lines);
        }
        for entry in &entries {
            snapshot.refuse_stray(table, entry)?;
            snapshot.apply(entry);
        }
        Ok(snapshot)
    }

    /// Refuses an entry of another table, which somebody has put into the place of one of this table (S9).
    pub(crate) fn refuse_stray(&self, table: &Arc<str>, entry: &Entry) -> Result<(), StoreError> {
        entry
            .refuse_stray(&self.metadata.id)
            .map_err(|source| StoreError::UnreadableEntry {
                table: table.clone(),
                version: entry.version,
                source,
            })
    }

    /// Whether it holds the same files, recorded numbers and schema.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let files: HashMap<&str, &CommittedFile> = other
            .files
            .iter()
            .map(|file| (file.path.as_str(), file))
            .collect();
        self.version == other.version
            && self.metadata == other.metadata
            && self.txns == other.txns
            && self.files.len() == files.len()
            && self
                .files
                .iter()
                .all(|file| files.get(file.path.as_str()) == Some(&file))
    }

    /// Moves to the next version. The entry does not change schema or protocol.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        self.remember(entry);
        self.add_up(&entry.lines);
        self.version = entry.version;
    }

    /// Notes whose commit this was, also when the snapshot itself is then loaded anew.
    pub(crate) fn remember(&mut self, entry: &Entry) {
        self.remember_commit(entry);
        if let Some(definition) = entry.committed_by() {
            while self.definitions.len() >= REMEMBERED_DEFINITIONS {
                self.definitions.pop_first();
            }
            self.definitions.insert(definition);
        }
    }

    /// Notes whose commit a version is.
    pub(crate) fn remember_commit(&mut self, entry: &Entry) {
        if let Some(id) = entry.commit_id() {
            // More than that are inherited.
            while self.recent.len() >= REMEMBERED_COMMITS {
                self.recent.pop_front();
            }
            self.recent.push_back((id.to_owned(), entry.version));
        }
    }

    /// The id of the commit that is this version; `None` where its entry tells none, or was not read.
    pub(crate) fn newest_commit(&self) -> Option<&str> {
        let (id, version) = self.recent.back()?;
        (*version == self.version).then_some(id)
    }

    /// By which files of the pipeline events were committed since this was asked last.
    pub(crate) fn take_definitions(&mut self) -> BTreeSet<Definition> {
        std::mem::take(&mut self.definitions)
    }

    /// Takes over what an older snapshot of the same table remembers.
    pub(crate) fn inherit(&mut self, older: &mut Self) {
        (self.own, self.is_shared) = (older.own, older.is_shared);
        // What was read with the whole log may be of long ago.
        self.definitions = std::mem::take(&mut older.definitions);
        let mut recent = std::mem::take(&mut older.recent);
        recent.extend(self.recent.drain(..));
        self.recent = recent;
        if older.removed.is_none() {
            self.forget_removed();
        }
    }

    /// Keeps no removed files from now on.
    pub(crate) fn forget_removed(&mut self) {
        self.removed = None;
    }

    /// When a commit removed a file, in milliseconds; `None` when none did, or when that is not kept.
    pub(crate) fn removed_at(&self, path: &str) -> Option<i64> {
        self.removed.as_ref()?.get(path).copied()
    }

    /// This version was committed from here.
    pub(crate) fn commits_up_to(&mut self, version: i64) {
        self.is_shared = self.own.is_some_and(|own| version > own + 1);
        self.own = Some(version);
    }

    /// A version whose entry has to be there, or a log checkpoint in its stead, when it is time to look for it: else the table's
    /// folder was taken away. Nobody else would notice, since the next version can be put into any folder.
    pub(crate) fn due_witness(&self) -> Option<i64> {
        let (version, looked_at) = self.witness;
        (looked_at.age() >= LOOK_BACK_AFTER).then_some(version)
    }

    /// The witness was there. The next one is what was committed from here before this look: it lies in the same folder as the one
    /// that was found now, where anything that is put later may lie in another.
    pub(crate) fn found_witness(&mut self) {
        let (version, _) = self.witness;
        self.witness = (
            self.own.map_or(version, |own| own.max(version)),
            Moment::now(),
        );
    }

    /// Nothing could be told; it is looked for again a while later.
    pub(crate) fn put_off_witness(&mut self) {
        self.witness.1 = Moment::now();
    }

    /// Whether others commit to the table too, as far as the last two commits from here can tell.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// The version of one of the last commits, when it was read or made here.
    pub(crate) fn version_of(&self, commit_id: &str) -> Option<i64> {
        self.recent
            .iter()
            .rev()
            .find(|(id, _)| id == commit_id)
            .map(|(_, version)| *version)
    }

    fn add_up(&mut self, lines: &[Line]) {
        let mut leaving = HashSet::new();
        let mut new = Vec::new();
        for line in lines {
            if let Some(remove) = &line.remove {
                let path = self.full_path(&remove.path);
                if let Some(removed) = &mut self.removed {
                    removed.insert(path.clone(), remove.deletion_timestamp.unwrap_or(0));
                }
                self.letter_bounds.remove(&path);
                if self.paths.remove(&path) {
                    leaving.insert(path);
                }
            }
            if let Some(add) = &line.add {
                let file = self.committed_file(add);
                if let Some(removed) = &mut self.removed {
                    removed.remove(&file.path);
                }
                if !self.paths.insert(file.path.clone()) {
                    // Known already: its statistics or tags are written anew, its rows are the same.
                    leaving.insert(file.path.clone());
                }
                new.push(file);
            }
            if let Some(txn) = &line.txn {
                self.txns.insert(txn.app_id.clone(), txn.version);
            }
        }
        if leaving.is_empty() && new.is_empty() {
            return;
        }
        let files = Arc::make_mut(&mut self.files);
        if !leaving.is_empty() {
            files.retain(|file| !leaving.contains(&file.path));
        }
        files.extend(new);
    }

    /// A file's path below the storage root, as `files` have it. `encoded` is URL-encoded, from the table's folder.
    pub(crate) fn full_path(&self, encoded: &str) -> String {
        let relative = Path::from_url_path(encoded).unwrap_or_else(|_| Path::from(encoded));
        format!("{}/{relative}", self.folder)
    }

    /// Whether a file is live. The path is URL-encoded, from the table's folder.
    pub(crate) fn has(&self, relative: &str) -> bool {
        self.paths.contains(&self.full_path(relative))
    }

    /// Whether a file is live, or was and is not forgotten yet.
    pub(crate) fn has_or_had(&self, relative: &str) -> bool {
        self.has(relative) || self.removed_at(&self.full_path(relative)).is_some()
    }

    fn committed_file(&mut self, add: &Add) -> CommittedFile {
        let path = self.full_path(&add.path);
        // Statistics are a help for pruning: a file whose statistics cannot be read is simply never pruned.
        let stats: Stats = add
            .stats
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let bound = |values: &HashMap<String, serde_json::Value>| {
            crate::stats::parse_timestamp(values.get(TableShape::WINDOW_START)?.as_str()?)
        };
        let ends = |column: &str| {
            let least = stats.min_values.get(column)?.as_i64()?;
            Some((least, stats.max_values.get(column)?.as_i64()?))
        };
        if let Some((_, last_offset)) = ends("offset") {
            let bounds = LetterBounds {
                partitions: ends("partition"),
                last_offset,
            };
            self.letter_bounds.insert(path.clone(), bounds);
        }
        // Every file of ours counts the nulls of every column it has, so a state that is not counted is younger
        // than the file (P35).
        let missing_states = self
            .states
            .iter()
            .filter(|state| {
                !stats.null_count.is_empty() && !stats.null_count.contains_key(state.as_ref())
            })
            .cloned()
            .collect();
        CommittedFile {
            size: u64::try_from(add.size).unwrap_or(0),
            rows: stats.num_records,
            window_start: bound(&stats.min_values)
                .zip(bound(&stats.max_values))
                .map(|(min, max)| (min, round_up_to_millis(max))),
            bounds: self
                .bounded
                .iter()
                .filter_map(|(column, field)| column_bounds(&stats, column, field))
                .collect(),
            partition_values: add.partition_values.clone().into_iter().collect(),
            missing_states,
            has_unique_keys: add.has_unique_keys(),
            checksum: add.checksum(),
            path,
        }
    }

    /// How long the log keeps its entries (P12); one hour when the property cannot be read.
    pub(crate) fn log_retention(&self) -> Duration {
        match self.metadata.configuration.get(LOG_RETENTION) {
            None => Duration::from_secs(30 * 86_400),
            Some(text) => parse_interval(text).unwrap_or(Duration::from_secs(3600)),
        }
    }

    /// Whether it may still be built upon: no clean-up can have passed it (P12).
    pub(crate) fn is_young(&self) -> bool {
        self.read_at.age() < self.log_retention() / 4
    }
}

/// `window_end` and the group columns whose types have an order that all writers share.
fn bounded_columns(shape: &TableShape) -> Vec<(Arc<str>, FieldRef)> {
    let schema = shape.pane_schema();
    let keys = schema.fields().iter().take(2 + shape.group_columns.len());
    keys.filter(|field| field.name() != TableShape::WINDOW_START && is_bounded(field.data_type()))
        .take(MOST_BOUNDED)
        .map(|field| (field.name().as_str().into(), field.clone()))
        .collect()
}

pub(crate) const LOG_RETENTION: &str = "delta.logRetentionDuration";

/// `interval 24 hours` and its like, as Delta writes them.
pub(crate) fn parse_interval(text: &str) -> Option<Duration> {
    let mut words = text.split_whitespace();
    if !words.next()?.eq_ignore_ascii_case("interval") {
        return None;
    }
    let count: u64 = words.next()?.parse().ok()?;
    let unit = words.next()?.to_ascii_lowercase();
    let seconds = match unit.trim_end_matches('s') {
        "second" => 1,
        "minute" => 60,
        "hour" => 3600,
        "day" => 86_400,
        "week" => 7 * 86_400,
        _ => return None,
    };
    words
        .next()
        .is_none()
        .then(|| Duration::from_secs(count.saturating_mul(seconds)))
}

/// Features without which nothing is read wrongly by us.
fn readable(protocol: &Protocol) -> Result<(), String> {
    match protocol.min_reader_version {
        ..=1 => Ok(()),
        3 if protocol.reader_features.is_empty() => Ok(()),
        _ => Err(format!(
            "it needs Delta reader version {} {:?}",
            protocol.min_reader_version, protocol.reader_features
        )),
    }
}

/// Features that an append by us does not violate.
pub(crate) fn writable(protocol: &Protocol) -> Result<(), String> {
    let known = ["appendOnly", "invariants"];
    match protocol.min_writer_version {
        ..=2 => Ok(()),
        7 if protocol
            .writer_features
            .iter()
            .all(|feature| known.contains(&feature.as_str())) =>
        {
            Ok(())
        }
        _ => Err(format!(
            "it needs Delta writer version {} {:?}",
            protocol.min_writer_version, protocol.writer_features
        )),
    }
}

/// Delta's JSON of a schema as Arrow's, with field metadata.
pub(crate) fn arrow_schema(text: &str) -> Result<SchemaRef, String> {
    let schema: StructType = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let schema: Schema = (&schema)
        .try_into_arrow()
        .map_err(|error: datafusion::arrow::error::ArrowError| error.to_string())?;
    Ok(Arc::new(schema))
}

/// Arrow's schema as Delta's JSON, with field metadata.
pub(crate) fn delta_schema(schema: &Schema) -> Result<String, String> {
    let schema: StructType = schema
        .try_into_kernel()
        .map_err(|error: datafusion::arrow::error::ArrowError| error.to_string())?;
    serde_json::to_string(&schema).map_err(|error| error.to_string())
}
