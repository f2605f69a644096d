//! One query from text to rows.
//!
//! Owns the order of its steps: wait for a place, take a view, plan on a deep stack, execute, hand rows over
//! through a bounded channel, and end it when time is up or nobody listens.

use std::{sync::Arc, time::Duration};

use datafusion::{
    arrow::{
        datatypes::{DataType, Field, Schema, SchemaRef},
        record_batch::RecordBatch,
    },
    common::{
        ParamValues, Result as DataFusionResult, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream, SessionState, TaskContext, context::SQLOptions,
        memory_pool::human_readable_size,
    },
    logical_expr::LogicalPlan,
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
    client::{Client, Dialect},
    error::{ErrorKind, QueryError, nearest},
    fence::{self, Account},
    guard::{self, Request},
    measure,
    names::PUBLIC,
    postgres, repeats,
    running::Listed,
    shared::Shared,
    size::sliced_size,
    unreadable,
    view::{AsOf, ReadMode, View},
};

/// Batches between a query and its reader: one being read, one ready.
const READ_AHEAD: usize = 2;
/// Most parameters of one statement.
const MOST_PARAMETERS: usize = 1024;
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
    /// Whether the same question has the same answer for as long as it includes the same.
    pub repeats: bool,
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

/// What is known of a statement before it runs.
#[derive(Clone, Debug)]
pub struct Described {
    /// The types that values of `$1`, `$2` … become; `None` where they keep the type that the client gave, or are text.
    pub parameters: Vec<Option<DataType>>,
    /// The columns of its answer; none for a statement that only changes a setting.
    pub schema: SchemaRef,
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
    client: Client,
    sql: String,
    params: Vec<ScalarValue>,
) -> Result<Answer, QueryError> {
    let (answered, answer) = oneshot::channel();
    let (workers, watch) = (shared.workers().clone(), shared.watch().clone());
    let client = client.for_one_query(&shared.limits);
    let query = Query {
        listed: shared.shelf.running.begin(&client, &sql),
        shared,
        mode,
        client,
        sql,
        params,
    };
    let task = AbortOnDrop(watch.spawn(query.watch(workers, answered)));
    match answer.await {
        Ok(Ok(First::Rows {
            schema,
            as_of,
            repeats,
            batches,
        })) => Ok(Answer::Rows(QueryResult {
            stream: reader(schema.clone(), batches, task),
            schema,
            as_of,
            repeats,
        })),
        Ok(Ok(First::Setting(answer))) => Ok(answer),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(broken_off()),
    }
}

/// Plans one statement without running it. `declared` are the types that the client gave its parameters, where it did.
pub(crate) async fn describe(
    shared: Arc<Shared>,
    client: Client,
    sql: String,
    declared: Vec<Option<DataType>>,
) -> Result<Described, QueryError> {
    let timeout = client.access.timeout(&shared.limits);
    let workers = shared.workers().clone();
    let mut task = AbortOnDrop(workers.spawn(async move {
        let permit = place(&shared).await?;
        let view = Arc::new(View::open(shared.shelf.clone(), ReadMode::Fresh).await);
        let inside = shared.clone();
        let described = on_deep_stack(&shared, async move {
            let described = described(&inside, &view, &client, &sql, &declared).await;
            drop(permit);
            described
        });
        Ok(described.await??)
    }));
    match tokio::time::timeout(timeout, &mut task.0).await {
        Ok(Ok(described)) => described,
        Ok(Err(_)) => Err(broken_off()),
        Err(_) => Err(timed_out(timeout)),
    }
}

