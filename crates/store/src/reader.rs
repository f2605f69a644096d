//! A table at one version, for whoever wants its rows and changes nothing.
//!
//! Owns one snapshot, what it records, and the opening of its files. Does not own the merge of what they hold, nor what
//! a query passes over: queries have readers of their own.

use std::sync::Arc;

use alluvium_plan::{CommittedFile, TableShape};

use crate::{
    Checkpoint, PaneFile, Store, StoreError, TableSpec,
    checkpoint::Names,
    definition::fit,
    parquet_reader::{extent, open_checked, rows_of_batch},
    snapshot::Snapshot,
    table::read_shape,
};

/// One version of a table. Later commits do not change it; its files stay for as long as any query may need them.
#[derive(Debug)]
pub struct TableReader {
    store: Store,
    shape: Arc<TableShape>,
    snapshot: Snapshot,
    checkpoint: Checkpoint,
    lacked: Vec<Arc<str>>,
}

impl Store {
    /// The newest version of a table that must be what `spec` says (P38). Creates nothing and adds no measure.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no such table; [`StoreError::Changed`] and other refusals of
    /// [`Store::table`]; or that storage failed.
    pub async fn reader(&self, spec: &TableSpec) -> Result<TableReader, StoreError> {
        let log = self.table_log(&spec.name);
        let missing = || StoreError::Missing {
            table: log.table.clone(),
        };
        let snapshot = log.load().await?.ok_or_else(missing)?;
        fit(&log.table, &snapshot, spec)?;
        let stored = read_shape(&log.table, &snapshot)?;
        let is_stored = |name: &Arc<str>| stored.measures.iter().any(|known| known.name == *name);
        let wanted = spec.shape.measures.iter().map(|measure| &measure.name);
        Ok(TableReader {
            lacked: wanted.filter(|name| !is_stored(name)).cloned().collect(),
            checkpoint: Checkpoint::from_txns(&Names::of_pipeline(&spec.pipeline), &snapshot.txns),
            store: self.clone(),
            shape: spec.shape.clone(),
            snapshot,
        })
    }
}

impl TableReader {
    /// The version.
    pub fn version(&self) -> i64 {
        self.snapshot.version
    }

    /// What it records.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Its files.
    pub fn files(&self) -> &[CommittedFile] {
        &self.snapshot.files
    }

    /// Measures of the specification that the table does not have yet: no file of it has their states (P35).
    pub fn lacked_measures(&self) -> &[Arc<str>] {
        &self.lacked
    }

    /// Opens one of its files, for reading in batches of about `batch_bytes` bytes, in the pane schema of the specification's shape.
    ///
    /// # Errors
    /// That the file cannot be read, or lacks a state.
    pub async fn open(
        &self,
        file: &CommittedFile,
        batch_bytes: usize,
    ) -> Result<PaneFile, StoreError> {
        let (builder, check) = open_checked(self.store.object_store(), file).await?;
        let batch_rows = rows_of_batch(batch_bytes, extent(&builder));
        let builder = builder.with_batch_size(batch_rows);
        PaneFile::new(&file.path, builder, &self.shape.pane_schema(), check)
    }
}
