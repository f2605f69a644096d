//! The HTTP door: SQL in JSON, answers in the format the client asks for, and what operators ask.
//!
//! Owns routes, status codes, the life of the server and how many sockets it has. Does not own a single connection
//! (`connection`), formats ([`format`]) or queries.

mod body;
mod connection;
mod entry;
mod explore;
mod format;
mod live;
mod reply;
mod sql;

use std::{fmt, io, sync::Arc, time::Duration};

use alluvium_plan::{PipelineStatus, StatusBoard};
use alluvium_query::{Access, QueryEngine};
use axum::{
    Router,
    extract::{Extension, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tower_http::compression::CompressionLayer;

pub use format::json_values;

use crate::{auth::Users, tls::Tls};
use reply::{Refusal, json_reply};

/// How long answers that are on their way may take after the order to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Sockets at the same time, whatever they have said; more are closed at once. A thousand that say nothing leave room for
/// as many that do.
const SOCKETS: usize = 2_000;
/// How long to wait when no more sockets can be had.
const SHORT_OF_SOCKETS: Duration = Duration::from_millis(100);

const ROUTES: &str = "POST /v1/sql, GET /v1/sql/live, GET /v1/tables, GET /v1/queries, DELETE /v1/queries/{id}, GET /v1/status, \
                      GET /v1/openapi.json, GET /livez, GET /readyz, GET /metrics";

/// What the door leads to. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    /// Answers SQL.
    pub engine: QueryEngine,
    /// Who may come in.
    pub users: Users,
    /// Certificates; without them only this machine can be spoken to.
    pub tls: Option<Tls>,
    /// What the pipelines of this process say.
    pub status: Arc<StatusBoard>,
    /// Renders our metrics in Prometheus' text format, or says why it cannot; the registry is the binary's.
    pub metrics: Arc<dyn Fn() -> Result<String, String> + Send + Sync>,
    /// Whether the process is not wedged; the error says what is.
    pub live: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// The routes of the door.
fn router(door: Door) -> Router {
    Router::new()
        .route("/v1/sql", post(sql::answer))
        .route("/v1/sql/live", get(live::follow))
        .route("/v1/tables", get(explore::tables))
        .route("/v1/queries", get(explore::queries))
        .route("/v1/queries/{id}", delete(explore::end))
        .route("/v1/openapi.json", get(explore::openapi))
        .route("/v1/status", get(status))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .fallback(async || {
            Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here")
                .hint(format!("there are: {ROUTES}"))
        })
        .method_not_allowed_fallback(async || {
            let refused = "this route takes another method";
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                refused,
            )
            .hint(format!("there are: {ROUTES}"))
        })
        .layer(Extension(live::Places::default()))
        .layer(from_fn(body::read_first))
        .layer(from_fn_with_state(door.clone(), entry::admit))
        .layer(CompressionLayer::new().gzip(true).zstd(true))
        .with_state(door)
}

/// Serves until `shutdown` resolves, and then until the answers on their way are out, ten seconds at most.
///
/// # Errors
/// None: a listener that fails is tried again.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stop, stopped) = watch::channel(());
    let places = Arc::new(Semaphore::new(SOCKETS));
    let tls = door.tls.clone();
    let routes = router(door);
    let mut conversations = JoinSet::new();
    let mut shutdown = Box::pin(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            // Those that have ended are let go.
            Some(_) = conversations.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, address)) = accepted else {
            // One client's failure, or too many open files: neither concerns the door for long.
            tokio::time::sleep(SHORT_OF_SOCKETS).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let (tls, routes, stopped) = (tls.clone(), routes.clone(), stopped.clone());
        conversations.spawn(async move {
            connection::converse(socket, address, tls, routes, stopped).await;
            drop(place);
        });
    }
    drop(listener);
    // Every conversation hears it.
    drop(stop);
    let _ = timeout(GRACE, async {
        while conversations.join_next().await.is_some() {}
    })
    .await;
    Ok(())
}

async fn status(State(door): State<Door>, Extension(access): Extension<Access>) -> Response {
    if let Some(refused) = entry::closed_to(Some(&access)) {
        return refused;
    }
    json_reply(StatusCode::OK, &json!({ "pipelines": door.status.all() }))
}

/// The reason names a pipeline, so it is for operators.
async fn livez(State(door): State<Door>, access: Option<Extension<Access>>) -> Response {
    let Err(reason) = (door.live)() else {
        return json_reply(StatusCode::OK, &json!({ "live": true }));
    };
    let mut reply = json!({ "live": false });
    let access = access.map(|Extension(access)| access);
    if entry::closed_to(access.as_ref()).is_none() {
        reply["reason"] = reason.into();
    }
    json_reply(StatusCode::SERVICE_UNAVAILABLE, &reply)
}

#[derive(Deserialize)]
struct Verbosity {
    verbose: Option<String>,
}

async fn readyz(
    State(door): State<Door>,
    asked: Result<Query<Verbosity>, QueryRejection>,
    access: Option<Extension<Access>>,
) -> Result<Response, Refusal> {
    let Query(asked) = asked.map_err(|error| {
        Refusal::bad_request(error.body_text()).hint("the address takes `verbose`, once")
    })?;
    let pipelines = door.status.all();
    let ready = pipelines.iter().all(PipelineStatus::is_ready);
    let code = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut reply = json!({ "ready": ready });
    if asked
        .verbose
        .is_some_and(|verbose| verbose != "false" && verbose != "0")
    {
        let access = access.map(|Extension(access)| access);
        if let Some(refused) = entry::closed_to(access.as_ref()) {
            return Ok(refused);
        }
        reply["pipelines"] = pipelines.iter().map(readiness).collect();
    }
    Ok(json_reply(code, &reply))
}

fn readiness(status: &PipelineStatus) -> Value {
    let halted: Vec<Value> = status
        .partitions
        .iter()
        .filter_map(|partition| {
            let reason = partition.halted.as_ref()?;
            let name = format!("{}/{}", partition.topic, partition.partition);
            Some(json!({ "partition": name, "reason": reason }))
        })
        .collect();
    json!({
        "pipeline": status.pipeline,
        "ready": status.is_ready(),
        "state": status.state,
        "reason": status.reason,
        "halted": halted,
    })
}

async fn metrics_text(State(door): State<Door>, Extension(access): Extension<Access>) -> Response {
    if let Some(refused) = entry::closed_to(Some(&access)) {
        return refused;
    }
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    match (door.metrics)() {
        Ok(text) => (kind, text).into_response(),
        Err(cause) => (StatusCode::INTERNAL_SERVER_ERROR, cause).into_response(),
    }
}