async fn described(
    shared: &Shared,
    view: &Arc<View>,
    client: &Client,
    sql: &str,
    declared: &[Option<DataType>],
) -> DataFusionResult<Described> {
    let text = |name: &str| Schema::new(vec![Field::new(name, DataType::Utf8, false)]);
    let (logical, _) = match logical(shared, view, client, sql).await? {
        Logical::Plan(logical, state) => (logical, state),
        Logical::Setting(answer) => {
            let schema = match answer {
                Answer::ShowRead => text("alluvium.read"),
                Answer::ShowAsOf => text("alluvium.as_of"),
                Answer::SetRead(_) | Answer::Rows(_) => Schema::empty(),
            };
            return Ok(Described {
                parameters: Vec::new(),
                schema: Arc::new(schema),
            });
        }
    };
    let mut inferred: Vec<Option<DataType>> = vec![None; declared.len()];
    for (name, data_type) in logical.get_parameter_types()? {
        let Some(place) = parameter_number(&name) else {
            continue;
        };
        inferred.resize(inferred.len().max(place), None);
        inferred[place - 1] = data_type;
    }
    if let Dialect::Postgres = client.dialect {
        for number in postgres::lists(sql) {
            if let Some(list) = inferred.get_mut(number.wrapping_sub(1))
                && list.is_none()
                && declared.get(number - 1).is_none_or(Option::is_none)
            {
                *list = Some(DataType::new_list(DataType::Utf8, true));
            }
        }
    }
    // A type that the client gave wins, unless both are of one family: then the value becomes what is wanted.
    for (inferred, declared) in inferred.iter_mut().zip(declared) {
        if let (Some(wanted), Some(given)) = (&*inferred, declared)
            && !is_family(given, wanted)
        {
            *inferred = None;
        }
    }
    // Without values the plan has the types that it will have with them: NULL of the same type.
    let nulls = inferred
        .iter()
        .enumerate()
        .map(|(place, inferred)| {
            let declared = declared.get(place).and_then(Option::as_ref);
            ScalarValue::try_from(inferred.as_ref().or(declared).unwrap_or(&DataType::Utf8))
        })
        .collect::<DataFusionResult<Vec<_>>>()?;
    let logical = measure::lower(bind(logical, nulls)?)?;
    Ok(Described {
        parameters: inferred,
        schema: Arc::new(logical.schema().as_arrow().clone()),
    })
}

fn is_family(one: &DataType, other: &DataType) -> bool {
    let is_time = |data_type: &DataType| matches!(data_type, DataType::Timestamp(..));
    one == other
        || one.is_integer() && other.is_integer()
        || one.is_floating() && other.is_floating()
        || one.is_string() && other.is_string()
        || is_time(one) && is_time(other)
}

/// The number of `$1`, if it is one that a list of values can have.
fn parameter_number(name: &str) -> Option<usize> {
    let number = name.trim_start_matches('$').parse().ok()?;
    (1..=MOST_PARAMETERS).contains(&number).then_some(number)
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

/// Waits for a task of a query until its time is up or somebody orders the query to end.
async fn within<T>(
    deadline: Instant,
    timeout: Duration,
    listed: &Listed,
    task: &mut AbortOnDrop<Result<T, QueryError>>,
) -> Result<T, QueryError> {
    tokio::select! {
        ended = tokio::time::timeout_at(deadline, &mut task.0) => match ended {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(broken_off()),
            Err(_) => Err(timed_out(timeout)),
        },
        () = listed.ordered_to_end() => Err(QueryError::new(
            ErrorKind::Ended,
            "the query was ended by order",
        )),
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
        repeats: bool,
        batches: mpsc::Receiver<Item>,
    },
    Setting(Answer),
}

type Answered = oneshot::Sender<Result<First, QueryError>>;

struct Query {
    shared: Arc<Shared>,
    mode: ReadMode,
    client: Client,
    sql: String,
    params: Vec<ScalarValue>,
    listed: Arc<Listed>,
}

/// A query that runs: its first item, and the rest.
struct Started {
    schema: SchemaRef,
    as_of: AsOf,
    repeats: bool,
    first: Option<RecordBatch>,
    rest: SendableRecordBatchStream,
    max_rows: u64,
    max_bytes: u64,
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
        let timeout = self.client.access.timeout(&self.shared.limits);
        let deadline = Instant::now() + timeout;
        let listed = self.listed.clone();
        let mut start = AbortOnDrop(workers.spawn(async move { self.start().await }));
        let started = within(deadline, timeout, &listed, &mut start).await;
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
            repeats: started.repeats,
            batches,
        };
        if answered.send(Ok(first)).is_err() {
            return;
        }
        let mut rest = AbortOnDrop(workers.spawn(hand_over(*started, sender, listed.clone())));
        if let Err(error) = within(deadline, timeout, &listed, &mut rest).await {
            last_word.send(Err(error.into_datafusion()));
        }
    }

    /// Until the first rows are known. A file that is gone was vacuumed after the view was taken; one more try with a
    /// new view finds its successors. Parquet's reader does not say which error it was, so every failure of
    /// storage gets that second try.
    async fn start(&self) -> Result<Outcome, QueryError> {
        match self.attempt().await.map_err(QueryError::from) {
            Err(error) if error.kind == ErrorKind::Storage => {
                self.shared.shelf.forget();
                // What the first try would have read is not read.
                self.client.estimate.begin_again();
                Ok(self.attempt().await?)
            }
            outcome => outcome,
        }
    }

    async fn attempt(&self) -> Result<Outcome, DataFusionError> {
        let permit = place(&self.shared)
            .await
            .map_err(QueryError::into_datafusion)?;
        let view = Arc::new(View::open(self.shared.shelf.clone(), self.mode).await);
        let (planned, permit) = self.plan(view.clone(), permit).await?;
        let (plan, context, repeats) = match planned {
            Planned::Query {
                plan,
                context,
                repeats,
            } => (plan, context, repeats),
            Planned::Setting(answer) => return Ok(Outcome::Setting(answer)),
        };
        let schema = plan.schema();
        let mut rest = execute_stream(plan, context)?;
        let first = rest.next().await.transpose()?;
        Ok(Outcome::Rows(Box::new(Started {
            schema,
            as_of: view.as_of(),
            repeats,
            first,
            rest,
            max_rows: self.client.access.max_rows(&self.shared.limits),
            max_bytes: self.client.access.max_bytes(&self.shared.limits),
            permit,
        })))
    }

    /// Parses and plans. The place stays taken until that ends, even if the query is given up before.
    async fn plan(
        &self,
        view: Arc<View>,
        permit: OwnedSemaphorePermit,
    ) -> Result<(Planned, OwnedSemaphorePermit), DataFusionError> {
        let (shared, client) = (self.shared.clone(), self.client.clone());
        let (sql, params) = (self.sql.clone(), self.params.clone());
        let planned = on_deep_stack(&self.shared, async move {
            (plan(&shared, &view, &client, &sql, params).await, permit)
        });
        let (planned, permit) = planned.await?;
        Ok((planned?, permit))
    }
}

