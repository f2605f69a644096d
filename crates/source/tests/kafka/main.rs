//! The drain and its companions against librdkafka's mock cluster: no network, no Kafka.
//!
//! Everything holds for both ways of fetching, so the same files are compiled once for each.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::duplicate_mod)]
// Not every way uses everything that they share.
#![allow(dead_code)]

#[path = "."]
mod portable {
    pub(crate) const DRAIN: alluvium_source::DrainKind = alluvium_source::DrainKind::Portable;
    mod bench;
    mod faults;
    mod group;
}

#[path = "."]
mod direct {
    pub(crate) const DRAIN: alluvium_source::DrainKind = alluvium_source::DrainKind::Direct;
    mod bench;
    mod faults;
    mod group;
}

#[path = "."]
mod both {
    pub(crate) const DRAIN: alluvium_source::DrainKind = alluvium_source::DrainKind::Automatic;
    mod bench;
    mod equal;
    mod outside;
}
