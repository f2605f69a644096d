//! A whole pipeline run over events in hand: what a pipeline's inline tests need.
//!
//! Owns nothing of the way itself: it folds one epoch, merges it and finishes the measures with the
//! same code that the server uses.

use std::sync::Arc;

use alluvium_plan::{Plan, TableShape};
use alluvium_types::{
    Generation, MemoryBudget, OffsetRange, RawBatchBuilder, Reject, TableSet, Timestamp,
    TopicPartition,
};
use datafusion::{
    arrow::{
        array::{ArrayRef, RecordBatch},
        compute::{cast, concat_batches},
        datatypes::{Field, FieldRef, Schema},
    },
    common::{DFSchema, DataFusionError},
    logical_expr::{
        Expr, execution_props::ExecutionProps, physical_planning_context::PhysicalPlanningContext,
    },
    physical_expr::create_physical_expr,
    prelude::ident,
};

use crate::{EngineError, EpochFold, merge_panes};

/// What a pipeline makes of some events.
#[derive(Debug)]
pub struct OneRun {
    /// For each table of the plan: `window_start`, `window_end`, the group columns and the measures'
    /// final values, sorted by window and group columns.
    pub tables: Vec<RecordBatch>,
    /// Events that could not be taken, in their order; the offset is the position in the input.
    pub rejects: Vec<Reject>,
}

/// Runs `plan` over `payloads`, as records of one partition without Kafka timestamps.
///
/// # Errors
/// [`EngineError`] when the plan cannot be carried out.
pub fn run_once(plan: &Arc<Plan>, payloads: &[Vec<u8>]) -> Result<OneRun, EngineError> {
    let budget = MemoryBudget::new(usize::MAX);
    let mut builder = RawBatchBuilder::default();
    for (offset, payload) in payloads.iter().enumerate() {
        builder.push(offset as i64, None, None, Some(payload), []);
    }
    let topic = plan.source.topics.first().cloned();
    let batch = builder.finish(
        TopicPartition::new(topic.unwrap_or_else(|| plan.name.clone()), 0),
        OffsetRange::new(0, payloads.len() as i64).expect("a length is not negative"),
        Generation::default(),
        Timestamp::default(),
        None,
    );
    let mut fold = EpochFold::new(plan.clone(), budget.clone())?;
    fold.push(&batch, TableSet::all(plan.tables.len()))?;
    let mut part = fold.finish()?;
    let tables = plan
        .tables
        .iter()
        .zip(std::mem::take(&mut part.tables))
        .map(|(table, part)| {
            let merged = merge_panes(&table.shape, vec![part.panes], &budget)?
                .collect::<Result<Vec<_>, _>>()?;
            let panes = concat_batches(&table.shape.pane_schema(), &merged)?;
            finish_measures(&table.shape, &panes)
        })
        .collect::<Result<_, _>>()?;
    let mut rejects = std::mem::take(&mut part.rejects);
    rejects.sort_by_key(|reject| reject.offset);
    Ok(OneRun { tables, rejects })
}

/// Replaces states by the measures' final values.
pub(crate) fn finish_measures(
    shape: &TableShape,
    panes: &RecordBatch,
) -> Result<RecordBatch, EngineError> {
    let keys = 2 + shape.group_columns.len();
    let mut fields: Vec<FieldRef> = panes.schema_ref().fields()[..keys].to_vec();
    let mut columns: Vec<ArrayRef> = panes.columns()[..keys].to_vec();
    let props = ExecutionProps::new();
    let states = DFSchema::try_from(panes.schema_ref().as_ref().clone());
    for measure in &shape.measures {
        let state = ident(shape.states[measure.state].name.as_ref());
        let finish = |expression: Expr| -> Result<ArrayRef, DataFusionError> {
            let states = states.as_ref().map_err(|error| {
                DataFusionError::Internal(format!("panes without a schema: {error}"))
            })?;
            let values = create_physical_expr(
                &expression,
                states,
                &props,
                &PhysicalPlanningContext::default(),
            )?
            .evaluate(panes)?
            .into_array(panes.num_rows())?;
            Ok(cast(&values, &measure.data_type)?)
        };
        let values =
            finish(measure.finish.expression(state)).map_err(|source| EngineError::Finish {
                measure: measure.name.clone(),
                source: Box::new(source),
            })?;
        fields.push(Arc::new(Field::new(
            measure.name.as_ref(),
            measure.data_type.clone(),
            true,
        )));
        columns.push(values);
    }
    Ok(RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns,
    )?)
}
