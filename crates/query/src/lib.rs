//! SQL over committed and in-memory panes.
//!
//! A query takes one view of its tables (P32), is planned against it on a deep stack, and runs in memory and on
//! threads that belong to queries alone. Tables show final values; `measure(m)` re-aggregates a measure at
//! any coarser grain. Everything here only reads.

mod access;
mod apart;
mod catalog;
mod client;
mod engine;
mod error;
mod estimate;
mod fence;
mod finals;
mod guard;
mod information;
mod limits;
mod measure;
mod names;
mod over_these;
mod panes;
mod postgres;
mod read_files;
mod repeats;
mod reuse;
mod run;
mod running;
mod session;
mod shared;
mod size;
mod spill;
mod storage;
mod store;
mod system;
mod threads;
mod unreadable;
mod view;
mod whole;

pub use access::Access;
pub use engine::QueryEngine;
pub use error::{ErrorKind, Position, QueryError};
pub use estimate::ToRead;
pub use limits::Limits;
pub use postgres::{POSTGRES_VERSION, SAME_NAME, date_without_zone, fixed_setting};
pub use run::{Described, QueryResult};
pub use running::RunningQuery;
pub use session::{Instead, Session, Setting};
pub use storage::{Commit, DeadLetters, RecordedPartition, Storage};
pub use threads::{runtime_for_clients, works_for_clients};
pub use view::{AsOf, ReadMode, TableAsOf};
