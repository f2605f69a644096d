//! Whole servers, as they are, against a Kafka, a store and a clock that do what a seed says.
//!
//! Every thread of every simulated process takes turns with all others, at every wait and every call to the store, in an order
//! that is drawn. What is drawn can be run again, and made shorter until only what matters is left.
//!
//! ```text
//!  choices ─► world (whose turn, what time) ─► schedule (who is started, killed, stopped)
//!                │ turns                           │
//!                ▼                                 ▼
//!        machine, kafka, objects ◄── servers ──► truth (are the tables what was produced?)
//! ```
//!
//! Real are intake, workers, committer, compaction, upkeep and everything of the store. Simulated are Kafka and its client, the
//! object store and the operating system's clock.

mod choices;
mod clock;
mod events;
mod kafka;
mod machine;
mod objects;
mod report;
mod schedule;
mod shrink;
mod truth;
mod world;

pub use report::{Counts, Kind};
pub use schedule::{Outcome, Source, run};
pub use shrink::shrink;
