//! Partial aggregates of row groups, kept between queries.
//!
//! A dashboard asks the same questions again and again of files that never change. What an aggregation makes of one row group is
//! small, and stays true as long as the table names the file; so it is kept, and the next query that asks the same of these
//! rows merges what was kept instead of reading them. "The same" is decided over the file's own columns: conditions on windows
//! that hold for all rows of a row group are left out, so that `window_start >= now() - interval '30 days'` asks the same of
//! all row groups but the one at its edge.
//!
//! Owns where in a plan that can be done: the lowest aggregation over files, when everything between them is a filter, a
//! projection or a union, and every expression gives the same for the same row. Does not own what is asked
//! ([`question`]), what is kept ([`kept`]), nor the work itself ([`operator`]).

mod bounds;
mod kept;
mod operator;
mod question;

use std::sync::Arc;

use datafusion::{
    arrow::datatypes::Schema,
    common::{
        Result,
        config::ConfigOptions,
        internal_err,
        tree_node::{Transformed, TreeNode},
    },
    datasource::{
        physical_plan::{FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource},
        source::DataSourceExec,
    },
    physical_expr::{conjunction, projection::ProjectionExprs, split_conjunction},
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr,
        aggregates::{AggregateExec, AggregateMode},
        coalesce_partitions::CoalescePartitionsExec,
        coop::CooperativeExec,
        empty::EmptyExec,
        expressions::{Column, DynamicFilterPhysicalExpr},
        filter::FilterExec,
        projection::ProjectionExec,
        repartition::RepartitionExec,
        union::UnionExec,
    },
};

pub(crate) use kept::KeptPartials;
use operator::{ReusedPartialsExec, Scan};
use question::{Asked, over_columns};

use crate::over_these::over_these;

/// The step of planning that lets aggregations use what earlier ones made of the same rows.
#[derive(Debug)]
pub(crate) struct ReusePartials {
    kept: Arc<KeptPartials>,
}

impl ReusePartials {
    pub(crate) fn new(kept: Arc<KeptPartials>) -> Self {
        Self { kept }
    }
}

