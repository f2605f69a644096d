//! Why the engine cannot go on. A bad event is never among these: it is a reject.

use std::sync::Arc;

use alluvium_types::ErrorClass;
use datafusion::{arrow::error::ArrowError, error::DataFusionError};

/// Everything that stops a fold or a merge.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The plan names a column that its own event schema lacks, or one of a type that is not decoded.
    #[error(
        "column {column} cannot be decoded: the event schema has no such column of type {data_type}"
    )]
    Column {
        /// The column.
        column: String,
        /// The type that the plan expects.
        data_type: String,
    },
    /// A window is too long to be counted in microseconds beside any event time.
    #[error("the window of table {table} is empty or longer than a hundred thousand years")]
    Window {
        /// The table.
        table: Arc<str>,
    },
    /// The partial aggregation of a table failed.
    #[error("could not fold into table {table}: {source}")]
    Fold {
        /// The table.
        table: Arc<str>,
        /// What DataFusion says.
        source: Box<DataFusionError>,
    },
    /// A filter or an expression has a type that the plan does not say.
    #[error("{place} of table {table} gives {found}, the plan says {expected}")]
    Type {
        /// The table.
        table: Arc<str>,
        /// The expression's place in the plan.
        place: String,
        /// The type that came.
        found: String,
        /// The type that was said.
        expected: String,
    },
    /// Columns of one batch do not fit together.
    #[error("could not assemble a batch of columns: {source}")]
    Batch {
        /// What Arrow says.
        #[from]
        source: ArrowError,
    },
    /// Panes could not be merged.
    #[error("could not merge panes: {source}")]
    Merge {
        /// What DataFusion says.
        source: Box<DataFusionError>,
    },
    /// Rows that are to be compared do not come as they must.
    #[error("{what} are not in the order of their windows and groups, or one of them comes twice")]
    Unordered {
        /// Whose rows.
        what: &'static str,
    },
    /// A measure could not be made from its merged state.
    #[error("could not finish measure {measure}: {source}")]
    Finish {
        /// The measure.
        measure: Arc<str>,
        /// What DataFusion says.
        source: Box<DataFusionError>,
    },
    /// A plan answered "pending" although its input waits; see P31.
    #[error("a plan waits although its input does not: it is polled inside an asynchronous task")]
    Starved,
}

impl EngineError {
    /// The error of a part that was being merged, as whoever gave the part made it.
    ///
    /// # Errors
    /// This error, when it is the engine's own.
    pub fn into_external<E: std::error::Error + 'static>(self) -> Result<E, Self> {
        match self {
            Self::Merge { source } => match *source {
                DataFusionError::External(inner) => match inner.downcast() {
                    Ok(error) => Ok(*error),
                    Err(inner) => Err(Self::Merge {
                        source: Box::new(DataFusionError::External(inner)),
                    }),
                },
                source => Err(Self::Merge {
                    source: Box::new(source),
                }),
            },
            other => Err(other),
        }
    }

    /// What to do next about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Window { .. } => ErrorClass::Config,
            Self::Merge { source } | Self::Fold { source, .. } => match root(source) {
                // A sum that has outgrown its type, or a sketch that is damaged: the data's fault.
                DataFusionError::External(_) | DataFusionError::ArrowError(..) => ErrorClass::Data,
                _ => ErrorClass::Bug,
            },
            Self::Unordered { .. } => ErrorClass::Data,
            Self::Column { .. }
            | Self::Type { .. }
            | Self::Batch { .. }
            | Self::Finish { .. }
            | Self::Starved => ErrorClass::Bug,
        }
    }
}

fn root(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) => root(inner),
        other => other,
    }
}
