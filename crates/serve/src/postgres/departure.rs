//! A client that goes away while it waits for an answer.
//!
//! Owns the watch for that. Nothing is read from the socket meanwhile, so a query without rows would not notice it by itself.

use std::{
    io::{self, ErrorKind},
    net,
    os::fd::AsFd,
};

use pgwire::tokio::server::MaybeTls;
use tokio::{io::Interest, net::TcpStream};

/// A second handle on a client's socket, which tells only whether the other end is there.
pub(super) struct Departure(TcpStream);

impl Departure {
    /// # Errors
    /// When the socket cannot have a second handle.
    pub(super) fn of(stream: &MaybeTls) -> io::Result<Self> {
        let socket = match stream {
            MaybeTls::Plain(socket) => socket.as_fd(),
            MaybeTls::Tls(stream) => stream.get_ref().0.as_fd(),
            _ => return Err(ErrorKind::Unsupported.into()),
        };
        let handle = net::TcpStream::from(socket.try_clone_to_owned()?);
        TcpStream::from_std(handle).map(Self)
    }

    /// Resolves when the other end has closed the connection or lost it, whatever else it has sent before.
    pub(super) async fn seen(&self) -> io::Result<()> {
        loop {
            if self.0.ready(Interest::READABLE).await?.is_read_closed() {
                return Ok(());
            }
            // What it has sent is for the conversation: this forgets that it is there, and waits for the next sign.
            let looked = self.0.try_io(Interest::READABLE, || {
                Err::<(), _>(ErrorKind::WouldBlock.into())
            });
            debug_assert!(looked.is_err());
        }
    }
}
