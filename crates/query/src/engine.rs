//! The engine that answers queries.
//!
//! Owns the way in: a session for each client, and the tables that there are. Does not own the resources that queries
//! share ([`crate::shared`]), nor what a single query does ([`crate::run`]).

use std::sync::Arc;

use alluvium_plan::{Publisher, StatusBoard, TableShape};

use crate::{
    access::Access,
    client::{Client, Dialect},
    error::{ErrorKind, QueryError},
    limits::Limits,
    names::PUBLIC,
    running::RunningQuery,
    session::Session,
    shared::Shared,
    storage::Storage,
    view::{ReadMode, View},
};

/// Answers SQL over committed and in-memory panes.
#[derive(Clone, Debug)]
pub struct QueryEngine {
    shared: Arc<Shared>,
}

impl QueryEngine {
    /// An engine over `storage`. With a publisher, tables of this process are taken from what it publishes, in one
    /// piece (P32), and the others from storage; without, all from storage.
    ///
    /// # Errors
    /// When threads cannot be started or the temporary folder cannot be used.
    pub fn new(
        storage: impl Storage + 'static,
        publisher: Option<Arc<Publisher>>,
        status: Option<Arc<StatusBoard>>,
        limits: Limits,
    ) -> Result<Self, QueryError> {
        Ok(Self {
            shared: Arc::new(Shared::start(Arc::new(storage), publisher, status, limits)?),
        })
    }

    /// A new session of whoever owns the process, who may read everything. Doors ask for one of a user.
    pub fn session(&self) -> Session {
        self.session_of(Access::unrestricted())
    }

    /// A new session with its own settings: one for each connection.
    pub fn session_of(&self, access: Access) -> Session {
        Session::new(self.shared.clone(), Client::new(Dialect::Ours, access))
    }

    /// A session for a client of Postgres: with `pg_catalog`, and with SQL as such clients write it.
    pub fn postgres_session_of(&self, access: Access) -> Session {
        Session::new(self.shared.clone(), Client::new(Dialect::Postgres, access))
    }

    /// The queries that run now, as far as `access` may know of them: the user's own, and all for whoever sees `system.*`.
    pub fn running(&self, access: &Access) -> Vec<RunningQuery> {
        self.shared.shelf.running.seen_by(access)
    }

    /// Ends a query, if it is this user's or the user may read everything. Whether there was such a query.
    pub fn end(&self, access: &Access, id: u64) -> bool {
        self.shared.shelf.running.end(access, id)
    }

    /// The tables that `access` may read and what they answer.
    ///
    /// # Errors
    /// When storage does not answer.
    pub async fn tables(
        &self,
        access: &Access,
    ) -> Result<Vec<(String, Arc<TableShape>)>, QueryError> {
        let (shared, access) = (self.shared.clone(), access.clone());
        let tables = self.shared.workers().spawn(async move {
            let view = View::open(shared.shelf.clone(), ReadMode::Committed).await;
            let mut tables = Vec::new();
            let mut names = view.tables();
            names.retain(|name| access.may_read(PUBLIC, name));
            for name in names {
                if let Some(table) = view.table(&name).await? {
                    tables.push((name, table.committed.shape));
                }
            }
            Ok(tables)
        });
        tables.await.map_err(|error| {
            QueryError::new(
                ErrorKind::Internal,
                format!("the list of tables broke off: {error}"),
            )
        })?
    }
}
