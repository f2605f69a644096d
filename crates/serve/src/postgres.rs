//! The Postgres door: SQL for psql, drivers and BI tools.
//!
//! Owns the listener, how many are let in, how long they may take to say who they are, and how much they may send at once. What
//! a connection says and hears is `postgres/connection.rs`'s.

mod cancel;
mod connection;
mod departure;
mod handlers;
mod refusal;
mod rows;
mod send;
mod settings;
mod startup;
mod statement;
mod values;

use std::{
    fmt,
    future::poll_fn,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use alluvium_query::QueryEngine;
use alluvium_types::survived;
use futures::StreamExt;
use pgwire::{
    api::NoopHandler,
    error::PgWireResult,
    messages::PgWireFrontendMessage,
    tokio::server::{
        MaybeTls, PgWireMessageServerCodec, negotiate_tls, process_error, process_message,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::codec::{Framed, FramedParts};

use cancel::Connected;
use connection::Connection;
use departure::Departure;
use handlers::{Handlers, Prepared};
use startup::Startup;

use crate::{
    auth::Users,
    patience::Patient,
    tls::{Peer, Tls},
};

/// What the protocol is called where TLS asks for it at once.
const PROTOCOL: &[u8] = b"postgresql";
/// How long a client may take until it has said who it is.
const START_UP: Duration = Duration::from_secs(10);
/// Sockets of clients that have not, or not yet; more are closed at once.
const STRANGERS: usize = 1_000;
/// Bytes of one message before somebody is let in, ...
const FIRST_MESSAGE: usize = 16 << 10;
/// ... and after it: a query's text is bounded by the engine, parameters by this.
const MOST_MESSAGE: usize = 8 << 20;
/// How long answers that are on their way may take after the order to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How long to wait when no more sockets can be had.
const SHORT_OF_SOCKETS: Duration = Duration::from_millis(100);

/// What the door leads to. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    /// Answers SQL.
    pub engine: QueryEngine,
    /// Who may come in.
    pub users: Users,
    /// Certificates; without them only this machine can be spoken to.
    pub tls: Option<Tls>,
    /// Clients that may be connected at the same time.
    pub clients: usize,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

/// Serves until `shutdown` resolves, and then until the answers on their way are out, five seconds at most.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let connected = Connected::default();
    let places = Arc::new(Semaphore::new(door.clients));
    let strangers = Arc::new(Semaphore::new(STRANGERS + door.clients));
    let mut conversations = JoinSet::new();
    let mut shutdown = Box::pin(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            // Those that have ended are let go.
            Some(_) = conversations.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_client(&error) => continue,
            Err(_) => {
                tokio::time::sleep(SHORT_OF_SOCKETS).await;
                continue;
            }
        };
        let Ok(permit) = strangers.clone().try_acquire_owned() else {
            continue;
        };
        let connection = Connection::new(door.engine.clone(), &connected, places.clone());
        let (door, connected) = (door.clone(), connected.clone());
        conversations.spawn(async move {
            // A client that goes away in the middle is nothing to tell anybody.
            let _ = converse(socket, address, door, Arc::new(connection), connected).await;
            drop(permit);
        });
    }
    drop(listener);
    connected.cancel_all();
    let _ = timeout(GRACE, async {
        while conversations.join_next().await.is_some() {}
    })
    .await;
    Ok(())
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

type Socket = Framed<Metered<Patient<MaybeTls>>, PgWireMessageServerCodec<Prepared>>;

/// Talks with one client until it goes.
async fn converse(
    socket: TcpStream,
    address: SocketAddr,
    door: Door,
    connection: Arc<Connection>,
    connected: Connected,
) -> io::Result<()> {
    let deadline = Instant::now() + START_UP;
    let (acceptor, end_point) = door.tls.map(|tls| tls.acceptor(PROTOCOL)).unzip();
    let negotiated = timeout_at(deadline, negotiate_tls(socket, acceptor)).await;
    let Ok(Some(framed)) = negotiated.map_err(io::Error::other)? else {
        return Ok(());
    };
    let peer = match framed.get_ref() {
        // What came in the clear behind the question for TLS was not said by whoever speaks TLS now.
        MaybeTls::Tls(_) if !framed.read_buffer().is_empty() => return Ok(()),
        MaybeTls::Tls(stream) => Peer::encrypted(address, stream.get_ref().1.peer_certificates()),
        _ => Peer::plain(address),
    };
    let binding = match framed.get_ref() {
        MaybeTls::Tls(_) => end_point.flatten(),
        _ => None,
    };
    let departure = Departure::of(framed.get_ref())?;
    let mut socket = metered(framed);
    let handlers = Arc::new(Handlers(connection.clone()));
    let startup = Arc::new(Startup::new(connection.clone(), door.users, peer, binding));
    let (no_copies, cancels) = (Arc::new(NoopHandler), Arc::new(connected));
    loop {
        socket.get_mut().allow(match connection.has_started() {
            true => MOST_MESSAGE,
            false => FIRST_MESSAGE,
        });
        let message = match connection.has_started() {
            true => next_message(&mut socket).await,
            false => match timeout_at(deadline, next_message(&mut socket)).await {
                Ok(message) => message,
                Err(_) => return Ok(()),
            },
        };
        let message = match message {
            None => return Ok(()),
            Some(Ok(PgWireFrontendMessage::Terminate(_))) => return Ok(()),
            Some(Ok(message)) => message,
            // What follows a message that cannot be read cannot be read either.
            Some(Err(refused)) => return process_error(&mut socket, refused, false).await,
        };
        let is_extended = message.is_extended_query();
        let processed = process_message(
            message,
            &mut socket,
            startup.clone(),
            handlers.clone(),
            handlers.clone(),
            no_copies.clone(),
            cancels.clone(),
        );
        let processed = tokio::select! {
            processed = processed => processed,
            // Nobody waits for the answer, so nobody works for it.
            gone = departure.seen() => return gone,
        };
        if let Err(error) = processed {
            process_error(&mut socket, error, is_extended).await?;
            if !connection.has_started() {
                return Ok(());
            }
        }
    }
}

/// The next message, or why it cannot be read; nothing when the client is gone. The decoder of messages panics over some that are
/// shorter than they say; what lies between it and the client does not panic.
async fn next_message(socket: &mut Socket) -> Option<PgWireResult<PgWireFrontendMessage>> {
    let polled = poll_fn(|context| {
        let polled = survived(|| socket.poll_next_unpin(context));
        polled.map_or(Poll::Ready(None), |polled| polled.map(Some))
    });
    let Some(message) = polled.await else {
        let text = "the message does not have the form that its kind has";
        return Some(Err(refusal::fatal("08P01", text)));
    };
    Some(message?.map_err(|error| refusal::fatal("08P01", error.to_string())))
}

fn metered(framed: Framed<MaybeTls, PgWireMessageServerCodec<Prepared>>) -> Socket {
    let old = framed.into_parts();
    let mut parts = FramedParts::new(Metered::new(Patient::new(old.io)), old.codec);
    parts.read_buf = old.read_buf;
    parts.write_buf = old.write_buf;
    Framed::from_parts(parts)
}

/// A stream that gives out only so many bytes at once, so that the length in a message's head costs nobody memory.
struct Metered<S> {
    inner: S,
    left: usize,
}

impl<S> Metered<S> {
    fn new(inner: S) -> Self {
        Self { inner, left: 0 }
    }

    fn allow(&mut self, bytes: usize) {
        self.left = bytes;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        match self.left.checked_sub(read) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Err(io::Error::new(
                ErrorKind::InvalidData,
                "the message is too long",
            ))),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
