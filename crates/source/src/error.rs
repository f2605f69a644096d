//! What can go wrong between this process and a broker.
//!
//! Owns the errors and their class. Does not own partitions that stop: that is [`Halt`](crate::Halt),
//! a state, not an error.

use std::time::Duration;

use alluvium_types::{ErrorClass, TopicPartition};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A failure of the source that the caller has to answer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A property that would break an invariant, or that librdkafka does not take.
    #[error("the Kafka property `{property}` cannot be set as it is: {reason}")]
    Property {
        /// The property's name. What it was set to may be a secret.
        property: String,
        /// Why not.
        reason: String,
    },
    /// Our own fetch requests were asked for, and cannot serve this connection.
    #[error("`drain: direct` cannot serve this connection: {reason}; leave `drain` out")]
    NotDirect {
        /// Why not.
        reason: String,
    },
    /// Our own connections cannot be waited for.
    #[error("could not wait for brokers: {0}")]
    Sockets(std::io::Error),
    /// librdkafka did not start.
    #[error("could not start a Kafka client for {brokers}: {cause}")]
    Client {
        /// The addresses asked for.
        brokers: String,
        /// librdkafka's answer.
        cause: KafkaError,
    },
    /// The subscription was refused.
    #[error("could not subscribe to {topics}: {cause}")]
    Subscribe {
        /// The topics, separated by commas.
        topics: String,
        /// librdkafka's answer.
        cause: KafkaError,
    },
    /// A question to the broker was not answered.
    #[error("could not ask {brokers} for {question}: {cause}{}", .hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
    Unanswered {
        /// The addresses asked.
        brokers: String,
        /// What was asked.
        question: String,
        /// librdkafka's answer.
        cause: KafkaError,
        /// The last thing the connection complained about.
        hint: Option<String>,
    },
    /// A partition the caller asks about does not exist.
    #[error("there is no partition {0} on the broker")]
    UnknownPartition(TopicPartition),
    /// The log has lost an offset while it was read.
    #[error("the broker has no record of {partition} at offset {offset} any more: {text}")]
    Gone {
        /// The partition.
        partition: TopicPartition,
        /// The next offset that was to be read.
        offset: i64,
        /// The broker's words.
        text: String,
    },
    /// Bytes of the log that cannot be read: a checksum that does not hold, or an unknown compression.
    #[error("the records of {partition} at offset {offset} cannot be read: {text}")]
    Unreadable {
        /// The partition.
        partition: TopicPartition,
        /// Where.
        offset: i64,
        /// What is wrong with them.
        text: String,
    },
    /// The client met an error that it cannot recover from.
    #[error("the Kafka client gave up: {reason}; restart the process")]
    Fatal {
        /// librdkafka's words.
        reason: String,
    },
    /// A record arrived beside its partition's queue.
    #[error("a record of {partition} at offset {offset} arrived beside its partition's queue")]
    Stray {
        /// The record's partition.
        partition: TopicPartition,
        /// The record's offset.
        offset: i64,
    },
    /// The client did not leave in time.
    #[error(
        "the Kafka client did not close within {deadline:?}; end the process without waiting for it"
    )]
    NotClosed {
        /// How long it had.
        deadline: Duration,
    },
    /// The producer's queue stayed full.
    #[error(
        "could not send to topic {topic}: the queue stayed full for {waited:?}; is the broker reachable?"
    )]
    QueueFull {
        /// The topic.
        topic: String,
        /// How long it was tried.
        waited: Duration,
    },
    /// A record was refused before it was sent.
    #[error("could not send to topic {topic}: {cause}")]
    Send {
        /// The topic.
        topic: String,
        /// librdkafka's answer.
        cause: KafkaError,
    },
    /// Records that never arrived.
    #[error("{failed} records did not reach topic {topic}, the first one because: {first}")]
    Undelivered {
        /// The topic.
        topic: String,
        /// How many.
        failed: u64,
        /// The first reason.
        first: String,
    },
    /// Records that were still on their way when the time was up.
    #[error("{waiting} records were still on their way to topic {topic} after {waited:?}")]
    Unflushed {
        /// The topic.
        topic: String,
        /// How many.
        waiting: usize,
        /// How long it was waited.
        waited: Duration,
    },
    /// The broker in this process did not start.
    #[error("could not start the embedded broker: {reason}")]
    Embedded {
        /// Why.
        reason: String,
    },
    /// A port that was asked for is not to be had.
    #[error("could not listen on port {port} for the embedded broker: {cause}")]
    Port {
        /// The port.
        port: u16,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// A thread did not start.
    #[error("could not start a thread: {0}")]
    Thread(std::io::Error),
}

impl SourceError {
    /// What the caller does next.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Property { .. } | Self::UnknownPartition(_) | Self::Port { .. } => {
                ErrorClass::Config
            }
            Self::Client { .. }
            | Self::NotDirect { .. }
            | Self::Gone { .. }
            | Self::Unreadable { .. } => ErrorClass::Config,
            Self::Subscribe { cause, .. }
            | Self::Unanswered { cause, .. }
            | Self::Send { cause, .. } => cause
                .rdkafka_error_code()
                .map_or(ErrorClass::Transient, classify),
            Self::QueueFull { .. }
            | Self::NotClosed { .. }
            | Self::Undelivered { .. }
            | Self::Unflushed { .. }
            | Self::Sockets(_)
            | Self::Thread(_) => ErrorClass::Transient,
            Self::Fatal { .. } | Self::Stray { .. } | Self::Embedded { .. } => ErrorClass::Bug,
        }
    }
}

/// What to do about an error that a broker or librdkafka reports.
///
/// Rights, credentials, certificates and missing topics need a person; everything else librdkafka
/// tries again by itself.
pub(crate) fn classify(code: RDKafkaErrorCode) -> ErrorClass {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Authentication
        | Code::SSL
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::InvalidGroupId
        | Code::InconsistentGroupProtocol
        | Code::InvalidSessionTimeout
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::InvalidTopic => ErrorClass::Config,
        _ => ErrorClass::Transient,
    }
}
