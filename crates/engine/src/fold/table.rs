//! One table's share of a fold.
//!
//! Owns the table's `where`, its windows, and the evaluation of everything that its aggregation
//! needs, done before the aggregation so that a failing event can be told apart (P6). The
//! aggregation itself is DataFusion's, in partial mode, over columns only.

use std::sync::Arc;

use alluvium_plan::TablePlan;
use alluvium_types::{Balance, Stage};
use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray},
        compute::{cast, filter},
        datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType},
    },
    common::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::{aggregate::AggregateExprBuilder, expressions::Column},
    physical_plan::{
        ExecutionPlan, PhysicalExpr,
        aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy},
    },
};

use super::{Refusal, Rows, TablePart};
use crate::{
    EngineError,
    canonical::canonical_keys,
    evaluate::{Failures, as_selection, evaluate},
    leaf::{Answer, Inbox, Leaf, PollError, drain, next},
};

/// Windows up to this are far from where event times of the years 0001 to 9999 would overflow.
const LONGEST_WINDOW: i64 = 4_000_000_000_000_000_000;

/// One expression that is evaluated into a column of the aggregation's input.
struct Feed {
    expression: Arc<dyn PhysicalExpr>,
    /// For the value of a filtered state: the position in the input of the filter column. Where the
    /// filter does not hold, the value does not matter and cannot fail.
    needed: Option<usize>,
    kind: FeedKind,
    place: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FeedKind {
    Key,
    Value,
    Filter,
}

/// The fold of one epoch into one table.
pub(super) struct TableFold {
    plan: TablePlan,
    window_micros: i64,
    /// Columns 1.. of the input; column 0 is the window's start.
    feeds: Vec<Feed>,
    input: SchemaRef,
    inbox: Inbox,
    stream: SendableRecordBatchStream,
    emitted: Vec<RecordBatch>,
    pub(super) balance: Balance,
}

impl TableFold {
    pub(super) fn new(
        plan: &TablePlan,
        decoded: &Schema,
        context: &Arc<TaskContext>,
    ) -> Result<Self, EngineError> {
        let window_micros = i64::try_from(plan.window.as_micros())
            .ok()
            .filter(|size| (1..=LONGEST_WINDOW).contains(size))
            .ok_or_else(|| EngineError::Window {
                table: plan.name.clone(),
            })?;
        let fold_error = |source| EngineError::Fold {
            table: plan.name.clone(),
            source: Box::new(source),
        };

        let mut feeds = Vec::new();
        for group in &plan.group_by {
            feeds.push(Feed {
                expression: group.value.clone(),
                needed: None,
                kind: FeedKind::Key,
                place: format!("group column {}", group.name),
            });
        }
        // For each state the input columns of its value and its filter. Column 0, the window's start,
        // is never NULL: counting it counts rows.
        let mut wiring = Vec::with_capacity(plan.folds.len());
        for (state, fold) in plan.shape.states.iter().zip(&plan.folds) {
            let filter = fold.filter.as_ref().map(|expression| {
                feed(&mut feeds, expression, None, FeedKind::Filter, || {
                    format!("the filter of {}", state.name)
                })
            });
            let value = fold.input.as_ref().map_or(0, |expression| {
                feed(&mut feeds, expression, filter, FeedKind::Value, || {
                    state.name.to_string()
                })
            });
            wiring.push((value, filter));
        }
        let input = input_schema(&feeds, decoded).map_err(fold_error)?;
        let inbox = Inbox::default();
        let stream =
            partial_aggregation(plan, &wiring, &input, &inbox, context).map_err(fold_error)?;
        Ok(Self {
            plan: plan.clone(),
            window_micros,
            feeds,
            input,
            inbox,
            stream,
            emitted: Vec::new(),
            balance: Balance::default(),
        })
    }

