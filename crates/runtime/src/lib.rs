//! Owns every thread, channel and epoch; joins source, engine and store.
//!
//! ```text
//!               bounded                        bounded
//!  Kafka ─► intake ─────► worker 0..N-1 ─────────────────► committer ─► Delta
//!             ▲   Batch|Barrier  decode, fold   Sealed|Part   merge, stage, commit, publish
//!             └──── progress (latest committed checkpoint, or: start again) ◄──┘
//! ```
//!
//! One intake thread a pipeline owns the consumer and is the only clock. Workers fold finite epochs.
//! One committer thread a pipeline owns the table writers. A generation stands beside all channels;
//! when it changes, everything in flight is stale and is dropped (P27). Beside them one thread a
//! server merges files ([`TableCompaction`]), one keeps up what lies behind the tables, and one asks
//! how far stopped pipelines fall behind.

mod assignment;
mod background;
mod clock;
mod committer;
mod compaction;
mod definitions;
mod error;
mod freshness;
mod gather;
mod host;
mod instance;
mod intake;
mod lag;
mod message;
mod pace;
mod pipeline;
mod refusals;
mod replay;
mod server;
mod standings;
mod stop_rule;
mod transactions;
mod upkeep;
mod verify;
mod watermarks;
mod worker;

pub use compaction::{Compaction, CompactionError, TableCompaction, TableExtent};
pub use error::RuntimeError;
pub use host::{Host, Machine};
pub use instance::{Instance, InstanceError};
pub use pipeline::{PipelineConfig, table_spec};
pub use replay::{Halt, Refused, Replay, ReplayError, Replaying};
pub use server::{Running, Server, ServerConfig, Stopped};
pub use verify::{Doubt, Reading, Refusal, TableVerdict, Verified, Verify, VerifyError, Windows};
