//! One connection to a broker that never blocks: bytes out, whole responses in.
//!
//! Owns the socket, TLS and the framing. Does not own what requests mean; see `link` for the first words and `fetcher`
//! for the rest.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use alluvium_types::{BufferPool, MemoryBudget};
use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes},
};
use mio::{Interest, Registry, Token, net::TcpStream};
use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use super::security::Tls;

/// The largest response that is believed.
const MOST_RESPONSE: usize = 1 << 30;

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &mut stream.sock,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    /// TLS keeps what it has encrypted until the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// A response on its way in.
enum Inbox {
    Size {
        bytes: [u8; 4],
        filled: usize,
    },
    /// The buffer may be longer than the response, by what an earlier one left in it.
    Body {
        buffer: Vec<u8>,
        size: usize,
        filled: usize,
    },
}

impl Inbox {
    const EMPTY: Self = Self::Size {
        bytes: [0; 4],
        filled: 0,
    };
}

/// One socket. Every call returns at once.
pub(super) struct Connection {
    stream: Stream,
    connected: bool,
    outbox: BytesMut,
    inbox: Inbox,
    correlation: i32,
    client_id: StrBytes,
    buffers: BufferPool,
    memory: MemoryBudget,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("connected", &self.connected)
            .field("correlation", &self.correlation)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Begins to connect to `address`, a `host:port`. Looking up the name is the one thing here that can take time.
    pub(super) fn begin(
        address: &str,
        tls: Option<&Tls>,
        client_id: &str,
        (registry, token): (&Registry, Token),
        buffers: BufferPool,
        memory: MemoryBudget,
    ) -> io::Result<Self> {
        let mut refused = None;
        let sockets: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
        // As librdkafka: whatever family the name gives, IPv4 first where both are there.
        let ordered = sockets
            .iter()
            .filter(|socket| socket.is_ipv4())
            .chain(sockets.iter().filter(|socket| !socket.is_ipv4()));
        let mut stream = None;
        for socket in ordered {
            match TcpStream::connect(*socket) {
                Ok(begun) => {
                    stream = Some(begun);
                    break;
                }
                Err(cause) => refused = Some(cause),
            }
        }
        let mut stream = stream.ok_or_else(|| {
            refused.unwrap_or_else(|| io::Error::new(ErrorKind::NotFound, "no such host"))
        })?;
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let stream = match tls {
            None => Stream::Plain(stream),
            Some(tls) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let session =
                    ClientConnection::new(Arc::clone(&tls.0), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(session, stream)))
            }
        };
        Ok(Self {
            stream,
            connected: false,
            outbox: BytesMut::new(),
            inbox: Inbox::EMPTY,
            correlation: 0,
            client_id: StrBytes::from_string(client_id.to_owned()),
            buffers,
            memory,
        })
    }

    pub(super) fn end(mut self, registry: &Registry) {
        // A socket that is not registered any more is as good as one that is taken off the list.
        let _ = registry.deregister(self.stream.socket());
    }

    /// Puts a request into the outbox; [`drive`](Self::drive) sends it.
    pub(super) fn ask<R: Encodable + HeaderVersion>(
        &mut self,
        api: i16,
        version: i16,
        request: &R,
    ) -> io::Result<()> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(api)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(self.client_id.clone()));
        let start = self.outbox.len();
        self.outbox.extend_from_slice(&[0; 4]);
        header
            .encode(&mut self.outbox, R::header_version(version))
            .and_then(|()| request.encode(&mut self.outbox, version))
            .map_err(io::Error::other)?;
        let size = (self.outbox.len() - start - 4) as u32;
        self.outbox[start..start + 4].copy_from_slice(&size.to_be_bytes());
        Ok(())
    }

    /// Reads the answer to the last request.
    pub(super) fn answer<R: Decodable + HeaderVersion>(
        &self,
        mut frame: Bytes,
        version: i16,
    ) -> io::Result<R> {
        let header = ResponseHeader::decode(&mut frame, R::header_version(version))
            .map_err(io::Error::other)?;
        if header.correlation_id != self.correlation {
            return Err(io::Error::other(format!(
                "the broker answered request {} instead of {}",
                header.correlation_id, self.correlation
            )));
        }
        R::decode(&mut frame, version).map_err(io::Error::other)
    }

    /// Sends and receives what it can; a whole response, without its size, when one has arrived.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(super) fn drive(&mut self) -> io::Result<Option<Bytes>> {
        if !self.connected && !self.has_connected()? {
            return Ok(None);
        }
        match self.send() {
            Ok(()) => {}
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => {}
            Err(cause) => return Err(cause),
        }
        match self.receive() {
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    fn has_connected(&mut self) -> io::Result<bool> {
        let socket = self.stream.socket();
        if let Some(cause) = socket.take_error()? {
            return Err(cause);
        }
        match socket.peer_addr() {
            Ok(_) => self.connected = true,
            Err(cause) if cause.kind() == ErrorKind::NotConnected => {}
            Err(cause) => return Err(cause),
        }
        Ok(self.connected)
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.outbox.split_to(count)),
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        self.stream.flush()
    }

    fn receive(&mut self) -> io::Result<Bytes> {
        loop {
            let room = match &mut self.inbox {
                Inbox::Size { bytes, filled } => &mut bytes[*filled..],
                Inbox::Body {
                    buffer,
                    size,
                    filled,
                } => &mut buffer[*filled..*size],
            };
            let count = match self.stream.read(room) {
                Ok(0) if !room.is_empty() => {
                    return Err(io::Error::new(
                        ErrorKind::UnexpectedEof,
                        "the broker closed the connection",
                    ));
                }
                Ok(count) => count,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
                Err(cause) => return Err(cause),
            };
            match &mut self.inbox {
                Inbox::Size { bytes, filled } => {
                    *filled += count;
                    if *filled == bytes.len() {
                        let size =
                            usize::try_from(u32::from_be_bytes(*bytes)).unwrap_or(usize::MAX);
                        if !(4..=MOST_RESPONSE).contains(&size) {
                            return Err(io::Error::other(format!(
                                "a response of {size} bytes: is this a Kafka broker, and is TLS as it expects?"
                            )));
                        }
                        let mut buffer = self.buffers.take_used(size);
                        if buffer.len() < size {
                            buffer.resize(size, 0);
                        }
                        self.inbox = Inbox::Body {
                            buffer,
                            size,
                            filled: 0,
                        };
                    }
                }
                Inbox::Body {
                    buffer,
                    size,
                    filled,
                } => {
                    *filled += count;
                    if filled == size {
                        let (buffer, size) = (std::mem::take(buffer), *size);
                        self.inbox = Inbox::EMPTY;
                        let reservation = self.memory.reserve(buffer.capacity());
                        let bytes = self.buffers.share(buffer, Some(reservation));
                        return Ok(bytes.slice(..size));
                    }
                }
            }
        }
    }
}