    /// Folds accepted rows. `refuse` gets the row and the reason of each that this table refuses.
    pub(super) fn fold(
        &mut self,
        rows: &Rows,
        event_time: usize,
        mut refuse: impl FnMut(usize, Refusal),
    ) -> Result<(), EngineError> {
        let mut refuse = |row: usize, error: String| {
            refuse(
                row,
                Refusal {
                    stage: Stage::Expression,
                    error,
                    column: None,
                    table: Some(self.plan.name.clone()),
                },
            );
        };
        let all = rows.batch.num_rows();
        self.balance.events_in += all as u64;

        // The table's `where`. `origin` leads from a row behind it to the row before it.
        let mut batch = rows.batch.clone();
        let mut origin: Option<Vec<usize>> = None;
        if let Some(condition) = &self.plan.filter {
            let mut failures = Failures::default();
            let values = evaluate(condition, &batch, None, || "where".into(), &mut failures)?;
            let selection = self.selection(&values, "where")?;
            let kept = selection.true_count();
            self.balance.rejected += failures.rows.len() as u64;
            self.balance.filtered += (all - failures.rows.len() - kept) as u64;
            for (row, error) in failures.rows {
                refuse(row, error);
            }
            if kept < all {
                origin = Some(selection.values().set_indices().collect());
                batch = datafusion::arrow::compute::filter_record_batch(&batch, &selection)?;
            }
        }
        if batch.num_rows() == 0 {
            return Ok(());
        }

        let mut failures = Failures::default();
        let times = batch
            .column(event_time)
            .as_primitive::<TimestampMicrosecondType>();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.feeds.len() + 1);
        columns.push(Arc::new(window_starts(times, self.window_micros)));
        for feed in &self.feeds {
            let needed = feed
                .needed
                .map(|filter| columns[filter].as_boolean().clone());
            let place = || feed.place.clone();
            let values = evaluate(
                &feed.expression,
                &batch,
                needed.as_ref(),
                place,
                &mut failures,
            )?;
            columns.push(match feed.kind {
                FeedKind::Key => canonical_keys(values),
                FeedKind::Value => values,
                FeedKind::Filter => Arc::new(self.selection(&values, &feed.place)?),
            });
        }
        if !failures.is_empty() {
            failures.settle();
            let survivors = failures.survivors(batch.num_rows());
            self.balance.rejected += failures.rows.len() as u64;
            for (row, error) in failures.rows {
                refuse(origin.as_ref().map_or(row, |origin| origin[row]), error);
            }
            columns = columns
                .iter()
                .map(|column| filter(column, &survivors))
                .collect::<Result<_, _>>()?;
        }
        let input = RecordBatch::try_new(self.input.clone(), columns)?;
        if input.num_rows() == 0 {
            return Ok(());
        }
        self.balance.counted += input.num_rows() as u64;
        self.inbox.push(input);
        self.drain()
    }

    fn selection(&self, values: &ArrayRef, place: &str) -> Result<BooleanArray, EngineError> {
        as_selection(values).ok_or_else(|| EngineError::Type {
            table: self.plan.name.clone(),
            place: place.to_owned(),
            found: values.data_type().to_string(),
            expected: "Boolean".into(),
        })
    }

    /// Lets the plan take everything out of its inbox.
    fn drain(&mut self) -> Result<(), EngineError> {
        loop {
            match drain(&mut self.stream, &self.inbox).map_err(|error| self.failed(error))? {
                Some(Answer::Batch(batch)) => self.emitted.push(batch),
                Some(Answer::End) | None => return Ok(()),
            }
        }
    }

    fn failed(&self, error: PollError) -> EngineError {
        match error {
            PollError::Plan(source) => EngineError::Fold {
                table: self.plan.name.clone(),
                source: Box::new(source),
            },
            PollError::Engine(error) => error,
        }
    }

    /// Ends the input and takes out the panes.
    pub(super) fn finish(mut self) -> Result<TablePart, EngineError> {
        self.inbox.close();
        while let Answer::Batch(batch) =
            next(&mut self.stream).map_err(|error| self.failed(error))?
        {
            self.emitted.push(batch);
        }
        let emitted = std::mem::take(&mut self.emitted);
        let panes = emitted
            .iter()
            .filter(|batch| batch.num_rows() > 0)
            .map(|batch| self.pane(batch))
            .collect::<Result<_, _>>()?;
        Ok(TablePart {
            panes,
            balance: self.balance,
        })
    }

