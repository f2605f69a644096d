//! `alluvium sql`: one query, or a prompt for queries.
//!
//! Owns where the text comes from, who answers (the query engine over storage, or a running server), and how an answer is given up.
//! Does not own the conversation at a terminal ([`prompt`]).

mod command;
mod line;
mod prompt;
mod text;

use std::{
    cell::{Cell, RefCell},
    io::{self, IsTerminal, Read},
    sync::Arc,
    time::Duration,
};

use alluvium_query::{Limits, QueryEngine, QueryError, ReadMode, Session, Setting};
use serde_json::{Value, json};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use url::Url;

use prompt::Prompt;

use crate::{
    cells,
    cli::SqlArgs,
    door::{Door, flight::FlightDoor, postgres::PostgresDoor},
    failure::Failure,
    files,
    output::{Format, Sheet, to_stdout},
    progress::Waiting,
};

/// How long what ends a query at a server may take to leave this process.
const FAREWELL: Duration = Duration::from_millis(50);

/// Who answers.
enum Answering {
    /// The engine in this process, over storage.
    Storage {
        runtime: Runtime,
        session: Session,
    },
    /// A server, which knows no session: this process keeps it.
    Server {
        door: Door,
        kept: Kept,
    },
    /// A server through a door that keeps a session.
    Postgres(PostgresDoor),
    Flight(FlightDoor),
}

/// What a session would keep.
#[derive(Default)]
struct Kept {
    read: Cell<ReadMode>,
    /// What the last answer included.
    as_of: RefCell<Value>,
}

/// Answers the query of the command line or of stdin; prompts on a terminal.
pub(crate) fn run(args: &SqlArgs) -> Result<(), Failure> {
    let answering = match &args.url {
        Some(url) => at_door(url)?,
        None => over_storage(args)?,
    };
    match &args.query {
        Some(query) => answering.print(query, args.format),
        None if io::stdin().is_terminal() => Prompt::new(answering, args.format)?.run(),
        None => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Failure::input("stdin is not UTF-8 text").because(&error))?;
            for statement in text::statements(&text) {
                answering.print(&statement, args.format)?;
            }
            Ok(())
        }
    }
}

/// The door that an address names.
fn at_door(text: &str) -> Result<Answering, Failure> {
    let url = Url::parse(text)
        // There may be a password in what cannot be told apart.
        .map_err(|error| {
            Failure::input("`--url` is not the URL of a server")
                .because(&error)
                .help(DOORS)
        })?;
    Ok(match url.scheme() {
        "http" | "https" => Answering::Server {
            door: Door::new(text)?,
            kept: Kept::default(),
        },
        "postgres" | "postgresql" => Answering::Postgres(PostgresDoor::new(&url)?),
        "grpc" | "grpc+tls" => Answering::Flight(FlightDoor::new(&url)?),
        other => {
            return Err(Failure::input(format!("no door speaks `{other}`")).help(DOORS));
        }
    })
}

const DOORS: &str = "write http://HOST:8427, postgres://HOST:8432 or grpc://HOST:8433; with TLS https://…, postgres://…?sslmode=require or grpc+tls://…";

fn over_storage(args: &SqlArgs) -> Result<Answering, Failure> {
    let found = files::load(&args.server)?;
    let runtime = Runtime::new()?;
    let store = runtime.block_on(found.store())?;
    let limits = Limits::of(&found.server);
    let engine = QueryEngine::new(store, None, None, limits)
        .map_err(|error| Failure::work("queries cannot be answered").because(&error))?;
    Ok(Answering::Storage {
        session: engine.session(),
        runtime,
    })
}

/// Rows, and what they include.
struct Reply {
    sheet: Sheet,
    as_of: Value,
}

/// How a query ended that has no answer.
enum Ended {
    Failed(Failure),
    /// Somebody pressed ctrl-c.
    Cancelled,
}

impl Answering {
    fn answer(&self, query: &str) -> Result<Reply, Failure> {
        let _waiting = Waiting::for_("the answer");
        self.runtime().block_on(self.ask(query))
    }

    /// The same until ctrl-c: then the query ends too, here or at the server, which notices that nobody listens.
    fn answer_unless_cancelled(&self, query: &str) -> Result<Reply, Ended> {
        let _waiting = Waiting::for_("the answer");
        self.runtime().block_on(async {
            let mut interrupts = interrupts().map_err(Ended::Failed)?;
            {
                let mut asked = std::pin::pin!(self.ask(query));
                tokio::select! {
                    answer = &mut asked => return answer.map_err(Ended::Failed),
                    _ = interrupts.recv() => {}
                }
                if let Self::Postgres(door) = self {
                    // It says that it has ended, and keeps its connection with what was set there. A second ctrl-c does not wait.
                    door.end();
                    tokio::select! {
                        _ = &mut asked => {}
                        _ = interrupts.recv() => {}
                    }
                }
            }
            // Whoever gave up a question still has to tell the server so.
            tokio::time::sleep(FAREWELL).await;
            Err(Ended::Cancelled)
        })
    }

