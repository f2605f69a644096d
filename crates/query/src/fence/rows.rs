//! Rows that operators repeat, and those that they keep without counting them.
//!
//! Owns the measures beside joins, `unnest` and windows over whole partitions. A join makes batches of many rows, of which each
//! may be as wide as the widest row of either side; `unnest` repeats a row for each element of its list; a window over a
//! partition waits for all its rows. What that can come to is taken from the memory of the query when the rows that it is
//! made of go in, so it is refused before it is there. Does not own what expressions make ([`super`]).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, OffsetSizeTrait, RecordBatch},
        datatypes::DataType,
    },
    common::{Result, internal_err, tree_node::TreeNodeRecursion},
    execution::{
        SendableRecordBatchStream, TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr,
        PlanProperties, ReplaceChildrenOptions,
        joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec},
        stream::RecordBatchStreamAdapter,
        unnest::UnnestExec,
        windows::WindowAggExec,
    },
};
use futures::StreamExt;

use super::sizes;
use crate::{over_these::over_these, size::sliced_size};

/// Rows up to so many bytes are not counted: batches of them are small.
const NARROW: usize = 1 << 10;

/// Puts the measures that an operator needs around it; most need none.
///
/// # Errors
/// When the operator does not take them.
pub(crate) fn measured(node: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let joins = node.is::<CrossJoinExec>()
        || node.is::<NestedLoopJoinExec>()
        || node.is::<HashJoinExec>()
        || node.is::<SortMergeJoinExec>();
    if joins {
        let joined = Arc::new(Joined::default());
        let sides = node.children().into_iter().enumerate();
        let sides = sides
            .map(|(side, input)| Measured::over(input, Measure::Join(Some(side), joined.clone())))
            .collect();
        let node = over_these(&node, sides)?;
        // Sides end before the join does.
        return Ok(Measured::over(&node, Measure::Join(None, joined)));
    }
    if let Some(unnest) = node.downcast_ref::<UnnestExec>() {
        let lists = unnest.list_column_indices().iter();
        let lists = lists.map(|list| list.index_in_input_schema).collect();
        let input = Measured::over(unnest.input(), Measure::Unnested(lists));
        return over_these(&node, vec![input]);
    }
    if let Some(window) = node.downcast_ref::<WindowAggExec>() {
        let input = Measured::over(window.input(), Measure::Gathered);
        return over_these(&node, vec![input]);
    }
    Ok(node)
}

/// What is done with the rows that pass.
#[derive(Clone, Debug)]
enum Measure {
    /// They are this side of a join; none: they come out of it, and what was taken for it is kept.
    Join(Option<usize>, Arc<Joined>),
    /// Each is repeated for the elements of these columns.
    Unnested(Vec<usize>),
    /// They are gathered until the last one is there, and then joined together.
    Gathered,
}

/// What the batches of a join can come to.
#[derive(Debug, Default)]
struct Joined(Mutex<Sides>);

#[derive(Debug, Default)]
struct Sides {
    rows: [usize; 2],
    widest: [usize; 2],
    taken: Option<MemoryReservation>,
}

impl Joined {
    /// Rows go into the join.
    ///
    /// # Errors
    /// When a batch of the widest rows of both sides would need more memory than there is.
    fn see(&self, side: usize, batch: &RecordBatch, context: &TaskContext) -> Result<()> {
        let widest = widest_row(batch)?;
        let mut sides = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sides.rows[side] = sides.rows[side].saturating_add(batch.num_rows());
        sides.widest[side] = sides.widest[side].max(widest);
        let width = sides.widest[0] + sides.widest[1];
        if width <= NARROW {
            return Ok(());
        }
        let [left, right] = sides.rows.map(|rows| rows.max(1));
        let rows = left.saturating_mul(right);
        let rows = rows.min(context.session_config().batch_size());
        let wanted = width.saturating_mul(rows);
        let taken = sides
            .taken
            .get_or_insert_with(|| reservation("rows of a join", context));
        taken.try_grow(wanted.saturating_sub(taken.size()))
    }
}

