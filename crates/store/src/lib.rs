//! Makes panes durable together with their offsets, once. The only crate that writes Delta.
//!
//! A [`Store`] is a folder or a bucket. A [`TableWriter`] stages panes as Parquet and commits them with the offsets
//! they came from as one Delta version; [`DeadLetters`] keeps every rejected event once; [`audit()`] proves from a
//! table's [history](Store::history) that nothing is missing and nothing counts twice. A [`Compactor`] puts few files in the place of many.
//!
//! This crate has never heard of Kafka: a topic and a partition are a name and a number, and an offset is a number
//! that grows.

mod action;
mod audit;
mod checkpoint;
mod checksum;
mod clock;
mod commit;
mod compact;
mod config;
mod damage;
mod dead_letters;
mod definition;
mod durable;
mod error;
mod history;
mod ledger;
mod letters;
mod log;
mod log_checkpoint;
mod lost;
mod maintain;
mod parquet_reader;
mod reader;
mod snapshot;
mod stage;
mod stats;
mod store;
mod sweep;
mod table;
#[cfg(test)]
mod tests;

pub use action::Definition;
pub use audit::{AuditFault, AuditReport, Gap, PartitionAudit, audit};
pub use checkpoint::{Checkpoint, Overtaken, Verdict};
pub use checksum::compare_bytes;
pub use compact::{
    Choice, CompactedFile, CompactionEnding, Compactor, Effort, Inputs, PaneFile, choose,
};
pub use config::StorageConfig;
pub use dead_letters::{DeadLetters, LettersWritten};
pub use error::StoreError;
pub use history::{CommitKind, CommitRecord};
pub use letters::{Letter, LetterPlace, Letters};
pub use lost::{FilesFound, Found, LettersFound, Look, LostFile};
pub use maintain::{Maintenance, Upkeep};
pub use reader::TableReader;
pub use stage::Staged;
pub use store::{Store, StoreRules};
pub use sweep::{Orphan, Vacuum};
pub use table::{
    CommitFacts, Ending, Goal, Moved, ReplayEnding, Replayed, Sought, TableSpec, TableWriter,
};
