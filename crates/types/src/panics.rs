//! Panics that are waited for: over bytes from outside, in a decoder that is not ours.
//!
//! Owns that such a panic is an answer and not the end of the process. Does not own what is then done.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static UNDER_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would be caught by [`survived`]. Whoever ends the process on any other panic asks this in its
/// hook.
pub fn is_panic_expected() -> bool {
    UNDER_WAY.get()
}

/// Calls a decoder; `None` when it panicked. Whatever the decoder was in the middle of is left so and must not be asked again.
pub fn survived<T>(decode: impl FnOnce() -> T) -> Option<T> {
    let outer = UNDER_WAY.replace(true);
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    UNDER_WAY.set(outer);
    decoded.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_expected_where_it_is_caught_and_nowhere_else() {
        let inside = survived(|| {
            let inner: Option<()> = survived(|| panic!("a decoder gives up"));
            (inner, is_panic_expected())
        });
        assert_eq!(inside, Some((None, true)));
        assert!(!is_panic_expected());
    }
}
