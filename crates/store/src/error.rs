//! What can go wrong with storage, and what the caller does about it.
//!
//! Owns the error and its class. Does not own the endings of a commit: that somebody else has done
//! the work is an answer ([`Ending`](crate::Ending)), not an error.

use std::sync::Arc;

use alluvium_types::{ErrorClass, TopicId, TopicPartition};

/// An operation on a table did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The place itself cannot be used.
    #[error("the storage root {root} cannot be used: {source}")]
    Root {
        /// As written in the server file, without secrets.
        root: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store lets two writers create the same key (S8).
    #[error(
        "the storage at {root} lets two writers create the same file, so commits could overwrite each other: \
         use a file system with hard links, or an object store that honours `If-None-Match`"
    )]
    NoConditionalPut {
        /// The storage root.
        root: String,
    },
    /// The store refused or did not answer.
    #[error("could not {doing}: {source}")]
    Object {
        /// What was tried, with the table or file in it.
        doing: String,
        /// The store's words.
        source: object_store::Error,
    },
    /// There is no such table.
    #[error("there is no table at {table}: it is created when its pipeline first runs")]
    Missing {
        /// Its place below the storage root.
        table: Arc<str>,
    },
    /// The table was there before.
    #[error(
        "{table} is gone: it had version {version}, and its folder is empty or not there; was it removed, or is another disk or \
         bucket in its place? put it back, or start again to begin a new table"
    )]
    Vanished {
        /// Its place below the storage root.
        table: Arc<str>,
        /// The version that was there.
        version: i64,
    },
    /// The table's log is not complete in what the store lists.
    #[error(
        "the log of {table} lacks version {version}: the listing may be partial, trying again may help"
    )]
    TornLog {
        /// The table.
        table: Arc<str>,
        /// The first version that is missing.
        version: i64,
    },
    /// An entry of the table's log is gone, and nothing stands in for it (S9).
    #[error(
        "the log of {table} is damaged: {entry} is gone, and no log checkpoint says what it said; put that file back \
         from a backup or from an older version of the object"
    )]
    LostEntry {
        /// The table.
        table: Arc<str>,
        /// The path of the entry below the storage root.
        entry: String,
    },
    /// A log entry is not what the Delta protocol says, or not what was written.
    #[error(
        "version {version} of {table} cannot be read: {source}; put its file in the folder _delta_log back from a \
         backup or from an older version of the object"
    )]
    UnreadableEntry {
        /// The table.
        table: Arc<str>,
        /// The version.
        version: i64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A log checkpoint or a data file cannot be read.
    #[error("{path} cannot be read: {source}")]
    UnreadableFile {
        /// Its path below the storage root.
        path: String,
        /// What is wrong with it.
        source: parquet::errors::ParquetError,
    },
    /// The table's log does not begin with a protocol and a schema that we understand.
    #[error("{table} is not a table that this version can use: {what}")]
    Unsupported {
        /// The table.
        table: Arc<str>,
        /// What it has that we lack, or lacks that we need.
        what: String,
    },
    /// Recorded offsets would expire, and an expired one reads as "never seen" (S13).
    #[error(
        "{table} has the property delta.setTransactionRetentionDuration: recorded offsets would expire and events \
         would be counted again; remove the property"
    )]
    ExpiringOffsets {
        /// The table.
        table: Arc<str>,
    },
    /// The pipeline file says something else than the table was made for (P38).
    #[error(
        "the definition of {table} has changed: {why}\n--- recorded\n{recorded}\n--- in the file\n{wanted}\n\
         if the file is older than the table, deploy the newer one to every server; if the change is meant, give the table \
         a new name: the old one stays readable"
    )]
    Changed {
        /// The table.
        table: Arc<str>,
        /// The first difference that counts.
        why: String,
        /// The definition in the table's metadata.
        recorded: String,
        /// The definition in the pipeline file.
        wanted: String,
    },
    /// A table is written by one pipeline.
    #[error(
        "{table} belongs to pipeline {owner}, so {pipeline} cannot write it: choose another table name"
    )]
    OtherPipeline {
        /// The table.
        table: Arc<str>,
        /// The pipeline that its metadata names.
        owner: String,
        /// The pipeline that wants it.
        pipeline: String,
    },
    /// The folder holds another table than the one that was opened.
    #[error(
        "{table} was dropped and created anew while it was open: start again from the new table"
    )]
    Replaced {
        /// The table.
        table: Arc<str>,
    },
    /// A position is to be moved that there is not.
    #[error(
        "{table} records no offset of partition {partition}: run its pipeline until the partition is assigned, then move it"
    )]
    NoPosition {
        /// The table.
        table: Arc<str>,
        /// The partition.
        partition: TopicPartition,
    },
    /// A position is to be moved in the log of another topic than the one that was read (P18).
    #[error(
        "topic {topic} was deleted and created again: {table} read the one with id {recorded}, this one has id {found}, and its \
         offsets are of other events"
    )]
    OtherTopic {
        /// The table.
        table: Arc<str>,
        /// The topic.
        topic: Arc<str>,
        /// Its id in the table.
        recorded: TopicId,
        /// Its id on the broker.
        found: TopicId,
    },
    /// A position is to be moved over events that were read.
    #[error(
        "{table} stands at {recorded} in partition {partition} and has events: moved back to {to}, some would count twice; it goes \
         forward only, and what is to be read again belongs into a new pipeline with tables of its own"
    )]
    Backwards {
        /// The table.
        table: Arc<str>,
        /// The partition.
        partition: TopicPartition,
        /// The next offset to read.
        recorded: i64,
        /// Where it was to go.
        to: i64,
    },
    /// The source of panes failed.
    #[error("the panes of {table} could not be made: {source}")]
    Panes {
        /// The table.
        table: Arc<str>,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A batch does not have the table's schema, or another invariant broke.
    #[error("{table}: {what}")]
    Broken {
        /// The table.
        table: Arc<str>,
        /// The invariant.
        what: String,
    },
    /// Parquet could not be encoded or put.
    #[error("could not write a file of {table}: {source}")]
    Write {
        /// The table.
        table: Arc<str>,
        /// Why.
        source: parquet::errors::ParquetError,
    },
    /// Staged files are so old that the sweeper might take them for orphans.
    #[error("the files for {table} were staged too long ago to be committed: stage them again")]
    StagedTooOld {
        /// The table.
        table: Arc<str>,
    },
    /// It is not known whether the commit landed; the same staged files may be committed again (P10).
    #[error(
        "after {attempts} attempts it is not known whether the commit to {table} landed: {last}"
    )]
    EndingUnknown {
        /// The table.
        table: Arc<str>,
        /// How often a log entry was put.
        attempts: u32,
        /// What the last attempt met.
        last: Box<StoreError>,
    },
    /// Others were faster every time; nothing of ours landed.
    #[error(
        "{attempts} attempts to commit to {table} all met a version that another writer had just made"
    )]
    Crowded {
        /// The table.
        table: Arc<str>,
        /// How often.
        attempts: u32,
    },
    /// The Delta library could not write a log checkpoint or clean up.
    #[error("could not {doing}: {source}")]
    Delta {
        /// What was tried.
        doing: String,
        /// The library's words.
        source: Box<deltalake_core::DeltaTableError>,
    },
}

