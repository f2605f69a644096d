//! How a command ends when it does not end well: what is printed, and the exit code.
//!
//! Owns the two kinds of failure and their words on stderr. Does not own what went wrong: that comes
//! from the libraries' errors.

use std::{error::Error, fmt, process::ExitCode};

use alluvium_plan::{Color, Diagnostics};

/// Exit code when the work failed.
pub(crate) const WORK_FAILED: u8 = 1;
/// Exit code when the command line or a file is wrong; clap uses the same.
pub(crate) const INPUT_WRONG: u8 = 2;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    causes: Vec<String>,
    help: Option<String>,
    /// The line that is wrong, and a mark below it.
    excerpt: Option<String>,
    /// What is printed before it, whole.
    detail: Option<String>,
}

impl Failure {
    /// The work failed (exit code 1).
    pub(crate) fn work(message: impl fmt::Display) -> Self {
        Self::new(WORK_FAILED, message)
    }

    /// The command line or a file is wrong (exit code 2).
    pub(crate) fn input(message: impl fmt::Display) -> Self {
        Self::new(INPUT_WRONG, message)
    }

    /// Files are wrong (exit code 2): every mistake with its place.
    pub(crate) fn wrong_files(found: &Diagnostics) -> Self {
        let count = found.0.len();
        let mistakes = if count == 1 { "mistake" } else { "mistakes" };
        let mut failure = Self::input(format!("{count} {mistakes} in files"));
        failure.detail = Some(found.render(Color::Ansi));
        failure
    }

    fn new(code: u8, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
            causes: Vec::new(),
            help: None,
            excerpt: None,
            detail: None,
        }
    }

    /// Adds what lies behind it: `cause` and all its sources, without repetitions.
    pub(crate) fn because(mut self, cause: &dyn Error) -> Self {
        let mut next = Some(cause);
        while let Some(cause) = next {
            let text = cause.to_string();
            let told = |earlier: &String| earlier.contains(&text);
            if !told(&self.message) && !self.causes.iter().any(told) {
                self.causes.push(text);
            }
            next = cause.source();
        }
        self
    }

    /// Shows the line of a statement in which it lies, and points at the place; both counted from 1.
    pub(crate) fn at(mut self, statement: &str, line: u64, column: u64) -> Self {
        let [line, column] = [line, column].map(|number| usize::try_from(number).unwrap_or(1));
        if let Some(text) = statement.lines().nth(line.saturating_sub(1)) {
            let before = text.chars().take(column.saturating_sub(1));
            // Tabs stay, so that the mark stands below its letter.
            let space: String = before.map(|c| if c == '\t' { c } else { ' ' }).collect();
            self.excerpt = Some(format!("  {text}\n  {space}^\n"));
        }
        self
    }

    /// Adds the one thing to do next.
    pub(crate) fn help(mut self, help: impl fmt::Display) -> Self {
        self.help = Some(help.to_string());
        self
    }

    /// Prints it to stderr and returns its exit code.
    pub(crate) fn report(&self) -> ExitCode {
        use std::io::Write;
        let mut stderr = anstream::stderr().lock();
        // Nothing is left to tell it to when stderr is gone; the exit code still says it.
        let _ = stderr.write_all(self.text().as_bytes());
        ExitCode::from(self.code)
    }

    /// Ends with the last of these, after the others were printed; well where there is none.
    pub(crate) fn any_of(failures: impl IntoIterator<Item = Self>) -> Result<(), Self> {
        let mut last = None;
        for failure in failures {
            if let Some(earlier) = last.replace(failure) {
                earlier.report();
            }
        }
        last.map_or(Ok(()), Err)
    }

    fn text(&self) -> String {
        const ERROR: &str = "\x1b[1;31merror\x1b[0m";
        const HELP: &str = "\x1b[1;36mhelp\x1b[0m";
        let mut text = self.detail.clone().unwrap_or_default();
        text.push_str(&format!("{ERROR}: {}\n", self.message));
        text.push_str(self.excerpt.as_deref().unwrap_or_default());
        for cause in &self.causes {
            text.push_str(&format!("  because: {cause}\n"));
        }
        if let Some(help) = &self.help {
            text.push_str(&format!("{HELP}: {help}\n"));
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<std::io::Error> for Failure {
    /// Writing a result failed, or a file could not be read where no better words were found.
    fn from(error: std::io::Error) -> Self {
        Self::work(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {source}")]
        struct Outer {
            source: Inner,
        }
        #[derive(Debug, thiserror::Error)]
        #[error("no route")]
        struct Inner;

        let failure = Failure::work("it failed").because(&Outer { source: Inner });
        assert_eq!(failure.causes, ["outer: no route"]);
        assert!(failure.help("try again").text().ends_with("try again\n"));
    }

    #[test]
    fn a_mark_stands_below_its_letter() {
        let failure = Failure::work("no").at("SELECT\n\tö, clikcs", 2, 5);
        assert!(
            failure.text().ends_with("  \tö, clikcs\n  \t   ^\n"),
            "{}",
            failure.text()
        );
    }
}
