//! Dead letters as they are read back, for sending them through their pipeline again (P23).
//!
//! Owns the order in which letters came: by the version of their table that added them. Does not own the table
//! ([`crate::dead_letters`]), nor which letters are wanted.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use alluvium_plan::CommittedFile;
use alluvium_types::{Header, Timestamp, TopicPartition};
use bytes::Bytes;
use datafusion::arrow::{
    array::{Array, AsArray, BinaryArray, RecordBatch},
    datatypes::{Int32Type, Int64Type, TimestampMicrosecondType},
};

use crate::{
    CommitKind, Store, StoreError,
    dead_letters::{KEY, keys_of, schema},
    definition::refuse_foreign,
    maintain::history,
    parquet_reader::{read_checked, read_columns},
};

/// The column with the version of the definition under which a letter was written.
const DEFINITION: &str = "pipeline_version";

/// One dead letter, as far as sending it through the pipeline again needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The partition it was read from.
    pub partition: TopicPartition,
    /// Its offset there.
    pub offset: i64,
    /// The Kafka record's timestamp, when it has one.
    pub timestamp: Option<Timestamp>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's headers.
    pub headers: Vec<Header>,
    /// All its bytes; `None` for a record without a value.
    pub payload: Option<Bytes>,
    /// The one table that refused it; `None`: all did.
    pub table: Option<Arc<str>>,
    /// The version of the definition under which it was refused.
    pub pipeline_version: String,
}

/// Where a dead letter stands, without the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterPlace {
    /// The version of the dead letters that it came in.
    pub version: i64,
    /// The partition of its event.
    pub partition: TopicPartition,
    /// The offset of its event.
    pub offset: i64,
    /// The version of the definition under which it was written.
    pub definition: Arc<str>,
}

impl Letter {
    /// Bytes this value holds, for the memory budget.
    pub fn size(&self) -> usize {
        let bytes = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter();
        let headers = headers.map(|header| header.name.len() + bytes(&header.value));
        size_of::<Self>() + headers.sum::<usize>() + bytes(&self.key) + bytes(&self.payload)
    }
}

/// The dead letters of a pipeline at one moment, by the version in which they came.
#[derive(Debug)]
pub struct Letters {
    store: Store,
    table: Arc<str>,
    versions: BTreeMap<i64, Vec<CommittedFile>>,
    have_expired: bool,
}

impl Letters {
    pub(crate) async fn open(store: &Store, pipeline: &str) -> Result<Self, StoreError> {
        let log = store.dead_letters_log(pipeline);
        let table = log.table.clone();
        let mut versions: BTreeMap<i64, Vec<CommittedFile>> = BTreeMap::new();
        let mut have_expired = false;
        if let Some(snapshot) = log.load().await? {
            refuse_foreign(&table, &snapshot, pipeline)?;
            let history = history(store, &log).await?;
            have_expired = history
                .iter()
                .any(|record| record.kind == CommitKind::Expiry);
            let by_id: HashMap<&str, i64> = history
                .iter()
                .filter_map(|record| Some((record.commit_id.as_deref()?, record.version)))
                .collect();
            for file in snapshot.files.iter() {
                let id = commit_of(store, file).await?;
                let version = id.as_deref().and_then(|id| by_id.get(id));
                let version = version.ok_or_else(|| StoreError::Broken {
                    table: table.clone(),
                    what: format!(
                        "neither its log nor its ledger tell which version added {}",
                        file.path
                    ),
                })?;
                versions.entry(*version).or_default().push(file.clone());
            }
        }
        Ok(Self {
            store: store.clone(),
            table,
            versions,
            have_expired,
        })
    }

    /// The versions that have letters, after this one, oldest first.
    pub fn versions_after(&self, version: Option<i64>) -> impl Iterator<Item = i64> {
        let from = version.map_or(i64::MIN, |version| version + 1);
        self.versions.range(from..).map(|(version, _)| *version)
    }

    /// Whether letters of it were taken out when they were old.
    pub fn have_expired(&self) -> bool {
        self.have_expired
    }

