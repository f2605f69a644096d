//! Parts that are each in the order of their keys, read side by side.
//!
//! Owns the promise that such a merge holds a batch of each part and no more, and that it loses no event: what is
//! counted in the parts is counted in the result. Does not own where the parts come from.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use alluvium_plan::{StateKind, TableShape};
use alluvium_types::MemoryBudget;
use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        compute::sum,
        datatypes::{Int64Type, SchemaRef},
    },
    common::Result as PlanResult,
    error::DataFusionError,
    execution::{RecordBatchStream, SendableRecordBatchStream, memory_pool::MemoryConsumer},
    physical_plan::{
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet},
        sorts::streaming_merge::StreamingMergeBuilder,
    },
};
use futures::Stream;

use super::{MergedPanes, aggregation, pane_order};
use crate::{
    EngineError,
    pool::{BudgetPool, task_context},
};

/// Batches of one part, sorted by window, then group columns, NULL first. An error ends the merge.
pub type SortedPart =
    Box<dyn Iterator<Item = Result<RecordBatch, Box<dyn std::error::Error + Send + Sync>>> + Send>;

/// Merges `parts`, each sorted and all in the pane schema of `shape`, as [`merge_panes`](super::merge_panes) does, but
/// without holding them: one batch of each part, and `batch_rows` of the result.
///
/// The result ends with an error, and not before its last row, when the sum of any `count` differs between what went in
/// and what came out; so it must be read to its end before anybody relies on it.
///
/// # Errors
/// [`EngineError`] when the merge cannot be set up.
pub fn merge_sorted(
    shape: &TableShape,
    parts: Vec<SortedPart>,
    batch_rows: usize,
    budget: &MemoryBudget,
) -> Result<MergedPanes, EngineError> {
    let schema = shape.pane_schema();
    let keys = 2 + shape.group_columns.len();
    let failed = |source| EngineError::Merge {
        source: Box::new(source),
    };
    let counted = Counted::of(shape, keys);
    let streams: Vec<SendableRecordBatchStream> = parts
        .into_iter()
        .map(|part| -> SendableRecordBatchStream {
            Box::pin(PartStream {
                schema: schema.clone(),
                part,
                counted: counted.clone(),
            })
        })
        .collect();
    let reservation = budget.reserve(0);
    if streams.is_empty() {
        return Ok(MergedPanes {
            schema,
            stream: None,
            _reservation: reservation,
        });
    }
    let order = pane_order(&schema, keys).expect("a pane has a window to be sorted by");
    let pool = task_context(BudgetPool::once(budget)).map_err(failed)?;
    let merged = StreamingMergeBuilder::new()
        .with_streams(streams)
        .with_schema(schema.clone())
        .with_expressions(&order)
        .with_metrics(BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), 0))
        .with_batch_size(batch_rows.max(1))
        .with_reservation(MemoryConsumer::new("merge of files").register(pool.memory_pool()))
        // Equal keys come in the order of their parts, so that the same parts give the same result.
        .with_round_robin_tie_breaker(false)
        .build()
        .map_err(failed)?;
    let stream = aggregation(shape, &schema, keys, merged, budget).map_err(failed)?;
    Ok(MergedPanes {
        schema,
        stream: Some(Box::pin(Proven { stream, counted })),
        _reservation: reservation,
    })
}

/// Sums of the `count` columns: of what went in, less what came out.
#[derive(Clone)]
struct Counted {
    columns: Arc<[usize]>,
    open: Arc<Mutex<Vec<i128>>>,
}

impl Counted {
    fn of(shape: &TableShape, keys: usize) -> Self {
        let counts = shape
            .states
            .iter()
            .enumerate()
            .filter(|(_, state)| state.kind == StateKind::Count);
        let columns: Arc<[usize]> = counts.map(|(position, _)| keys + position).collect();
        Self {
            open: Arc::new(Mutex::new(vec![0; columns.len()])),
            columns,
        }
    }

    fn add(&self, batch: &RecordBatch, sign: i128) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (&column, open) in self.columns.iter().zip(open.iter_mut()) {
            if let Some(values) = batch.column(column).as_primitive_opt::<Int64Type>() {
                *open += sign * i128::from(sum(values).unwrap_or(0));
            }
        }
    }

    fn is_even(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().all(|open| *open == 0)
    }
}

struct PartStream {
    schema: SchemaRef,
    part: SortedPart,
    counted: Counted,
}

impl Stream for PartStream {
    type Item = PlanResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.part.next().map(|batch| {
            let batch = batch.map_err(DataFusionError::External)?;
            let batch = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec())?;
            self.counted.add(&batch, 1);
            Ok(batch)
        }))
    }
}

impl RecordBatchStream for PartStream {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// Passes a merge on, and ends it with an error when what was counted before is not counted after.
struct Proven {
    stream: SendableRecordBatchStream,
    counted: Counted,
}

impl Stream for Proven {
    type Item = PlanResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.stream.as_mut().poll_next(context);
        match &polled {
            Poll::Ready(Some(Ok(batch))) => self.counted.add(batch, -1),
            Poll::Ready(None) if !self.counted.is_even() => {
                let text = "a merge of panes does not count what its parts count";
                return Poll::Ready(Some(Err(DataFusionError::Internal(text.into()))));
            }
            _ => {}
        }
        polled
    }
}

impl RecordBatchStream for Proven {
    fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::{ArrayRef, Int64Array},
            datatypes::{DataType, Field, Schema},
        },
        physical_plan::stream::RecordBatchStreamAdapter,
    };
    use futures::{StreamExt as _, executor::block_on, stream};

    use super::*;

    fn counts(values: &[i64]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap()
    }

    fn merged(before: &[i64], after: &[i64]) -> Vec<PlanResult<RecordBatch>> {
        let counted = Counted {
            columns: [0].into(),
            open: Arc::new(Mutex::new(vec![0])),
        };
        counted.add(&counts(before), 1);
        let after = counts(after);
        let stream = RecordBatchStreamAdapter::new(after.schema(), stream::iter([Ok(after)]));
        let proven = Proven {
            stream: Box::pin(stream),
            counted,
        };
        block_on(proven.take(3).collect())
    }

    #[test]
    fn a_merge_that_loses_or_doubles_an_event_ends_with_an_error() {
        assert!(merged(&[1, 2, 3], &[3, 3]).iter().all(Result::is_ok));
        for wrong in [&[3, 2][..], &[3, 3, 1], &[]] {
            assert!(merged(&[1, 2, 3], wrong).last().unwrap().is_err());
        }
    }
}
