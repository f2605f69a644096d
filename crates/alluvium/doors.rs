//! The doors of this process: where they listen, and when they close.
//!
//! Owns the ports and the words for one that is taken. What a door answers is `serve`'s.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use alluvium_plan::{DoorAt, Server};
use alluvium_query::QueryEngine;
use alluvium_runtime::Running;
use alluvium_serve::{Renewed, Tls, Users, flight, http, postgres};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle, time::timeout};

use crate::{failure::Failure, telemetry::Metrics};

/// How long answers under way may take when the door closes.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How often certificates are looked at.
const LOOK_AT_CERTIFICATES: Duration = Duration::from_secs(5);
/// What the threads are called that speak with clients.
pub(crate) const DOORS: &str = "alluvium-doors";
/// How many ports beyond the wanted one are tried.
const NEXT_PORTS: u16 = 50;
/// Clients of Postgres that may be connected at the same time.
const POSTGRES_CLIENTS: usize = 200;
/// Clients of Flight SQL; each may ask several things at once.
const FLIGHT_CLIENTS: usize = 100;

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
    Flight,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Postgres => "Postgres wire",
            Self::Flight => "Flight SQL",
        })
    }
}

impl Kind {
    /// Its key under `listen`.
    fn key(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Postgres => "postgres",
            Self::Flight => "flight",
        }
    }
}

/// Who may come in, and what connections are made with: the same for every door.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    users: Users,
    tls: Option<Tls>,
}

impl Entry {
    /// What the server file says, with its certificates read.
    ///
    /// # Errors
    /// A failure that says which certificate cannot be used.
    pub(crate) fn of(server: &Server) -> Result<Self, Failure> {
        let tls = server.tls.as_ref().map(Tls::read).transpose();
        let tls = tls.map_err(|error| {
            Failure::input("the doors cannot speak TLS")
                .because(&error)
                .help("look at `tls:` in the server file: PEM files, the server's own certificate first")
        })?;
        Ok(Self {
            users: Users::new(&server.users),
            tls,
        })
    }

    /// The scheme of the HTTP door's URL.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    /// Reads certificates again when their files change, as long as `io` runs. Broken ones change nothing and are told once.
    pub(crate) fn renew(&self, io: &Runtime) {
        let Some(tls) = self.tls.clone() else {
            return;
        };
        io.spawn(async move {
            let mut told = String::new();
            loop {
                tokio::time::sleep(LOOK_AT_CERTIFICATES).await;
                let looking = tls.clone();
                let looked = tokio::task::spawn_blocking(move || looking.renew()).await;
                match looked {
                    Ok(Ok(Renewed::No)) => told.clear(),
                    Ok(Ok(Renewed::Yes)) => {
                        told.clear();
                        tracing::info!("the doors have new certificates");
                    }
                    Ok(Err(error)) => {
                        let error = error.to_string();
                        if told != error {
                            tracing::warn!("{error}; the doors keep their old certificates");
                            told = error;
                        }
                    }
                    // The hook has told what is wrong; files that are whole again are taken then.
                    Err(error) if error.is_panic() => {}
                    // The process is ending.
                    Err(_) => return,
                }
            }
        });
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

    /// Takes the port of a door that a server can do without, if it is to open.
    ///
    /// # Errors
    /// When the file names a port that is taken.
    pub(crate) fn listen_at(kind: Kind, at: DoorAt) -> Result<Option<TcpListener>, Failure> {
        match at {
            DoorAt::Off => Ok(None),
            DoorAt::Written(address) => Self::listen(kind, address, PortTaken::Refuse).map(Some),
            DoorAt::Usual(address) => match Self::listen(kind, address, PortTaken::Refuse) {
                Ok(listener) => Ok(Some(listener)),
                Err(failure) => {
                    tracing::warn!("{failure}; the door stays shut");
                    Ok(None)
                }
            },
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
        entry: Entry,
    ) -> Result<Self, Failure> {
        let door = http::Door {
            engine: queries,
            users: entry.users,
            tls: entry.tls,
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
        entry: Entry,
    ) -> Result<Self, Failure> {
        let door = postgres::Door {
            engine: queries,
            users: entry.users,
            tls: entry.tls,
            clients: POSTGRES_CLIENTS,
        };
        Self::serve(Kind::Postgres, listener, io, |listener, closed| {
            postgres::serve(listener, door, closed)
        })
    }

    /// Answers clients of Flight SQL from now on, on the threads of `io`.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub(crate) fn open_flight(
        listener: TcpListener,
        io: &Runtime,
        queries: QueryEngine,
        entry: Entry,
    ) -> Result<Self, Failure> {
        let door = flight::Door {
            engine: queries,
            users: entry.users,
            tls: entry.tls,
            clients: FLIGHT_CLIENTS,
        };
        Self::serve(Kind::Flight, listener, io, |listener, closed| {
            flight::serve(listener, door, closed)
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

    /// Whether it has ended by itself, and answers nobody any more.
    pub(crate) fn is_over(&self) -> bool {
        self.serving.is_finished()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
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
        for kind in [Kind::Postgres, Kind::Flight] {
            let listen = |at| Door::listen_at(kind, at);
            assert!(listen(DoorAt::Usual(address)).unwrap().is_none());
            assert!(listen(DoorAt::Off).unwrap().is_none());
            assert!(listen(DoorAt::Written(address)).is_err());
        }
    }
}
