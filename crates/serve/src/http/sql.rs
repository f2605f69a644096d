//! `POST /v1/sql`: one statement, its answer streamed.
//!
//! Owns the request's form and the moment at which the status is decided: what fails within the first MiB is a
//! refusal; what fails later breaks the stream, so that no client takes half an answer for a whole one.

use std::time::Instant;

use alluvium_query::{Access, Instead, QueryError, QueryResult, ReadMode, Session};
use axum::{
    body::Body,
    extract::{Extension, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use datafusion::{execution::SendableRecordBatchStream, scalar::ScalarValue};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::Value;

use crate::outcomes;

use super::{
    Door,
    format::{Encoder, Format},
    reply::Refusal,
};

/// How much of an answer is held back until the status is sent.
const HELD_BACK: usize = 1 << 20;
/// Longest account of what was read that goes into a header; many proxies refuse longer ones.
const MAX_AS_OF_HEADER: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
    read: Option<Read>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Read {
    Fresh,
    Committed,
}

impl From<Read> for ReadMode {
    fn from(read: Read) -> Self {
        match read {
            Read::Fresh => Self::Fresh,
            Read::Committed => Self::Committed,
        }
    }
}

pub(super) async fn answer(
    State(door): State<Door>,
    Extension(access): Extension<Access>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let begun = Instant::now();
    let outcome = respond(&door, access, &uri, &headers, &body).await;
    let failure = outcome.as_ref().err().map(Refusal::code);
    outcomes::answered("http", begun.elapsed(), failure);
    outcome.unwrap_or_else(IntoResponse::into_response)
}

async fn respond(
    door: &Door,
    access: Access,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, Refusal> {
    let format = wanted_format(uri, headers)?;
    let asked: Asked = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(format!("the request cannot be read: {error}")))?;
    let params = parameters(&asked.params)?;
    let session = session(door, access, asked.read, IN_A_BODY);
    let result = session.query(&asked.sql, params).await?;
    let as_of = serde_json::to_string(&result.as_of).map_err(|error| {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "XX000",
            error.to_string(),
        )
    })?;
    let chunks = hold_back(encode(result, format)?).await?;
    let mut response = Body::from_stream(chunks).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(format.content_type()),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if as_of.len() <= MAX_AS_OF_HEADER
        && let Ok(value) = HeaderValue::from_str(&as_of)
    {
        headers.insert(HeaderName::from_static("alluvium-as-of"), value);
    }
    Ok(response)
}

/// What a client does in place of settings: each request says how it reads.
const IN_A_BODY: Instead = Instead {
    set_read: "send {\"sql\": \"…\", \"read\": \"committed\"} with each request",
    show_as_of: "every answer says what it includes: as_of in its JSON, and the header alluvium-as-of",
};

/// A session for the one question of a request.
pub(super) fn session(
    door: &Door,
    access: Access,
    read: Option<Read>,
    instead: Instead,
) -> Session {
    let session = door.engine.session_of(access).at_door("http");
    if let Some(read) = read {
        session.set_read_mode(read.into());
    }
    session.without_settings(instead)
}

/// Values of `$1`, `$2` …
pub(super) fn parameters(values: &[Value]) -> Result<Vec<ScalarValue>, Refusal> {
    let values = values.iter().enumerate();
    values
        .map(|(position, value)| parameter(position, value))
        .collect()
}

fn parameter(position: usize, value: &Value) -> Result<ScalarValue, Refusal> {
    match value {
        Value::Null => Ok(ScalarValue::Null),
        Value::Bool(truth) => Ok((*truth).into()),
        Value::String(text) => Ok(text.as_str().into()),
        Value::Number(number) => number
            .as_i64()
            .map(ScalarValue::from)
            .or_else(|| number.as_u64().map(ScalarValue::from))
            .or_else(|| number.as_f64().map(ScalarValue::from))
            .ok_or_else(|| {
                Refusal::bad_request(format!("parameter ${} is too large", position + 1))
            }),
        Value::Array(_) | Value::Object(_) => Err(Refusal::bad_request(format!(
            "parameter ${} must be a number, a text, a boolean or null",
            position + 1
        ))),
    }
}

/// `?format=` wins over `Accept`; without either it is JSON.
fn wanted_format(uri: &Uri, headers: &HeaderMap) -> Result<Format, Refusal> {
    let not_offered = |what: &str| {
        Refusal::new(
            StatusCode::NOT_ACCEPTABLE,
            "not_acceptable",
            format!("{what} is not offered"),
        )
        .hint("formats are json, ndjson, csv, arrow and parquet")
    };
    let mut named = None;
    let query = uri.query().unwrap_or_default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some(("format", name)) = pair.split_once('=') else {
            let text = format!("the address has {pair}, which is not known");
            return Err(Refusal::bad_request(text).hint("only ?format= is"));
        };
        named = Some(Format::named(name).ok_or_else(|| not_offered(name))?);
    }
    if let Some(format) = named {
        return Ok(format);
    }
    let Some(accept) = headers.get(header::ACCEPT) else {
        return Ok(Format::Json);
    };
    let accept = accept.to_str().unwrap_or_default();
    let offered = accept.split(',').find_map(|kind| {
        Format::of_content_type(kind.split(';').next().unwrap_or_default().trim())
    });
    offered.ok_or_else(|| not_offered(accept))
}

/// The encoded answer, chunk by chunk. An error is the last one.
fn encode(
    result: QueryResult,
    format: Format,
) -> Result<impl Stream<Item = Result<Bytes, QueryError>> + Send + 'static, Refusal> {
    let encoder = Encoder::new(format, &result.schema, &result.as_of)?;
    Ok(stream::unfold(
        Some((encoder, result.stream)),
        |state| async move {
            let (encoder, rows) = state?;
            match next_chunk(encoder, rows).await {
                Ok((chunk, state)) => Some((Ok(chunk), state)),
                Err(error) => Some((Err(error), None)),
            }
        },
    ))
}

type Encoding = (Encoder, SendableRecordBatchStream);

async fn next_chunk(
    mut encoder: Encoder,
    mut rows: SendableRecordBatchStream,
) -> Result<(Bytes, Option<Encoding>), QueryError> {
    match rows.next().await {
        Some(batch) => {
            encoder.write(&batch?)?;
            Ok((encoder.take(), Some((encoder, rows))))
        }
        None => Ok((encoder.finish()?, None)),
    }
}

/// Waits for the first MiB or the end of an answer, whichever is sooner.
async fn hold_back(
    chunks: impl Stream<Item = Result<Bytes, QueryError>> + Send + 'static,
) -> Result<impl Stream<Item = Result<Bytes, QueryError>> + Send + 'static, Refusal> {
    // It is asked once more after its end, by the chain below.
    let mut chunks = Box::pin(chunks.fuse());
    let mut held = Vec::new();
    let mut size = 0;
    while size < HELD_BACK {
        match chunks.next().await {
            Some(chunk) => {
                let chunk = chunk?;
                size += chunk.len();
                held.push(Ok(chunk));
            }
            None => break,
        }
    }
    Ok(stream::iter(held).chain(chunks))
}
