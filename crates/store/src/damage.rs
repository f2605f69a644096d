//! Decoding of bytes that may be damaged.
//!
//! Owns that a decoder which panics over such bytes is an answer and not the end of the process. Does not own what is then
//! done. Parquet's decoders are functions of their bytes, so nothing is left half done when one unwinds.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static UNDER_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread decodes bytes that may be damaged, so that a panic in it is caught and becomes an error. Whoever ends
/// the process on any other panic asks this in its hook.
pub fn is_panic_expected() -> bool {
    UNDER_WAY.get()
}

/// Calls a decoder; `None` when it panicked.
pub(crate) fn survived<T>(decode: impl FnOnce() -> T) -> Option<T> {
    UNDER_WAY.set(true);
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    UNDER_WAY.set(false);
    decoded.ok()
}
