//! One query from text to rows.
//!
//! Owns the order of its steps: wait for a place, take a view, plan on a deep stack, execute, hand rows over
//! through a bounded channel, and end it when time is up or nobody listens.

use std::{sync::Arc, time::Duration};

use datafusion::{
    arrow::datatypes::SchemaRef,
    arrow::record_batch::RecordBatch,
    common::{
        ParamValues, Result as DataFusionResult, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    error::DataFusionError,
    execution::{SendableRecordBatchStream, TaskContext, context::SQLOptions},
    physical_plan::{
        ExecutionPlan,
        coop::CooperativeExec,
        execute_stream,
        joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec},
        stream::RecordBatchStreamAdapter,
        unnest::UnnestExec,
    },
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    error::{ErrorKind, QueryError, nearest},
    guard::{self, Request},
    measure,
    shared::Shared,
    view::{AsOf, ReadMode, View},
};

/// Stack of the thread that parses and plans: the gate's limits in a debug build, several times over. Only
/// what is touched becomes memory.
const PLANNING_STACK: usize = 256 << 20;
/// Batches between a query and its reader: one being read, one ready.
const READ_AHEAD: usize = 2;
/// How long a query waits for a place before it is told that all are taken.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer on its way.
pub struct QueryResult {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows. An error in it is a [`QueryError`] inside; dropping it ends the query.
    pub stream: SendableRecordBatchStream,
    /// What it includes.
    pub as_of: AsOf,
}

impl std::fmt::Debug for QueryResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryResult")
            .field("schema", &self.schema)
            .field("as_of", &self.as_of)
            .finish_non_exhaustive()
    }
}

impl QueryResult {
    /// All rows at once.
    ///
    /// # Errors
    /// When the query fails on the way.
    pub async fn collect(self) -> Result<Vec<RecordBatch>, QueryError> {
        Ok(self.stream.try_collect().await?)
    }
}

/// What a statement comes to.
pub(crate) enum Answer {
    Rows(QueryResult),
    SetRead(ReadMode),
    ShowRead,
    ShowAsOf,
}

/// Runs one statement on the engine's runtime, until its first rows are known.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mode: ReadMode,
    sql: String,
    params: Vec<ScalarValue>,
) -> Result<Answer, QueryError> {
    let (answered, answer) = oneshot::channel();
    let (workers, watch) = (shared.workers().clone(), shared.watch().clone());
    let query = Query {
        shared,
        mode,
        sql,
        params,
    };
    let task = AbortOnDrop(watch.spawn(query.watch(workers, answered)));
    match answer.await {
        Ok(Ok(First::Rows {
            schema,
            as_of,
            batches,
        })) => Ok(Answer::Rows(QueryResult {
            stream: reader(schema.clone(), batches, task),
            schema,
            as_of,
        })),
        Ok(Ok(First::Setting(answer))) => Ok(answer),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(broken_off()),
    }
}

fn broken_off() -> QueryError {
    QueryError::new(ErrorKind::Internal, "the query broke off")
}

/// Ends a task with its owner.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Item = DataFusionResult<RecordBatch>;