    /// Adds the window's end, which is no key of its own, and gives the columns their stored names.
    fn pane(&self, states: &RecordBatch) -> Result<RecordBatch, EngineError> {
        let schema = self.plan.shape.pane_schema();
        let starts = states.column(0).as_primitive::<TimestampMicrosecondType>();
        let ends: TimestampMicrosecondArray =
            starts.unary(|start| start.saturating_add(self.window_micros));
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        columns.push(states.column(0).clone());
        columns.push(Arc::new(ends));
        columns.extend_from_slice(&states.columns()[1..]);
        for (column, field) in columns.iter_mut().zip(schema.fields()) {
            if column.data_type() != field.data_type() {
                *column = cast(column, field.data_type())?;
            }
        }
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}

/// The input column that holds `expression`, added if no feed of the same kind has it.
fn feed(
    feeds: &mut Vec<Feed>,
    expression: &Arc<dyn PhysicalExpr>,
    needed: Option<usize>,
    kind: FeedKind,
    place: impl Fn() -> String,
) -> usize {
    let known = feeds.iter().position(|feed| {
        feed.kind == kind && feed.needed == needed && &feed.expression == expression
    });
    1 + known.unwrap_or_else(|| {
        feeds.push(Feed {
            expression: expression.clone(),
            needed,
            kind,
            place: place(),
        });
        feeds.len() - 1
    })
}

fn input_schema(feeds: &[Feed], decoded: &Schema) -> Result<SchemaRef, DataFusionError> {
    let mut fields = vec![Field::new("0", window_type(), false)];
    for (position, feed) in feeds.iter().enumerate() {
        let data_type = match feed.kind {
            FeedKind::Filter => DataType::Boolean,
            FeedKind::Key | FeedKind::Value => feed.expression.data_type(decoded)?,
        };
        fields.push(Field::new((position + 1).to_string(), data_type, true));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn window_type() -> DataType {
    alluvium_plan::TableShape::window_type()
}

/// The plan of one table: what waits in the inbox, partially aggregated.
fn partial_aggregation(
    plan: &TablePlan,
    wiring: &[(usize, Option<usize>)],
    input: &SchemaRef,
    inbox: &Inbox,
    context: &Arc<TaskContext>,
) -> Result<SendableRecordBatchStream, DataFusionError> {
    let column = |position: usize| -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(input.field(position).name(), position))
    };
    let keys = (0..=plan.group_by.len())
        .map(|position| (column(position), position.to_string()))
        .collect();
    let mut aggregates = Vec::with_capacity(wiring.len());
    let mut filters = Vec::with_capacity(wiring.len());
    for (state, &(value, filter)) in plan.shape.states.iter().zip(wiring) {
        let aggregate = AggregateExprBuilder::new(state.kind.fold(), vec![column(value)])
            .schema(input.clone())
            .alias(state.name.as_ref())
            .build()?;
        aggregates.push(Arc::new(aggregate));
        filters.push(filter.map(column));
    }
    let leaf = Leaf::new(inbox.stream(input.clone()), None);
    AggregateExec::try_new(
        AggregateMode::Partial,
        PhysicalGroupBy::new_single(keys),
        aggregates,
        filters,
        leaf,
        input.clone(),
    )?
    .execute(0, context.clone())
}

/// The start of each event's tumbling window. Events come in bursts of one window, so the last one is
/// tried before dividing.
fn window_starts(times: &TimestampMicrosecondArray, size: i64) -> TimestampMicrosecondArray {
    let mut start = i64::MIN;
    let starts: Vec<i64> = times
        .values()
        .iter()
        .map(|&time| {
            let within = time.wrapping_sub(start);
            if start == i64::MIN || !(0..size).contains(&within) {
                start = time - time.rem_euclid(size);
            }
            start
        })
        .collect();
    TimestampMicrosecondArray::from(starts).with_timezone("UTC")
}
