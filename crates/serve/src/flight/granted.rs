//! What one user of Flight SQL has of the engine.

use std::sync::Arc;

use alluvium_plan::TableShape;
use alluvium_query::{Access, QueryEngine, QueryError, Session};

/// The engine as one user has it.
pub(super) struct Granted {
    pub(super) engine: QueryEngine,
    pub(super) access: Access,
}

impl Granted {
    pub(super) fn session(&self) -> Session {
        let session = self.engine.session_of(self.access.clone());
        session.at_door("flight")
    }

    /// The tables that this user may read.
    pub(super) async fn tables(&self) -> Result<Vec<(String, Arc<TableShape>)>, QueryError> {
        self.engine.tables(&self.access).await
    }
}
