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

use alluvium_query::{Access, QueryEngine, Session};
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
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    cancel::{Connected, Place},
    refusal,
    rows::{Manner, passed, until_cancelled},
    settings::{Reported, Settings},
    statement::{CopyForm, Rows, Statement},
};

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
    /// Away while they are being fetched.
    batches: Option<Batches>,
    /// Rows that were read and not fetched yet.
    rest: Option<RecordBatch>,
    holds: bool,
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
        let deadline = patience.map(|patience| Instant::now() + patience);
        let asked = self.session()?.query(sql, parameters);
        let answered = tokio::select! {
            biased;
            () = cancelled.ordered() => return Err(PgWireError::QueryCanceled),
            () = passed(deadline) => return Err(refusal::took_too_long()),
            answered = asked => answered,
        };
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
        let cursor = Cursor {
            schema,
            batches: Some(batches),
            rest: None,
            holds,
        };
        self.state().cursors.insert(name, cursor);
        Ok(())
    }

    async fn fetch(&self, name: &str, rows: Rows, moves_only: bool) -> PgWireResult<Outcome> {
        let (schema, mut batches, mut rest) = {
            let mut state = self.state();
            let cursor = state.cursors.get_mut(name).ok_or_else(|| no_cursor(name))?;
            (
                cursor.schema.clone(),
                cursor.batches.take(),
                cursor.rest.take(),
            )
        };
        let wanted = match rows {
            Rows::AtMost(wanted) => wanted,
            Rows::All => usize::MAX,
        };
        if let (Rows::All, false) = (rows, moves_only) {
            // Nothing is left behind, so nothing need be kept.
            let rest = stream::iter(rest.map(Ok));
            let all: Batches = match batches {
                Some(batches) => Box::pin(rest.chain(batches)),
                None => Box::pin(rest),
            };
            return Ok(Outcome::Rows {
                schema,
                batches: all,
                tag: "FETCH",
            });
        }
        let mut fetched = Vec::new();
        let mut count = 0;
        while count < wanted {
            let batch = match rest.take() {
                Some(batch) => batch,
                None => match &mut batches {
                    Some(more) => match more.next().await {
                        Some(Ok(batch)) => batch,
                        Some(Err(error)) => {
                            // What comes after an error is not known.
                            self.state().cursors.remove(name);
                            return Err(error);
                        }
                        None => {
                            batches = None;
                            break;
                        }
                    },
                    None => break,
                },
            };
            let part = batch.num_rows().min(wanted - count);
            if part < batch.num_rows() {
                rest = Some(batch.slice(part, batch.num_rows() - part));
            }
            count += part;
            if !moves_only && part > 0 {
                fetched.push(Ok(batch.slice(0, part)));
            }
        }
        if let Some(cursor) = self.state().cursors.get_mut(name) {
            (cursor.batches, cursor.rest) = (batches, rest);
        }
        if moves_only {
            return Ok(Outcome::Done(Tag::new("MOVE").with_rows(count)));
        }
        Ok(Outcome::Rows {
            schema,
            batches: Box::pin(stream::iter(fetched)),
            tag: "FETCH",
        })
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
