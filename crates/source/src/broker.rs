//! How to reach a broker and which properties are not the user's to choose.
//!
//! Owns the properties that the protocol depends on. Does not own their mapping from a connection
//! file: properties arrive here under librdkafka's names.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alluvium_types::MemoryBudget;
use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
};

use crate::{
    SourceError,
    direct::settings::Settings,
    token::{self, Tokens},
};

/// A connection: addresses, and librdkafka's properties for it (TLS, SASL, timeouts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broker {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// Properties under librdkafka's names; they hold for every client of this connection.
    pub properties: BTreeMap<String, String>,
}

/// Who brings the bytes of the assigned partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainKind {
    /// Our own fetch requests where they can serve the connection, else librdkafka.
    #[default]
    Automatic,
    /// Our own fetch requests, or not at all.
    Direct,
    /// librdkafka.
    Portable,
}

/// What to read, as which member of which group, and with how much memory.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Who brings the bytes.
    pub drain: DrainKind,
    /// The topics.
    pub topics: Vec<Arc<str>>,
    /// The consumer group.
    pub group: String,
    /// The static member's name (P29); `None`: a dynamic member.
    pub instance: Option<String>,
    /// Further properties, on top of the connection's.
    pub properties: BTreeMap<String, String>,
    /// Counts every raw batch for as long as it lives (P30).
    pub memory: MemoryBudget,
    /// Bytes that librdkafka may hold in its queues, for all partitions together. They are not
    /// counted in `memory`. A fetch may overshoot a partition's share by one response.
    pub queue_bytes: usize,
    /// How many partitions the topics have in all: the queues' bytes are divided by it.
    pub partition_count: usize,
}

/// What a small message costs in the client's queue, roughly.
const QUEUED_MESSAGE: usize = 512;

/// Properties a group member must have, and the rule that needs them.
const RULED: [(&str, &str, &str); 10] = [
    (
        "enable.auto.commit",
        "false",
        "progress is recorded in the table only",
    ),
    (
        "enable.auto.offset.store",
        "false",
        "progress is recorded in the table only",
    ),
    (
        "auto.offset.reset",
        "error",
        "events must never be skipped in silence",
    ),
    (
        "isolation.level",
        "read_committed",
        "aborted records must not be counted",
    ),
    ("check.crcs", "true", "damaged records must not be counted"),
    (
        "allow.auto.create.topics",
        "false",
        "reading must not create topics",
    ),
    (
        "partition.assignment.strategy",
        "range",
        "strategies must not be mixed in one group",
    ),
    (
        "group.protocol",
        "classic",
        "the newer protocol is not supported yet",
    ),
    // The end of a partition arrives in order in its queue and carries the next offset to fetch:
    // that is how a range passes transaction markers (P2). librdkafka 2.12 moves its own position
    // one too far then, which only its pause and its offset store read; neither is used here.
    (
        "enable.partition.eof",
        "true",
        "ranges must pass transaction markers",
    ),
    // One statistics event a second for the log's ends.
    ("statistics.interval.ms", "1000", "lag is measured with it"),
];

/// Properties with a field of their own.
const NAMED: [&str; 5] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "group.instance.id",
    "queued.max.messages.kbytes",
];

/// Defaults that a user may change.
const DEFAULTS: [(&str, &str); 6] = [
    ("fetch.queue.backoff.ms", "20"),
    ("fetch.wait.max.ms", "100"),
    ("fetch.min.bytes", "1"),
    ("queued.min.messages", "100000"),
    ("session.timeout.ms", "45000"),
    ("socket.keepalive.enable", "true"),
];

/// Whether a property is for us and not for librdkafka.
fn is_ours(name: &str) -> bool {
    [token::FILE, token::TEXT].contains(&name)
}

const LONGEST_METADATA_REFRESH: u64 = 30_000;

impl Broker {
    /// A connection to `brokers` without further properties.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            properties: BTreeMap::new(),
        }
    }

    pub(crate) fn config(&self) -> ClientConfig {
        // Before a client does it: librdkafka would have OpenSSL clean up where the process ends, under threads of clients that
        // were given up and may still be reading.
        openssl_sys::init();
        let mut config = ClientConfig::new();
        for (name, value) in &self.properties {
            if !is_ours(name) {
                config.set(name, value);
            }
        }
        config.set("bootstrap.servers", &self.brokers);
        // Without a level of our own librdkafka's lines would follow the `log` crate's, which
        // nobody sets.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// Where tokens come from, if the broker asks for them.
    pub(crate) fn tokens(&self) -> Option<Tokens> {
        Tokens::of(&self.properties)
    }

    pub(crate) fn create<C, T>(&self, config: &ClientConfig, context: C) -> Result<T, SourceError>
    where
        C: ClientContext,
        T: FromClientConfigAndContext<C>,
    {
        config
            .create_with_context(context)
            .map_err(|cause| match cause {
                // The reason names the value where it is one of few, and a secret never is.
                KafkaError::ClientConfig(_, reason, property, _) => {
                    SourceError::Property { property, reason }
                }
                cause => SourceError::Client {
                    brokers: self.brokers.clone(),
                    cause,
                },
            })
    }
}

