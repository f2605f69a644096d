//! The catalogue `alluvium` as DataFusion asks for it: schemas and their relations.
//!
//! Owns that a session sees only what it may read: whatever a statement says, what it reads is resolved here. Nothing can
//! be registered in it. Does not own the names ([`crate::names`]), nor rows.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableFunction, TableProvider},
    common::Result,
    error::DataFusionError,
};

use alluvium_plan::StatusBoard;

use crate::{
    access::Access,
    error::QueryError,
    finals::FinalTable,
    information::{INFORMATION_SCHEMA, InformationSchema},
    names::{CATALOG, DEAD_LETTERS, PANES, PG_CATALOG, PUBLIC, SCHEMAS, SYSTEM},
    panes::{RowsTable, StoredRows},
    system::{self, SystemTable},
    view::View,
};

/// The list of the one catalogue, over one query's view.
#[derive(Debug)]
pub(crate) struct Catalogs {
    catalog: Arc<Catalog>,
}

impl Catalogs {
    /// With `postgres`, the schema `pg_catalog` as well.
    pub(crate) fn new(
        view: Arc<View>,
        status: Option<Arc<StatusBoard>>,
        access: Access,
        postgres: Option<Arc<dyn SchemaProvider>>,
    ) -> Self {
        Self {
            catalog: Arc::new(Catalog {
                view,
                status,
                access,
                postgres,
                table_functions: HashMap::new(),
            }),
        }
    }

    /// With functions that `information_schema` lists as tables.
    pub(crate) fn with_table_functions(
        self,
        table_functions: HashMap<String, Arc<TableFunction>>,
    ) -> Self {
        let catalog = Catalog {
            table_functions,
            ..(*self.catalog).clone()
        };
        Self {
            catalog: Arc::new(catalog),
        }
    }
}

impl CatalogProviderList for Catalogs {
    fn register_catalog(
        &self,
        _: String,
        _: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        // The list is read-only: nothing is registered, nothing replaced.
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.into()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| self.catalog.clone() as Arc<dyn CatalogProvider>)
    }
}

#[derive(Clone, Debug)]
struct Catalog {
    view: Arc<View>,
    status: Option<Arc<StatusBoard>>,
    access: Access,
    postgres: Option<Arc<dyn SchemaProvider>>,
    table_functions: HashMap<String, Arc<TableFunction>>,
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        SCHEMAS.map(String::from).into()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let (kind, name) = match name {
            PUBLIC => (SchemaKind::Public, PUBLIC),
            PANES => (SchemaKind::Panes, PANES),
            DEAD_LETTERS => (SchemaKind::DeadLetters, DEAD_LETTERS),
            SYSTEM => (SchemaKind::System, SYSTEM),
            PG_CATALOG => return self.postgres.clone(),
            INFORMATION_SCHEMA => {
                let list = Arc::new(Catalogs {
                    catalog: Arc::new(self.clone()),
                });
                let schema = InformationSchema::over(list, self.table_functions.clone());
                return Some(Arc::new(schema));
            }
            _ => return None,
        };
        Some(Arc::new(Schema {
            kind,
            name,
            view: self.view.clone(),
            status: self.status.clone(),
            access: self.access.clone(),
        }))
    }
}

#[derive(Clone, Copy, Debug)]
enum SchemaKind {
    Public,
    Panes,
    DeadLetters,
    System,
}

#[derive(Debug)]
struct Schema {
    kind: SchemaKind,
    name: &'static str,
    view: Arc<View>,
    status: Option<Arc<StatusBoard>>,
    access: Access,
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        let mut names = match self.kind {
            SchemaKind::Public | SchemaKind::Panes => self.view.tables(),
            SchemaKind::DeadLetters => self.view.dead_letter_tables(),
            SchemaKind::System => system::NAMES
                .iter()
                .map(|(name, _)| name.to_string())
                .collect(),
        };
        names.retain(|name| self.access.may_read(self.name, name));
        names
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|known| known == name)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        // Before anything is looked up, so that neither the words nor the time tell whether there is one.
        if !self.access.may_read(self.name, name) {
            return Err(Access::denied(name).into_datafusion());
        }
        match self.kind {
            SchemaKind::Public => self.public(name).await,
            SchemaKind::Panes => self.panes(name).await,
            SchemaKind::DeadLetters => self.dead_letters(name).await,
            SchemaKind::System => Ok(SystemTable::named(name, &self.view, &self.status)
                .map(|table| Arc::new(table) as Arc<dyn TableProvider>)),
        }
    }
}

impl Schema {
    async fn public(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let table = self
            .view
            .table(name)
            .await
            .map_err(QueryError::into_datafusion)?;
        let Some(table) = table else {
            return Ok(None);
        };
        self.view.read(format!("{PUBLIC}.{name}"), &table);
        let finals = FinalTable::new(
            name.into(),
            table.committed.shape.clone(),
            table.rows,
            table.committed.watermark,
            table.committed.window,
        )?;
        Ok(Some(Arc::new(finals)))
    }

    async fn panes(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let table = self
            .view
            .table(name)
            .await
            .map_err(QueryError::into_datafusion)?;
        let Some(table) = table else {
            return Ok(None);
        };
        self.view.read(format!("{PANES}.{name}"), &table);
        Ok(Some(Arc::new(RowsTable::visible(table.rows))))
    }

    async fn dead_letters(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let letters = self
            .view
            .dead_letters(name)
            .await
            .map_err(QueryError::into_datafusion)?;
        let Some(letters) = letters else {
            return Ok(None);
        };
        let rows = StoredRows::files(&letters.schema, letters.files);
        Ok(Some(Arc::new(RowsTable::visible(Arc::new(rows)))))
    }
}
