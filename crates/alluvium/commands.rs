//! One module a command: what it does, from its arguments to its exit.

pub(crate) mod audit;
pub(crate) mod broker;
pub(crate) mod check;
pub(crate) mod compact;
pub(crate) mod demo;
pub(crate) mod generate;
pub(crate) mod produce;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod seek;
pub(crate) mod sql;
pub(crate) mod status;
pub(crate) mod user;
pub(crate) mod vacuum;
pub(crate) mod verify;