fn reservation(name: &str, context: &TaskContext) -> MemoryReservation {
    MemoryConsumer::new(name).register(context.memory_pool())
}

/// An operator whose rows are measured while they pass.
#[derive(Debug)]
struct Measured {
    input: Arc<dyn ExecutionPlan>,
    measure: Measure,
}

impl Measured {
    fn over(input: &Arc<dyn ExecutionPlan>, measure: Measure) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self {
            input: input.clone(),
            measure,
        })
    }
}

impl DisplayAs for Measured {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeasuredExec")
    }
}

impl ExecutionPlan for Measured {
    fn name(&self) -> &str {
        "MeasuredExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
        match children.as_slice() {
            [input] => Ok(Self::over(input, self.measure.clone())),
            _ => internal_err!("one input is measured, not {}", children.len()),
        }
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

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context.clone())?;
        let schema = rows.schema();
        let measure = self.measure.clone();
        let taken = match &measure {
            Measure::Unnested(_) => Some(reservation("rows of unnest", &context)),
            Measure::Gathered => Some(reservation("rows of a window", &context)),
            Measure::Join(..) => None,
        };
        let measured = rows.map(move |batch| {
            let batch = batch?;
            match (&measure, &taken) {
                (Measure::Join(Some(side), joined), _) => joined.see(*side, &batch, &context)?,
                (Measure::Unnested(lists), Some(taken)) => {
                    let bytes = unnested(&batch, lists)?;
                    // The rows of the batch before are gone by now, or somebody else counts them.
                    taken.free();
                    if bytes > super::outcome::SMALL {
                        taken.try_grow(bytes)?;
                    }
                }
                // Once as they come, once as one batch.
                (Measure::Gathered, Some(taken)) => taken.try_grow(2 * sliced_size(&batch))?,
                (Measure::Join(None, _) | Measure::Unnested(_) | Measure::Gathered, _) => {}
            }
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, measured)))
    }
}

/// What the rows are once each stands beside every element of its list.
fn unnested(batch: &RecordBatch, lists: &[usize]) -> Result<usize> {
    let mut times = vec![1; batch.num_rows()];
    let mut beside = vec![0_usize; batch.num_rows()];
    let mut inside = 0_usize;
    for (number, column) in batch.columns().iter().enumerate() {
        if lists.contains(&number) {
            for (times, elements) in times.iter_mut().zip(sizes::elements(column)?) {
                *times = elements.max(*times);
            }
            inside += column.get_array_memory_size();
        } else {
            for (sum, bytes) in beside.iter_mut().zip(sizes::sizes(column)?) {
                *sum += bytes;
            }
        }
    }
    let repeated = times.iter().zip(&beside);
    let repeated = repeated.map(|(times, bytes)| times.saturating_mul(*bytes));
    Ok(repeated.fold(inside, usize::saturating_add))
}

/// Bytes of the widest row, or somewhat more.
fn widest_row(batch: &RecordBatch) -> Result<usize> {
    let columns = batch.columns().iter().map(widest);
    columns.sum()
}

fn widest(column: &ArrayRef) -> Result<usize> {
    fn longest<O: OffsetSizeTrait>(offsets: &[O]) -> usize {
        let lengths = offsets.windows(2).map(|pair| pair[1] - pair[0]);
        lengths.max().map_or(0, O::as_usize)
    }
    Ok(match column.data_type() {
        DataType::Utf8 => longest(column.as_string::<i32>().value_offsets()),
        DataType::Binary => longest(column.as_binary::<i32>().value_offsets()),
        DataType::LargeUtf8 => longest(column.as_string::<i64>().value_offsets()),
        DataType::LargeBinary => longest(column.as_binary::<i64>().value_offsets()),
        other => match other.primitive_width() {
            Some(width) => width,
            None => sizes::sizes(column)?.into_iter().max().unwrap_or(0),
        },
    })
}
