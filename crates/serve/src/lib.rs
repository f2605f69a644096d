//! The doors through which clients come in. No logic of their own: they translate between a protocol and
//! `alluvium-query`, and show what the status board says.

pub mod http;
pub mod postgres;
