//! Tests of the whole product, by promise. Everything runs on this machine and needs no server.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod clients;
mod damage;
mod forged;
mod golden;
mod kill;
mod ledger;
mod process;
mod promises;
mod reading;
mod real_kafka;
mod replay;
mod s3;
mod secrets;
mod seek;
mod site;
mod sql;
mod structure;
mod told;
mod upkeep;
mod users;
mod verify;
