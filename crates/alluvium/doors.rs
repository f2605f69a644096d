//! The doors of this process: where they listen, and when they close.
//!
//! Owns the ports and the words for one that is taken. What a door answers is `serve`'s.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use alluvium_plan::DoorAt;
use alluvium_query::QueryEngine;
use alluvium_runtime::Running;
use alluvium_serve::{http, postgres};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle, time::timeout};

use crate::{failure::Failure, telemetry::Metrics};

/// How long answers under way may take when the door closes.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How many ports beyond the wanted one are tried.
const NEXT_PORTS: u16 = 50;
/// Clients of Postgres that may be connected at the same time.
const POSTGRES_CLIENTS: usize = 200;

/// What to do when the port is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortTaken {
    /// Say so and give up.
    Refuse,
    /// Try the ones after it.
    TakeNext,
}

/// Which door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    Postgres,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Postgres => "Postgres wire",
        })
    }
}

impl Kind {
    /// Its key under `listen`.
    fn key(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Postgres => "postgres",
        }
    }
}

/// An open door.
pub(crate) struct Door {
    kind: Kind,
    address: SocketAddr,
    close: oneshot::Sender<()>,
    serving: JoinHandle<io::Result<()>>,
}

impl Door {
    /// Takes a port; nobody is answered yet.
    ///
    /// # Errors
    /// A failure that says what to change.
    pub(crate) fn listen(
        kind: Kind,
        wanted: SocketAddr,
        taken: PortTaken,
    ) -> Result<TcpListener, Failure> {
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
                    let help = format!(
                        "another server may be running there; choose another port with `listen: {{{}: …}}`, or 0 for a free one",
                        kind.key()
                    );
                    return Err(Failure::work(format!("{kind} cannot listen on {wanted}"))
                        .because(&error)
                        .help(help));
                }
            }
        }
    }

    /// Takes the Postgres door's port, if it is to open.
    ///
    /// # Errors
    /// When the file names a port that is taken.
    pub(crate) fn listen_postgres(at: DoorAt) -> Result<Option<TcpListener>, Failure> {
        match at {
            DoorAt::Off => Ok(None),
            DoorAt::Written(address) => {
                Self::listen(Kind::Postgres, address, PortTaken::Refuse).map(Some)
            }
            DoorAt::Usual(address) => {
                match Self::listen(Kind::Postgres, address, PortTaken::Refuse) {
                    Ok(listener) => Ok(Some(listener)),
                    Err(failure) => {
                        tracing::warn!("{failure}; the door stays shut");
                        Ok(None)
                    }
                }
            }
        }
    }

    /// Answers HTTP from now on, on the threads of `io`.
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
        let door = http::Door {
            engine: queries,
            status: running.status(),
            metrics: Arc::new(move || metrics.render().map_err(|error| error.to_string())),
            live: Arc::new(running.liveness()),
        };
        Self::serve(Kind::Http, listener, io, |listener, closed| {
            http::serve(listener, door, closed)
        })
    }

    /// Answers clients of Postgres from now on, on the threads of `io`.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub(crate) fn open_postgres(
        listener: TcpListener,
        io: &Runtime,
        queries: QueryEngine,
    ) -> Result<Self, Failure> {
        let door = postgres::Door {
            engine: queries,
            clients: POSTGRES_CLIENTS,
        };
        Self::serve(Kind::Postgres, listener, io, |listener, closed| {
            postgres::serve(listener, door, closed)
        })
    }

    fn serve<S>(
        kind: Kind,
        listener: TcpListener,
        io: &Runtime,
        serve: impl FnOnce(tokio::net::TcpListener, Closed) -> S,
    ) -> Result<Self, Failure>
    where
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let address = listener.local_addr()?;
        let listener = {
            let _inside = io.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (close, closed) = oneshot::channel();
        let closed: Closed = Box::pin(async {
            // A dropped sender means the same as an order to close.
            let _ = closed.await;
        });
        Ok(Self {
            kind,
            address,
            close,
            serving: io.spawn(serve(listener, closed)),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Finishes the answers under way, and gives no new ones.
    pub(crate) fn close(self, io: &Runtime) {
        let kind = self.kind;
        // The receiver is gone only when serving has ended by itself.
        let _ = self.close.send(());
        match io.block_on(async { timeout(LAST_ANSWERS, self.serving).await }) {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!("the door for {kind} failed: {error}"),
            Ok(Err(error)) => tracing::warn!("the door for {kind} failed: {error}"),
            Err(_) => {
                tracing::warn!("some answers were still under way when the door for {kind} closed");
            }
        }
    }
}

/// Resolves when a door is to close.
type Closed = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_refused_or_passed_over() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let failure = Door::listen(Kind::Http, address, PortTaken::Refuse).unwrap_err();
        assert!(
            failure.to_string().contains(&address.to_string()),
            "{failure}"
        );
        let next = Door::listen(Kind::Http, address, PortTaken::TakeNext)
            .unwrap_or_else(|_| panic!("a port is free"));
        assert!(next.local_addr().unwrap().port() > address.port());
    }

    #[test]
    fn the_usual_port_may_be_taken_a_written_one_may_not() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        assert!(
            Door::listen_postgres(DoorAt::Usual(address))
                .unwrap()
                .is_none()
        );
        assert!(Door::listen_postgres(DoorAt::Off).unwrap().is_none());
        assert!(Door::listen_postgres(DoorAt::Written(address)).is_err());
    }
}