    /// Where the letters stand that may be of this table: those that it refused, and those that all did. By version.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub async fn places(&self, table: &str) -> Result<Vec<LetterPlace>, StoreError> {
        let wanted: Vec<&str> = KEY.into_iter().chain([DEFINITION]).collect();
        let mut all = Vec::new();
        for (&version, files) in &self.versions {
            for file in files {
                let objects = self.store.object_store();
                for batch in read_columns(objects, &file.path, file.size, &wanted).await? {
                    let places = places_of(&batch, version, table);
                    all.extend(places.ok_or_else(|| self.foreign(file))?);
                }
            }
        }
        Ok(all)
    }

    fn foreign(&self, file: &CommittedFile) -> StoreError {
        StoreError::Unsupported {
            table: self.table.clone(),
            what: format!("{} has other columns than dead letters", file.path),
        }
    }

    /// The letters of one version.
    ///
    /// # Errors
    /// When storage fails, or a file is not one of dead letters.
    pub async fn read(&self, version: i64) -> Result<Vec<Letter>, StoreError> {
        let mut letters = Vec::new();
        for file in self.versions.get(&version).into_iter().flatten() {
            let schema = schema();
            let names: Vec<&str> = schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            let batches = read_checked(self.store.object_store(), file, &names).await?;
            for batch in batches {
                let read = letters_of(&batch).ok_or_else(|| self.foreign(file))?;
                letters.extend(read);
            }
        }
        Ok(letters)
    }
}

/// The id of the commit that a file of letters came with: it stands in each of them.
async fn commit_of(store: &Store, file: &CommittedFile) -> Result<Option<String>, StoreError> {
    let batches = read_columns(store.object_store(), &file.path, file.size, &["commit_id"]).await?;
    let ids = batches.iter().filter(|batch| batch.num_rows() > 0);
    let mut ids = ids.filter_map(|batch| batch.column(0).as_string_opt::<i32>());
    Ok(ids.next().map(|ids| ids.value(0).to_owned()))
}

/// The places in a batch of letters that may be of one table.
fn places_of(batch: &RecordBatch, version: i64, table: &str) -> Option<Vec<LetterPlace>> {
    let definitions = batch.column_by_name(DEFINITION)?.as_string_opt::<i32>()?;
    let mut shared: Arc<str> = "".into();
    let mut places = Vec::new();
    for (row, (partition, offset, named)) in keys_of(batch)?.into_iter().enumerate() {
        if named.is_none_or(|named| *named == *table) {
            if *shared != *definitions.value(row) {
                shared = definitions.value(row).into();
            }
            places.push(LetterPlace {
                version,
                partition,
                offset,
                definition: shared.clone(),
            });
        }
    }
    Some(places)
}

fn letters_of(batch: &RecordBatch) -> Option<Vec<Letter>> {
    let column = |name: &str| batch.column_by_name(name);
    let text = |name: &str| column(name)?.as_string_opt::<i32>();
    let bytes = |name: &str| column(name)?.as_binary_opt::<i32>();
    let (topics, tables, definitions) = (text("topic")?, text("table")?, text(DEFINITION)?);
    let (keys, payloads) = (bytes("key")?, bytes("payload")?);
    let partitions = column("partition")?.as_primitive_opt::<Int32Type>()?;
    let offsets = column("offset")?.as_primitive_opt::<Int64Type>()?;
    let timestamps = column("timestamp")?.as_primitive_opt::<TimestampMicrosecondType>()?;
    let headers = column("headers")?.as_list_opt::<i32>()?;
    let held = |column: &BinaryArray, row: usize| {
        column
            .is_valid(row)
            .then(|| Bytes::copy_from_slice(column.value(row)))
    };
    let letter = |row: usize| {
        let entries = headers.value(row);
        let entries = entries.as_struct_opt()?;
        let names = entries.column(0).as_string_opt::<i32>()?;
        let values = entries.column(1).as_binary_opt::<i32>()?;
        Some(Letter {
            partition: TopicPartition::new(topics.value(row), partitions.value(row)),
            offset: offsets.value(row),
            timestamp: timestamps
                .is_valid(row)
                .then(|| Timestamp::from_micros(timestamps.value(row))),
            key: held(keys, row),
            headers: (0..entries.len())
                .map(|header| Header {
                    name: names.value(header).into(),
                    value: held(values, header),
                })
                .collect(),
            payload: held(payloads, row),
            table: tables.is_valid(row).then(|| tables.value(row).into()),
            pipeline_version: definitions.value(row).to_owned(),
        })
    };
    (0..batch.num_rows()).map(letter).collect()
}
