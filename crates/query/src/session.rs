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
    error::QueryError,
    run::{self, Answer, Described, QueryResult},
    shared::Shared,
    view::{AsOf, ReadMode},
};

/// One client's settings. Statements of one session may run side by side.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    client: Client,
    state: Mutex<Settings>,
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
        }
    }

    /// Names the door that the client came through, for the list of queries.
    #[must_use]
    pub fn at_door(mut self, door: &'static str) -> Self {
        self.client.door = door;
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
        match run::run(shared, mode, self.client.clone(), sql, params).await? {
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
        let (shared, client) = (self.shared.clone(), self.client.clone());
        run::describe(shared, client, sql.to_string(), declared).await
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
    }
}
