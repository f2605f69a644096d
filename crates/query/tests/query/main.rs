//! The query layer against tables made by hand: final values, `measure()`, what a query may see, and what it may not do.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod access;
mod apart;
mod finals;
mod functions;
mod measures;
mod pruning;
mod repeats;
mod reuse;
mod safety;
mod slt;
mod store;
mod support;
mod system;
mod unreadable;