async fn place(shared: &Shared) -> Result<OwnedSemaphorePermit, QueryError> {
    let permits = shared.permits.clone();
    match tokio::time::timeout(PATIENCE, permits.acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(QueryError::new(
            ErrorKind::Busy,
            format!("{} queries run already", shared.limits.concurrent),
        )
        .hint("try again when one of them has ended")),
    }
}

/// Does the work of a planner on a thread with a deep stack.
async fn on_deep_stack<T: Send + 'static>(
    shared: &Shared,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, DataFusionError> {
    let workers = shared.workers().clone();
    // Where no thread can be started, work that has been handed over would wait for the next one, and keep its place till then.
    let (give, take) = std::sync::mpsc::channel();
    let planner = shared.planners().spawn_blocking(move || {
        let work = take.recv().ok()?;
        Some(workers.block_on(work))
    });
    // Whoever takes it waits for it; what is begun ends by itself, though the query was given up.
    let _ = give.send(work);
    match planner.await {
        Ok(Some(outcome)) => Ok(outcome),
        _ => Err(DataFusionError::Internal("the planner broke off".into())),
    }
}

enum Planned {
    Query {
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
        repeats: bool,
    },
    Setting(Answer),
}

enum Logical {
    Plan(LogicalPlan, Box<SessionState>),
    Setting(Answer),
}

/// Parses a statement and plans it as far as its text goes: parameters have no values yet, tables are names.
async fn logical(
    shared: &Shared,
    view: &Arc<View>,
    client: &Client,
    sql: &str,
) -> DataFusionResult<Logical> {
    let postgres = match client.dialect {
        Dialect::Ours => None,
        Dialect::Postgres => Some(shared.postgres().map_err(QueryError::into_datafusion)?),
    };
    let request = guard::parse(sql, shared.limits.max_sql_bytes, postgres)
        .map_err(QueryError::into_datafusion)?;
    let statement = match request {
        Request::Plan(statement) => *statement,
        Request::SetRead(mode) => return Ok(Logical::Setting(Answer::SetRead(mode))),
        Request::ShowRead => return Ok(Logical::Setting(Answer::ShowRead)),
        Request::ShowAsOf => return Ok(Logical::Setting(Answer::ShowAsOf)),
    };
    let state = shared
        .state(view, client, postgres)
        .map_err(QueryError::into_datafusion)?;
    let logical = state
        .statement_to_plan(statement)
        .await
        .map_err(|error| with_known_tables(error, view, client))?;
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
    Ok(Logical::Plan(logical, Box::new(state)))
}

