//! Who comes in over Flight SQL: the proof that each request brings, and the tokens that stand for one.
//!
//! Owns these tokens: clients with a name and a password show them once, in a Handshake, and a token from then on. Does not own
//! what a proof is ([`crate::auth`]).

use std::{
    convert::Infallible,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use alluvium_query::Access;
use aws_lc_rs::digest;
use lru::LruCache;
use rand::RngCore;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use super::Entrance;
use crate::auth::{Denied, Users};

/// Tokens at the same time; the one that was shown longest ago goes first.
const TOKENS: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not zero");
/// How long a token holds after it was shown last.
const HOLDS: Duration = Duration::from_secs(3600);

/// Tokens of Handshakes, by their hash. Cheap to clone; they go with the process.
#[derive(Clone)]
pub(super) struct Tokens(Arc<Mutex<Given>>);

type Given = LruCache<[u8; 32], (Access, Instant)>;

impl Default for Tokens {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(LruCache::new(TOKENS))))
    }
}

impl Tokens {
    /// A new token for somebody who has been let in.
    pub(super) fn give(&self, access: Access) -> String {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.given()
            .put(hash(token.as_bytes()), (access, Instant::now()));
        token
    }

    /// Whose token it is, if it still holds.
    fn access(&self, shown: &[u8]) -> Option<Access> {
        let token = shown.strip_prefix(b"Bearer ")?;
        let mut given = self.given();
        let (access, last) = given.get_mut(&hash(token))?;
        if last.elapsed() >= HOLDS {
            given.pop(&hash(token));
            return None;
        }
        *last = Instant::now();
        Some(access.clone())
    }

    fn given(&self) -> std::sync::MutexGuard<'_, Given> {
        // Each change is one entry, so a panic elsewhere leaves them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    hash
}

/// Lets requests in with what their user may do, which the service finds as an [`Access`].
#[derive(Clone)]
pub(super) struct Admission<S> {
    pub(super) service: S,
    pub(super) users: Users,
    pub(super) tokens: Tokens,
}

impl<S: NamedService> NamedService for Admission<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Admission<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that is ready goes; its copy is asked again before the next request.
        let copy = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, copy);
        let (users, tokens) = (self.users.clone(), self.tokens.clone());
        let entrance = request.extensions().get::<Entrance>().cloned();
        let shown = request.headers().get("authorization").cloned();
        Box::pin(async move {
            match admit(&users, &tokens, entrance, shown).await {
                Ok(access) => {
                    request.extensions_mut().insert(access);
                    service.call(request).await
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

async fn admit(
    users: &Users,
    tokens: &Tokens,
    entrance: Option<Entrance>,
    shown: Option<http::HeaderValue>,
) -> Result<Access, Status> {
    let peer = match &entrance {
        Some(entrance) if entrance.has_place => &entrance.peer,
        _ => {
            return Err(Status::resource_exhausted(
                "all places are taken: too many clients are connected; try again when one of them has gone",
            ));
        }
    };
    let shown = shown.as_ref().map(http::HeaderValue::as_bytes);
    if peer.is_safe()
        && let Some(access) = shown.and_then(|shown| tokens.access(shown))
    {
        return Ok(access);
    }
    users.admit(shown, peer).await.map_err(|denied| {
        metrics::counter!("alluvium_denied_total", "door" => "flight").increment(1);
        let code = match denied {
            Denied::TooOften { .. } => Code::ResourceExhausted,
            Denied::Unproven | Denied::Wrong | Denied::NeedsTls => Code::Unauthenticated,
        };
        Status::new(code, denied.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_for_whom_it_was_given_to() {
        let tokens = Tokens::default();
        let token = tokens.give(Access::unrestricted());
        let shown = format!("Bearer {token}");
        assert_eq!(
            tokens.access(shown.as_bytes()),
            Some(Access::unrestricted())
        );
        for wrong in ["Bearer ", &token, "Bearer none", &format!("{shown}0")] {
            assert_eq!(tokens.access(wrong.as_bytes()), None, "{wrong}");
        }
        let long_ago = Instant::now().checked_sub(HOLDS).unwrap();
        tokens.given().iter_mut().next().unwrap().1.1 = long_ago;
        assert_eq!(tokens.access(shown.as_bytes()), None);
        assert!(tokens.given().is_empty());
    }
}
