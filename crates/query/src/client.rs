//! One client as the engine knows it: what it may do, and how it writes.
//!
//! Owns what of it lasts from query to query. Does not own its settings ([`crate::session`]).

use std::sync::{Arc, OnceLock, atomic::AtomicUsize};

use datafusion::catalog::SchemaProvider;

use crate::{access::Access, error::QueryError, estimate::Estimate, limits::Limits};

/// How a statement is written, and what it is asked of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// As our documents say.
    #[default]
    Ours,
    /// By a client of Postgres, which expects its catalogue and its ways of writing too.
    Postgres,
}

/// Who asks, and how its statements are written. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) dialect: Dialect,
    pub(crate) access: Access,
    /// The door that it came through.
    pub(crate) door: &'static str,
    /// Memory of one query.
    pub(crate) taken: Arc<AtomicUsize>,
    /// What one query reads.
    pub(crate) estimate: Arc<Estimate>,
    /// `pg_catalog` with what may be read, if that is not everything: its identifiers of tables stay the same for a session.
    pub(crate) granted_catalog: Arc<OnceLock<Result<Arc<dyn SchemaProvider>, QueryError>>>,
}

impl Client {
    pub(crate) fn new(dialect: Dialect, access: Access) -> Self {
        Self {
            dialect,
            access,
            door: "local",
            taken: Arc::default(),
            estimate: Arc::new(Estimate::within(u64::MAX)),
            granted_catalog: Arc::default(),
        }
    }

    /// The same for one query, whose memory and files are counted apart.
    pub(crate) fn for_one_query(mut self, limits: &Limits) -> Self {
        self.taken = Arc::default();
        self.estimate = Arc::new(Estimate::within(self.access.max_scan(limits)));
        self
    }
}
