//! The operator that answers from what is kept, and reads where nothing is.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use datafusion::{
    arrow::{
        array::{RecordBatchOptions, UInt32Array},
        compute::{concat_batches, take_record_batch},
        datatypes::SchemaRef,
        record_batch::RecordBatch,
    },
    common::{Result, internal_err, tree_node::TreeNodeRecursion},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource,
            parquet::ParquetAccessPlan,
        },
    },
    error::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext},
    parquet::file::metadata::ParquetMetaData,
    physical_expr::EquivalenceProperties,
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning,
        PhysicalExpr, PlanProperties, ReplaceChildrenOptions,
        coop::make_cooperative,
        execution_plan::{Boundedness, EmissionType},
        metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::OnceCell;

use super::{
    bounds::Bounds,
    kept::{KeptPartials, MOST_OF_ONE, Number, Rows},
    question::Asked,
    with_scan,
};
use crate::{size::sliced_size, unreadable};

/// What takes less time is read again. While developing everything is kept, so that tests see it.
const WORTH_IT: Duration = Duration::from_micros(if cfg!(debug_assertions) { 0 } else { 500 });

/// How many footers are read side by side.
const FOOTERS_AT_ONCE: usize = 16;

/// Files below an aggregation.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) asked: Asked,
    pub(super) config: FileScanConfig,
    /// The aggregation over these files alone.
    pub(super) plan: Arc<dyn ExecutionPlan>,
}

/// A row group, and what is asked of it.
#[derive(Clone, Debug)]
struct Unit {
    scan: usize,
    file: PartitionedFile,
    groups: usize,
    rows: Rows,
    /// Without one nothing is kept of it.
    question: Option<Number>,
}

/// Partial aggregates of all rows of some files, row group by row group.
#[derive(Debug)]
pub(super) struct ReusedPartialsExec {
    scans: Arc<Vec<Scan>>,
    kept: Arc<KeptPartials>,
    units: Arc<OnceCell<Vec<Unit>>>,
    metrics: ExecutionPlanMetricsSet,
    properties: Arc<PlanProperties>,
}

impl ReusedPartialsExec {
    /// Rows of `schema`, in so many partitions.
    pub(super) fn new(
        scans: Vec<Scan>,
        schema: SchemaRef,
        partitions: usize,
        kept: Arc<KeptPartials>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            scans: Arc::new(scans),
            kept,
            units: Arc::default(),
            metrics: ExecutionPlanMetricsSet::new(),
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for ReusedPartialsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())
    }
}

impl ExecutionPlan for ReusedPartialsExec {
    fn name(&self) -> &str {
        "ReusedPartialsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    /// What is done of each scan where nothing is kept.
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.scans.iter().map(|scan| &scan.plan).collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.scans.len() != children.len() {
            return internal_err!("each scan has one aggregation over it");
        }
        let scans = self.scans.iter().zip(children);
        let scans = scans.map(|(scan, plan)| Scan {
            asked: scan.asked.clone(),
            config: scan.config.clone(),
            plan,
        });
        Ok(Arc::new(Self::new(
            scans.collect(),
            self.schema(),
            self.properties.output_partitioning().partition_count(),
            self.kept.clone(),
        )))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let count = |name: &'static str| MetricBuilder::new(&self.metrics).counter(name, partition);
        let work = Arc::new(Work {
            scans: self.scans.clone(),
            kept: self.kept.clone(),
            schema: self.schema(),
            context,
            metrics: self.metrics.clone(),
            found: count("row_groups_kept"),
            read: count("row_groups_read"),
        });
        let (units, step) = (
            self.units.clone(),
            self.properties.output_partitioning().partition_count(),
        );
        let schema = self.schema();
        let rows = stream::once(async move {
            let all = units.get_or_try_init(|| work.units()).await?;
            // Dealt out the same way whenever it is asked, so that a partition may be read again.
            let mine: Vec<Unit> = all.iter().skip(partition).step_by(step).cloned().collect();
            let answers = stream::iter(mine).map(move |unit| work.answer(unit));
            Ok::<_, DataFusionError>(answers.flatten())
        });
        let rows = RecordBatchStreamAdapter::new(schema, rows.try_flatten());
        Ok(make_cooperative(Box::pin(rows)))
    }
}

/// The files of a scan, each once: it may have been dealt out in parts.
fn files(config: &FileScanConfig) -> impl Iterator<Item = &PartitionedFile> {
    let parts = config.file_groups.iter().flat_map(FileGroup::iter);
    let by_path: BTreeMap<_, _> = parts
        .map(|file| (&file.object_meta.location, file))
        .collect();
    by_path.into_values()
}

