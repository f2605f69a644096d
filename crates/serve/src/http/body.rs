//! Bodies of requests, read whole before a route sees them.
//!
//! Owns their longest size and longest time. A refusal for length is given after most of what came is read: a client that
//! still writes while the server closes loses the reply, and one that keeps connections would use this one again.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures::StreamExt;

use super::reply::Refusal;

/// Longest body of a request, in bytes.
const MAX_REQUEST: usize = 1 << 20;
/// Read and thrown away of a longer one before it is refused, in bytes.
const THROWN_AWAY: usize = 16 << 20;
/// Longest time that a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a request's body, then hands it on; refuses what is too long, too slow or broken off.
pub(super) async fn read_first(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let read = match tokio::time::timeout(PATIENCE, read(body)).await {
        Ok(read) => read,
        Err(_) => {
            let text = format!("the request did not arrive within {} s", PATIENCE.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "08P01", text)
                .hint("send the whole request at once"))
        }
    };
    match read {
        Ok(bytes) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Err(refusal) => {
            let mut response = refusal.into_response();
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            response
        }
    }
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    let mut chunks = body.into_data_stream();
    let mut kept = BytesMut::new();
    let mut length = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            let text = format!("the request broke off after {length} bytes: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, "08P01", text).hint("send it again")
        })?;
        length += chunk.len();
        if length <= MAX_REQUEST {
            kept.extend_from_slice(&chunk);
        } else if length > THROWN_AWAY {
            break;
        }
    }
    if length > MAX_REQUEST {
        let text = format!("the request is longer than {MAX_REQUEST} bytes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "54000", text)
            .hint("join with a table instead of sending a long list of parameters"));
    }
    Ok(kept.freeze())
}
