//! Why a pipeline or the server cannot go on.

use std::sync::Arc;

use alluvium_engine::EngineError;
use alluvium_source::SourceError;
use alluvium_store::StoreError;
use alluvium_types::{Epoch, ErrorClass, RangeError, TopicPartition};

/// Everything that ends a pipeline, with its place.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine could not fold or merge.
    #[error("pipeline {pipeline}: {source}")]
    Engine {
        /// The pipeline.
        pipeline: Arc<str>,
        /// What the engine says.
        source: EngineError,
    },
    /// Kafka, or the way to it, is at fault.
    #[error("pipeline {pipeline}: {source}")]
    Source {
        /// The pipeline.
        pipeline: Arc<str>,
        /// What the source says.
        source: SourceError,
    },
    /// The store refused for good.
    #[error("pipeline {pipeline}: {source}")]
    Store {
        /// The pipeline.
        pipeline: Arc<str>,
        /// What the store says.
        source: StoreError,
    },
    /// Ranges of consecutive epochs do not chain.
    #[error("pipeline {pipeline}, epoch {epoch}, partition {partition}: {source}")]
    Torn {
        /// The pipeline.
        pipeline: Arc<str>,
        /// The epoch whose range does not continue the one before it.
        epoch: Epoch,
        /// The partition.
        partition: TopicPartition,
        /// The two offsets.
        source: RangeError,
    },
    /// Events went missing between decode and fold.
    #[error("pipeline {pipeline}, table {table}, epoch {epoch}: {source}")]
    Balance {
        /// The pipeline.
        pipeline: Arc<str>,
        /// The table.
        table: Arc<str>,
        /// The epoch.
        epoch: Epoch,
        /// The figures.
        source: alluvium_types::BalanceError,
    },
    /// `start: fail` met a partition without a recorded offset.
    #[error(
        "pipeline {pipeline}: table {table} has no recorded offset for {partition}, and the file says `start: fail`; write `start: earliest`, `start: latest` or a time"
    )]
    NoStart {
        /// The pipeline.
        pipeline: Arc<str>,
        /// The table.
        table: Arc<str>,
        /// The first such partition.
        partition: TopicPartition,
    },
    /// The topic does not exist yet.
    #[error(
        "pipeline {pipeline}: topic {topic} does not exist on connection {connection}; create it, or mend `topics` in the pipeline file"
    )]
    NoTopic {
        /// The pipeline.
        pipeline: Arc<str>,
        /// The topic.
        topic: Arc<str>,
        /// The connection's name in the server file.
        connection: String,
    },
    /// A table was added to a pipeline that has already read.
    #[error(
        "pipeline {pipeline}: not supported yet: table {table} is new, while {other} has already read; give the new table a pipeline file of its own"
    )]
    NewTable {
        /// The pipeline.
        pipeline: Arc<str>,
        /// The table without offsets.
        table: Arc<str>,
        /// A table that has read.
        other: Arc<str>,
    },
    /// `stop_if` holds.
    #[error(
        "pipeline {pipeline} stopped: {rejected} of the last {events} events were rejected, more than `stop_if` allows, the last at {last}; those that were committed are in dead_letters.{pipeline}; mend the schema or the producer, and start again"
    )]
    TooManyRejects {
        /// The pipeline.
        pipeline: Arc<str>,
        /// Rejected events in the stretch.
        rejected: u64,
        /// Events in the stretch.
        events: u64,
        /// Where one of them is, and how far it came.
        last: String,
    },
    /// Another member of the consumer group uses the same instance name.
    #[error(
        "pipeline {pipeline} was fenced: another process joined its consumer group as the same `instance`; give each server its own ({reason})"
    )]
    Fenced {
        /// The pipeline.
        pipeline: Arc<str>,
        /// What the broker said.
        reason: String,
    },
    /// A thread could not be started or an asynchronous runtime made.
    #[error("pipeline {pipeline}: the operating system gave no thread: {source}")]
    Thread {
        /// The pipeline.
        pipeline: Arc<str>,
        /// What it said.
        source: std::io::Error,
    },
}

impl RuntimeError {
    /// Puts the pipeline's name to what the store says.
    pub(crate) fn of_store(pipeline: &Arc<str>) -> impl Fn(StoreError) -> Self + use<> {
        let pipeline = pipeline.clone();
        move |source| Self::Store {
            pipeline: pipeline.clone(),
            source,
        }
    }

    /// Puts the pipeline's name to what the source says.
    pub(crate) fn of_source(pipeline: &Arc<str>) -> impl Fn(SourceError) -> Self + use<> {
        let pipeline = pipeline.clone();
        move |source| Self::Source {
            pipeline: pipeline.clone(),
            source,
        }
    }

    /// What to do next about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Engine { source, .. } => source.class(),
            Self::Source { source, .. } => source.class(),
            Self::Store { source, .. } => source.class(),
            Self::Torn { .. } | Self::Balance { .. } => ErrorClass::Bug,
            Self::NoStart { .. } | Self::NewTable { .. } | Self::Fenced { .. } => {
                ErrorClass::Config
            }
            Self::TooManyRejects { .. } => ErrorClass::Data,
            Self::Thread { .. } | Self::NoTopic { .. } => ErrorClass::Transient,
        }
    }
}