/// The reader's end. Dropping it ends the query (Q10).
fn reader(
    schema: SchemaRef,
    batches: mpsc::Receiver<Item>,
    task: AbortOnDrop<()>,
) -> SendableRecordBatchStream {
    let stream = stream::unfold(Some((batches, task)), |end| async move {
        let (mut batches, task) = end?;
        match batches.recv().await? {
            Ok(batch) => Some((Ok(batch), Some((batches, task)))),
            // Whoever still holds the other end has nothing to say after an error.
            Err(error) => Some((Err(error), None)),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, stream.fuse()))
}

enum First {
    Rows {
        schema: SchemaRef,
        as_of: AsOf,
        batches: mpsc::Receiver<Item>,
    },
    Setting(Answer),
}

type Answered = oneshot::Sender<Result<First, QueryError>>;

struct Query {
    shared: Arc<Shared>,
    mode: ReadMode,
    sql: String,
    params: Vec<ScalarValue>,
}

/// A query that runs: its first item, and the rest.
struct Started {
    schema: SchemaRef,
    as_of: AsOf,
    first: Option<RecordBatch>,
    rest: SendableRecordBatchStream,
    max_rows: u64,
    permit: OwnedSemaphorePermit,
}

enum Outcome {
    Rows(Box<Started>),
    Setting(Answer),
}

impl Query {
    /// Runs it on the threads of `workers`, and watches from another thread that it keeps to its time: an operator that
    /// does not yield holds its thread, but neither the answer nor the clock (Q3).
    async fn watch(self, workers: Handle, answered: Answered) {
        let timeout = self.shared.limits.timeout;
        let deadline = Instant::now() + timeout;
        let mut start = AbortOnDrop(workers.spawn(async move { self.start().await }));
        let started = match tokio::time::timeout_at(deadline, &mut start.0).await {
            Ok(Ok(started)) => started,
            Ok(Err(_)) => Err(broken_off()),
            Err(_) => Err(timed_out(timeout)),
        };
        // Nobody listens any more where an answer cannot be sent: then there is nothing left to do.
        let started = match started {
            Ok(Outcome::Rows(started)) => started,
            Ok(Outcome::Setting(answer)) => {
                let _ = answered.send(Ok(First::Setting(answer)));
                return;
            }
            Err(error) => {
                let _ = answered.send(Err(error));
                return;
            }
        };
        let (sender, batches) = mpsc::channel(READ_AHEAD + 1);
        // One place is kept for a last word, so that it need not wait for a slow reader.
        let Ok(last_word) = sender.clone().reserve_owned().await else {
            return;
        };
        let first = First::Rows {
            schema: started.schema.clone(),
            as_of: started.as_of.clone(),
            batches,
        };
        if answered.send(Ok(first)).is_err() {
            return;
        }
        let mut rest = AbortOnDrop(workers.spawn(hand_over(*started, sender)));
        let error = match tokio::time::timeout_at(deadline, &mut rest.0).await {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(error))) => error,
            Ok(Err(_)) => broken_off(),
            Err(_) => timed_out(timeout),
        };
        last_word.send(Err(error.into_datafusion()));
    }

    /// Until the first rows are known. A file that is gone was vacuumed after the view was taken; one more try with a
    /// new view finds its successors. Parquet's reader does not say which error it was, so every failure of
    /// storage gets that second try.
    async fn start(&self) -> Result<Outcome, QueryError> {
        match self.attempt().await.map_err(QueryError::from) {
            Err(error) if error.kind == ErrorKind::Storage => {
                self.shared.shelf.forget();
                Ok(self.attempt().await?)
            }
            outcome => outcome,
        }
    }

    async fn attempt(&self) -> Result<Outcome, DataFusionError> {
        let permit = self.place().await.map_err(QueryError::into_datafusion)?;
        let view = Arc::new(View::open(self.shared.shelf.clone(), self.mode).await);
        let (planned, permit) = self.plan(view.clone(), permit).await?;
        let (plan, context) = match planned {
            Planned::Query(plan, context) => (plan, context),
            Planned::Setting(answer) => return Ok(Outcome::Setting(answer)),
        };
        let schema = plan.schema();
        let mut rest = execute_stream(plan, context)?;
        let first = rest.next().await.transpose()?;
        Ok(Outcome::Rows(Box::new(Started {
            schema,
            as_of: view.as_of(),
            first,
            rest,
            max_rows: self.shared.limits.max_rows,
            permit,
        })))
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, QueryError> {
        let permits = self.shared.permits.clone();
        match tokio::time::timeout(PATIENCE, permits.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(QueryError::new(
                ErrorKind::Busy,
                format!("{} queries run already", self.shared.limits.concurrent),
            )
            .hint("try again when one of them has ended")),
        }
    }

    /// Parses and plans on a thread of its own with a deep stack. The place stays taken until that thread ends,
    /// even if the query is given up before.
    async fn plan(
        &self,
        view: Arc<View>,
        permit: OwnedSemaphorePermit,
    ) -> Result<(Planned, OwnedSemaphorePermit), DataFusionError> {
        let (done, planned) = oneshot::channel();
        let shared = self.shared.clone();
        let (sql, params) = (self.sql.clone(), self.params.clone());
        let spawned = std::thread::Builder::new()
            .name("alluvium-query-plan".into())
            .stack_size(PLANNING_STACK)
            .spawn(move || {
                let runtime = shared.workers().clone();
                let planned = runtime.block_on(plan(&shared, &view, &sql, params));
                // A query that was given up has no more use for a plan.
                let _ = done.send((planned, permit));
            });
        if let Err(error) = spawned {
            return Err(DataFusionError::IoError(error));
        }
        match planned.await {
            Ok((planned, permit)) => Ok((planned?, permit)),
            Err(_) => Err(DataFusionError::Internal("the planner broke off".into())),
        }
    }
}

enum Planned {
    Query(Arc<dyn ExecutionPlan>, Arc<TaskContext>),
    Setting(Answer),
}

