//! What a fuzzer feeds with bytes: each function takes any and panics when a promise is broken.
//!
//! `tests/fuzz/run.sh TARGET SECONDS` lets libFuzzer look for such bytes; `corpus.rs` gives every input that is kept in
//! `corpus/` to its function in the ordinary tests.

mod decode;
mod house;
mod log;
mod pipelines;
mod schemas;
mod sketches;
mod statements;
mod wire;

pub use decode::decode;
pub use log::log;
pub use pipelines::pipelines;
pub use schemas::schemas;
pub use sketches::sketches;
pub use statements::statements;
pub use wire::wire;
