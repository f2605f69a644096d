//! What the benches share: the events that they measure with, a Kafka, a server that is measured, and what the kernel says
//! about it.

#![allow(dead_code, reason = "no bench uses all of it")]

mod event;
pub(crate) mod server;
pub(crate) mod topic;
pub(crate) mod usage;

#[allow(unused_imports, reason = "no bench uses all of it")]
pub(crate) use event::{MINUTES, event};
