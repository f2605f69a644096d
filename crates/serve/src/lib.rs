//! The doors through which clients come in. No logic of their own: they translate between a protocol and
//! `alluvium-query`, and show what the status board says.

mod auth;
pub mod flight;
pub mod http;
mod outcomes;
mod patience;
pub mod postgres;
mod tls;

pub use auth::{Denied, Users, new_token, verifier_of};
pub use tls::{Peer, Renewed, Tls, TlsError};