async fn plan(
    shared: &Shared,
    view: &Arc<View>,
    sql: &str,
    params: Vec<ScalarValue>,
) -> DataFusionResult<Planned> {
    let request =
        guard::parse(sql, shared.limits.max_sql_bytes).map_err(QueryError::into_datafusion)?;
    let statement = match request {
        Request::Plan(statement) => *statement,
        Request::SetRead(mode) => return Ok(Planned::Setting(Answer::SetRead(mode))),
        Request::ShowRead => return Ok(Planned::Setting(Answer::ShowRead)),
        Request::ShowAsOf => return Ok(Planned::Setting(Answer::ShowAsOf)),
    };
    let state = shared.state(view);
    let logical = state
        .statement_to_plan(statement)
        .await
        .map_err(|error| with_known_tables(error, view))?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&logical)
        .map_err(|error| {
            let text = DataFusionError::message(&error).to_string();
            QueryError::new(ErrorKind::ReadOnly, text)
                .hint("use SELECT, VALUES, EXPLAIN or SHOW")
                .into_datafusion()
        })?;
    let logical = bind(logical, params)?;
    let logical = measure::lower(logical)?;
    let logical = state.optimize(&logical)?;
    let physical = state
        .query_planner()
        .create_physical_plan(&logical, &state)
        .await?;
    Ok(Planned::Query(yielding(physical)?, state.task_ctx()))
}

/// Makes joins give way to other tasks: a join can make millions of batches of one batch of its input, and only
/// reading input counts by itself.
fn yielding(plan: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let plan = plan.transform_up(|node| {
        let multiplies = node.is::<CrossJoinExec>()
            || node.is::<NestedLoopJoinExec>()
            || node.is::<HashJoinExec>()
            || node.is::<SortMergeJoinExec>()
            || node.is::<UnnestExec>();
        Ok(match multiplies {
            true => Transformed::yes(Arc::new(CooperativeExec::new(node)) as _),
            false => Transformed::no(node),
        })
    })?;
    Ok(plan.data)
}

fn bind(
    logical: datafusion::logical_expr::LogicalPlan,
    params: Vec<ScalarValue>,
) -> DataFusionResult<datafusion::logical_expr::LogicalPlan> {
    let wanted = logical.get_parameter_names()?;
    let given = params.len();
    let missing = wanted.iter().find(|name| {
        let number = name.trim_start_matches('$').parse::<usize>();
        number.map_or(true, |number| number == 0 || number > given)
    });
    if let Some(name) = missing {
        return Err(QueryError::new(
            ErrorKind::Invalid,
            format!("parameter {name} has no value: {given} were given"),
        )
        .hint("parameters are written $1, $2 and so on")
        .into_datafusion());
    }
    if wanted.is_empty() {
        return Ok(logical);
    }
    logical.with_param_values(ParamValues::from(params))
}

/// Adds the names that there are to "no such table".
fn with_known_tables(error: DataFusionError, view: &View) -> DataFusionError {
    let mut error = QueryError::from(error);
    if error.kind != ErrorKind::UnknownTable || error.hint.is_some() {
        return error.into_datafusion();
    }
    let named = error
        .message
        .split('\'')
        .nth(1)
        .unwrap_or_default()
        .to_string();
    let name = named.rsplit('.').next().unwrap_or_default();
    error.message = match named.strip_prefix("alluvium.") {
        Some(named) => format!("there is no table {}", named.trim_start_matches("public.")),
        None => error.message,
    };
    let known = view.tables();
    error.hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(nearest) => Some(format!("did you mean {nearest}?")),
        None if known.is_empty() => Some("there are no tables yet".into()),
        None => Some(format!("there are: {}", known.join(", "))),
    };
    error.into_datafusion()
}

async fn hand_over(started: Started, reader: mpsc::Sender<Item>) -> Result<(), QueryError> {
    let mut rows = stream::iter(started.first.map(Ok)).chain(started.rest);
    let mut count = 0u64;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        count += batch.num_rows() as u64;
        if count > started.max_rows {
            return Err(QueryError::new(
                ErrorKind::TooManyRows,
                format!("the result has more than {} rows", started.max_rows),
            )
            .hint("aggregate further, or add LIMIT"));
        }
        if reader.send(Ok(batch)).await.is_err() {
            break;
        }
    }
    // Only now the place is free for another query.
    drop(started.permit);
    Ok(())
}

fn timed_out(timeout: Duration) -> QueryError {
    QueryError::new(
        ErrorKind::Timeout,
        format!("the query took longer than {} s", timeout.as_secs_f64()),
    )
    .hint("narrow it by window_start, or aggregate further")
}
