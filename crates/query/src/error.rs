//! What an analyst is told when a query does not end well.
//!
//! Owns the translation of DataFusion's errors into a code, a sentence, a hint and a place. Does
//! not own how a door writes them down.

use std::{fmt, io};

use alluvium_types::ErrorClass;
use datafusion::{
    arrow::error::ArrowError, common::SchemaError, error::DataFusionError,
    sql::sqlparser::parser::ParserError,
};
use serde::Serialize;

/// What kind of thing went wrong. Each has one SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The text is not SQL.
    Syntax,
    /// No such table or schema.
    UnknownTable,
    /// Somebody ordered the query to end.
    Ended,
    /// A relation that the user may not read, or that there is not.
    NotGranted,
    /// No such column.
    UnknownColumn,
    /// A column name that two relations have.
    AmbiguousColumn,
    /// No such function, or not with these arguments.
    UnknownFunction,
    /// A parameter without a value.
    UndefinedParameter,
    /// Types do not fit together.
    Invalid,
    /// SQL that is understood and not offered.
    Unsupported,
    /// It would change something; only reading is offered.
    ReadOnly,
    /// The text is longer than allowed.
    TooLong,
    /// It has too many operators, or is nested too deeply.
    TooComplex,
    /// The result has more rows than allowed.
    TooManyRows,
    /// The result has more bytes than allowed.
    TooManyBytes,
    /// It would read more than allowed.
    TooMuchToRead,
    /// A value: overflow, a cast that fails.
    Data,
    /// Division by zero.
    DivisionByZero,
    /// The memory for queries is used up.
    Memory,
    /// The disk for what does not fit into memory is used up.
    Disk,
    /// Too many queries run at once.
    Busy,
    /// It took longer than allowed, or was cancelled.
    Timeout,
    /// Storage did not answer.
    Storage,
    /// An invariant broke.
    Internal,
}

/// Line and column in the SQL text, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

/// A query that did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// One sentence that says so.
    pub message: String,
    /// The one thing to do next, where it is known.
    pub hint: Option<String>,
    /// Where in the text, where it is known.
    pub position: Option<Position>,
}

impl ErrorKind {
    /// The SQLSTATE, as Postgres would say it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Syntax => "42601",
            Self::UnknownTable => "42P01",
            Self::NotGranted => "42501",
            Self::Ended => "57014",
            Self::UnknownColumn => "42703",
            Self::AmbiguousColumn => "42702",
            Self::UnknownFunction => "42883",
            Self::UndefinedParameter => "42P02",
            Self::Invalid => "42804",
            Self::Unsupported => "0A000",
            Self::ReadOnly => "25006",
            Self::TooLong | Self::TooManyRows | Self::TooManyBytes | Self::TooMuchToRead => "54000",
            Self::TooComplex => "54001",
            Self::Data => "22000",
            Self::DivisionByZero => "22012",
            Self::Memory => "53200",
            Self::Disk => "53100",
            Self::Busy => "53300",
            Self::Timeout => "57014",
            Self::Storage => "58030",
            Self::Internal => "XX000",
        }
    }

    /// What the caller does next.
    pub fn class(self) -> ErrorClass {
        match self {
            Self::Busy | Self::Timeout | Self::Storage | Self::Memory | Self::Disk => {
                ErrorClass::Transient
            }
            Self::Data | Self::DivisionByZero => ErrorClass::Data,
            Self::Internal => ErrorClass::Bug,
            _ => ErrorClass::Config,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl QueryError {
    /// An error of this kind, without hint and place.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            position: None,
        }
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The SQLSTATE.
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// What the caller does next.
    pub fn class(&self) -> ErrorClass {
        self.kind.class()
    }

    /// This error as one of DataFusion's, to travel in its streams and callbacks; [`Self::from`]
    /// finds it again.
    pub fn into_datafusion(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }

    fn at(mut self, position: Option<Position>) -> Self {
        self.position = self.position.or(position);
        self
    }
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        translate(&error)
    }
}

