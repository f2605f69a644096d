//! One client's settings, and its queries.
//!
//! Owns `alluvium.read` and the account of the last answer. Does not own connections.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::{
    arrow::{
        array::{RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema},
    },
    common::ScalarValue,
    physical_plan::stream::RecordBatchStreamAdapter,
};
use futures::{StreamExt, stream};

use crate::{
    client::Client,
    error::{ErrorKind, QueryError},
    guard::{self, Request},
    run::{self, Answer, Described, QueryResult},
    shared::Shared,
    view::{AsOf, ReadMode, View},
};

/// One client's settings. Statements of one session may run side by side.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    client: Client,
    state: Mutex<Settings>,
    /// Where it lasts for one statement: what to do in place of settings.
    instead: Option<Instead>,
}

/// What a client does in place of settings, where there is nothing that could keep them.
#[derive(Clone, Copy, Debug)]
pub struct Instead {
    /// In place of `SET alluvium.read`.
    pub set_read: &'static str,
    /// In place of `SHOW alluvium.as_of`.
    pub show_as_of: &'static str,
}

/// A statement about a session and not about tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `SET alluvium.read = …`
    SetRead(ReadMode),
    /// `SHOW alluvium.read`
    ShowRead,
    /// `SHOW alluvium.as_of`
    ShowAsOf,
}

impl Setting {
    /// Longest statement that is looked at, in bytes: one of ours has fewer, and so much is read on any thread's stack.
    const LONGEST: usize = 256;

    /// What `sql` sets or shows; `None` for every other statement, and for what is none.
    pub fn of(sql: &str) -> Option<Self> {
        let word = sql.split_whitespace().next()?;
        if !["set", "show"].contains(&word.to_ascii_lowercase().as_str()) {
            return None;
        }
        match guard::parse(sql, Self::LONGEST, None).ok()? {
            Request::SetRead(mode) => Some(Self::SetRead(mode)),
            Request::ShowRead => Some(Self::ShowRead),
            Request::ShowAsOf => Some(Self::ShowAsOf),
            Request::Plan(_) => None,
        }
    }
}

#[derive(Debug, Default)]
struct Settings {
    mode: ReadMode,
    last: AsOf,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, client: Client) -> Self {
        Self {
            shared,
            client,
            state: Mutex::default(),
            instead: None,
        }
    }

    /// Names the door that the client came through, for the list of queries.
    #[must_use]
    pub fn at_door(mut self, door: &'static str) -> Self {
        self.client.door = door;
        self
    }

    /// Refuses what would set or show settings: the session ends before anybody could profit from it.
    #[must_use]
    pub fn without_settings(mut self, instead: Instead) -> Self {
        self.instead = Some(instead);
        self
    }

    /// Runs one statement with `$1`, `$2` … bound to `params`. On return the first rows are known: whatever
    /// fails before them is an error here, not in the stream.
    ///
    /// May be called from any async runtime; the work is done on the engine's own.
    ///
    /// # Errors
    /// [`QueryError`] with everything a person needs.
    pub async fn query(
        &self,
        sql: &str,
        params: Vec<ScalarValue>,
    ) -> Result<QueryResult, QueryError> {
        let mode = self.read_mode();
        let (shared, sql) = (self.shared.clone(), sql.to_string());
        let answer = run::run(shared, mode, self.client.clone(), sql, params).await?;
        if let Some(instead) = self.instead {
            instead.refuse(&answer)?;
        }
        match answer {
            Answer::Rows(result) => {
                self.state().last = result.as_of.clone();
                Ok(result)
            }
            Answer::SetRead(mode) => {
                self.set_read_mode(mode);
                Ok(rows(Schema::empty(), Vec::new()))
            }
            Answer::ShowRead => Ok(one_text("alluvium.read", mode.name().into())),
            Answer::ShowAsOf => {
                let last = self.state().last.clone();
                let text = serde_json::to_string(&last).expect("plain structs become JSON");
                Ok(one_text("alluvium.as_of", text))
            }
        }
    }

    /// Plans one statement without running it. `declared` are the types that the client gave its parameters, in order.
    ///
    /// # Errors
    /// [`QueryError`] with everything a person needs.
    pub async fn describe(
        &self,
        sql: &str,
        declared: Vec<Option<DataType>>,
    ) -> Result<Described, QueryError> {
        if let (Some(instead), Some(setting)) = (self.instead, Setting::of(sql)) {
            instead.refuse(&setting.into())?;
        }
        let (shared, client) = (self.shared.clone(), self.client.clone());
        run::describe(shared, client, sql.to_string(), declared).await
    }

    /// Whether a query whose answer included `as_of` would read the same now.
    ///
    /// # Errors
    /// When storage does not answer.
    pub async fn is_still(&self, as_of: &AsOf) -> Result<bool, QueryError> {
        let (shelf, mode) = (self.shared.shelf.clone(), self.read_mode());
        let as_of = as_of.clone();
        let compared = self
            .shared
            .workers()
            .spawn(async move { View::open(shelf, mode).await.is_still(&as_of).await });
        compared.await.map_err(|error| {
            QueryError::new(
                ErrorKind::Internal,
                format!("the comparison broke off: {error}"),
            )
        })?
    }

    /// Whether this session's answers include what is not committed yet.
    pub fn read_mode(&self) -> ReadMode {
        self.state().mode
    }

    /// What `SET alluvium.read` does.
    pub fn set_read_mode(&self, mode: ReadMode) {
        self.state().mode = mode;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Settings> {
        // Both settings are replaced whole, so a panic elsewhere leaves them usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Setting> for Answer {
    fn from(setting: Setting) -> Self {
        match setting {
            Setting::SetRead(mode) => Self::SetRead(mode),
            Setting::ShowRead => Self::ShowRead,
            Setting::ShowAsOf => Self::ShowAsOf,
        }
    }
}

impl Instead {
    fn refuse(self, answer: &Answer) -> Result<(), QueryError> {
        let (message, hint) = match answer {
            Answer::SetRead(_) => (
                "there is no session here that would keep alluvium.read",
                self.set_read,
            ),
            Answer::ShowAsOf => (
                "there is no session here, hence no last answer",
                self.show_as_of,
            ),
            Answer::ShowRead | Answer::Rows(_) => return Ok(()),
        };
        Err(QueryError::new(ErrorKind::Unsupported, message).hint(hint))
    }
}

fn one_text(name: &str, value: String) -> QueryResult {
    let schema = Schema::new(vec![Field::new(name, DataType::Utf8, false)]);
    rows(schema, vec![value])
}

fn rows(schema: Schema, values: Vec<String>) -> QueryResult {
    let schema = Arc::new(schema);
    let batches: Vec<_> = match schema.fields().len() {
        0 => Vec::new(),
        _ => {
            let column = Arc::new(StringArray::from(values));
            vec![RecordBatch::try_new(schema.clone(), vec![column]).map_err(Into::into)]
        }
    };
    QueryResult {
        stream: Box::pin(RecordBatchStreamAdapter::new(
            schema.clone(),
            stream::iter(batches).boxed(),
        )),
        schema,
        as_of: AsOf::default(),
        repeats: false,
    }
}
