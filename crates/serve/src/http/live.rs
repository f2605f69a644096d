//! `GET /v1/sql/live`: a query that is asked again and again, and its answer each time that it changed, as server-sent
//! events.
//!
//! Owns the rhythm and what counts as a change: the rows, not the moment that they were computed from. A round is left out where the
//! tables are as they were, and nothing else could change the answer. Does not own the query; each round is one like any other,
//! with its limits.

use std::{convert::Infallible, sync::Arc, time::Duration};

use alluvium_query::{Access, AsOf, ErrorKind, Instead, QueryError, Session};
use axum::{
    extract::{Extension, Query, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use bytes::Bytes;
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Door,
    format::{Encoder, Format},
    reply::Refusal,
    sql::{Read, parameters, session},
};

/// How often a query is asked where the client does not say.
const EVERY: Duration = Duration::from_secs(1);
/// The shortest and the longest pause that a client may ask for.
const EVERY_BOUNDS: (u64, u64) = (200, 3_600_000);
/// Longest answer, in bytes: it is held to tell whether the next one differs.
const MOST_BYTES: usize = 4 << 20;
/// Live queries at the same time.
const MOST: usize = 256;
/// How often something is sent where no answer changes, so that nobody takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a client does in place of settings.
const IN_THE_ADDRESS: Instead = Instead {
    set_read: "add &read=committed to the address",
    show_as_of: "every event says what it includes, as as_of",
};

/// Places for live queries. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    sql: String,
    /// A list in JSON: values of `$1`, `$2` …
    params: Option<String>,
    read: Option<Read>,
    /// Milliseconds between two rounds.
    every: Option<u64>,
}

struct Live {
    session: Session,
    sql: String,
    params: Vec<ScalarValue>,
    every: Duration,
    /// The rows that were sent last.
    last: Option<Bytes>,
    /// What the last round read, where the same would give the same answer.
    known: Option<AsOf>,
    rhythm: Rhythm,
    _place: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rhythm {
    /// The first round comes at once.
    First,
    Again,
    Over,
}

pub(super) async fn follow(
    State(door): State<Door>,
    Extension(places): Extension<Places>,
    Extension(access): Extension<Access>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(asked) = asked.map_err(|error| {
        Refusal::bad_request(error.body_text())
            .hint("the address takes sql, params (a list in JSON), read (fresh, committed) and every (milliseconds)")
    })?;
    let every = asked.every.map_or(Ok(EVERY), |every| {
        let (least, most) = EVERY_BOUNDS;
        match (least..=most).contains(&every) {
            true => Ok(Duration::from_millis(every)),
            false => Err(
                Refusal::bad_request(format!("every={every} is out of range"))
                    .hint(format!("between {least} and {most} milliseconds")),
            ),
        }
    })?;
    let place = places.0.try_acquire_owned().map_err(|_| {
        let text = format!("{MOST} live queries run already");
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "53300", text)
            .hint("close one, or ask with POST /v1/sql")
    })?;
    let values: Vec<Value> = match &asked.params {
        Some(text) => serde_json::from_str(text).map_err(|error| {
            Refusal::bad_request(format!("params is no list in JSON: {error}"))
                .hint("write params=[1,\"text\"], percent-encoded")
        })?,
        None => Vec::new(),
    };
    let params = parameters(&values)?;
    let session = session(&door, access, asked.read, IN_THE_ADDRESS);
    // What is wrong with the query itself is a refusal, not an event.
    let types = params.iter().map(|value| match value {
        ScalarValue::Null => None,
        value => Some(value.data_type()),
    });
    session.describe(&asked.sql, types.collect()).await?;
    let live = Live {
        session,
        sql: asked.sql,
        params,
        every,
        last: None,
        known: None,
        rhythm: Rhythm::First,
        _place: place,
    };
    let events = stream::unfold(live, next_event).map(Ok::<_, Infallible>);
    let mut response = Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies would hold events back until there are many.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(response)
}

/// Asks until the answer changed or the query fails.
async fn next_event(mut live: Live) -> Option<(Event, Live)> {
    loop {
        match live.rhythm {
            Rhythm::Over => return None,
            Rhythm::Again => tokio::time::sleep(live.every).await,
            Rhythm::First => live.rhythm = Rhythm::Again,
        }
        match live.ask().await {
            Ok(None) => {}
            Ok(Some(answer)) => {
                let text = String::from_utf8_lossy(&answer).into_owned();
                return Some((Event::default().event("answer").data(text), live));
            }
            Err(error) => {
                // These pass by themselves; all others would come again with every round.
                let passes = matches!(
                    error.kind,
                    ErrorKind::Busy
                        | ErrorKind::Storage
                        | ErrorKind::Timeout
                        | ErrorKind::Memory
                        | ErrorKind::Disk
                );
                if !passes {
                    live.rhythm = Rhythm::Over;
                }
                let text = Refusal::from(error).body().to_string();
                return Some((Event::default().event("error").data(text), live));
            }
        }
    }
}

impl Live {
    /// One round; `None` when the rows are those that were sent last.
    async fn ask(&mut self) -> Result<Option<Vec<u8>>, QueryError> {
        if let Some(known) = &self.known
            && self.session.is_still(known).await?
        {
            return Ok(None);
        }
        self.known = None;
        let mut result = self.session.query(&self.sql, self.params.clone()).await?;
        let mut rows = Encoder::new(Format::Ndjson, &result.schema, &AsOf::default())?;
        let mut whole = Encoder::new(Format::Json, &result.schema, &result.as_of)?;
        let (mut shown, mut answer) = (Vec::new(), Vec::new());
        while let Some(batch) = result.stream.next().await {
            let batch = batch?;
            rows.write(&batch)?;
            whole.write(&batch)?;
            shown.extend_from_slice(&rows.take());
            answer.extend_from_slice(&whole.take());
            if answer.len() > MOST_BYTES {
                let text = format!("the answer has more than {} MiB", MOST_BYTES >> 20);
                return Err(QueryError::new(ErrorKind::TooManyBytes, text)
                    .hint("a live query is for few rows: aggregate further, or add LIMIT"));
            }
        }
        shown.extend_from_slice(&rows.finish()?);
        answer.extend_from_slice(&whole.finish()?);
        self.known = result.repeats.then_some(result.as_of);
        let shown = Bytes::from(shown);
        if self.last.as_ref() == Some(&shown) {
            return Ok(None);
        }
        self.last = Some(shown);
        Ok(Some(answer))
    }
}