    /// Waits; whether ctrl-c ended that.
    fn was_cancelled_within(&self, pause: Duration) -> Result<bool, Failure> {
        self.runtime().block_on(async {
            let mut interrupts = interrupts()?;
            let waited = tokio::time::timeout(pause, interrupts.recv()).await;
            Ok(waited.is_ok())
        })
    }

    async fn ask(&self, query: &str) -> Result<Reply, Failure> {
        match self {
            Self::Storage { session, .. } => {
                let result = session.query(query, Vec::new()).await;
                let result = result.map_err(|error| refused(query, error))?;
                let schema = Arc::clone(&result.schema);
                let as_of = json!(result.as_of);
                let batches = result.collect().await;
                let batches = batches.map_err(|error| refused(query, error))?;
                let sheet = cells::sheet(&schema, &batches)
                    .map_err(|error| Failure::work("a value cannot be printed").because(&error))?;
                Ok(Reply { sheet, as_of })
            }
            Self::Server { door, kept } => {
                if let Some(setting) = Setting::of(query) {
                    return Ok(kept.obey(setting));
                }
                let read = kept.read.get().name();
                let asked = json!({ "sql": query, "read": read });
                let reply = door.ask("/v1/sql", &asked).await?;
                let sheet = rows(&reply).ok_or_else(|| {
                    Failure::work(format!(
                        "{} answered in a form this version does not know",
                        door.url()
                    ))
                })?;
                let as_of = reply["as_of"].clone();
                kept.as_of.replace(as_of.clone());
                Ok(Reply { sheet, as_of })
            }
            Self::Postgres(door) => {
                let (sheet, as_of) = door.ask(query).await?;
                Ok(Reply { sheet, as_of })
            }
            Self::Flight(door) => {
                let (sheet, as_of) = door.ask(query).await?;
                Ok(Reply { sheet, as_of })
            }
        }
    }

    fn runtime(&self) -> &Runtime {
        match self {
            Self::Storage { runtime, .. } => runtime,
            Self::Server { door, .. } => door.runtime(),
            Self::Postgres(door) => door.runtime(),
            Self::Flight(door) => door.runtime(),
        }
    }

    fn print(&self, query: &str, format: Format) -> Result<(), Failure> {
        let reply = self.answer(query)?;
        to_stdout(|out| reply.sheet.write(format, out))?;
        Ok(())
    }
}

impl Kept {
    fn obey(&self, setting: Setting) -> Reply {
        let sheet = match setting {
            Setting::SetRead(mode) => {
                self.read.set(mode);
                Sheet::new(Vec::<String>::new())
            }
            Setting::ShowRead => {
                let mut sheet = Sheet::new(["alluvium.read"]);
                sheet.push(vec![self.read.get().name().into()]);
                sheet
            }
            Setting::ShowAsOf => {
                let mut sheet = Sheet::new(["alluvium.as_of"]);
                let shown = match &*self.as_of.borrow() {
                    Value::Null => json!({ "tables": {} }).to_string(),
                    as_of => as_of.to_string(),
                };
                sheet.push(vec![shown.into()]);
                sheet
            }
        };
        Reply {
            sheet,
            as_of: self.as_of.borrow().clone(),
        }
    }
}

/// Presses of ctrl-c from now on.
fn interrupts() -> Result<Signal, Failure> {
    Ok(signal(SignalKind::interrupt())?)
}

fn refused(query: &str, error: QueryError) -> Failure {
    let failure = match error.position {
        Some(place) => {
            Failure::work(format!("{error} ({place})")).at(query, place.line, place.column)
        }
        None => Failure::work(&error),
    };
    match &error.hint {
        Some(hint) => failure.help(hint),
        None => failure,
    }
}

/// The rows of a reply of `/v1/sql`, in the order of its columns.
fn rows(reply: &Value) -> Option<Sheet> {
    let names: Vec<&str> = reply["columns"]
        .as_array()?
        .iter()
        .map(|column| column["name"].as_str())
        .collect::<Option<_>>()?;
    let mut sheet = Sheet::new(names.iter().copied());
    for row in reply["rows"].as_array()? {
        sheet.push(names.iter().map(|name| row[*name].clone()).collect());
    }
    Some(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_keeps_the_order_of_its_columns() {
        let reply = json!({
            "columns": [{"name": "z", "type": "bigint"}, {"name": "a", "type": "text"}],
            "rows": [{"a": "x", "z": 1}],
        });
        let mut out = Vec::new();
        rows(&reply).unwrap().write(Format::Csv, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "z,a\r\n1,x\r\n");
        assert!(rows(&json!({"columns": 3})).is_none());
    }
}
