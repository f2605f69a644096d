//! Whole servers against an embedded broker and stores that do what a test wants: what the committer, upkeep and replay
//! promise beside each other.

#![allow(clippy::unwrap_used)]

mod refusals;
mod replay;
mod site;
mod starts;
mod topics;
mod upkeep;
