//! Refusals and small JSON replies.
//!
//! Owns the form `{"error": {"code", "message", "hint", "position"}}` and the status that each kind of error has.

use alluvium_query::{ErrorKind, QueryError};
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// A small JSON reply that nobody may cache.
pub(super) fn json_reply(code: StatusCode, body: &Value) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (code, headers, format!("{body}\n")).into_response()
}

/// A request that is not answered.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: String,
    message: String,
    hint: Option<String>,
    position: Option<Value>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            hint: None,
            position: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A request that is not what this route takes.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
            .hint("send {\"sql\": \"SELECT …\", \"params\": []}")
    }

    /// The JSON form.
    pub(super) fn body(&self) -> Value {
        let mut error = json!({
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
        });
        if let Some(position) = &self.position {
            error["position"] = position.clone();
        }
        json!({ "error": error })
    }

    /// The code that metrics count it under.
    pub(super) fn code(&self) -> &str {
        &self.code
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        Self {
            status: status(error.kind),
            code: error.code().into(),
            message: error.message,
            hint: error.hint,
            position: error
                .position
                .map(|place| json!({ "line": place.line, "column": place.column })),
        }
    }
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotGranted => StatusCode::FORBIDDEN,
        ErrorKind::Ended => StatusCode::CONFLICT,
        ErrorKind::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Storage | ErrorKind::Memory | ErrorKind::Disk => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json_reply(self.status, &self.body())
    }
}
