//! The files as written: every key, its kind of value and its description, from which the JSON Schemas
//! for editors are made.
//!
//! Does not own what values mean.

pub(crate) mod pipeline;
pub(crate) mod schema;
pub(crate) mod server;
