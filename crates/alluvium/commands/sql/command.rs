//! The prompt's own commands, which begin with a backslash.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;

use crate::{failure::Failure, output::Format};

/// What the prompt is told to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    /// All relations, or the columns of one.
    Describe(Option<String>),
    Functions,
    /// Whether the time is shown; `None`: the other way round.
    Timing(Option<bool>),
    /// One line a column instead of one a row.
    Expanded(Option<bool>),
    Pager(Option<bool>),
    /// The last query again and again.
    Watch(Duration),
    Include(PathBuf),
    Format(Format),
    AsOf,
    Help,
    Quit,
}

/// Each command: its name, what may follow, what it does.
pub(super) const COMMANDS: [(&str, &str, &str); 12] = [
    ("\\d", "[NAME]", "lists relations, or the columns of one"),
    ("\\dt", "", "lists relations"),
    ("\\df", "", "lists functions"),
    ("\\x", "[on|off]", "one line a column instead of one a row"),
    ("\\timing", "[on|off]", "shows how long each answer took"),
    (
        "\\pager",
        "[on|off]",
        "long answers go through $PAGER, or less",
    ),
    (
        "\\watch",
        "[SECONDS]",
        "asks the last query again each second, until ctrl-c",
    ),
    ("\\format", "NAME", "table, json, ndjson or csv"),
    ("\\i", "FILE", "runs the statements of a file"),
    ("\\asof", "", "what the last answer includes"),
    ("\\?", "", "this list"),
    ("\\q", "", "leaves, as ctrl-d does"),
];

/// Between two answers of `\watch` at least.
const SHORTEST: Duration = Duration::from_millis(100);

impl Command {
    /// Reads a line that begins with a backslash.
    ///
    /// # Errors
    /// What is wrong with it, and the nearest that would be right.
    pub(super) fn read(line: &str) -> Result<Self, Failure> {
        let line = line.trim().trim_end_matches(';').trim_end();
        let (name, rest) = match line.split_once(char::is_whitespace) {
            Some((name, rest)) => (name, Some(rest.trim()).filter(|rest| !rest.is_empty())),
            None => (line, None),
        };
        Ok(match (name, rest) {
            ("\\d", name) => Self::Describe(name.map(str::to_owned)),
            ("\\dt" | "\\d+", None) => Self::Describe(None),
            ("\\df", None) => Self::Functions,
            ("\\x", switch) => Self::Expanded(on_or_off(name, switch)?),
            ("\\timing", switch) => Self::Timing(on_or_off(name, switch)?),
            ("\\pager", switch) => Self::Pager(on_or_off(name, switch)?),
            ("\\watch", None) => Self::Watch(Duration::from_secs(1)),
            ("\\watch", Some(seconds)) => Self::Watch(pause(seconds)?),
            ("\\format", Some(format)) => Self::Format(format_named(format)?),
            ("\\i", Some(file)) => Self::Include(file.into()),
            ("\\asof", None) => Self::AsOf,
            ("\\?" | "\\h" | "\\help", None) => Self::Help,
            ("\\q" | "\\quit", None) => Self::Quit,
            _ => return Err(unknown(name)),
        })
    }
}

fn on_or_off(name: &str, text: Option<&str>) -> Result<Option<bool>, Failure> {
    match text {
        None => Ok(None),
        Some("on") => Ok(Some(true)),
        Some("off") => Ok(Some(false)),
        Some(other) => Err(
            Failure::input(format!("`{other}` is neither on nor off")).help(format!(
                "write `{name} on`, or `{name}` for the other way round"
            )),
        ),
    }
}

fn pause(text: &str) -> Result<Duration, Failure> {
    let seconds = text.parse().ok().map(Duration::try_from_secs_f64);
    match seconds {
        Some(Ok(pause)) if pause >= SHORTEST => Ok(pause),
        _ => Err(Failure::input(format!("`{text}` is no number of seconds"))
            .help("write `\\watch 2`; 0.1 is the shortest")),
    }
}

fn format_named(text: &str) -> Result<Format, Failure> {
    Format::from_str(text, true).map_err(|_| {
        Failure::input(format!("there is no format `{text}`"))
            .help("there are table, json, ndjson and csv")
    })
}

fn unknown(name: &str) -> Failure {
    let known = COMMANDS.iter().find(|(known, ..)| *known == name);
    if let Some((name, arguments, about)) = known {
        return Failure::input(format!("`{name}` is written otherwise"))
            .help(format!("{name} {arguments}: {about}"));
    }
    let distance = |known: &str| strsim::damerau_levenshtein(known, name);
    let nearest = COMMANDS.iter().min_by_key(|(known, ..)| distance(known));
    let failure = Failure::input(format!("there is no command `{name}`"));
    match nearest {
        Some((known, ..)) if distance(known) <= 2 => {
            failure.help(format!("did you mean `{known}`? `\\?` lists all"))
        }
        _ => failure.help("`\\?` lists all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        for (line, command) in [
            ("\\d", Command::Describe(None)),
            (
                "\\d  panes.clicks ;",
                Command::Describe(Some("panes.clicks".into())),
            ),
            ("\\x", Command::Expanded(None)),
            ("\\x on", Command::Expanded(Some(true))),
            ("\\timing off", Command::Timing(Some(false))),
            ("\\watch 0.5", Command::Watch(Duration::from_millis(500))),
            ("\\format CSV", Command::Format(Format::Csv)),
            (
                "\\i some file.sql",
                Command::Include("some file.sql".into()),
            ),
            ("\\q;", Command::Quit),
        ] {
            assert_eq!(Command::read(line).unwrap(), command, "{line}");
        }
    }

    #[test]
    fn mistakes_are_told_with_the_way_out() {
        for (line, told) in [
            ("\\wtach", "did you mean `\\watch`?"),
            ("\\x maybe", "write `\\x on`"),
            ("\\watch 0", "0.1 is the shortest"),
            ("\\watch -1", "0.1 is the shortest"),
            ("\\format", "table, json"),
            ("\\format xml", "there are table"),
            ("\\nothinglikeit", "`\\?` lists all"),
        ] {
            let failure = Command::read(line).unwrap_err();
            assert!(
                format!("{failure:?}").replace("\\\\", "\\").contains(told),
                "{failure:?}"
            );
        }
    }
}
