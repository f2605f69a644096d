//! Stored files that cannot be read, by name.
//!
//! A reader of Parquet says what is wrong with bytes, and not whose bytes they are; of a table with thousands of files that helps
//! nobody. Every scan that runs is wrapped here, so that its errors name the file.
//!
//! Owns these words, and how they come to the errors of a scan. Does not own whether a query is tried again.

use std::{any::Any, fmt, panic::AssertUnwindSafe, sync::Arc};

use datafusion::{
    arrow::{error::ArrowError, record_batch::RecordBatch},
    common::{Result, tree_node::TreeNodeRecursion},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource},
        source::DataSourceExec,
        table_schema::TableSchema,
    },
    error::DataFusionError,
    physical_expr::projection::ProjectionExprs,
    physical_plan::{
        DisplayFormatType, ExecutionPlan, PhysicalExpr, metrics::ExecutionPlanMetricsSet,
    },
};
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use futures::{FutureExt, StreamExt, stream::BoxStream};
use object_store::{ObjectStore, path::Path};

use crate::error::{ErrorKind, QueryError};

/// An error of reading the file at `path`, which it names if the file's bytes, or how they were delivered, are to blame.
pub(crate) fn named(path: &Path, error: DataFusionError) -> DataFusionError {
    match error.find_root() {
        DataFusionError::ParquetError(cause) => unreadable(path, cause),
        DataFusionError::ArrowError(cause, _) => match &**cause {
            ArrowError::ParquetError(text) => unreadable(path, text),
            _ => error,
        },
        _ => error,
    }
}

/// A decoder that panics over damaged bytes has no other way to say so.
fn panicked(path: &Path, cause: &(dyn Any + Send)) -> DataFusionError {
    let words = cause.downcast_ref::<&str>().copied();
    let words = words.or(cause.downcast_ref::<String>().map(String::as_str));
    unreadable(path, words.unwrap_or("its decoder broke off"))
}

/// Storage that does not deliver and bytes that are damaged read alike here: Parquet's reader tells the one as the other.
fn unreadable(path: &Path, text: impl fmt::Display) -> DataFusionError {
    QueryError::new(
        ErrorKind::Storage,
        format!("the stored file {path} cannot be read: {text}"),
    )
    .hint("if that stays so, put it back from a copy; a query over other windows does not open it")
    .into_datafusion()
}

/// The same scan, whose errors name files.
pub(crate) fn scan(config: FileScanConfig) -> Arc<dyn ExecutionPlan> {
    let source = Arc::new(Naming(config.file_source().clone()));
    let config = FileScanConfigBuilder::from(config)
        .with_source(source)
        .build();
    DataSourceExec::from_data_source(config)
}

/// The same for an operator that is a scan of files; none for any other.
///
/// Only for a plan that is done: what changes plans asks scans what they are, and would not know this one.
pub(crate) fn scan_of(node: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let source = node.downcast_ref::<DataSourceExec>()?.data_source();
    Some(scan(source.downcast_ref::<FileScanConfig>()?.clone()))
}

/// A source of files like the one in it.
struct Naming(Arc<dyn FileSource>);

impl FileSource for Naming {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.0.create_file_opener(store, config, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let inner = self.0.create_morselizer(store, config, partition)?;
        Ok(Box::new(Files(inner)))
    }

    fn table_schema(&self) -> &TableSchema {
        self.0.table_schema()
    }

    fn with_batch_size(&self, rows: usize) -> Arc<dyn FileSource> {
        Arc::new(Self(self.0.with_batch_size(rows)))
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        self.0.filter()
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.0.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.0.metrics()
    }

    fn file_type(&self) -> &str {
        self.0.file_type()
    }

    fn fmt_extra(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_extra(format, f)
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        self.0.reorder_files(files)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.0.apply_expressions(f)
    }
}

/// Opens files by name.
#[derive(Debug)]
struct Files(Box<dyn Morselizer>);

impl Morselizer for Files {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let path = file.object_meta.location.clone();
        match self.0.plan_file(file) {
            Ok(inner) => Ok(Box::new(Of { path, inner })),
            Err(error) => Err(named(&path, error)),
        }
    }
}

/// Something of one file.
#[derive(Debug)]
struct Of<T> {
    path: Path,
    inner: T,
}

impl MorselPlanner for Of<Box<dyn MorselPlanner>> {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let Self { path, inner } = *self;
        let Some(mut planned) = inner.plan().map_err(|error| named(&path, error))? else {
            return Ok(None);
        };
        let morsels = planned.take_morsels().into_iter();
        let planners = planned.take_ready_planners().into_iter();
        let mut plan = MorselPlan::new()
            .with_morsels(
                morsels
                    .map(|inner| of(&path, inner) as Box<dyn Morsel>)
                    .collect(),
            )
            .with_planners(
                planners
                    .map(|inner| of(&path, inner) as Box<dyn MorselPlanner>)
                    .collect(),
            );
        if let Some(pending) = planned.take_pending_planner() {
            plan.set_pending_planner(async move {
                match AssertUnwindSafe(pending).catch_unwind().await {
                    Ok(Ok(inner)) => Ok(of(&path, inner) as Box<dyn MorselPlanner>),
                    Ok(Err(error)) => Err(named(&path, error)),
                    Err(cause) => Err(panicked(&path, &*cause)),
                }
            });
        }
        Ok(Some(plan))
    }
}

impl Morsel for Of<Box<dyn Morsel>> {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let Self { path, inner } = *self;
        // After a panic nothing of the stream is asked again.
        AssertUnwindSafe(inner.into_stream())
            .catch_unwind()
            .map(move |read| match read {
                Ok(rows) => rows.map_err(|error| named(&path, error)),
                Err(cause) => Err(panicked(&path, &*cause)),
            })
            .boxed()
    }
}

fn of<T>(path: &Path, inner: T) -> Box<Of<T>> {
    Box::new(Of {
        path: path.clone(),
        inner,
    })
}
