//! The Flight SQL door: SQL for ADBC, JDBC and whatever else reads Arrow.
//!
//! Owns the listener, how many are let in, how long they may take to begin, and how much they may send at once. What is
//! asked and answered is `flight/service.rs`'s.

mod catalog;
mod entry;
mod features;
mod granted;
mod placeholders;
mod prepared;
mod refusal;
mod rows;
mod running;
mod service;

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use alluvium_query::QueryEngine;
use arrow_flight::flight_service_server::FlightServiceServer;
use futures::stream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Connected};

use entry::{Admission, Tokens};
use service::Service;

use crate::{
    auth::Users,
    patience::Patient,
    tls::{Peer, Stream, Tls, arrive},
};

/// What HTTP/2 is called where TLS asks for it.
const PROTOCOL: &[u8] = b"h2";

/// How long a client may take until it speaks HTTP/2.
const START_UP: Duration = Duration::from_secs(10);
/// What every client of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Sockets beyond the clients that have a place: they are told so, or have not spoken yet. More are closed at once.
const STRANGERS: usize = 1_000;
/// Bytes of one message: a statement's text is bounded by the engine, parameters by this.
const MOST_MESSAGE: usize = 512 << 10;
/// Bytes of a request's headers.
const MOST_HEADERS: u32 = 16 << 10;
/// Requests of one client at the same time; more wait at the client.
const MOST_REQUESTS: u32 = 32;
/// A client that has gone without a word is noticed after both of them.
const ARE_YOU_THERE: Duration = Duration::from_secs(30);
const NO_ANSWER: Duration = Duration::from_secs(10);
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

/// Serves until `shutdown` resolves. Queries that still run are cancelled then, and their clients told, within five seconds.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let clients = door.clients;
    let tokens = Tokens::default();
    let service = Service::new(door.engine, &door.users, tokens.clone());
    let running = service.running();
    let closing = CancellationToken::new();
    let flight = FlightServiceServer::new(service).max_decoding_message_size(MOST_MESSAGE);
    let (entering, entered) = mpsc::channel(1);
    let guests = stream::unfold(entered, |mut entered| async move {
        entered
            .recv()
            .await
            .map(|guest| (Ok::<_, io::Error>(guest), entered))
    });
    let server = Server::builder()
        .max_concurrent_streams(MOST_REQUESTS)
        .http2_max_header_list_size(MOST_HEADERS)
        .http2_keepalive_interval(Some(ARE_YOU_THERE))
        .http2_keepalive_timeout(Some(NO_ANSWER))
        .add_service(Admission {
            service: flight,
            users: door.users,
            tokens,
        })
        .serve_with_incoming_shutdown(guests, closing.clone().cancelled_owned());
    tokio::select! {
        ended = server => ended.map_err(io::Error::other),
        // It has no end of its own.
        () = accept(listener, door.tls, clients, entering) => Ok(()),
        () = async {
            shutdown.await;
            closing.cancel();
            running.cancel_all();
            tokio::time::sleep(GRACE).await;
        } => Ok(()),
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<Tls>,
    clients: usize,
    entering: mpsc::Sender<Guest>,
) {
    let places = Arc::new(Semaphore::new(clients));
    let strangers = Arc::new(Semaphore::new(STRANGERS + clients));
    let mut greetings = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // Those that have ended are let go.
            Some(_) = greetings.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, address)) = accepted else {
            // One client's failure, or too many open files: neither concerns the door for long.
            tokio::time::sleep(SHORT_OF_SOCKETS).await;
            continue;
        };
        let Ok(stranger) = strangers.clone().try_acquire_owned() else {
            continue;
        };
        let (places, entering, tls) = (places.clone(), entering.clone(), tls.clone());
        greetings.spawn(async move {
            // Small answers go at once; where that cannot be had they are only later.
            let _ = socket.set_nodelay(true);
            let arrived = match &tls {
                Some(tls) => arrive(socket, address, tls, PROTOCOL).await,
                None => Some((Stream::Plain(socket), Peer::plain(address))),
            };
            let Some((socket, peer)) = arrived else {
                return;
            };
            if let Ok(Ok(socket)) = timeout(START_UP, greet(socket)).await {
                let guest = Guest {
                    socket: Patient::new(socket),
                    peer,
                    preface: PREFACE,
                    place: places.try_acquire_owned().ok(),
                    _stranger: stranger,
                };
                // The door has closed meanwhile where it cannot be sent.
                let _ = entering.send(guest).await;
            }
        });
    }
}

/// Waits for the first bytes of HTTP/2, so that a client that says nothing, or something else, goes no further.
async fn greet(mut socket: Stream) -> io::Result<Stream> {
    let mut said = [0; PREFACE.len()];
    socket.read_exact(&mut said).await?;
    match said == *PREFACE {
        true => Ok(socket),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A client that speaks HTTP/2. Its place is free again when this is dropped.
struct Guest {
    socket: Patient<Stream>,
    peer: Peer,
    /// What was read of it already, and is to be read once more.
    preface: &'static [u8],
    place: Option<OwnedSemaphorePermit>,
    _stranger: OwnedSemaphorePermit,
}

/// What requests know of their connection.
#[derive(Clone, Debug)]
struct Entrance {
    has_place: bool,
    peer: Peer,
}

impl Connected for Guest {
    type ConnectInfo = Entrance;

    fn connect_info(&self) -> Entrance {
        Entrance {
            has_place: self.place.is_some(),
            peer: self.peer.clone(),
        }
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.preface.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, buffer);
        }
        let (now, later) = self
            .preface
            .split_at(self.preface.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.preface = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
