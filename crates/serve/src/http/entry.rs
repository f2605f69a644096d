//! Who comes in over HTTP: the proof that each request brings.
//!
//! Owns which routes are open to everybody: `/livez` and `/readyz`, which say no more than yes or no then. Does not own what a
//! proof is ([`crate::auth`]).

use alluvium_query::Access;
use axum::{
    extract::{Extension, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Door, reply::Refusal};
use crate::{auth::Denied, tls::Peer};

/// Routes that answer everybody.
const OPEN: [&str; 2] = ["/livez", "/readyz"];

/// The other end of a request's connection.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Peer);

/// Lets a request in with what its user may do, which handlers find as an [`Access`]; refuses it before its body is read.
pub(super) async fn admit(
    State(door): State<Door>,
    Extension(Caller(peer)): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION);
    let admitted = door
        .users
        .admit(shown.map(HeaderValue::as_bytes), &peer)
        .await;
    let is_open = OPEN.contains(&request.uri().path());
    match admitted {
        Ok(access) => {
            request.extensions_mut().insert(access);
        }
        Err(Denied::Unproven) if is_open => {}
        Err(denied) => {
            metrics::counter!("alluvium_denied_total", "door" => "http").increment(1);
            return refusal(denied);
        }
    }
    next.run(request).await
}

/// The refusal of what only somebody may see who sees `system.*`; `None` for whoever does.
pub(super) fn closed_to(access: Option<&Access>) -> Option<Response> {
    match access {
        Some(access) if access.sees_system() => None,
        Some(_) => {
            let refused = "permission denied for what operators see";
            let refusal = Refusal::new(StatusCode::FORBIDDEN, "42501", refused)
                .hint("it takes a role with \"system.*\" among its tables");
            Some(refusal.into_response())
        }
        None => Some(refusal(Denied::Unproven)),
    }
}

fn refusal(denied: Denied) -> Response {
    let (status, code) = match denied {
        Denied::Unproven => (StatusCode::UNAUTHORIZED, "28000"),
        Denied::Wrong => (StatusCode::UNAUTHORIZED, "28P01"),
        Denied::TooOften { .. } => (StatusCode::TOO_MANY_REQUESTS, "28000"),
        Denied::NeedsTls => (StatusCode::FORBIDDEN, "28000"),
    };
    let hint = match denied {
        Denied::Unproven => {
            "send `Authorization: Bearer` with a token, or Basic with user and password"
        }
        Denied::Wrong => "`alluvium user add` makes a new password or token for the server file",
        Denied::TooOften { .. } => "a token is never made to wait",
        Denied::NeedsTls => "use https://; and change what was sent, it could be read on the way",
    };
    let refusal = Refusal::new(status, code, denied.to_string()).hint(hint);
    let mut response = refusal.into_response();
    match denied {
        Denied::Unproven | Denied::Wrong => {
            let mut ways = HeaderMap::new();
            for way in [
                "Bearer realm=\"alluvium\"",
                "Basic realm=\"alluvium\", charset=\"UTF-8\"",
            ] {
                ways.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(way));
            }
            response.headers_mut().extend(ways);
        }
        Denied::TooOften { after } => {
            let seconds = HeaderValue::from(after.as_secs().max(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        Denied::NeedsTls => {}
    }
    response
}
