//! Why a table cannot be verified, and why a verification ends early.

use std::{path::PathBuf, sync::Arc};

use alluvium_engine::EngineError;
use alluvium_source::SourceError;
use alluvium_store::StoreError;
use alluvium_types::{ErrorClass, Timestamp, TopicId, TopicPartition};
use datafusion::arrow::error::ArrowError;

/// Why a table's rows cannot be computed again, or not be compared.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such table, it is another one than the pipeline file describes (P38), or storage failed.
    #[error("{0}")]
    Store(StoreError),
    /// Its rows cannot be merged, or do not come in their order.
    #[error("{0}")]
    Rows(EngineError),
    /// Nothing tells where a partition was started.
    #[error("neither its log nor its ledger tell at which offset {partition} was started")]
    NoStart {
        /// The partition.
        partition: TopicPartition,
    },
    /// The pipeline file has measures that the table does not have yet (P35).
    #[error("it has no measure {} yet", listed(.measures))]
    NewMeasures {
        /// The measures.
        measures: Vec<Arc<str>>,
    },
    /// Files of these windows are older than measures of the table (P35).
    #[error("{files} of the files that hold these windows are older than the measure {}, so it is not known there", listed(.measures))]
    YoungMeasures {
        /// The measures.
        measures: Vec<Arc<str>>,
        /// How many files.
        files: usize,
        /// No window of these files ends after; `None`: the log does not tell.
        until: Option<Timestamp>,
    },
    /// The topic is not there.
    #[error("there is no topic {topic} on the broker")]
    NoTopic {
        /// The topic.
        topic: Arc<str>,
    },
    /// The topic has fewer partitions.
    #[error("there is no partition {partition} on the broker")]
    NoPartition {
        /// The partition.
        partition: TopicPartition,
    },
    /// Another topic of the same name (P18).
    #[error(
        "topic {topic} was deleted and created again: the table read the one with id {recorded}, this one has id {found}"
    )]
    OtherTopic {
        /// The topic.
        topic: Arc<str>,
        /// Its id in the table.
        recorded: TopicId,
        /// Its id on the broker.
        found: TopicId,
    },
    /// The log begins behind the start.
    #[error("the table was started at offset {start} of {partition}, and Kafka's log begins at {low} now: {} offsets are gone", .low - .start)]
    Retention {
        /// The partition.
        partition: TopicPartition,
        /// The recorded start.
        start: i64,
        /// Where the log begins.
        low: i64,
    },
    /// The log ends before the recorded offset.
    #[error(
        "the table has read {partition} up to offset {recorded}, and Kafka's log ends at {end} now: it was cut off"
    )]
    LogEnds {
        /// The partition.
        partition: TopicPartition,
        /// The recorded offset.
        recorded: i64,
        /// Where the log ends.
        end: i64,
    },
}

impl Refusal {
    /// The one thing to do next.
    pub fn help(&self) -> String {
        match self {
            Self::Store(StoreError::Changed { .. } | StoreError::OtherPipeline { .. }) => {
                "verify with the pipeline file that the table was made by".into()
            }
            Self::Store(StoreError::Missing { .. }) => "run its pipeline first".into(),
            Self::Store(error) if error.is_gone() => {
                "try again, for it may have been merged with others and removed meanwhile; if it is still not there, put it back from a \
                 copy (docs/runbooks.md, \"A stored file cannot be read\")"
                    .into()
            }
            Self::Store(error) if error.class() == ErrorClass::Transient => {
                "try again when the storage answers".into()
            }
            Self::Store(StoreError::LostEntry { .. }) => {
                "`alluvium audit` tells what else the log lacks".into()
            }
            Self::Store(
                StoreError::UnreadableEntry { .. }
                | StoreError::UnreadableFile { .. },
            ) => {
                "put the file back from a copy: its bytes are not those that were written (docs/runbooks.md, \"A stored file cannot \
                 be read\")"
                    .into()
            }
            Self::Store(_) | Self::Rows(_) => {
                "somebody else has changed the table, or bytes in storage have changed: `alluvium audit --checksums` tells which of the two, and \
                 where"
                    .into()
            }
            Self::NoStart { .. } => {
                "`alluvium audit` says what is missing of its history".into()
            }
            Self::NewMeasures { .. } => {
                "restart the pipeline's servers, which adds it; windows that begin after that can be verified with `--from TIME`".into()
            }
            Self::YoungMeasures { until: Some(until), .. } => {
                format!("verify later windows: `--from {until}`")
            }
            Self::YoungMeasures { until: None, .. } => {
                "verify later windows: `--from TIME`".into()
            }
            Self::NoTopic { .. } | Self::NoPartition { .. } => {
                "restore the topic with the same events at the same offsets, or look at `brokers` of its connection".into()
            }
            Self::OtherTopic { topic, found, .. } => format!(
                "if the same events are at the same offsets again, write `continued_by: {{{topic}: {found}}}` beside `topics` and \
                 restart the servers; if not, nothing can be computed again"
            ),
            Self::Retention { .. } => {
                "its events are gone for good; `alluvium audit` still proves that offset ranges and balances are whole. \
                 For tables to come make the topic's retention longer"
                    .into()
            }
            Self::LogEnds { .. } => {
                "restore the topic, if that can be done; `alluvium audit` still proves that offset ranges and balances are whole".into()
            }
        }
    }
}

fn listed(names: &[Arc<str>]) -> String {
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    names.join(", ")
}

/// Why a verification ended before its last row. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Kafka, or the way to it, is at fault.
    #[error("{pipeline} cannot be read again: {source}")]
    Source {
        /// The pipeline.
        pipeline: Arc<str>,
        /// What the source says.
        source: SourceError,
    },
    /// Events cannot be folded.
    #[error("the rows of {pipeline} cannot be computed again: {source}")]
    Engine {
        /// The pipeline.
        pipeline: Arc<str>,
        /// What the engine says.
        source: EngineError,
    },
    /// What does not fit into memory cannot be put on disk, or read from there.
    #[error("rows that do not fit into memory cannot be kept in {}: {source}", .folder.display())]
    Disk {
        /// The folder of the files.
        folder: PathBuf,
        /// Why.
        source: ArrowError,
    },
}
