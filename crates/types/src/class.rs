//! What a caller does next about an error.

/// The five answers to "and now?", common to all libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Wait and try again: network, store, broker.
    Transient,
    /// The input is at fault: it belongs in the dead letters.
    Data,
    /// A person must change a file or a setting.
    Config,
    /// Another writer owns this work now: drop everything and start again from the table (P7).
    Overtaken,
    /// An invariant broke: end the process loudly.
    Bug,
}
