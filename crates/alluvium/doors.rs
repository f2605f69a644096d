//! The doors of this process: where they listen, and when they close.
//!
//! Owns the port and the words for one that is taken. What a door answers is `serve`'s.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use alluvium_query::QueryEngine;
use alluvium_runtime::Running;
use alluvium_serve::http as serve;
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle, time::timeout};

use crate::{failure::Failure, telemetry::Metrics};

/// How long answers under way may take when the door closes.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How many ports beyond the wanted one are tried.
const NEXT_PORTS: u16 = 50;

/// What to do when the port is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortTaken {
    /// Say so and give up.
    Refuse,
    /// Try the ones after it.
    TakeNext,
}

/// The open HTTP door.
pub(crate) struct Door {
    address: SocketAddr,
    close: oneshot::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
}

impl Door {
    /// Takes a port; nobody is answered yet.
    ///
    /// # Errors
    /// A failure that says what to change.
    pub(crate) fn listen(wanted: SocketAddr, taken: PortTaken) -> Result<TcpListener, Failure> {
        let mut address = wanted;
        loop {
            match TcpListener::bind(address) {
                Ok(listener) => {
                    listener.set_nonblocking(true)?;
                    return Ok(listener);
                }
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && taken == PortTaken::TakeNext
                        && address.port() < wanted.port().saturating_add(NEXT_PORTS) =>
                {
                    address.set_port(address.port() + 1);
                }
                Err(error) => {
                    return Err(Failure::work(format!("HTTP cannot listen on {wanted}"))
                        .because(&error)
                        .help("another server may be running there; choose another port with `listen: {http: …}`, or 0 for a free one"));
                }
            }
        }
    }

    /// Answers from now on, on the threads of `io`.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub(crate) fn open(
        listener: TcpListener,
        io: &Runtime,
        queries: QueryEngine,
        running: &Running,
        metrics: Metrics,
    ) -> Result<Self, Failure> {
        let address = listener.local_addr()?;
        let listener = {
            let _inside = io.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let door = serve::Door {
            engine: queries,
            status: running.status(),
            metrics: Arc::new(move || metrics.render().map_err(|error| error.to_string())),
            live: Arc::new(running.liveness()),
        };
        let (close, closed) = oneshot::channel();
        let serving = io.spawn(serve::serve(listener, door, async {
            // A dropped sender means the same as an order to close.
            let _ = closed.await;
        }));
        Ok(Self {
            address,
            close,
            serving,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Finishes the answers under way, and gives no new ones.
    pub(crate) fn close(self, io: &Runtime) {
        // The receiver is gone only when serving has ended by itself.
        let _ = self.close.send(());
        match io.block_on(async { timeout(LAST_ANSWERS, self.serving).await }) {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!("the HTTP door failed: {error}"),
            Ok(Err(error)) => tracing::warn!("the HTTP door failed: {error}"),
            Err(_) => tracing::warn!("some answers were still under way when the HTTP door closed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_refused_or_passed_over() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let failure = Door::listen(address, PortTaken::Refuse).unwrap_err();
        assert!(
            failure.to_string().contains(&address.to_string()),
            "{failure}"
        );
        let next =
            Door::listen(address, PortTaken::TakeNext).unwrap_or_else(|_| panic!("a port is free"));
        assert!(next.local_addr().unwrap().port() > address.port());
    }
}
