//! One connection: what it has set, where its transaction stands, and which cursors are open.
//!
//! Owns what a statement comes to. A transaction is only remembered: every query reads what is newest when it begins, and
//! nothing is ever written. Does not own SQL, the protocol's messages, nor how values are written.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use alluvium_query::{Access, QueryEngine, QueryError, Session};
use datafusion::{
    arrow::{
        array::{RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    common::ScalarValue,
};
use futures::{Stream, StreamExt, stream};
use pgwire::{
    api::results::Tag,
    error::{PgWireError, PgWireResult},
    messages::response::TransactionStatus,
};
use tokio::{
    sync::{Mutex as Lock, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::outcomes;

use super::{
    cancel::{Connected, Place},
    refusal,
    rows::{Manner, passed, until_cancelled},
    settings::{Reported, Settings},
    statement::{CopyForm, Rows, Statement},
};

pub(super) const DOOR: &str = "postgres";
/// Most cursors of one connection.
const MOST_CURSORS: usize = 16;

/// Everything of one connection.
pub(super) struct Connection {
    engine: QueryEngine,
    /// Since the client was let in.
    session: OnceLock<Session>,
    pub(super) place: Place,
    places: Arc<Semaphore>,
    state: Mutex<State>,
    started: AtomicBool,
}

#[derive(Default)]
struct State {
    settings: Settings,
    cursors: HashMap<String, Cursor>,
    permit: Option<OwnedSemaphorePermit>,
}

pub(super) type Batches = Pin<Box<dyn Stream<Item = PgWireResult<RecordBatch>> + Send>>;

/// A query that hands out its rows bit by bit.
struct Cursor {
    schema: SchemaRef,
    /// Locked by whoever fetches.
    rows: Arc<Lock<Remaining>>,
    holds: bool,
}

/// What a cursor has not handed out yet. Nothing is read ahead of whoever fetches.
enum Remaining {
    Rows {
        /// What was read and not fetched yet.
        read: Option<RecordBatch>,
        batches: Batches,
    },
    Over,
    /// Its query failed: what would come next is not known.
    Broken,
}

impl Remaining {
    /// The next rows, `most` of them at most; `None` when there are no more.
    async fn next(&mut self, most: usize) -> Option<PgWireResult<RecordBatch>> {
        let Self::Rows { read, batches } = self else {
            return None;
        };
        let batch = match read.take() {
            Some(batch) => batch,
            None => match batches.next().await {
                Some(Ok(batch)) => batch,
                Some(Err(error)) => {
                    *self = Self::Broken;
                    return Some(Err(error));
                }
                None => {
                    // The query's place is free now, however long the cursor stays open.
                    *self = Self::Over;
                    return None;
                }
            },
        };
        let part = batch.num_rows().min(most);
        if part < batch.num_rows() {
            *read = Some(batch.slice(part, batch.num_rows() - part));
        }
        Some(Ok(batch.slice(0, part)))
    }
}

/// What a statement comes to.
pub(super) enum Outcome {
    Rows {
        schema: SchemaRef,
        batches: Batches,
        tag: &'static str,
    },
    Done(Tag),
    Began,
    /// To a savepoint: the transaction goes on.
    WentBack,
    Ended(&'static str),
    /// A change, with what the client is told of it.
    Set(&'static str, Vec<Reported>),
    Copy {
        schema: SchemaRef,
        batches: Batches,
        form: CopyForm,
    },
}

impl Connection {
    pub(super) fn new(engine: QueryEngine, connected: &Connected, places: Arc<Semaphore>) -> Self {
        Self {
            engine,
            session: OnceLock::new(),
            place: connected.enter(),
            places,
            state: Mutex::default(),
            started: AtomicBool::new(false),
        }
    }

    /// Lets the client in with what it may do and what it says of itself.
    pub(super) fn enter(
        &self,
        access: Access,
        said: impl Iterator<Item = (impl AsRef<str>, impl AsRef<str>)>,
    ) -> PgWireResult<()> {
        let Ok(permit) = self.places.clone().try_acquire_owned() else {
            return Err(refusal::fatal("53300", "sorry, too many clients already"));
        };
        let mut state = self.state();
        for (name, value) in said {
            state.settings.start(name.as_ref(), value.as_ref())?;
        }
        state.permit = Some(permit);
        self.session
            .get_or_init(|| self.engine.postgres_session_of(access).at_door("postgres"));
        self.started.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Where it asks; only who was let in can.
    pub(super) fn session(&self) -> PgWireResult<&Session> {
        self.session
            .get()
            .ok_or_else(|| refusal::fatal("28000", "say who you are first"))
    }

    /// A setting's value.
    pub(super) fn setting(&self, name: &str) -> PgWireResult<String> {
        self.state().settings.get(name)
    }

    /// Whether the client has been let in.
    pub(super) fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in it is replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How values are written now.
    pub(super) fn manner(&self) -> Manner {
        let state = self.state();
        Manner {
            format: state.settings.format(),
            zone: state.settings.time_zone().map(Arc::from),
        }
    }

    /// Runs one statement. `before` are the characters of the client's text before it.
    pub(super) async fn run(
        &self,
        sql: &str,
        sorted: Statement,
        before: usize,
        parameters: Vec<ScalarValue>,
        status: TransactionStatus,
    ) -> PgWireResult<Outcome> {
        if matches!(status, TransactionStatus::Error)
            && !matches!(
                sorted,
                Statement::Commit | Statement::Rollback | Statement::RollbackToSavepoint
            )
        {
            return Err(refusal::error(
                "25P02",
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        Ok(match sorted {
            Statement::Question => {
                let (schema, batches) = self.ask(sql, before, parameters).await?;
                if schema.fields().is_empty() {
                    return Ok(Outcome::Done(Tag::new("SET")));
                }
                let tag = "SELECT";
                Outcome::Rows {
                    schema,
                    batches,
                    tag,
                }
            }
            Statement::Begin => Outcome::Began,
            Statement::Commit => {
                self.end_transaction();
                Outcome::Ended(match status {
                    TransactionStatus::Error => "ROLLBACK",
                    _ => "COMMIT",
                })
            }
            Statement::Rollback => {
                self.end_transaction();
                Outcome::Ended("ROLLBACK")
            }
            Statement::Savepoint(tag) => match status {
                TransactionStatus::Idle => return Err(outside(tag)),
                _ => Outcome::Done(Tag::new(tag)),
            },
            Statement::RollbackToSavepoint => match status {
                TransactionStatus::Idle => return Err(outside("ROLLBACK TO SAVEPOINT")),
                _ => Outcome::WentBack,
            },
            Statement::Set { name, value } => {
                let reported = self.state().settings.set(&name, value.as_deref())?;
                Outcome::Set("SET", reported.into_iter().collect())
            }
            Statement::SetTransaction => Outcome::Done(Tag::new("SET")),
            Statement::ResetAll => Outcome::Set("RESET", self.state().settings.reset()),
            Statement::Show(name) => self.show(name)?,
            Statement::DiscardAll => {
                if !matches!(status, TransactionStatus::Idle) {
                    let message = "DISCARD ALL cannot run inside a transaction block";
                    return Err(refusal::error("25001", message));
                }
                let mut state = self.state();
                state.cursors.clear();
                Outcome::Set("DISCARD ALL", state.settings.reset())
            }
            Statement::Deallocate(None) => Outcome::Done(Tag::new("DEALLOCATE ALL")),
            Statement::Deallocate(Some(_)) => Outcome::Done(Tag::new("DEALLOCATE")),
            Statement::Declare {
                cursor,
                query,
                holds,
            } => {
                if matches!(status, TransactionStatus::Idle) && !holds {
                    return Err(outside("DECLARE CURSOR"));
                }
                self.declare(cursor, &query, holds, parameters).await?;
                Outcome::Done(Tag::new("DECLARE CURSOR"))
            }
            Statement::Fetch {
                cursor,
                rows,
                moves_only,
            } => self.fetch(&cursor, rows, moves_only).await?,
            Statement::Close(None) => {
                self.state().cursors.clear();
                Outcome::Done(Tag::new("CLOSE CURSOR ALL"))
            }
            Statement::Close(Some(name)) => match self.state().cursors.remove(&name) {
                Some(_) => Outcome::Done(Tag::new("CLOSE CURSOR")),
                None => return Err(no_cursor(&name)),
            },
            Statement::CopyOut { query, form } => {
                let (schema, batches) = self.ask(&query, 0, parameters).await?;
                Outcome::Copy {
                    schema,
                    batches,
                    form,
                }
            }
            Statement::Nothing(tag) => Outcome::Done(Tag::new(tag)),
            Statement::Refused(why) => return Err(refusal::error("0A000", why)),
        })
    }

    /// Asks the engine. What comes ends when the client orders it, or when the time it set is over.
    async fn ask(
        &self,
        sql: &str,
        before: usize,
        parameters: Vec<ScalarValue>,
    ) -> PgWireResult<(SchemaRef, Batches)> {
        let mut cancelled = self.place.begin();
        let patience = self.state().settings.statement_timeout();
        let begun = Instant::now();
        let deadline = patience.map(|patience| begun + patience);
        let asked = self.session()?.query(sql, parameters);
        let answered = tokio::select! {
            biased;
            () = cancelled.ordered() => {
                outcomes::count(DOOR, "57014");
                return Err(PgWireError::QueryCanceled);
            }
            () = passed(deadline) => {
                outcomes::count(DOOR, "57014");
                return Err(refusal::took_too_long());
            }
            answered = asked => answered,
        };
        let failure = answered.as_ref().err().map(QueryError::code);
        outcomes::answered(DOOR, begun.elapsed(), failure);
        let result = answered.map_err(|failed| refusal::of_query(&failed, sql, before))?;
        let batches = until_cancelled(result.stream, cancelled, deadline);
        Ok((result.schema, Box::pin(batches)))
    }

    fn end_transaction(&self) {
        self.state().cursors.retain(|_, cursor| cursor.holds);
    }

    fn show(&self, name: Option<String>) -> PgWireResult<Outcome> {
        let state = self.state();
        let batch = match name {
            Some(name) => {
                let value = state.settings.get(&name)?;
                texts(&[&name.to_ascii_lowercase()], vec![vec![value]])
            }
            None => {
                let (names, values) = state
                    .settings
                    .all()
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .unzip();
                texts(&["name", "setting"], vec![names, values])
            }
        };
        Ok(Outcome::Rows {
            schema: batch.schema(),
            batches: Box::pin(stream::iter([Ok(batch)])),
            tag: "SHOW",
        })
    }

    async fn declare(
        &self,
        name: String,
        query: &str,
        holds: bool,
        parameters: Vec<ScalarValue>,
    ) -> PgWireResult<()> {
        {
            let state = self.state();
            if state.cursors.contains_key(&name) {
                let message = format!("cursor \"{name}\" already exists");
                return Err(refusal::error("42P03", message));
            }
            if state.cursors.len() >= MOST_CURSORS {
                let message = format!("{MOST_CURSORS} cursors are open already");
                return Err(refusal::advised("53400", message, "close some of them"));
            }
        }
        let (schema, batches) = self.ask(query, 0, parameters).await?;
        let rows = Remaining::Rows {
            read: None,
            batches,
        };
        let cursor = Cursor {
            schema,
            rows: Arc::new(Lock::new(rows)),
            holds,
        };
        self.state().cursors.insert(name, cursor);
        Ok(())
    }

    /// The next rows of a cursor, read as they are sent: a client that reads slowly holds back the query.
    async fn fetch(&self, name: &str, rows: Rows, moves_only: bool) -> PgWireResult<Outcome> {
        let (schema, remaining) = {
            let mut state = self.state();
            let cursor = state.cursors.get(name).ok_or_else(|| no_cursor(name))?;
            let Ok(remaining) = cursor.rows.clone().try_lock_owned() else {
                // A portal of the extended protocol may stand still in the middle of its FETCH.
                let message = format!("rows of cursor \"{name}\" are being fetched already");
                return Err(refusal::error("55006", message));
            };
            let schema = cursor.schema.clone();
            if let Remaining::Broken = *remaining {
                state.cursors.remove(name);
                return Err(no_cursor(name));
            }
            (schema, remaining)
        };
        let wanted = match rows {
            Rows::AtMost(wanted) => wanted,
            Rows::All => usize::MAX,
        };
        let fetched = stream::unfold((remaining, wanted), |(mut remaining, wanted)| async move {
            if wanted == 0 {
                return None;
            }
            let batch = remaining.next(wanted).await?;
            let part = batch.as_ref().map_or(wanted, RecordBatch::num_rows);
            Some((batch, (remaining, wanted - part)))
        });
        let mut fetched: Batches = Box::pin(fetched);
        if !moves_only {
            return Ok(Outcome::Rows {
                schema,
                batches: fetched,
                tag: "FETCH",
            });
        }
        let mut passed = 0;
        while let Some(batch) = fetched.next().await {
            passed += batch?.num_rows();
        }
        Ok(Outcome::Done(Tag::new("MOVE").with_rows(passed)))
    }

    /// The columns of an open cursor.
    pub(super) fn cursor_columns(&self, name: &str) -> PgWireResult<SchemaRef> {
        let state = self.state();
        let cursor = state.cursors.get(name).ok_or_else(|| no_cursor(name))?;
        Ok(cursor.schema.clone())
    }
}

fn outside(what: &str) -> PgWireError {
    let message = format!("{what} can only be used in transaction blocks");
    refusal::error("25P01", message)
}

fn no_cursor(name: &str) -> PgWireError {
    refusal::error("34000", format!("cursor \"{name}\" does not exist"))
}

pub(super) fn texts(names: &[&str], columns: Vec<Vec<String>>) -> RecordBatch {
    let fields = names
        .iter()
        .map(|name| Field::new(*name, DataType::Utf8, false));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = columns
        .into_iter()
        .map(|column| Arc::new(StringArray::from(column)) as _)
        .collect();
    RecordBatch::try_new(schema, columns).expect("columns of text, as many as names")
}
