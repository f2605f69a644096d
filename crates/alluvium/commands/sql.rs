//! `alluvium sql`: one query, or a prompt for queries.
//!
//! Owns where the text comes from and where the rows go. Queries are answered by the query engine over
//! storage, or by a running server.

use std::{
    io::{self, BufRead, IsTerminal, Read},
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_query::{Limits, QueryEngine, QueryError, Session};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    cells,
    cli::SqlArgs,
    door::Door,
    failure::Failure,
    files,
    output::{Format, Sheet, say, to_stdout},
};

/// Who answers.
enum Answering {
    /// The engine in this process, over storage.
    Storage { runtime: Runtime, session: Session },
    /// A server.
    Server(Door),
}

/// Answers the query of the command line or of stdin; prompts on a terminal.
pub(crate) fn run(args: &SqlArgs) -> Result<(), Failure> {
    let answering = match &args.url {
        Some(url) => Answering::Server(Door::new(url)?),
        None => over_storage(args)?,
    };
    match &args.query {
        Some(query) => answering.print(query, args.format),
        None if io::stdin().is_terminal() => answering.prompt(args.format),
        None => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Failure::input("stdin is not UTF-8 text").because(&error))?;
            for statement in statements(&text) {
                answering.print(&statement, args.format)?;
            }
            Ok(())
        }
    }
}

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

impl Answering {
    fn answer(&self, query: &str) -> Result<Sheet, Failure> {
        match self {
            Self::Storage { runtime, session } => runtime.block_on(async {
                let result = session.query(query, Vec::new()).await.map_err(refused)?;
                let schema = Arc::clone(&result.schema);
                let batches = result.collect().await.map_err(refused)?;
                cells::sheet(&schema, &batches)
                    .map_err(|error| Failure::work("a value cannot be printed").because(&error))
            }),
            Self::Server(door) => {
                let reply = door.post("/v1/sql", &json!({ "sql": query }))?;
                rows(&reply).ok_or_else(|| {
                    Failure::work(format!(
                        "{} answered in a form this version does not know",
                        door.url()
                    ))
                })
            }
        }
    }

    fn print(&self, query: &str, format: Format) -> Result<(), Failure> {
        let sheet = self.answer(query)?;
        to_stdout(|out| sheet.write(format, out))?;
        Ok(())
    }

    /// A line prompt: a statement ends with a semicolon, `\q` or the end of input leaves.
    fn prompt(&self, format: Format) -> Result<(), Failure> {
        say(format_args!(
            "A statement ends with `;`. \\q or ctrl-d leaves."
        ));
        let mut lines = io::stdin().lock();
        let mut statement = String::new();
        loop {
            let sign = if statement.is_empty() {
                "alluvium> "
            } else {
                "     ...> "
            };
            to_stdout(|out| write!(out, "{sign}"))?;
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 || line.trim() == "\\q" {
                to_stdout(|out| writeln!(out))?;
                return Ok(());
            }
            if statement.is_empty() && line.trim().is_empty() {
                continue;
            }
            statement.push_str(&line);
            if !line.trim_end().ends_with(';') {
                continue;
            }
            let query = std::mem::take(&mut statement);
            let started = Instant::now();
            match self.answer(query.trim().trim_end_matches(';')) {
                Ok(sheet) => {
                    to_stdout(|out| sheet.write(format, out))?;
                    if format == Format::Table {
                        say(format_args!(
                            "{}",
                            time_taken(sheet.len(), started.elapsed())
                        ));
                    }
                }
                // A wrong statement ends the statement, not the prompt.
                Err(failure) => {
                    failure.report();
                }
            }
        }
    }
}

fn time_taken(rows: usize, took: Duration) -> String {
    let noun = if rows == 1 { "row" } else { "rows" };
    format!("{rows} {noun} in {} ms", took.as_millis())
}

fn refused(error: QueryError) -> Failure {
    let failure = match error.position {
        Some(place) => Failure::work(format!("{error} ({place})")),
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

/// Splits at semicolons outside quotes and comments; blank statements are left out.
fn statements(text: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut statement = String::new();
    let mut quote = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match quote {
            Some('\n') if character == '\n' => quote = None,
            Some(open) if open == character => quote = None,
            Some(_) => {}
            None if character == '\'' || character == '"' => quote = Some(character),
            None if character == '-' && characters.peek() == Some(&'-') => quote = Some('\n'),
            None if character == ';' => {
                statements.push(std::mem::take(&mut statement));
                continue;
            }
            None => {}
        }
        statement.push(character);
    }
    statements.push(statement);
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_that_stand_alone() {
        assert_eq!(
            statements("SELECT ';' ; SELECT \"a;b\" -- no; end\n, 2;\n ;"),
            ["SELECT ';' ", " SELECT \"a;b\" -- no; end\n, 2"]
        );
        assert_eq!(statements("SELECT 'it''s; one'").len(), 1);
    }

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
