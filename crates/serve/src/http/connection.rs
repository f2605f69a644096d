//! One connection of the HTTP door: its handshake, and its requests one after another.
//!
//! Owns how long a client may take until it has asked something, and between two requests: a socket that says nothing, or a byte
//! now and then, is closed. Does not own bodies ([`super::body`]), nor how many connections there are.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Request, middleware, middleware::Next};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, sync::watch};

use super::entry::Caller;
use crate::{
    patience::Patient,
    tls::{Peer, Stream, Tls, arrive},
};

/// What HTTP/1.1 is called where TLS asks for it.
const PROTOCOL: &[u8] = b"http/1.1";
/// How long a client may take for the head of its first request.
const START_UP: Duration = Duration::from_secs(10);
/// How long it may take for the head of each other one, the pause before it included: longer than the minute after which
/// proxies give up connections that rest, so that they do it first.
const NEXT_REQUEST: Duration = Duration::from_secs(75);
/// Bytes of a request's head.
const MOST_HEAD: usize = 64 << 10;

/// Answers one client until it goes, or until `closing` resolves and what it has asked is answered.
pub(super) async fn converse(
    socket: TcpStream,
    address: SocketAddr,
    tls: Option<Tls>,
    routes: Router,
    mut closing: watch::Receiver<()>,
) {
    // Small answers go at once; where that cannot be had they are only later.
    let _ = socket.set_nodelay(true);
    let arrived = match &tls {
        Some(tls) => arrive(socket, address, tls, PROTOCOL).await,
        None => Some((Stream::Plain(socket), Peer::plain(address))),
    };
    let Some((stream, peer)) = arrived else {
        return;
    };
    let has_asked = Arc::new(AtomicBool::new(false));
    let asks = has_asked.clone();
    let routes = routes.layer(middleware::from_fn(
        move |mut request: Request, next: Next| {
            asks.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(Caller(peer.clone()));
            next.run(request)
        },
    ));
    let mut server = Builder::new(TokioExecutor::new()).http1_only();
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_REQUEST)
        .max_buf_size(MOST_HEAD);
    let connection = server.serve_connection(
        TokioIo::new(Patient::new(stream)),
        TowerToHyperService::new(routes),
    );
    let mut connection = pin!(connection);
    let mut start_up = pin!(tokio::time::sleep(START_UP));
    let mut is_starting = true;
    loop {
        // A client that goes away in the middle is nothing to tell anybody, so errors are not told.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = start_up.as_mut(), if is_starting => {
                if !has_asked.load(Ordering::Relaxed) {
                    return;
                }
                is_starting = false;
            }
            // Nothing is ever sent: it resolves when the other end is dropped.
            _ = closing.changed() => break,
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
