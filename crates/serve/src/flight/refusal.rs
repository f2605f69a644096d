//! Errors as gRPC says them: a code, and one line with sentence, place, advice and SQLSTATE.

use alluvium_query::{ErrorKind, QueryError};
use datafusion::error::DataFusionError;
use tonic::{Code, Status};

/// The header with the SQLSTATE.
const SQLSTATE: &str = "alluvium-sqlstate";
/// Longest message: it travels in a header, and clients refuse long ones.
const MOST_TEXT: usize = 3 << 10;

/// What a query failed of.
pub(super) fn of_query(failed: &QueryError) -> Status {
    let mut text = failed.message.clone();
    if let Some(place) = failed.position {
        text += &format!(" (at {place})");
    }
    if let Some(hint) = &failed.hint {
        text += &format!("; {hint}");
    }
    text.truncate(text.floor_char_boundary(MOST_TEXT));
    let mut status = Status::new(code(failed.kind), text);
    if let Ok(value) = failed.code().parse() {
        status.metadata_mut().insert(SQLSTATE, value);
    }
    status
}

/// What a query failed of after its first rows.
pub(super) fn of_rows(failed: DataFusionError) -> Status {
    of_query(&QueryError::from(failed))
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::UnknownTable => Code::NotFound,
        ErrorKind::NotGranted => Code::PermissionDenied,
        ErrorKind::Ended => Code::Cancelled,
        ErrorKind::Unsupported | ErrorKind::ReadOnly => Code::Unimplemented,
        ErrorKind::TooLong
        | ErrorKind::TooComplex
        | ErrorKind::TooManyRows
        | ErrorKind::TooManyBytes
        | ErrorKind::TooMuchToRead
        | ErrorKind::Memory
        | ErrorKind::Disk
        | ErrorKind::Busy => Code::ResourceExhausted,
        ErrorKind::Timeout => Code::DeadlineExceeded,
        ErrorKind::Storage => Code::Unavailable,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::Syntax
        | ErrorKind::UnknownColumn
        | ErrorKind::AmbiguousColumn
        | ErrorKind::UnknownFunction
        | ErrorKind::UndefinedParameter
        | ErrorKind::Invalid
        | ErrorKind::Data
        | ErrorKind::DivisionByZero => Code::InvalidArgument,
    }
}

/// An invariant of this door that broke.
pub(super) fn broken(cause: impl std::fmt::Display) -> Status {
    Status::internal(cause.to_string())
}

/// Everything that would change something.
pub(super) fn reads_only(what: &str) -> Status {
    Status::unimplemented(format!(
        "{what} is not offered: this server only reads, tables change by their pipelines; use SELECT, VALUES, EXPLAIN or SHOW"
    ))
}

/// What ended on somebody's order.
pub(super) fn cancelled() -> Status {
    Status::cancelled("the query was cancelled")
}
