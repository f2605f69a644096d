//! Errors as Postgres says them: severity, SQLSTATE, sentence, hint, and the character at which it is wrong.

use alluvium_query::{Position, QueryError};
use datafusion::error::DataFusionError;
use pgwire::error::{ErrorInfo, PgWireError};

/// An error that ends the statement.
pub(super) fn error(code: &str, message: impl Into<String>) -> PgWireError {
    user(ErrorInfo::new("ERROR".into(), code.into(), message.into()))
}

/// The same with advice.
pub(super) fn advised(
    code: &str,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> PgWireError {
    let mut info = ErrorInfo::new("ERROR".into(), code.into(), message.into());
    info.hint = Some(hint.into());
    user(info)
}

/// An error that ends the connection.
pub(super) fn fatal(code: &str, message: impl Into<String>) -> PgWireError {
    user(ErrorInfo::new("FATAL".into(), code.into(), message.into()))
}

/// What a query failed of. `before` are the characters of the client's text that stand before the statement.
pub(super) fn of_query(failed: &QueryError, statement: &str, before: usize) -> PgWireError {
    let mut info = ErrorInfo::new("ERROR".into(), failed.code().into(), failed.message.clone());
    info.hint = failed.hint.clone();
    info.position = failed
        .position
        .map(|place| (before + character(statement, place)).to_string());
    user(info)
}

/// What a query failed of after its first rows.
pub(super) fn of_rows(failed: DataFusionError) -> PgWireError {
    of_query(&QueryError::from(failed), "", 0)
}

/// The time that the client set is over.
pub(super) fn took_too_long() -> PgWireError {
    error("57014", "canceling statement due to statement timeout")
}

fn user(mut info: ErrorInfo) -> PgWireError {
    info.severity_nonlocalized = Some(info.severity.clone());
    PgWireError::UserError(Box::new(info))
}

/// The number of the character at a line and column, counted from 1.
fn character(text: &str, place: Position) -> usize {
    let lines = text.split_inclusive('\n');
    let line = usize::try_from(place.line).unwrap_or(1).max(1);
    let before: usize = lines.take(line - 1).map(|line| line.chars().count()).sum();
    before + usize::try_from(place.column).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters_from_the_beginning() {
        let at = |line, column| character("SELECT 'ü',\n  x\n", Position { line, column });
        assert_eq!(at(1, 1), 1);
        assert_eq!(at(2, 3), 15);
    }
}