impl StoreError {
    /// What the caller does next.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Object { .. }
            | Self::TornLog { .. }
            | Self::Write { .. }
            | Self::StagedTooOld { .. }
            | Self::EndingUnknown { .. }
            | Self::Crowded { .. }
            | Self::Delta { .. } => ErrorClass::Transient,
            Self::UnreadableFile { source, .. } if failed_underway(source) => ErrorClass::Transient,
            Self::Root { .. }
            | Self::NoConditionalPut { .. }
            | Self::Missing { .. }
            | Self::Vanished { .. }
            | Self::LostEntry { .. }
            | Self::UnreadableEntry { .. }
            | Self::UnreadableFile { .. }
            | Self::Unsupported { .. }
            | Self::ExpiringOffsets { .. }
            | Self::Changed { .. }
            | Self::NoPosition { .. }
            | Self::Backwards { .. }
            | Self::OtherTopic { .. }
            | Self::OtherPipeline { .. } => ErrorClass::Config,
            Self::Replaced { .. } => ErrorClass::Overtaken,
            Self::Panes { .. } | Self::Broken { .. } => ErrorClass::Bug,
        }
    }

    /// Whether a file is unreadable as it stands, rather than out of reach for the moment.
    pub(crate) fn is_corrupt_file(&self) -> bool {
        matches!(self, Self::UnreadableFile { source, .. } if !failed_underway(source))
    }

    /// Whether a file that the table names is not there.
    pub fn is_gone(&self) -> bool {
        let cause = match self {
            Self::UnreadableFile { source, .. } => away(source),
            _ => None,
        };
        matches!(cause, Some(object_store::Error::NotFound { .. }))
    }

    /// Names the file that cannot be read.
    pub(crate) fn unreadable(
        path: impl Into<String>,
    ) -> impl FnOnce(parquet::errors::ParquetError) -> Self {
        let path = path.into();
        move |source| Self::UnreadableFile { path, source }
    }

    /// Names what was tried when the object store failed.
    pub(crate) fn object(doing: impl Into<String>) -> impl FnOnce(object_store::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Object { doing, source }
    }
}

/// Whether the bytes did not come, rather than being wrong.
fn failed_underway(error: &parquet::errors::ParquetError) -> bool {
    away(error).is_some()
}

/// Why the bytes did not come.
fn away(error: &parquet::errors::ParquetError) -> Option<&object_store::Error> {
    match error {
        parquet::errors::ParquetError::External(inner) => inner.downcast_ref(),
        _ => None,
    }
}
