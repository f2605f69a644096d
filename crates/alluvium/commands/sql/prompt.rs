//! The conversation at a terminal: statements, the prompt's own commands, and how answers look.

use std::{
    env, fs,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::{Command as Process, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use anstream::{AutoStream, ColorChoice};
use rustyline::{
    CompletionType, Config, Editor, config::ColorMode, error::ReadlineError, history::FileHistory,
};
use serde_json::Value;

use super::{
    Answering, Ended, Reply,
    command::{COMMANDS, Command},
    interrupts,
    line::Line,
    text::statements,
};
use crate::{
    failure::Failure,
    output::{Format, Sheet, say, to_stdout},
};

/// Names the file that keeps what was typed; `off` keeps nothing.
const HISTORY: &str = "ALLUVIUM_HISTORY";
/// Statements that are kept.
const KEPT: usize = 10_000;

/// A conversation.
pub(super) struct Prompt {
    answering: Rc<Answering>,
    editor: Editor<Line, FileHistory>,
    history: Option<PathBuf>,
    format: Format,
    shows_time: bool,
    is_expanded: bool,
    pages: bool,
    last_query: Option<String>,
    as_of: Value,
}

/// Whether the conversation goes on.
enum Next {
    Line,
    Leave,
}

impl Prompt {
    pub(super) fn new(answering: Answering, format: Format) -> Result<Self, Failure> {
        // From here on ctrl-c ends a query, not the process.
        drop(answering.runtime().block_on(async { interrupts() })?);
        let answering = Rc::new(answering);
        let colours = match AutoStream::choice(&io::stdout()) {
            ColorChoice::Never => ColorMode::Disabled,
            _ => ColorMode::Enabled,
        };
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .max_history_size(KEPT)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(unusable)?
            .history_ignore_space(true)
            .color_mode(colours)
            .build();
        let mut editor = Editor::with_config(config).map_err(unusable)?;
        editor.set_helper(Some(Line::new(Rc::clone(&answering))));
        let history = history_file();
        if let Some(file) = &history
            && file.exists()
            && let Err(error) = editor.load_history(file)
        {
            say(format_args!("{} is not read: {error}", file.display()));
        }
        Ok(Self {
            answering,
            editor,
            history,
            format,
            shows_time: true,
            is_expanded: false,
            pages: true,
            last_query: None,
            as_of: Value::Null,
        })
    }

    /// Talks until the user leaves.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        say(format_args!(
            "A statement ends with `;`. \\? lists commands, \\q or ctrl-d leaves."
        ));
        loop {
            let text = match self.editor.readline("alluvium=> ") {
                Ok(text) => text,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(unusable(error)),
            };
            if text.trim().is_empty() {
                continue;
            }
            self.remember(&text);
            // What goes wrong ends a statement, not the prompt.
            match self.obey(&text) {
                Ok(Next::Line) => {}
                Ok(Next::Leave) => return Ok(()),
                Err(failure) => {
                    failure.report();
                }
            }
        }
    }

    /// Keeps what was typed. A history that cannot be written is told once, and then left alone.
    fn remember(&mut self, text: &str) {
        let Some(file) = &self.history else {
            return;
        };
        let added = self.editor.add_history_entry(text.trim_end());
        if let Err(error) = added.and_then(|_| self.editor.save_history(file)) {
            say(format_args!(
                "{} is not kept: {error}; {HISTORY} names another file, or `off`",
                file.display()
            ));
            self.history = None;
        }
    }

    fn obey(&mut self, text: &str) -> Result<Next, Failure> {
        if text.starts_with('\\') {
            return self.command(Command::read(text)?);
        }
        for statement in statements(text) {
            if !self.query(statement.trim())? {
                break;
            }
        }
        Ok(Next::Line)
    }

    fn command(&mut self, command: Command) -> Result<Next, Failure> {
        match command {
            Command::Describe(None) => self.show(RELATIONS)?,
            Command::Describe(Some(name)) => self.describe(&name)?,
            Command::Functions => self.show(FUNCTIONS)?,
            Command::Expanded(wanted) => {
                self.is_expanded = wanted.unwrap_or(!self.is_expanded);
                told("one line a column", self.is_expanded);
            }
            Command::Timing(wanted) => {
                self.shows_time = wanted.unwrap_or(!self.shows_time);
                told("times", self.shows_time);
            }
            Command::Pager(wanted) => {
                self.pages = wanted.unwrap_or(!self.pages);
                told("the pager", self.pages);
            }
            Command::Watch(pause) => self.watch(pause)?,
            Command::Format(format) => self.format = format,
            Command::Include(file) => {
                let text = fs::read_to_string(&file).map_err(|error| {
                    Failure::input(format!("{} cannot be read", file.display())).because(&error)
                })?;
                for statement in statements(&text) {
                    if !self.query(statement.trim())? {
                        break;
                    }
                }
            }
            Command::AsOf => match &self.as_of {
                Value::Null => say(format_args!("nothing has been answered yet")),
                as_of => to_stdout(|out| writeln!(out, "{as_of:#}"))?,
            },
            Command::Help => to_stdout(|out| {
                for (name, arguments, about) in COMMANDS {
                    writeln!(out, "{name:8} {arguments:10} {about}")?;
                }
                writeln!(
                    out,
                    "Tab completes, ctrl-r searches what was typed, ctrl-c ends a query."
                )
            })?,
            Command::Quit => return Ok(Next::Leave),
        }
        Ok(Next::Line)
    }

    /// Asks and prints; whether to go on with what follows.
    fn query(&mut self, query: &str) -> Result<bool, Failure> {
        self.last_query = Some(query.to_owned());
        let Some((reply, took)) = self.ask(query)? else {
            return Ok(false);
        };
        self.as_of = reply.as_of;
        self.print(&reply.sheet)?;
        self.tell_time(&reply.sheet, took);
        Ok(true)
    }

    fn ask(&self, query: &str) -> Result<Option<(Reply, Duration)>, Failure> {
        let begun = Instant::now();
        match self.answering.answer_unless_cancelled(query) {
            Ok(reply) => Ok(Some((reply, begun.elapsed()))),
            Err(Ended::Failed(failure)) => Err(failure),
            Err(Ended::Cancelled) => {
                say(format_args!("cancelled"));
                Ok(None)
            }
        }
    }

    fn tell_time(&self, sheet: &Sheet, took: Duration) {
        if self.format != Format::Table {
            return;
        }
        let rows = sheet.len();
        let noun = if rows == 1 { "row" } else { "rows" };
        match self.shows_time {
            true => say(format_args!("{rows} {noun} in {} ms", took.as_millis())),
            false => say(format_args!("{rows} {noun}")),
        }
    }

    /// Asks the catalogue and prints, without becoming the last query.
    fn show(&self, sql: &str) -> Result<(), Failure> {
        match self.ask(sql)? {
            Some((reply, _)) => self.print(&reply.sheet),
            None => Ok(()),
        }
    }

    fn describe(&self, name: &str) -> Result<(), Failure> {
        let name = name.replace('"', "");
        let (schema, table) = name.split_once('.').unwrap_or(("public", &name));
        let [schema, table] = [schema, table].map(|part| part.replace('\'', "''"));
        let sql = format!(
            "SELECT column_name AS column, data_type AS type FROM information_schema.columns \
             WHERE table_schema = '{schema}' AND table_name = '{table}' ORDER BY ordinal_position"
        );
        let Some((reply, _)) = self.ask(&sql)? else {
            return Ok(());
        };
        if !reply.sheet.is_empty() {
            return self.print(&reply.sheet);
        }
        // Asked for its rows, it says why it has none, and what is near.
        self.show(&format!("SELECT * FROM \"{schema}\".\"{table}\" LIMIT 0"))
    }

    /// The last query again and again, until ctrl-c.
    fn watch(&mut self, pause: Duration) -> Result<(), Failure> {
        let Some(query) = self.last_query.clone() else {
            return Err(Failure::input("there is no query yet to watch")
                .help("ask one first, then write `\\watch`"));
        };
        loop {
            let Some((reply, took)) = self.ask(&query)? else {
                return Ok(());
            };
            self.as_of = reply.as_of;
            to_stdout(|out| {
                writeln!(out, "{}", chrono::Local::now().format("%H:%M:%S"))?;
                self.write(&reply.sheet, out)
            })?;
            self.tell_time(&reply.sheet, took);
            if self.answering.was_cancelled_within(pause)? {
                say(format_args!(""));
                return Ok(());
            }
        }
    }

    fn write(&self, sheet: &Sheet, out: &mut dyn Write) -> io::Result<()> {
        match self.is_expanded && self.format == Format::Table {
            true => sheet.write_expanded(out),
            false => sheet.write(self.format, out),
        }
    }

    /// Prints an answer, through the pager if it is longer than the screen.
    fn print(&self, sheet: &Sheet) -> Result<(), Failure> {
        let mut text = Vec::new();
        self.write(sheet, &mut text)?;
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        let height = crossterm::terminal::size().map_or(usize::MAX, |(_, rows)| rows.into());
        let is_long = self.pages && io::stdout().is_terminal() && lines + 2 > height;
        if is_long && page(&text)? {
            return Ok(());
        }
        to_stdout(|out| out.write_all(&text))?;
        Ok(())
    }
}

