//! Panes of any number of parts to panes in which every key has one row.
//!
//! Owns the memory of a merge: rows are read in the order of their keys (`order`) straight out of the
//! parts, a batch at a time, and aggregated as they come. Beside the parts it holds where each row
//! stands and one batch; states, which are the bulk, are never copied as a whole. Parts that are in that
//! order already are read side by side instead ([`merge_sorted`]). Does not own what merging a state
//! means: that is the state's own aggregate.

mod order;
mod sorted;
#[cfg(test)]
mod tests;

pub use sorted::{SortedPart, merge_sorted};

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use alluvium_plan::TableShape;
use alluvium_types::{MemoryBudget, Reservation};
use datafusion::{
    arrow::{
        array::RecordBatch,
        compute::{SortOptions, cast, interleave_record_batch},
        datatypes::SchemaRef,
        error::ArrowError,
    },
    common::Result as PlanResult,
    error::DataFusionError,
    execution::{RecordBatchStream, SendableRecordBatchStream},
    physical_expr::{
        LexOrdering, PhysicalSortExpr, aggregate::AggregateExprBuilder, expressions::Column,
    },
    physical_plan::{
        ExecutionPlan, PhysicalExpr,
        aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy},
    },
};
use futures::Stream;

use crate::{
    EngineError,
    fold::pane_size,
    leaf::{Answer, Leaf, PollError, next},
    pool::{BATCH_ROWS, BudgetPool, task_context},
};
use order::{KeyOrder, Place};

/// Rows are gathered until a batch has about this many bytes: fat sketches come in small batches. Least where memory is small,
/// and usual; and the share of a budget that it may be.
const BATCH_BYTES: (usize, usize) = (1 << 20, 8 << 20);
const BATCH_SHARE: usize = 32;

/// Merges panes of `parts`, all in the pane schema of `shape`: rows of one window and group become one
/// row. The result comes sorted by window, then group columns, NULL first.
///
/// What it holds beside the parts is counted against `budget` until the result is dropped.
///
/// # Errors
/// [`EngineError`] when the parts do not have that schema.
pub fn merge_panes(
    shape: &TableShape,
    parts: Vec<Vec<RecordBatch>>,
    budget: &MemoryBudget,
) -> Result<MergedPanes, EngineError> {
    let schema = shape.pane_schema();
    let batches: Vec<RecordBatch> = parts
        .into_iter()
        .flatten()
        .filter(|batch| batch.num_rows() > 0)
        .map(|batch| RecordBatch::try_new(schema.clone(), batch.columns().to_vec()))
        .collect::<Result<_, _>>()?;
    let keys = 2 + shape.group_columns.len();
    let order = KeyOrder::of(&schema, keys, &batches, budget)?;
    let failed = |source| EngineError::Merge {
        source: Box::new(source),
    };
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let bytes: usize = batches.iter().map(pane_size).sum();
    let row_bytes = bytes.div_ceil(rows.max(1)).max(1);
    let batch_bytes = budget.share(BATCH_SHARE, BATCH_BYTES.0, BATCH_BYTES.1);
    let batch_rows = (batch_bytes / row_bytes).clamp(64, BATCH_ROWS);
    let held = batch_rows.min(rows) * row_bytes;
    let sorted = SortedRows {
        schema: schema.clone(),
        batches,
        order,
        range: Vec::new(),
        next: 0,
        batch_rows,
    };
    let stream = aggregation(shape, &schema, keys, Box::pin(sorted), budget).map_err(failed)?;
    Ok(MergedPanes {
        schema,
        stream: Some(stream),
        _reservation: budget.reserve(held),
    })
}

/// The result of a merge, made batch by batch as it is asked for.
pub struct MergedPanes {
    schema: SchemaRef,
    /// Dropped as soon as it ends or fails, and the parts with it.
    stream: Option<SendableRecordBatchStream>,
    _reservation: Reservation,
}

impl std::fmt::Debug for MergedPanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MergedPanes")
            .field("is_over", &self.stream.is_none())
            .finish_non_exhaustive()
    }
}

impl MergedPanes {
    /// The pane schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn pane(&self, merged: &RecordBatch) -> Result<RecordBatch, EngineError> {
        let columns = merged
            .columns()
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| {
                if column.data_type() == field.data_type() {
                    Ok(column.clone())
                } else {
                    cast(column, field.data_type())
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Iterator for MergedPanes {
    type Item = Result<RecordBatch, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let answer = next(self.stream.as_mut()?);
            match answer {
                Ok(Answer::Batch(batch)) if batch.num_rows() == 0 => {}
                Ok(Answer::Batch(batch)) => return Some(self.pane(&batch)),
                Ok(Answer::End) => self.stream = None,
                Err(error) => {
                    self.stream = None;
                    return Some(Err(match error {
                        PollError::Plan(source) => EngineError::Merge {
                            source: Box::new(source),
                        },
                        PollError::Engine(error) => error,
                    }));
                }
            }
        }
    }
}

fn aggregation(
    shape: &TableShape,
    schema: &SchemaRef,
    keys: usize,
    sorted: SendableRecordBatchStream,
    budget: &MemoryBudget,
) -> Result<SendableRecordBatchStream, DataFusionError> {
    let groups = (0..keys)
        .map(|position| {
            let name = schema.field(position).name();
            (column(schema, position), name.clone())
        })
        .collect();
    let aggregates = shape
        .states
        .iter()
        .enumerate()
        .map(|(position, state)| {
            let merge = AggregateExprBuilder::new(
                state.kind.merge(),
                vec![column(schema, keys + position)],
            )
            .schema(schema.clone())
            .alias(state.name.as_ref())
            .build()?;
            Ok(Arc::new(merge))
        })
        .collect::<Result<Vec<_>, DataFusionError>>()?;
    let filters = vec![None; aggregates.len()];
    AggregateExec::try_new(
        AggregateMode::Single,
        PhysicalGroupBy::new_single(groups),
        aggregates,
        filters,
        Leaf::new(sorted, pane_order(schema, keys)),
        schema.clone(),
    )?
    .execute(0, task_context(BudgetPool::once(budget))?)
}

fn column(schema: &SchemaRef, position: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(schema.field(position).name(), position))
}

/// By window, then group columns, NULL first.
fn pane_order(schema: &SchemaRef, keys: usize) -> Option<LexOrdering> {
    LexOrdering::new(
        (0..keys).map(|position| {
            PhysicalSortExpr::new(column(schema, position), SortOptions::default())
        }),
    )
}

/// Rows of many batches in the order of their keys, gathered as they are asked for.
struct SortedRows {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    order: KeyOrder,
    /// The range of keys at hand.
    range: Vec<Place>,
    next: usize,
    batch_rows: usize,
}

impl SortedRows {
    fn gather(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if self.next == self.range.len() {
            let Some(range) = self.order.next_range(&self.batches)? else {
                return Ok(None);
            };
            (self.range, self.next) = (range, 0);
        }
        let end = (self.next + self.batch_rows).min(self.range.len());
        let wanted: Vec<(usize, usize)> = self.range[self.next..end]
            .iter()
            .map(|&(batch, row)| (batch as usize, row as usize))
            .collect();
        self.next = end;
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        interleave_record_batch(&batches, &wanted).map(Some)
    }
}

impl Stream for SortedRows {
    type Item = PlanResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.gather().map_err(Into::into).transpose())
    }
}

impl RecordBatchStream for SortedRows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}
