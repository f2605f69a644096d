//! An event that could not be taken, whole, with the reason. A bad event is a value, not an error.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, TopicPartition};

/// How far an event came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its bytes are not what the schema says.
    Decode,
    /// Its event time is missing or outside what `accept` allows.
    EventTime,
    /// An expression of one table failed for it (P6).
    Expression,
}

impl Stage {
    /// The name in the dead-letter table's `stage` column and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::EventTime => "event_time",
            Self::Expression => "expression",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A header of a Kafka record; its value may be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The header's name.
    pub name: String,
    /// The header's bytes.
    pub value: Option<Bytes>,
}

/// An event on its way to the dead letters. Unique by partition, offset and table (P22).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
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
    /// What is wrong, for a person.
    pub error: String,
    /// The column it is wrong in, where one can be named.
    pub column: Option<String>,
    /// How far it came.
    pub stage: Stage,
    /// The one table that refused it; `None`: all did.
    pub table: Option<Arc<str>>,
}

impl Reject {
    /// Bytes this value holds, for the memory budget.
    pub fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len))
            .sum();
        size_of::<Self>()
            + headers
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.payload.as_ref().map_or(0, Bytes::len)
            + self.error.len()
            + self.column.as_ref().map_or(0, String::len)
    }
}
