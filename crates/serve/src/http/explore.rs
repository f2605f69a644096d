//! What there is: the tables that a user may read, the queries that run, and the description of this door.
//!
//! Owns the form of these replies. Does not own what a user may see: the engine says that.

use alluvium_query::Access;
use axum::{
    extract::{Extension, Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    Door,
    reply::{Refusal, json_reply},
};

/// The door in OpenAPI's words.
const OPENAPI: &str = include_str!("openapi.json");

pub(super) async fn tables(
    State(door): State<Door>,
    Extension(access): Extension<Access>,
) -> Result<Response, Refusal> {
    let tables: Vec<Value> = door
        .engine
        .tables(&access)
        .await?
        .into_iter()
        .map(|(name, shape)| {
            let groups = shape.group_columns.iter().map(
                |field| json!({ "name": field.name(), "type": field.data_type().to_string() }),
            );
            let measures = shape.measures.iter().map(|measure| {
                json!({
                    "name": measure.name,
                    "type": measure.data_type.to_string(),
                    "expression": measure.expression,
                })
            });
            json!({
                "name": name,
                "group_columns": groups.collect::<Vec<_>>(),
                "measures": measures.collect::<Vec<_>>(),
            })
        })
        .collect();
    Ok(json_reply(StatusCode::OK, &json!({ "tables": tables })))
}

pub(super) async fn queries(
    State(door): State<Door>,
    Extension(access): Extension<Access>,
) -> Response {
    let queries: Vec<Value> = door
        .engine
        .running(&access)
        .into_iter()
        .map(|query| {
            json!({
                "id": query.id,
                "user": query.user,
                "door": query.door,
                "since": query.since.to_string(),
                "memory": query.memory,
                "files": query.to_read.files,
                "file_bytes": query.to_read.bytes,
                "file_rows": query.to_read.rows,
                "rows": query.rows,
                "sql": query.sql,
            })
        })
        .collect();
    json_reply(StatusCode::OK, &json!({ "queries": queries }))
}

pub(super) async fn end(
    State(door): State<Door>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let ended = id.parse().is_ok_and(|id| door.engine.end(&access, id));
    match ended {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("no query {id} of yours runs"),
        )
        .hint("GET /v1/queries lists them; it may have ended by itself")),
    }
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