async fn plan(
    shared: &Shared,
    view: &Arc<View>,
    client: &Client,
    sql: &str,
    params: Vec<ScalarValue>,
) -> DataFusionResult<Planned> {
    let (logical, state) = match logical(shared, view, client, sql).await? {
        Logical::Plan(logical, state) => (logical, state),
        Logical::Setting(answer) => return Ok(Planned::Setting(answer)),
    };
    let logical = bind(logical, params)?;
    let repeats = repeats::repeats(&logical)?;
    let logical = measure::lower(logical)?;
    if let (LogicalPlan::Explain(_), Some(account)) = (&logical, Account::of_query(&state)) {
        account.explains();
    }
    let logical = state.optimize(&logical)?;
    let physical = state
        .query_planner()
        .create_physical_plan(&logical, state.as_ref())
        .await?;
    Ok(Planned::Query {
        plan: to_be_run(physical)?,
        context: state.task_ctx(),
        repeats,
    })
}

/// A plan as it runs. Joins give way to other tasks, and count what they make: a join can make millions of batches of one batch
/// of its input, and only reading input counts by itself. Scans say which file they could not read.
fn to_be_run(plan: Arc<dyn ExecutionPlan>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let plan = plan.transform_up(|node| {
        if let Some(scan) = unreadable::scan_of(&node) {
            return Ok(Transformed::yes(scan));
        }
        let multiplies = node.is::<CrossJoinExec>()
            || node.is::<NestedLoopJoinExec>()
            || node.is::<HashJoinExec>()
            || node.is::<SortMergeJoinExec>()
            || node.is::<UnnestExec>();
        let measured = fence::rows::measured(node.clone())?;
        let is_other = !Arc::ptr_eq(&measured, &node);
        Ok(match multiplies {
            true => Transformed::yes(Arc::new(CooperativeExec::new(measured)) as _),
            false => Transformed::new_transformed(measured, is_other),
        })
    })?;
    Ok(plan.data)
}

fn bind(logical: LogicalPlan, params: Vec<ScalarValue>) -> DataFusionResult<LogicalPlan> {
    let wanted = logical.get_parameter_names()?;
    let given = params.len();
    let missing = wanted.iter().find(|name| {
        let number = name.trim_start_matches('$').parse::<usize>();
        number.map_or(true, |number| number == 0 || number > given)
    });
    if let Some(name) = missing {
        return Err(QueryError::new(
            ErrorKind::UndefinedParameter,
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
fn with_known_tables(error: DataFusionError, view: &View, client: &Client) -> DataFusionError {
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
    let mut known = view.tables();
    known.retain(|name| client.access.may_read(PUBLIC, name));
    error.hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(nearest) => Some(format!("did you mean {nearest}?")),
        None if known.is_empty() => Some("there are no tables yet".into()),
        None => Some(format!("there are: {}", known.join(", "))),
    };
    error.into_datafusion()
}

async fn hand_over(
    started: Started,
    reader: mpsc::Sender<Item>,
    listed: Arc<Listed>,
) -> Result<(), QueryError> {
    let mut rows = stream::iter(started.first.map(Ok)).chain(started.rest);
    let (mut count, mut bytes) = (0, 0);
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        count += batch.num_rows() as u64;
        bytes += sliced_size(&batch) as u64;
        listed.count(batch.num_rows() as u64);
        if count > started.max_rows {
            return Err(QueryError::new(
                ErrorKind::TooManyRows,
                format!("the result has more than {} rows", started.max_rows),
            )
            .hint(
                "aggregate further, or add LIMIT; `query: {rows: …}` in alluvium.yaml is the limit",
            ));
        }
        if bytes > started.max_bytes {
            let most = human_readable_size(started.max_bytes as usize);
            return Err(QueryError::new(
                ErrorKind::TooManyBytes,
                format!("the result has more than {most}"),
            )
            .hint("aggregate further, choose fewer columns, or add LIMIT; `query: {bytes: …}` in alluvium.yaml is the limit"));
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
