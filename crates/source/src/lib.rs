//! Brings raw batches and holds still when asked.
//!
//! [`KafkaDrain`] is a member of a consumer group that starts every partition where the table says
//! (P17) and hands out half-open ranges with their bytes: fetched by requests of our own where they
//! can serve the connection, else by librdkafka. [`Reread`] reads given stretches of a log once more,
//! outside any group. [`Replay`] brings raw batches from text, for tests. Beside them: questions to a broker
//! outside any group, a producer, and a broker inside this process for demonstrations and tests.
//!
//! Nothing here knows what a table is, decodes an event, or keeps progress: the recorded offsets
//! come from whoever implements [`Assignments`], and Kafka's own committed offsets are written as
//! a courtesy and never read back (P14).
//!
//! A topic that is deleted and created again is noticed by its id, which is recorded beside the offsets
//! (P18): before anything of it is read, and while it is read, there with the next request where our own
//! requests read, and within half a minute where librdkafka does. A broker older than topic ids gives
//! none; then it is noticed only when the recorded offset lies outside the new log.

mod assignment;
mod broker;
mod cluster;
mod direct;
mod doubts;
mod drain;
mod embedded;
mod error;
mod group_progress;
mod halt;
mod inquiry;
mod native;
mod notice;
mod partition;
mod producer;
mod replay;
mod reread;
mod state;
mod token;

pub use assignment::{Assignments, Recorded};
pub use broker::{Broker, DrainKind, Subscription};
pub use cluster::{Cluster, Drain};
pub use drain::KafkaDrain;
pub use embedded::EmbeddedBroker;
pub use error::SourceError;
pub use group_progress::{GroupProgress, group_progress};
pub use halt::Halt;
pub use inquiry::{log_bounds, offsets_at, partition_counts, topic_ids};
pub use notice::Notice;
pub use partition::PartitionView;
pub use producer::EventProducer;
pub use replay::{Replay, ReplayLine};
pub use reread::Reread;
