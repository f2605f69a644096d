//! Sends events to a topic, for demonstrations, generated load and trying things out.
//!
//! Owns the retries and the count of what did not arrive. Does not own what an event looks like.

use std::{
    error::Error,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alluvium_types::Timestamp;
use rdkafka::{
    ClientContext, Message as _,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext},
};

use crate::{
    Broker, SourceError,
    assignment::log_line,
    token::{Tokens, generate},
};

/// How long one record waits for room in the queue.
const QUEUE_WAIT: Duration = Duration::from_secs(30);

/// One delivery report is served for at most this many records sent.
const SERVE_EVERY: u32 = 64;

#[derive(Debug, Default)]
struct Tally {
    delivered: u64,
    failed: u64,
    first_failure: Option<String>,
}

#[derive(Debug, Default)]
struct Deliveries {
    tally: Mutex<Tally>,
    tokens: Option<Tokens>,
}

impl Deliveries {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        generate(self.tokens.as_ref())
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, text: &str) {
        log_line(level, fac, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "the Kafka producer complains");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        let mut tally = self.tally();
        match result {
            Ok(_) => tally.delivered += 1,
            Err((cause, record)) => {
                tally.failed += 1;
                tally
                    .first_failure
                    .get_or_insert_with(|| format!("partition {}: {cause}", record.partition()));
            }
        }
    }
}

/// A producer for one topic: idempotent, lz4, waiting 5 ms for company.
pub struct EventProducer {
    producer: BaseProducer<Deliveries>,
    topic: String,
    sent: u32,
}

impl EventProducer {
    /// A producer to `topic`. Returns at once, also when no broker is reachable.
    ///
    /// # Errors
    /// [`SourceError::Property`] or [`SourceError::Client`] when the configuration is refused.
    pub fn new(broker: &Broker, topic: impl Into<String>) -> Result<Self, SourceError> {
        let mut config = broker.config();
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("linger.ms", "5"),
            ("compression.type", "lz4"),
            ("queue.buffering.max.kbytes", "65536"),
        ] {
            if !broker.properties.contains_key(name) {
                config.set(name, value);
            }
        }
        let deliveries = Deliveries {
            tokens: broker.tokens(),
            ..Deliveries::default()
        };
        Ok(Self {
            producer: broker.create(&config, deliveries)?,
            topic: topic.into(),
            sent: 0,
        })
    }

    /// Queues one record; Kafka's partitioner chooses where `partition` is `None`. When the queue
    /// is full it waits for room, half a minute at most.
    ///
    /// # Errors
    /// [`SourceError::QueueFull`] after that wait; [`SourceError::Send`] for a record that can
    /// never be sent; [`SourceError::Undelivered`] when an earlier one did not arrive.
    pub fn send(
        &mut self,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: &[u8],
        timestamp: Option<Timestamp>,
    ) -> Result<(), SourceError> {
        self.sent = self.sent.wrapping_add(1);
        if self.sent.is_multiple_of(SERVE_EVERY) {
            self.producer.poll(Duration::ZERO);
            self.check()?;
        }
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.topic).payload(payload);
        record.partition = partition;
        record.key = key;
        record.timestamp = timestamp.map(|time| time.micros().div_euclid(1000));
        let started = Instant::now();
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    refused
                }
                Err((cause, _)) => {
                    return Err(SourceError::Send {
                        topic: self.topic.clone(),
                        cause,
                    });
                }
            };
            let waited = started.elapsed();
            if waited > QUEUE_WAIT {
                return Err(SourceError::QueueFull {
                    topic: self.topic.clone(),
                    waited,
                });
            }
            self.producer.poll(Duration::from_millis(10));
            self.check()?;
        }
    }

    /// Returns when every record sent has arrived.
    ///
    /// # Errors
    /// [`SourceError::Undelivered`] when some never will, [`SourceError::Unflushed`] when the time
    /// is up before.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), SourceError> {
        let flushed = self.producer.flush(timeout);
        self.check()?;
        match flushed {
            Ok(()) => Ok(()),
            Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => {
                Err(SourceError::Unflushed {
                    topic: self.topic.clone(),
                    waiting: usize::try_from(self.producer.in_flight_count()).unwrap_or(0),
                    waited: timeout,
                })
            }
            Err(cause) => Err(SourceError::Send {
                topic: self.topic.clone(),
                cause,
            }),
        }
    }

    /// Records that have arrived.
    pub fn delivered(&self) -> u64 {
        self.producer.context().tally().delivered
    }

    fn check(&self) -> Result<(), SourceError> {
        let tally = self.producer.context().tally();
        match &tally.first_failure {
            None => Ok(()),
            Some(first) => Err(SourceError::Undelivered {
                topic: self.topic.clone(),
                failed: tally.failed,
                first: first.clone(),
            }),
        }
    }
}
