//! What can go wrong inside our functions. DataFusion carries these as external errors; a caller
//! who must decide finds them again by downcasting. Does not own errors of planning: a wrong
//! argument type is DataFusion's own planning error.

use alluvium_types::ErrorClass;
use datafusion::{arrow::datatypes::DataType, error::DataFusionError};

/// An error of one of our functions.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// A sum left the range of its type. It is never wrapped.
    #[error("{function} overflowed: the result does not fit into {data_type}")]
    Overflow {
        /// The function that was called.
        function: &'static str,
        /// The type that is too narrow.
        data_type: DataType,
    },
    /// The bytes of a sketch cannot be what a sketch of this kind writes.
    #[error("damaged {sketch} sketch: {reason}")]
    Damaged {
        /// The kind of sketch.
        sketch: &'static str,
        /// What is wrong with the bytes.
        reason: String,
    },
    /// A whole sketch of another configuration than the one configuration we keep.
    #[error("this {sketch} sketch has {found}; only {expected} can be read here")]
    Foreign {
        /// The kind of sketch.
        sketch: &'static str,
        /// The configuration that was found.
        found: String,
        /// The configuration that is supported.
        expected: &'static str,
    },
    /// More sketch bytes than one column of a batch can hold.
    #[error("{function}: {bytes} bytes of states do not fit into one batch; group by fewer keys")]
    TooLarge {
        /// The function that was called.
        function: &'static str,
        /// The size of all states together.
        bytes: usize,
    },
    /// A rank outside of 0 to 1.
    #[error("the rank of a quantile must be between 0 and 1, not {0}")]
    Rank(f64),
    /// `measure()` reached execution, so no rule replaced it by a merge of states.
    #[error(
        "measure() was not resolved: it takes a measure of an Alluvium table, directly from that table"
    )]
    UnresolvedMeasure,
}

impl FunctionError {
    /// What the caller does next.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Overflow { .. } | Self::Damaged { .. } | Self::Foreign { .. } => ErrorClass::Data,
            Self::TooLarge { .. } | Self::Rank(_) | Self::UnresolvedMeasure => ErrorClass::Config,
        }
    }
}

impl From<FunctionError> for DataFusionError {
    fn from(error: FunctionError) -> Self {
        Self::External(Box::new(error))
    }
}