type Answer = BoxStream<'static, Result<RecordBatch>>;

/// What a partition needs.
struct Work {
    scans: Arc<Vec<Scan>>,
    kept: Arc<KeptPartials>,
    schema: SchemaRef,
    context: Arc<TaskContext>,
    metrics: ExecutionPlanMetricsSet,
    found: Count,
    read: Count,
}

impl Work {
    /// All row groups that may hold rows that are asked for.
    async fn units(&self) -> Result<Vec<Unit>> {
        let mut units = Vec::new();
        for (scan, of) in self.scans.iter().enumerate() {
            let mut numbers = HashMap::new();
            let files: Vec<PartitionedFile> = files(&of.config).cloned().collect();
            let footers = files.into_iter().map(|file| async move {
                let footer = self.footer(of, &file).await?;
                Ok::<_, DataFusionError>((file, footer))
            });
            let mut footers = stream::iter(footers).buffered(FOOTERS_AT_ONCE);
            while let Some((file, footer)) = footers.try_next().await? {
                for (group, rows) in footer.row_groups().iter().enumerate() {
                    let Some(remaining) = of.asked.remaining(&Bounds::of(rows)) else {
                        continue;
                    };
                    let question = *numbers
                        .entry(remaining)
                        .or_insert_with(|| self.kept.number(of.asked.with(remaining)));
                    units.push(Unit {
                        scan,
                        groups: footer.num_row_groups(),
                        rows: Rows {
                            file: file.object_meta.location.clone(),
                            group,
                        },
                        file: file.clone(),
                        question,
                    });
                }
            }
        }
        Ok(units)
    }

    async fn footer(&self, scan: &Scan, file: &PartitionedFile) -> Result<Arc<ParquetMetaData>> {
        let source = scan.config.file_source().downcast_ref::<ParquetSource>();
        let Some(readers) = source.and_then(ParquetSource::parquet_file_reader_factory) else {
            return internal_err!("a scan of panes has no reader");
        };
        let mut reader = readers.create_reader(0, file.clone(), None, &self.metrics)?;
        let read = reader.get_metadata(None).await;
        read.map_err(|error| unreadable::named(&file.object_meta.location, error.into()))
    }

    /// The partial aggregates of one row group.
    fn answer(self: &Arc<Self>, unit: Unit) -> Answer {
        let kept = unit
            .question
            .and_then(|question| self.kept.get(question, &unit.rows));
        if let Some(kept) = kept {
            self.found.add(1);
            return stream::iter([self.named(&kept)]).boxed();
        }
        self.read.add(1);
        stream::once(self.clone().read_and_keep(unit))
            .try_flatten()
            .boxed()
    }

    async fn read_and_keep(self: Arc<Self>, unit: Unit) -> Result<Answer> {
        let begun = Instant::now();
        let mut rows = self.read(&unit)?;
        let mut gathered = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = rows.try_next().await? {
            bytes += sliced_size(&batch);
            gathered.push(self.named(&batch)?);
            if bytes > MOST_OF_ONE || unit.question.is_none() {
                // Too much to be kept, so nothing waits for the rest.
                let rest = rows.map(move |batch| self.named(&batch?));
                return Ok(stream::iter(gathered).map(Ok).chain(rest).boxed());
            }
        }
        let answer = match gathered.as_slice() {
            // It may be a slice of more.
            [one] => take_record_batch(
                one,
                &UInt32Array::from_iter_values(0..one.num_rows() as u32),
            )?,
            several => concat_batches(&self.schema, several)?,
        };
        if let Some(question) = unit.question
            && begun.elapsed() >= WORTH_IT
        {
            self.kept.keep(question, unit.rows, answer.clone());
        }
        Ok(stream::iter([Ok(answer)]).boxed())
    }

    fn read(&self, unit: &Unit) -> Result<SendableRecordBatchStream> {
        let scan = &self.scans[unit.scan];
        let mut access = ParquetAccessPlan::new_none(unit.groups);
        access.scan(unit.rows.group);
        let mut file = unit.file.clone().with_extension(access);
        file.range = None;
        let config = FileScanConfigBuilder::from(scan.config.clone())
            .with_file_groups(vec![FileGroup::new(vec![file])])
            .build();
        with_scan(&scan.plan, unreadable::scan(config))?.execute(0, self.context.clone())
    }

    /// The same rows under the names that this query has for its columns.
    fn named(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        Ok(RecordBatch::try_new_with_options(
            self.schema.clone(),
            columns,
            &options,
        )?)
    }
}
