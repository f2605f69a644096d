//! The engine that answers queries.
//!
//! Owns the way in: a session for each client, and the tables that there are. Does not own the resources that queries
//! share ([`crate::shared`]), nor what a single query does ([`crate::run`]).

use std::sync::Arc;

use alluvium_plan::{Publisher, StatusBoard, TableShape};

use crate::{
    error::{ErrorKind, QueryError},
    run::Dialect,
    session::Session,
    shared::{Limits, Shared},
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

    /// A new session with its own settings: one for each connection.
    pub fn session(&self) -> Session {
        Session::new(self.shared.clone(), Dialect::Ours)
    }

    /// A session for a client of Postgres: with `pg_catalog`, and with SQL as such clients write it.
    pub fn postgres_session(&self) -> Session {
        Session::new(self.shared.clone(), Dialect::Postgres)
    }

    /// The tables and what they answer, for completion in a prompt.
    ///
    /// # Errors
    /// When storage does not answer.
    pub async fn tables(&self) -> Result<Vec<(String, Arc<TableShape>)>, QueryError> {
        let shared = self.shared.clone();
        let tables = self.shared.workers().spawn(async move {
            let view = View::open(shared.shelf.clone(), ReadMode::Committed).await;
            let mut tables = Vec::new();
            for name in view.tables() {
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