impl Subscription {
    /// librdkafka's configuration for this member.
    ///
    /// # Errors
    /// [`SourceError::Property`] for a property that the protocol does not leave to the user.
    pub(crate) fn config(&self, broker: &Broker) -> Result<ClientConfig, SourceError> {
        let mut config = broker.config();
        for (name, value) in DEFAULTS {
            if !broker.properties.contains_key(name) {
                config.set(name, value);
            }
        }
        let properties = broker.properties.iter().chain(&self.properties);
        for (name, value) in properties.filter(|(name, _)| !is_ours(name)) {
            let refuse = |reason: &str| {
                Err(SourceError::Property {
                    property: name.clone(),
                    reason: reason.to_owned(),
                })
            };
            if NAMED.contains(&name.as_str()) {
                return refuse("it follows from the connection and the pipeline");
            }
            if let Some((_, fixed, why)) = RULED.iter().find(|(ruled, ..)| ruled == name)
                && value != fixed
            {
                return refuse(&format!("it is always `{fixed}`, because {why}"));
            }
            if name == "topic.metadata.refresh.interval.ms" {
                // Partitions that are added must be seen before they grow (P16).
                match value.parse::<u64>() {
                    Ok(millis) if millis <= LONGEST_METADATA_REFRESH => {}
                    _ => return refuse("new partitions must be seen within 30 seconds"),
                }
            }
            config.set(name, value);
        }
        for (name, value, _) in RULED {
            config.set(name, value);
        }
        if config.get("topic.metadata.refresh.interval.ms").is_none() {
            config.set(
                "topic.metadata.refresh.interval.ms",
                LONGEST_METADATA_REFRESH.to_string(),
            );
        }
        config.set("group.id", &self.group);
        if let Some(instance) = &self.instance {
            config.set("group.instance.id", instance);
        }
        let share = self.queue_bytes / self.partition_count.max(1);
        config.set(
            "queued.max.messages.kbytes",
            (share / 1024).clamp(64, 2_000_000).to_string(),
        );
        if config.get("max.partition.fetch.bytes").is_none()
            && config.get("fetch.message.max.bytes").is_none()
        {
            // A response may overshoot the queue's share, and is compressed: keep it well within.
            config.set(
                "max.partition.fetch.bytes",
                (share / 16).clamp(64 << 10, 1 << 20).to_string(),
            );
        }
        if config.get("queued.min.messages").is_none() {
            // The client counts payloads and keys in its queues, not its own 400 bytes and more a
            // message: 100,000 small messages a partition, its default, are many times the share.
            config.set(
                "queued.min.messages",
                (share / QUEUED_MESSAGE).clamp(1_000, 100_000).to_string(),
            );
        }
        Ok(config)
    }

    /// How our own requests would be made; `None`: librdkafka reads.
    ///
    /// # Errors
    /// [`SourceError::NotDirect`] when our own requests were asked for and cannot serve.
    pub(crate) fn direct(&self, broker: &Broker) -> Result<Option<Settings>, SourceError> {
        if self.drain == DrainKind::Portable {
            return Ok(None);
        }
        let mut properties = broker.properties.clone();
        properties.extend(self.properties.clone());
        properties.insert("bootstrap.servers".to_owned(), broker.brokers.clone());
        match Settings::read(&properties, self.queue_bytes, self.partition_count) {
            Ok(settings) => Ok(Some(settings)),
            Err(reason) if self.drain == DrainKind::Direct => {
                Err(SourceError::NotDirect { reason })
            }
            Err(reason) => {
                tracing::info!("records are fetched by librdkafka: {reason}");
                Ok(None)
            }
        }
    }

    /// How long a rebalance may be held up: min(session timeout / 3, 10 s) (P17, P27).
    ///
    /// # Errors
    /// [`SourceError::Property`] when `session.timeout.ms` is not a number.
    pub(crate) fn patience(config: &ClientConfig) -> Result<Duration, SourceError> {
        let written = config.get("session.timeout.ms").unwrap_or("45000");
        let session = written
            .parse::<u64>()
            .map_err(|cause| SourceError::Property {
                property: "session.timeout.ms".to_owned(),
                reason: cause.to_string(),
            })?;
        Ok(Duration::from_millis(session / 3).min(Duration::from_secs(10)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(properties: &[(&str, &str)]) -> Subscription {
        Subscription {
            drain: DrainKind::Automatic,
            topics: vec!["clicks".into()],
            group: "g".to_owned(),
            instance: None,
            properties: properties
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            memory: MemoryBudget::new(1 << 20),
            queue_bytes: 64 << 20,
            partition_count: 4,
        }
    }

    #[test]
    fn what_the_protocol_needs_is_not_the_users_to_change() {
        for (name, value) in [
            ("auto.offset.reset", "latest"),
            ("enable.auto.commit", "true"),
            ("group.id", "other"),
            ("topic.metadata.refresh.interval.ms", "300000"),
        ] {
            let refused = subscription(&[(name, value)])
                .config(&Broker::new("localhost:9092"))
                .unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
        }
        let config = subscription(&[("auto.offset.reset", "error"), ("fetch.wait.max.ms", "5")])
            .config(&Broker::new("localhost:9092"))
            .unwrap();
        assert_eq!(config.get("fetch.wait.max.ms"), Some("5"));
        assert_eq!(config.get("isolation.level"), Some("read_committed"));
        assert_eq!(config.get("queued.max.messages.kbytes"), Some("16384"));
    }

    #[test]
    fn a_rebalance_waits_a_third_of_the_session_at_most() {
        let patience = |millis| {
            let config = subscription(&[("session.timeout.ms", millis)])
                .config(&Broker::new("localhost:9092"))
                .unwrap();
            Subscription::patience(&config)
        };
        assert_eq!(patience("6000").unwrap(), Duration::from_secs(2));
        assert_eq!(patience("90000").unwrap(), Duration::from_secs(10));
        assert!(patience("soon").is_err());
    }
}
