//! The words of the product as plain values that cannot be wrong.
//!
//! Every crate speaks in these: a partition and its half-open offset ranges, event time and its
//! windows, the balance of a commit, the bytes on their way from the broker to a worker, and the
//! budget that holds memory in. Nothing here reads a clock, a file or the network, and nothing
//! depends on more than `bytes`, `serde` and `thiserror`.

mod balance;
mod buffer_pool;
mod class;
mod epoch;
mod fetched;
mod lateness;
mod memory;
mod offset;
mod panics;
mod raw_batch;
mod reject;
mod table_set;
mod time;
mod topic_id;

pub use balance::{Balance, BalanceError};
pub use buffer_pool::BufferPool;
pub use class::ErrorClass;
pub use epoch::{AssignmentGeneration, Epoch, Generation};
pub use fetched::{Damaged, FetchedBatch, Packed, Piece, ReadError};
pub use lateness::{Lateness, LatenessBucket};
pub use memory::{MemoryBudget, Reservation};
pub use offset::{OffsetRange, RangeError, TopicPartition};
pub use panics::{is_panic_expected, survived};
pub use raw_batch::{RawBatch, RawBatchBuilder, RawRecord};
pub use reject::{Header, Reject, Stage};
pub use table_set::TableSet;
pub use time::{Timestamp, Window};
pub use topic_id::TopicId;
