//! The names under which relations are found: one catalogue and its schemas.
//!
//! Owns these names. Does not own what stands under them ([`crate::catalog`]).

/// The name of the one catalogue.
pub(crate) const CATALOG: &str = "alluvium";
/// The schema of tables with final values; names without a schema mean it.
pub(crate) const PUBLIC: &str = "public";
pub(crate) const PANES: &str = "panes";
pub(crate) const DEAD_LETTERS: &str = "dead_letters";
pub(crate) const SYSTEM: &str = "system";
/// The schema that clients of Postgres find beside ours.
pub(crate) const PG_CATALOG: &str = "pg_catalog";
/// Every schema of ours.
pub(crate) const SCHEMAS: [&str; 4] = [PUBLIC, PANES, DEAD_LETTERS, SYSTEM];
