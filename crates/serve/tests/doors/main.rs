//! The three doors together, as psql, curl and clients of Flight SQL see them: who is let in with which proof over which
//! connection, what they may read, and what nobody reaches.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod certificates;
#[path = "../common/mod.rs"]
mod common;
mod connections;
mod crowd;
mod cursors;
mod flight;
mod grants;
mod house;
mod sandbox;
