//! A table's stored states as rows: Parquet files and panes in memory, side by side.
//!
//! Owns which files a query opens. Does not own the merge of what it finds: that is the plan that
//! [`FinalTable`](crate::finals::FinalTable) stands for.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use alluvium_plan::{ColumnBounds, CommittedFile, TableShape};
use async_trait::async_trait;
use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array, new_null_array},
        compute::concat_batches,
        datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
    },
    catalog::{Session, TableProvider},
    common::{
        Column, DFSchema, Result, ScalarValue, config::TableParquetOptions,
        pruning::PruningStatistics, tree_node::TreeNode,
    },
    datasource::{
        TableType,
        listing::PartitionedFile,
        memory::MemorySourceConfig,
        object_store::ObjectStoreUrl,
        physical_plan::{
            FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource,
            parquet::{CachedParquetFileReaderFactory, ParquetFileReaderFactory},
        },
        source::DataSourceExec,
        table_schema::TableSchema,
    },
    error::DataFusionError,
    logical_expr::{Expr, Operator, TableProviderFilterPushDown, utils::conjunction},
    physical_expr::{
        expressions::{
            self, BinaryExpr, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
        },
        utils::collect_columns,
    },
    physical_optimizer::pruning::PruningPredicateBuilder,
    physical_plan::{ExecutionPlan, PhysicalExpr, collect, empty::EmptyExec, union::UnionExec},
};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore, path::Path};

use crate::{
    apart::Merged,
    error::{ErrorKind, QueryError},
    estimate::Estimate,
    read_files::ReadFiles,
    unreadable,
    whole::WholeFile,
};

/// The one address under which queries find files.
pub(crate) const STORE_URL: &str = "alluvium://store/";

/// Prefix of the hidden columns that say of each row whether its file lacks a state (P35).
const LACKS: &str = "_lacks_";

/// `window_start` and `window_end` come first.
const WINDOW_COLUMNS: usize = 2;

/// How many small files are read side by side.
const READ_AT_ONCE: usize = 8;

/// Stored rows at one moment: files, and batches that are not in files yet.
#[derive(Debug)]
pub(crate) struct StoredRows {
    /// Columns of the files, then one hidden boolean a lacked state.
    schema: SchemaRef,
    /// How many columns the files have.
    stored: usize,
    /// How many of these, from the first, are windows and group columns.
    keys: usize,
    lacked: Vec<Arc<str>>,
    files: Arc<Vec<CommittedFile>>,
    memory: Vec<RecordBatch>,
    /// Where decoded files are kept between queries.
    kept: Option<Arc<ReadFiles>>,
}

/// The name of the hidden column of a state.
pub(crate) fn lacks_column(state: &str) -> String {
    format!("{LACKS}{state}")
}