fn translate(error: &DataFusionError) -> QueryError {
    match error {
        DataFusionError::Context(_, inner) => translate(inner),
        DataFusionError::Shared(inner) => translate(inner),
        DataFusionError::Collection(all) => match all.first() {
            Some(first) => translate(first),
            None => QueryError::new(ErrorKind::Internal, "an error without a cause"),
        },
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let position = diagnostic.span.map(|span| Position {
                line: span.start.line,
                column: span.start.column,
            });
            translate(inner).at(position)
        }
        DataFusionError::External(cause) => external(cause.as_ref()),
        DataFusionError::SQL(cause, _) => parser(cause),
        DataFusionError::SchemaError(cause, _) => schema(cause),
        DataFusionError::Plan(text) => planning(text),
        DataFusionError::Configuration(text) | DataFusionError::Substrait(text) => {
            QueryError::new(ErrorKind::Invalid, text)
        }
        DataFusionError::NotImplemented(text) => QueryError::new(ErrorKind::Unsupported, text),
        DataFusionError::ResourcesExhausted(text) => QueryError::new(
            ErrorKind::Memory,
            format!(
                "the query needs more memory than queries may use: {}",
                first_line(text)
            ),
        )
        .hint("narrow it by window_start or by group columns, or raise memory.query"),
        DataFusionError::ArrowError(cause, _) => arrow(cause),
        DataFusionError::Execution(text) => QueryError::new(ErrorKind::Data, text),
        DataFusionError::ObjectStore(cause) => QueryError::new(
            ErrorKind::Storage,
            format!("storage did not deliver: {cause}"),
        ),
        DataFusionError::ParquetError(cause) => QueryError::new(
            ErrorKind::Storage,
            format!("a stored file cannot be read: {cause}"),
        ),
        DataFusionError::IoError(cause) => input_output(cause),
        DataFusionError::Internal(_)
        | DataFusionError::ExecutionJoin(_)
        | DataFusionError::Ffi(_) => QueryError::new(ErrorKind::Internal, error.strip_backtrace()),
    }
}

fn external(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> QueryError {
    if let Some(own) = cause.downcast_ref::<QueryError>() {
        return own.clone();
    }
    if let Some(nested) = cause.downcast_ref::<DataFusionError>() {
        return translate(nested);
    }
    if let Some(nested) = cause.downcast_ref::<ArrowError>() {
        return arrow(nested);
    }
    if let Some(function) = cause.downcast_ref::<alluvium_functions::FunctionError>() {
        let kind = match function.class() {
            ErrorClass::Data => ErrorKind::Data,
            ErrorClass::Config => ErrorKind::Invalid,
            _ => ErrorKind::Internal,
        };
        return QueryError::new(kind, function.to_string());
    }
    if let Some(store) = cause.downcast_ref::<object_store::Error>() {
        return QueryError::new(
            ErrorKind::Storage,
            format!("storage did not deliver: {store}"),
        );
    }
    QueryError::new(ErrorKind::Data, cause.to_string())
}

fn input_output(cause: &io::Error) -> QueryError {
    match cause.get_ref() {
        Some(inner) if inner.is::<QueryError>() => external(inner),
        _ => QueryError::new(
            ErrorKind::Storage,
            format!("storage did not deliver: {cause}"),
        ),
    }
}

fn arrow(cause: &ArrowError) -> QueryError {
    match cause {
        ArrowError::ExternalError(nested) => external(nested.as_ref()),
        ArrowError::DivideByZero => QueryError::new(ErrorKind::DivisionByZero, "division by zero"),
        ArrowError::IoError(_, cause) => input_output(cause),
        ArrowError::ParquetError(text) => QueryError::new(
            ErrorKind::Storage,
            format!("a stored file cannot be read: {text}"),
        ),
        other => QueryError::new(ErrorKind::Data, other.to_string()),
    }
}

fn parser(cause: &ParserError) -> QueryError {
    match cause {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => {
            let (text, position) = cut_position(text);
            QueryError::new(ErrorKind::Syntax, text).at(position)
        }
        ParserError::RecursionLimitExceeded => {
            QueryError::new(ErrorKind::TooComplex, "the query is nested too deeply")
        }
    }
}

/// Takes ` at Line: 1, Column: 8` off the end of a parser's sentence.
fn cut_position(text: &str) -> (String, Option<Position>) {
    let Some((sentence, place)) = text.rsplit_once(" at Line: ") else {
        return (text.to_string(), None);
    };
    let mut numbers = place
        .split(", Column: ")
        .map(|number| number.trim().parse::<u64>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(line)), Some(Ok(column))) => {
            (sentence.to_string(), Some(Position { line, column }))
        }
        _ => (text.to_string(), None),
    }
}

