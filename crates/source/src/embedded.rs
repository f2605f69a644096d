//! A broker inside this process, for demonstrations and tests.
//!
//! Owns librdkafka's mock cluster and, where a port is asked for, a listener that passes bytes on
//! to it. It is not a Kafka: it keeps at most 5 MiB or 100,000 batches a partition and drops the
//! oldest, nothing on disk; it has no TLS, no rights, no topic deletion or growth, no offsets by
//! time, and hands out aborted records. Whenever a member joins or leaves a group that had members
//! before, everybody waits for the group's session timeout, less a second. It speaks the real protocol, and other processes can reach
//! it.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    config::RDKafkaLogLevel,
    error::KafkaResult,
    mocking::MockCluster,
    producer::{BaseProducer, DefaultProducerContext, Producer},
};

use crate::{SourceError, native::MockSettings};

/// Bytes a partition keeps; what is older is dropped.
const KEPT_PER_PARTITION: usize = 5 << 20;

/// How long a new group waits for further members.
const FIRST_REBALANCE: Duration = Duration::from_millis(100);

/// A broker that lives as long as this value.
pub struct EmbeddedBroker {
    /// The client that owns the mock cluster.
    host: BaseProducer<DefaultProducerContext>,
    address: String,
    _listener: Option<Listener>,
}

impl EmbeddedBroker {
    /// Bytes a partition keeps at most. A reader that falls further behind finds its offset out of
    /// range, as after retention on a real broker.
    pub const KEPT_PER_PARTITION: usize = KEPT_PER_PARTITION;

    /// Starts a broker with these topics and their partitions, on a port of the system's choice or
    /// on `port` of the loopback interface. The mock cluster cannot choose its port, so a chosen
    /// one costs a copy of every byte through a thread.
    ///
    /// # Errors
    /// [`SourceError::Port`] when the port is taken, [`SourceError::Embedded`] when the broker or a
    /// topic is refused.
    pub fn start(port: Option<u16>, topics: &[(String, i32)]) -> Result<Self, SourceError> {
        let refused = |what: &str, cause: &dyn std::fmt::Display| SourceError::Embedded {
            reason: format!("{what}: {cause}"),
        };
        let mut config = ClientConfig::new();
        config
            .set("test.mock.num.brokers", "1")
            .set_log_level(RDKafkaLogLevel::Warning);
        let host: BaseProducer<DefaultProducerContext> = config
            .create()
            .map_err(|cause| refused("the mock cluster", &cause))?;
        let mut address = cluster(&host)?.bootstrap_servers();
        let settings = settings(&host)?;
        settings.first_rebalance_after(FIRST_REBALANCE);
        let listener = match port {
            // Port 0 means "any" and needs no detour.
            None | Some(0) => None,
            Some(port) => {
                let target = address
                    .parse()
                    .map_err(|cause| refused("the mock cluster's address", &cause))?;
                let listener = Listener::start(port, target)?;
                // From here on every client is sent to our port.
                settings.advertise(port);
                address = format!("127.0.0.1:{port}");
                Some(listener)
            }
        };
        for (topic, partitions) in topics {
            cluster(&host)?
                .create_topic(topic, *partitions, 1)
                .map_err(|cause| refused(&format!("topic {topic}"), &cause))?;
        }
        Ok(Self {
            host,
            address,
            _listener: listener,
        })
    }

    /// Its address, `host:port`.
    pub fn brokers(&self) -> String {
        self.address.clone()
    }

    /// Hangs up on every client and lets nobody in.
    ///
    /// # Errors
    /// [`SourceError::Embedded`] when the mock cluster refuses.
    pub fn go_down(&self) -> Result<(), SourceError> {
        self.order(|cluster| cluster.broker_down(-1))
    }

    /// Lets clients in again, with all records kept.
    ///
    /// # Errors
    /// [`SourceError::Embedded`] when the mock cluster refuses.
    pub fn come_up(&self) -> Result<(), SourceError> {
        self.order(|cluster| cluster.broker_up(-1))
    }

    fn order(
        &self,
        order: impl FnOnce(&MockCluster<'_, DefaultProducerContext>) -> KafkaResult<()>,
    ) -> Result<(), SourceError> {
        order(&cluster(&self.host)?).map_err(|cause| SourceError::Embedded {
            reason: cause.to_string(),
        })
    }
}

fn cluster(
    host: &BaseProducer<DefaultProducerContext>,
) -> Result<MockCluster<'_, DefaultProducerContext>, SourceError> {
    host.client()
        .mock_cluster()
        .ok_or_else(|| SourceError::Embedded {
            reason: "librdkafka was built without its mock cluster".to_owned(),
        })
}

fn settings(host: &BaseProducer<DefaultProducerContext>) -> Result<MockSettings<'_>, SourceError> {
    MockSettings::of(host.client()).ok_or_else(|| SourceError::Embedded {
        reason: "librdkafka was built without its mock cluster".to_owned(),
    })
}

/// Accepts on one port and passes bytes to another.
struct Listener {
    ending: Arc<AtomicBool>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(port: u16, target: SocketAddr) -> Result<Self, SourceError> {
        let refused = |cause| SourceError::Port { port, cause };
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        let ending = Arc::new(AtomicBool::new(false));
        let accepting = thread::Builder::new()
            .name("embedded-broker".to_owned())
            .spawn({
                let ending = Arc::clone(&ending);
                move || {
                    for client in socket.incoming() {
                        if ending.load(Ordering::Acquire) {
                            return;
                        }
                        if let Err(cause) = client.and_then(|client| connect(client, target)) {
                            tracing::debug!(%cause, "a client could not reach the mock cluster");
                        }
                    }
                }
            })
            .map_err(SourceError::Thread)?;
        Ok(Self {
            ending,
            address,
            accepting: Some(accepting),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // One more client, so that the accepting thread looks up.
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let (Ok(_), Some(accepting)) = (woken, self.accepting.take()) {
            // It only ends by returning; a panic there was reported by the runtime already.
            let _ = accepting.join();
        }
    }
}

/// Joins two sockets, with one thread for each direction. They end when either side hangs up.
fn connect(client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let broker = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    pass(client.try_clone()?, broker.try_clone()?)?;
    pass(broker, client)
}

fn pass(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    thread::Builder::new()
        .name("embedded-broker".to_owned())
        .spawn(move || {
            // Whatever ends it, both sides must notice; a socket may be closed already.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        })
        .map(|_| ())
}