impl StoredRows {
    /// The panes of a table with `shape`: `files`, and `memory` batches that may lack states.
    pub(crate) fn panes(
        shape: &TableShape,
        files: Arc<Vec<CommittedFile>>,
        memory: impl Iterator<Item = RecordBatch>,
        kept: Option<Arc<ReadFiles>>,
    ) -> Result<Self, QueryError> {
        let memory: Vec<RecordBatch> = memory.filter(|batch| batch.num_rows() > 0).collect();
        let mut lacked: BTreeSet<Arc<str>> = files
            .iter()
            .flat_map(|file| file.missing_states.iter().cloned())
            .collect();
        for batch in &memory {
            let missing = shape
                .states
                .iter()
                .filter(|state| batch.schema_ref().column_with_name(&state.name).is_none());
            lacked.extend(missing.map(|state| state.name.clone()));
        }
        let lacked: Vec<Arc<str>> = shape
            .states
            .iter()
            .map(|state| state.name.clone())
            .filter(|name| lacked.contains(name))
            .collect();
        let columns = shape.pane_schema();
        let stored = columns.fields().len();
        let fields: Vec<FieldRef> = columns
            .fields()
            .iter()
            .map(|field| {
                let absent = lacked.iter().any(|name| name.as_ref() == field.name());
                let nullable = field.is_nullable() || absent;
                Arc::new(Field::new(
                    field.name(),
                    field.data_type().clone(),
                    nullable,
                ))
            })
            .chain(
                lacked
                    .iter()
                    .map(|name| Arc::new(Field::new(lacks_column(name), DataType::Boolean, false))),
            )
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let memory = memory
            .iter()
            .map(|batch| adapt(batch, &schema, stored))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            schema,
            stored,
            keys: WINDOW_COLUMNS + shape.group_columns.len(),
            lacked,
            files,
            memory,
            kept,
        })
    }

    /// Rows of another table, in files only.
    pub(crate) fn files(schema: &Schema, files: Vec<CommittedFile>) -> Self {
        let fields: Vec<FieldRef> = schema
            .fields()
            .iter()
            .map(|field| {
                let plain =
                    Field::new(field.name(), field.data_type().clone(), field.is_nullable());
                Arc::new(plain)
            })
            .collect();
        Self {
            stored: fields.len(),
            keys: 0,
            schema: Arc::new(Schema::new(fields)),
            lacked: Vec::new(),
            files: Arc::new(files),
            memory: Vec::new(),
            kept: None,
        }
    }

    /// The windows that must be merged, when the others are worth telling apart (P34).
    pub(crate) fn merged_windows(&self) -> Option<Merged> {
        Merged::of(&self.files, &self.memory)
    }

    /// Whether some row may lack this state.
    pub(crate) fn lacks(&self, state: &str) -> bool {
        self.lacked.iter().any(|name| name.as_ref() == state)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: &[usize],
        filters: &[Expr],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let predicate = self.predicate(state, filters)?;
        let mut files = self.wanted(predicate.as_ref())?;
        if let Some(estimate) = state.config().get_extension::<Estimate>() {
            let within = estimate.add(&files);
            within.map_err(QueryError::into_datafusion)?;
        }
        let mut memory = Vec::new();
        if let Some(kept) = &self.kept {
            (memory, files) = self.read_before(state, kept, files).await?;
        }
        memory.extend(self.memory.iter().cloned());
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if !files.is_empty() {
            let reader = self.parts_reader(state)?;
            let scan = self.file_scan(state, files, projection, predicate.as_ref(), reader)?;
            inputs.push(DataSourceExec::from_data_source(scan));
        }
        if !memory.is_empty() {
            inputs.push(MemorySourceConfig::try_new_exec(
                &[memory],
                self.schema.clone(),
                Some(projection.to_vec()),
            )?);
        }
        if inputs.is_empty() {
            let schema = Arc::new(self.schema.project(projection)?);
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        UnionExec::try_new(inputs)
    }

    /// The rows of small files, decoded by this query or an earlier one, and the files that are left to scan.
    async fn read_before<'f>(
        &self,
        state: &dyn Session,
        kept: &ReadFiles,
        files: Vec<&'f CommittedFile>,
    ) -> Result<(Vec<RecordBatch>, Vec<&'f CommittedFile>)> {
        let stored: Vec<FieldRef> = self.schema.fields()[..self.stored].to_vec();
        let columns: Vec<usize> = (0..self.stored).collect();
        let schema = Arc::new(Schema::new(stored));
        let split = kept.split(files, &schema);
        let mut batches = split.kept;
        let mut reads = Vec::with_capacity(split.to_keep.len());
        for &file in &split.to_keep {
            let reader = Arc::new(WholeFile::new(self.objects(state)?, file));
            let scan = self.file_scan(state, vec![file], &columns, None, reader)?;
            let scan = unreadable::scan(scan);
            let (context, schema) = (state.task_ctx(), schema.clone());
            reads.push(async move {
                let rows = collect(scan, context).await?;
                Ok::<_, DataFusionError>(concat_batches(&schema, &rows)?)
            });
        }
        let read: Vec<RecordBatch> = stream::iter(reads)
            .buffered(READ_AT_ONCE)
            .try_collect()
            .await?;
        for (file, batch) in split.to_keep.into_iter().zip(read) {
            kept.keep(file, batch.clone());
            batches.push(batch);
        }
        let adapted = batches
            .iter()
            .map(|batch| adapt(batch, &self.schema, self.stored));
        let adapted: Result<_, QueryError> = adapted.collect();
        Ok((adapted.map_err(QueryError::into_datafusion)?, split.scanned))
    }

    fn predicate(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let Some(filter) = conjunction(filters.iter().cloned()) else {
            return Ok(None);
        };
        let schema = DFSchema::try_from(self.schema.clone())?;
        state.create_physical_expr(filter, &schema).map(Some)
    }

    /// The files that may hold rows for the predicate, by the bounds that the log gives.
    fn wanted(&self, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Result<Vec<&CommittedFile>> {
        let all: Vec<&CommittedFile> = self.files.iter().collect();
        let Some(predicate) = predicate.filter(|_| !all.is_empty()) else {
            return Ok(all);
        };
        let pruning = PruningPredicateBuilder::new()
            .with_file_schema(self.schema.clone())
            .try_build(predicate.clone())?;
        if pruning.always_true() {
            return Ok(all);
        }
        let keep = pruning.prune(&FileBounds {
            files: &self.files,
            schema: &self.schema,
        })?;
        Ok(all
            .into_iter()
            .zip(keep)
            .filter_map(|(file, keep)| keep.then_some(file))
            .collect())
    }

    /// Whether a predicate looks at group columns.
    fn chooses_groups(&self, predicate: &Arc<dyn PhysicalExpr>) -> bool {
        let groups = WINDOW_COLUMNS..self.keys;
        let columns = collect_columns(predicate);
        columns
            .iter()
            .any(|column| groups.contains(&column.index()))
    }

    fn objects(&self, state: &dyn Session) -> Result<Arc<dyn ObjectStore>> {
        let url = ObjectStoreUrl::parse(STORE_URL)?;
        state.runtime_env().object_store(&url)
    }

    /// Reads what a query needs of its files.
    fn parts_reader(&self, state: &dyn Session) -> Result<Arc<dyn ParquetFileReaderFactory>> {
        let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
        let reader = CachedParquetFileReaderFactory::new(self.objects(state)?, footers);
        Ok(Arc::new(reader))
    }

    fn file_scan(
        &self,
        state: &dyn Session,
        files: Vec<&CommittedFile>,
        projection: &[usize],
        predicate: Option<&Arc<dyn PhysicalExpr>>,
        reader: Arc<dyn ParquetFileReaderFactory>,
    ) -> Result<FileScanConfig> {
        let columns = self.schema.fields();
        let in_files = Arc::new(Schema::new(columns[..self.stored].to_vec()));
        // A file's answers to "does it lack this state" are the same for all its rows, like the
        // values of a partition column.
        let schema = TableSchema::builder(in_files)
            .with_table_partition_cols(columns[self.stored..].to_vec())
            .build();
        let url = ObjectStoreUrl::parse(STORE_URL)?;
        let options = TableParquetOptions {
            global: state.config_options().execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        let mut source = ParquetSource::new(schema)
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(reader);
        if let Some(predicate) = predicate {
            // A group is few rows of each page: its states are decoded for these rows only. The predicate itself comes with
            // the filter above, which DataFusion pushes down; given here as well it would be worked through twice.
            let in_reader = self.chooses_groups(predicate) && cannot_fail(predicate);
            source = source.with_pushdown_filters(in_reader);
        }
        let files = files
            .into_iter()
            .map(|file| self.partitioned(file))
            .collect::<Result<Vec<_>>>()?;
        let partitions = state.config().target_partitions();
        Ok(FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(FileGroup::new(files).split_files(partitions))
            .with_projection_indices(Some(projection.to_vec()))?
            .build())
    }

    fn partitioned(&self, file: &CommittedFile) -> Result<PartitionedFile> {
        let location = Path::parse(&file.path).map_err(|error| {
            let text = format!("the path {} cannot be read: {error}", file.path);
            QueryError::new(ErrorKind::Storage, text).into_datafusion()
        })?;
        let lacks = self
            .lacked
            .iter()
            .map(|state| ScalarValue::Boolean(Some(file.missing_states.contains(state))))
            .collect();
        // Names of data files are never used twice, so any moment is as good as the true one for
        // the cache of file metadata.
        let meta = ObjectMeta {
            location,
            last_modified: Default::default(),
            size: file.size,
            e_tag: None,
            version: None,
        };
        Ok(PartitionedFile::new_from_meta(meta).with_partition_values(lacks))
    }
}

/// Whether a predicate fails over no value. One that fails within a reader of Parquet would come out as a file that cannot be
/// read; above the scan it says what it is.
fn cannot_fail(predicate: &Arc<dyn PhysicalExpr>) -> bool {
    let compares = |operator: &Operator| {
        matches!(
            operator,
            Operator::And
                | Operator::Or
                | Operator::Eq
                | Operator::NotEq
                | Operator::Lt
                | Operator::LtEq
                | Operator::Gt
                | Operator::GtEq
                | Operator::IsDistinctFrom
                | Operator::IsNotDistinctFrom
        )
    };
    let may_fail = predicate.exists(|part| {
        Ok(!(part.is::<expressions::Column>()
            || part.is::<Literal>()
            || part.is::<NotExpr>()
            || part.is::<IsNullExpr>()
            || part.is::<IsNotNullExpr>()
            || part.is::<InListExpr>()
            || part.is::<LikeExpr>()
            || part
                .downcast_ref::<BinaryExpr>()
                .is_some_and(|binary| compares(binary.op()))))
    });
    // Looking itself never fails.
    !may_fail.unwrap_or(true)
}

/// Brings a batch into `schema`: by name, with NULL and "lacks" for a state it does not have.
fn adapt(
    batch: &RecordBatch,
    schema: &SchemaRef,
    stored: usize,
) -> Result<RecordBatch, QueryError> {
    let rows = batch.num_rows();
    let columns = schema.fields().iter().enumerate().map(|(position, field)| {
        if position >= stored {
            let state = field.name().trim_start_matches(LACKS);
            let lacks = batch.schema_ref().column_with_name(state).is_none();
            return Ok(Arc::new(BooleanArray::from(vec![lacks; rows])) as ArrayRef);
        }
        match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => Err(QueryError::new(
                ErrorKind::Internal,
                format!(
                    "column {} of panes in memory is {}, not {}",
                    field.name(),
                    column.data_type(),
                    field.data_type()
                ),
            )),
            None => Ok(new_null_array(field.data_type(), rows)),
        }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(schema.clone(), columns).map_err(|error| {
        QueryError::new(
            ErrorKind::Internal,
            format!("panes in memory do not have their table's schema: {error}"),
        )
    })
}

/// What the log knows about files: bounds of windows and of group columns.
struct FileBounds<'a> {
    files: &'a [CommittedFile],
    schema: &'a SchemaRef,
}

impl FileBounds<'_> {
    fn known<'f>(&self, file: &'f CommittedFile, column: &Column) -> Option<&'f ColumnBounds> {
        let mut bounds = file.bounds.iter();
        bounds.find(|bounds| *bounds.column == *column.name)
    }

    /// The smallest and the largest value in a file, in the column's type; NULL where it is not known.
    fn range(&self, file: &CommittedFile, column: &Column) -> Option<(ScalarValue, ScalarValue)> {
        if column.name == TableShape::WINDOW_START {
            let (from, to) = file.window_start?;
            let [from, to] = [from, to].map(|moment| {
                ScalarValue::TimestampMicrosecond(Some(moment.micros()), Some("UTC".into()))
            });
            return Some((from, to));
        }
        let known = self.known(file, column)?;
        Some((known.least.clone(), known.greatest.clone()))
    }

    fn data_type(&self, column: &Column) -> Option<&DataType> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        Some(field.data_type())
    }

    fn side(
        &self,
        column: &Column,
        side: impl Fn((ScalarValue, ScalarValue)) -> ScalarValue,
    ) -> Option<ArrayRef> {
        let data_type = self.data_type(column)?;
        let unknown = ScalarValue::try_from(data_type).ok()?;
        let mut any = false;
        let values: Vec<ScalarValue> = self
            .files
            .iter()
            .map(|file| {
                let value = self.range(file, column).map(&side);
                let value = value.filter(|value| value.data_type() == *data_type);
                any |= value.is_some();
                value.unwrap_or_else(|| unknown.clone())
            })
            .collect();
        // A column of which nothing is known needs no array.
        let values = any.then_some(values)?;
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for FileBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.side(column, |(least, _)| least)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.side(column, |(_, greatest)| greatest)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let counts = self
            .files
            .iter()
            .map(|file| self.known(file, column)?.nulls);
        let counts: UInt64Array = counts.collect();
        Some(Arc::new(counts))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts: UInt64Array = self.files.iter().map(|file| file.rows).collect();
        Some(Arc::new(counts))
    }

    /// That none of `values` is in a file, because all lie outside its bounds: of lists longer than those that become
    /// comparisons.
    fn contained(&self, column: &Column, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        let data_type = self.data_type(column)?;
        if values
            .iter()
            .any(|value| value.is_null() || value.data_type() != *data_type)
        {
            return None;
        }
        let mut values: Vec<&ScalarValue> = values.iter().collect();
        values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(Ordering::Equal));
        let contained = self.files.iter().map(|file| {
            let (least, greatest) = self.range(file, column)?;
            if least.is_null() || greatest.is_null() || least.data_type() != *data_type {
                return None;
            }
            let next = values.partition_point(|value| **value < least);
            let outside = values.get(next).is_none_or(|value| **value > greatest);
            outside.then_some(false)
        });
        Some(contained.collect())
    }
}

/// Stored rows as a relation.
#[derive(Debug)]
pub(crate) struct RowsTable {
    rows: Arc<StoredRows>,
    schema: SchemaRef,
}

impl RowsTable {
    /// The stored columns, as users see them.
    pub(crate) fn visible(rows: Arc<StoredRows>) -> Self {
        let columns = rows.schema.fields()[..rows.stored].to_vec();
        Self {
            rows,
            schema: Arc::new(Schema::new(columns)),
        }
    }

    /// The stored columns and the hidden ones.
    pub(crate) fn whole(rows: Arc<StoredRows>) -> Self {
        Self {
            schema: rows.schema.clone(),
            rows,
        }
    }
}

#[async_trait]
impl TableProvider for RowsTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all;
        let projection = match projection {
            Some(projection) => projection,
            None => {
                all = (0..self.schema.fields().len()).collect();
                &all
            }
        };
        self.rows.scan(state, projection, filters).await
    }
}

#[cfg(test)]
mod tests;