fn schema(cause: &SchemaError) -> QueryError {
    match cause {
        SchemaError::FieldNotFound {
            field,
            valid_fields,
        } => {
            let error = QueryError::new(
                ErrorKind::UnknownColumn,
                format!("there is no column {}", field.flat_name()),
            );
            let names: Vec<&str> = valid_fields
                .iter()
                .map(|field| field.name.as_str())
                .collect();
            match nearest(&field.name, names.iter().copied()) {
                Some(name) => error.hint(format!("did you mean {name}?")),
                None if names.is_empty() => error,
                None => error.hint(format!("there are: {}", names.join(", "))),
            }
        }
        SchemaError::AmbiguousReference { field } => QueryError::new(
            ErrorKind::AmbiguousColumn,
            format!(
                "column {} could be of more than one relation",
                field.flat_name()
            ),
        )
        .hint("write the relation's name before it"),
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => QueryError::new(
            ErrorKind::AmbiguousColumn,
            format!("two columns of one relation would be called {name}"),
        )
        .hint("give one of them another name with AS"),
    }
}

fn planning(text: &str) -> QueryError {
    let kind = if text.contains("Invalid function") || text.contains("No function matches") {
        ErrorKind::UnknownFunction
    } else if is_about_a_table(text) {
        ErrorKind::UnknownTable
    } else if text.contains("not supported") || text.contains("Unsupported") {
        ErrorKind::Unsupported
    } else {
        ErrorKind::Invalid
    };
    let (sentence, hint) = match text.split_once("\nDid you mean ") {
        Some((sentence, rest)) => (
            sentence.trim_end_matches('.'),
            Some(format!(
                "did you mean {}?",
                first_line(rest).trim_matches(['\'', '?'])
            )),
        ),
        None => (text, None),
    };
    QueryError {
        hint,
        ..QueryError::new(kind, sentence)
    }
}

fn is_about_a_table(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.starts_with("table ") && text.contains("not found")
        || text.starts_with("failed to resolve")
        || text.contains("schema provider")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The known name that `name` was probably meant to be.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .map(|candidate| {
            let likeness = strsim::jaro_winkler(&name, &candidate.to_lowercase());
            (candidate, likeness)
        })
        .filter(|(_, likeness)| *likeness > 0.8)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(candidate, _)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_error_keeps_its_place() {
        let error = parser(&ParserError::ParserError(
            "Expected: an expression, found: FROM at Line: 2, Column: 8".into(),
        ));
        assert_eq!(error.message, "Expected: an expression, found: FROM");
        assert_eq!(error.position, Some(Position { line: 2, column: 8 }));
        assert_eq!(error.code(), "42601");
    }

    #[test]
    fn our_own_error_survives_the_way_through_datafusion() {
        let own = QueryError::new(ErrorKind::Timeout, "too slow").hint("be quick");
        let carried = own.clone().into_datafusion().context("somewhere");
        assert_eq!(QueryError::from(carried), own);
        let wrapped = ArrowError::ExternalError(Box::new(own.clone().into_datafusion()));
        assert_eq!(
            QueryError::from(DataFusionError::ArrowError(Box::new(wrapped), None)),
            own
        );
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let known = ["clicks", "errors", "country"];
        assert_eq!(nearest("click", known.into_iter()), Some("clicks"));
        assert_eq!(nearest("zebra", known.into_iter()), None);
    }
}
