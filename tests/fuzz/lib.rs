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

use std::{panic, sync::Once};

pub use decode::decode;
pub use log::log;
pub use pipelines::pipelines;
pub use schemas::schemas;
pub use sketches::sketches;
pub use statements::statements;
pub use wire::wire;

/// As the server's hook does: a decoder of others that gives up on bytes from outside breaks no promise.
fn bear_expected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let end = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !alluvium_types::is_panic_expected() {
                end(panic);
            }
        }));
    });
}
