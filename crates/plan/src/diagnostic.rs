//! What a person reads when a file is wrong: the file, the place in it, the mistake, the remedy.
//!
//! Owns collecting and rendering. Does not own any rule about what is a mistake.

use std::{fmt, ops::Range, path::Path, sync::Arc};

use alluvium_types::ErrorClass;
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path, as messages name it.
    pub path: String,
    /// All its text.
    pub text: String,
}

impl SourceFile {
    /// A file whose text is at hand.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }

    /// A file from its bytes; a byte-order mark is dropped.
    ///
    /// # Errors
    /// When the bytes are not UTF-8 text.
    pub fn from_bytes(path: impl Into<String>, bytes: Vec<u8>) -> Result<Self, Diagnostics> {
        let path = path.into();
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self {
                path,
                text: text.trim_start_matches('\u{feff}').into(),
            }),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let line = 1 + error.as_bytes()[..at]
                    .iter()
                    .filter(|&&byte| byte == b'\n')
                    .count();
                Err(Diagnostics::from(Diagnostic::of_file(
                    path,
                    Code::File,
                    format!(
                        "this file is not text: byte {} (line {line}) is not UTF-8",
                        at + 1
                    ),
                    "save it as UTF-8; pipeline, schema and server files are YAML",
                )))
            }
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is not UTF-8 text.
    pub fn read(path: &Path) -> Result<Self, Diagnostics> {
        let shown = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Self::from_bytes(shown, bytes),
            Err(error) => Err(Diagnostics::from(Diagnostic::of_file(
                shown,
                Code::File,
                format!("this file cannot be read: {error}"),
                "check the path and its permissions",
            ))),
        }
    }
}

/// The kind of a mistake, stable across releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// A file cannot be read.
    File,
    /// The text is not YAML.
    Syntax,
    /// A key is unknown, missing, doubled or holds the wrong kind of value.
    Structure,
    /// A value cannot be understood.
    Value,
    /// A name may not be used, or is used twice.
    Name,
    /// An SQL expression is wrong.
    Expression,
    /// A measure cannot be kept as a mergeable state.
    Measure,
    /// An environment variable or secret.
    Secret,
    /// An inline test.
    Test,
    /// Right, but not in this release.
    NotSupported,
}

impl Code {
    /// Its name in messages: `ALV0006`.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "ALV0001",
            Self::Syntax => "ALV0002",
            Self::Structure => "ALV0003",
            Self::Value => "ALV0004",
            Self::Name => "ALV0005",
            Self::Expression => "ALV0006",
            Self::Measure => "ALV0007",
            Self::Secret => "ALV0008",
            Self::Test => "ALV0009",
            Self::NotSupported => "ALV0010",
        }
    }
}

/// Whether work can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken; a person should know.
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub file: Arc<SourceFile>,
    /// The kind.
    pub code: Code,
    /// Whether it refuses the file.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// The bytes of the file's text that are marked; `None`: the file as a whole.
    pub span: Option<Range<usize>>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A mistake of a whole file whose text is not at hand.
    pub fn of_file(
        path: impl Into<String>,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            file: Arc::new(SourceFile::new(path, "")),
            code,
            severity: Severity::Error,
            message: message.into(),
            span: None,
            help: Some(help.into()),
        }
    }

    /// Line and column of the mark, both from 1, in characters.
    pub fn line_and_column(&self) -> Option<(usize, usize)> {
        let start = self.span.as_ref()?.start;
        let before = self.file.text.get(..start)?;
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |last| last.chars().count())
            + 1;
        Some((line, column))
    }
}

/// Whether rendered text carries terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// Plain text, for files and pipes.
    Plain,
    /// ANSI colours, for terminals.
    Ansi,
}

/// Every mistake that was found, in the order of files and places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them refuses its file.
    pub fn has_errors(&self) -> bool {
        self.0
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Adds those of another run.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// A wrong file is a person's to mend.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Config
    }

    /// All of them as text: file, line, column, the marked excerpt and what to do.
    pub fn render(&self, color: Color) -> String {
        let theme = match color {
            Color::Plain => GraphicalTheme::unicode_nocolor(),
            Color::Ansi => GraphicalTheme::unicode(),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(100)
            .with_links(false)
            .with_context_lines(1);
        let mut text = String::new();
        for diagnostic in &self.0 {
            let report = Report::new(diagnostic);
            if handler.render_report(&mut text, &report).is_err() {
                text.push_str(&diagnostic.to_string());
            }
            text.push('\n');
        }
        text
    }

    /// Sorts by place, so that a reader goes once through each file, and drops repetitions.
    pub(crate) fn finish(mut self) -> Self {
        self.0.sort_by(|left, right| {
            let place =
                |diagnostic: &Diagnostic| diagnostic.span.as_ref().map_or(0, |span| span.start);
            left.file
                .path
                .cmp(&right.file.path)
                .then(place(left).cmp(&place(right)))
        });
        self.0.dedup();
        // What an unset variable leaves behind makes no sense either; once is enough.
        let unset: Vec<_> = self
            .0
            .iter()
            .filter(|diagnostic| diagnostic.code == Code::Secret)
            .map(|diagnostic| (diagnostic.file.clone(), diagnostic.span.clone()))
            .collect();
        self.0.retain(|diagnostic| {
            diagnostic.code == Code::Secret
                || !unset.iter().any(|(file, span)| {
                    Arc::ptr_eq(file, &diagnostic.file) && *span == diagnostic.span
                })
        });
        self
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, diagnostic) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Diagnostic {
    /// One line: `path:line:column: message (help)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file.path)?;
        if let Some((line, column)) = self.line_and_column() {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// A diagnostic as the renderer wants it.
#[derive(Debug)]
struct Report {
    message: String,
    code: &'static str,
    severity: miette::Severity,
    help: Option<String>,
    source: Option<(NamedSource<String>, Range<usize>)>,
}

impl Report {
    fn new(diagnostic: &Diagnostic) -> Self {
        let text = &diagnostic.file.text;
        let source = diagnostic.span.as_ref().map(|span| {
            let end = span.end.min(text.len());
            let start = span.start.min(end);
            // A mark over several lines buries the message: the first line is enough.
            let first_line = text
                .get(start..end)
                .and_then(|marked| marked.split('\n').next())
                .map_or(end, |line| start + line.trim_end().len());
            let named = NamedSource::new(&diagnostic.file.path, readable(text));
            (named, start..first_line.max(start))
        });
        let message = match source {
            Some(_) => diagnostic.message.clone(),
            None => format!("{}: {}", diagnostic.file.path, diagnostic.message),
        };
        Self {
            message,
            code: diagnostic.code.name(),
            severity: match diagnostic.severity {
                Severity::Error => miette::Severity::Error,
                Severity::Warning => miette::Severity::Warning,
            },
            help: diagnostic.help.clone(),
            source,
        }
    }
}

/// The text with every control character that could disturb a terminal replaced by a space of the same
/// length, so that places stay right.
fn readable(text: &str) -> String {
    let disturbs = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r');
    if !text.contains(disturbs) {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if disturbs(c) {
            (0..c.len_utf8()).for_each(|_| clean.push(' '));
        } else {
            clean.push(c);
        }
    }
    clean
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Report {}

impl miette::Diagnostic for Report {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source
            .as_ref()
            .map(|(named, _)| named as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (_, span) = self.source.as_ref()?;
        let label = LabeledSpan::new_with_span(None, (span.start, span.len()));
        Some(Box::new(std::iter::once(label)))
    }
}
