//! The drain and its companions against librdkafka's mock cluster: no network, no Kafka.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod bench;
mod faults;
mod group;
mod outside;