/// Shows a text in the pager; `false` where none can be started.
fn page(text: &[u8]) -> io::Result<bool> {
    let pager = env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    let mut words = pager.split_whitespace();
    let Some(program) = words.next() else {
        return Ok(false);
    };
    let mut command = Process::new(program);
    command.args(words).stdin(Stdio::piped());
    if env::var_os("LESS").is_none() {
        command.env("LESS", "FRSX");
    }
    let Ok(mut pager) = command.spawn() else {
        return Ok(false);
    };
    if let Some(mut stdin) = pager.stdin.take() {
        match stdin.write_all(text) {
            // Whoever leaves the pager early has seen enough.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    pager.wait()?;
    Ok(true)
}

const RELATIONS: &str = "SELECT table_schema AS schema, table_name AS name FROM information_schema.tables \
    WHERE table_schema NOT IN ('information_schema', 'pg_catalog') ORDER BY 1, 2";
const FUNCTIONS: &str = "SELECT routine_name AS function, function_type AS kind, \
    string_agg(DISTINCT data_type, ', ' ORDER BY data_type) AS gives \
    FROM information_schema.routines GROUP BY 1, 2 ORDER BY 1";

fn told(what: &str, is_on: bool) {
    say(format_args!("{what}: {}", if is_on { "on" } else { "off" }));
}

fn unusable(error: ReadlineError) -> Failure {
    Failure::work("the prompt cannot use this terminal")
        .because(&error)
        .help("pipe statements instead: echo 'SELECT 1;' | alluvium sql")
}

/// Where what was typed is kept: what the environment says, or the user's state folder.
fn history_file() -> Option<PathBuf> {
    match env::var_os(HISTORY) {
        Some(off) if off == "off" => return None,
        Some(file) => return Some(file.into()),
        None => {}
    }
    let state = match env::var_os("XDG_STATE_HOME") {
        Some(state) if !state.is_empty() => PathBuf::from(state),
        _ => PathBuf::from(env::var_os("HOME")?).join(".local/state"),
    };
    let folder = state.join("alluvium");
    // Where there is no such folder and none can be made, nothing is kept.
    fs::create_dir_all(&folder).ok()?;
    Some(folder.join("sql_history"))
}