impl PhysicalOptimizerRule for ReusePartials {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.transform_up(|node| {
            let reusing = match node.downcast_ref::<AggregateExec>() {
                Some(aggregate) => reusing(aggregate, &self.kept, config)?,
                None => None,
            };
            Ok(match reusing {
                Some(reusing) => Transformed::yes(reusing),
                None => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "reuse_partials"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The same aggregation with what is kept; `None` where it cannot be.
fn reusing(
    aggregate: &AggregateExec,
    kept: &Arc<KeptPartials>,
    config: &ConfigOptions,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let partial = match aggregate.mode() {
        AggregateMode::Partial => aggregate.clone(),
        AggregateMode::Single => as_partial(aggregate)?,
        _ => return Ok(None),
    };
    let mut found = Vec::new();
    find(partial.input(), &mut Vec::new(), &mut found)?;
    let mut scans = Vec::new();
    let mut rest = partial.input().clone();
    for place in found {
        let Some(asked) = Asked::by(&partial, &place, config) else {
            continue;
        };
        let gone = Arc::new(EmptyExec::new(place.scan.schema()));
        rest = replaced(&rest, &place.path, gone)?;
        let scan = DataSourceExec::from_data_source(place.config.clone());
        let plan = over(&partial, branch(partial.input(), &place.path, scan)?)?;
        scans.push(Scan {
            asked,
            config: place.config,
            plan,
        });
    }
    if scans.is_empty() {
        return Ok(None);
    }
    let partitions = partial.input().output_partitioning().partition_count();
    let reused = ReusedPartialsExec::new(scans, partial.schema(), partitions, kept.clone());
    let mut both: Vec<Arc<dyn ExecutionPlan>> = vec![Arc::new(reused)];
    if !is_empty(&rest) {
        both.push(over(&partial, rest)?);
    }
    let both = UnionExec::try_new(both)?;
    if *aggregate.mode() == AggregateMode::Partial {
        return Ok(Some(match partitions {
            // Whoever wants one partition gets one.
            1 => Arc::new(CoalescePartitionsExec::new(both)),
            _ => both,
        }));
    }
    let whole = AggregateExec::try_new(
        AggregateMode::Final,
        aggregate.group_expr().as_final(),
        aggregate.aggr_expr().to_vec(),
        vec![None; aggregate.aggr_expr().len()],
        Arc::new(CoalescePartitionsExec::new(both)),
        aggregate.input_schema(),
    )?;
    let is_same = whole.schema() == aggregate.schema();
    Ok(is_same.then(|| Arc::new(whole) as Arc<dyn ExecutionPlan>))
}

fn as_partial(aggregate: &AggregateExec) -> Result<AggregateExec> {
    AggregateExec::try_new(
        AggregateMode::Partial,
        aggregate.group_expr().clone(),
        aggregate.aggr_expr().to_vec(),
        aggregate.filter_expr().to_vec(),
        aggregate.input().clone(),
        aggregate.input_schema(),
    )
}

/// Rows of files somewhere below an aggregation.
#[derive(Debug)]
struct Place {
    /// Which child to take at each step from the aggregation's input down to the scan.
    path: Vec<usize>,
    scan: Arc<dyn ExecutionPlan>,
    config: FileScanConfig,
    /// What the aggregation's input columns are, over the table's columns.
    columns: Vec<Arc<dyn PhysicalExpr>>,
    /// What holds for every row that arrives, over the table's columns.
    conditions: Vec<Arc<dyn PhysicalExpr>>,
}

/// Collects the scans of files below `plan` from which rows come through steps that look at one row at a time.
fn find(
    plan: &Arc<dyn ExecutionPlan>,
    path: &mut Vec<usize>,
    found: &mut Vec<Place>,
) -> Result<()> {
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>() {
        found.extend(place_of(plan, scan, path)?);
        return Ok(());
    }
    let before = found.len();
    let looked_through = is_transparent(plan)
        || plan.is::<UnionExec>()
        || plan.is::<ProjectionExec>()
        || plan
            .downcast_ref::<FilterExec>()
            .is_some_and(|filter| filter.fetch().is_none());
    if !looked_through {
        return Ok(());
    }
    for (position, child) in plan.children().into_iter().enumerate() {
        path.push(position);
        find(child, path, found)?;
        path.pop();
    }
    let mut through = found.split_off(before);
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        through.retain_mut(|place| place.project(projection.projection_expr()));
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        through.retain_mut(|place| place.filter(filter));
    }
    found.extend(through);
    Ok(())
}

/// Whether rows pass one by one and unchanged.
fn is_transparent(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let dealt_out = plan
        .downcast_ref::<RepartitionExec>()
        .is_some_and(|dealer| matches!(dealer.partitioning(), Partitioning::RoundRobinBatch(_)));
    let gathered = plan
        .downcast_ref::<CoalescePartitionsExec>()
        .is_some_and(|gatherer| gatherer.fetch().is_none());
    dealt_out || gathered || plan.is::<CooperativeExec>()
}

fn place_of(
    plan: &Arc<dyn ExecutionPlan>,
    scan: &DataSourceExec,
    path: &[usize],
) -> Result<Option<Place>> {
    let Some((config, source)) = scan.downcast_to_file_source::<ParquetSource>() else {
        return Ok(None);
    };
    if config.limit.is_some() {
        return Ok(None);
    }
    // A filter that changes while the query runs only saves work; without it the rows are those of the question.
    let filter = source.filter();
    let conditions: Vec<Arc<dyn PhysicalExpr>> = filter
        .as_ref()
        .map(split_conjunction)
        .unwrap_or_default()
        .into_iter()
        .filter(|condition| !is_dynamic(condition))
        .cloned()
        .collect();
    let columns = match source.projection() {
        Some(projection) => projection.expr_iter().collect(),
        None => all_columns(source.table_schema().table_schema()),
    };
    let mut config = config.clone();
    if filter.is_some() {
        // Where nothing remains, nothing is asked of rows.
        let predicate = conjunction(conditions.iter().cloned());
        config = FileScanConfigBuilder::from(config)
            .with_source(Arc::new(source.with_predicate(predicate)))
            .build();
    }
    Ok(Some(Place {
        path: path.to_vec(),
        scan: plan.clone(),
        config,
        columns,
        conditions,
    }))
}

fn all_columns(schema: &Schema) -> Vec<Arc<dyn PhysicalExpr>> {
    let fields = schema.fields().iter().enumerate();
    fields
        .map(|(position, field)| Arc::new(Column::new(field.name(), position)) as _)
        .collect()
}

fn is_dynamic(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let found = expr.exists(|part| Ok(part.is::<DynamicFilterPhysicalExpr>()));
    // It never fails, and what is not known is left out.
    found.unwrap_or(true)
}

impl Place {
    /// Goes up through a projection; whether that is understood.
    fn project(&mut self, projection: &ProjectionExprs) -> bool {
        let columns = projection
            .expr_iter()
            .map(|expr| over_columns(expr, &self.columns));
        match columns.collect() {
            Some(columns) => {
                self.columns = columns;
                true
            }
            None => false,
        }
    }

    fn filter(&mut self, filter: &FilterExec) -> bool {
        for condition in split_conjunction(filter.predicate()) {
            match over_columns(condition.clone(), &self.columns) {
                Some(condition) => self.conditions.push(condition),
                None => return false,
            }
        }
        if let Some(kept) = filter.projection().as_ref() {
            let columns = kept.iter().map(|column| self.columns.get(*column).cloned());
            match columns.collect() {
                Some(columns) => self.columns = columns,
                None => return false,
            }
        }
        true
    }
}

/// `plan` with what stands at the end of `path` replaced.
fn replaced(
    plan: &Arc<dyn ExecutionPlan>,
    path: &[usize],
    by: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some((first, further)) = path.split_first() else {
        return Ok(by);
    };
    let mut children: Vec<_> = plan.children().into_iter().cloned().collect();
    children[*first] = replaced(&children[*first], further, by)?;
    over_these(plan, children)
}

/// The branch of `plan` along `path` alone, from `scan` up.
fn branch(
    plan: &Arc<dyn ExecutionPlan>,
    path: &[usize],
    scan: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some((first, further)) = path.split_first() else {
        return Ok(scan);
    };
    let below = branch(plan.children()[*first], further, scan)?;
    match is_transparent(plan) || plan.is::<UnionExec>() {
        true => Ok(below),
        false => over_these(plan, vec![below]),
    }
}

/// A branch with another scan at its end.
fn with_scan(
    branch: &Arc<dyn ExecutionPlan>,
    scan: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    match branch.children().as_slice() {
        [] => Ok(scan),
        [below] => over_these(branch, vec![with_scan(below, scan)?]),
        _ => internal_err!("a branch of a plan has branches"),
    }
}

fn over(
    aggregate: &AggregateExec,
    input: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let aggregate: Arc<dyn ExecutionPlan> = Arc::new(aggregate.clone());
    over_these(&aggregate, vec![input])
}

/// Whether no row can come.
fn is_empty(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if plan.is::<EmptyExec>() {
        return true;
    }
    let one_by_one = is_transparent(plan)
        || plan.is::<UnionExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<FilterExec>();
    one_by_one && plan.children().into_iter().all(is_empty)
}
