//! Whether the direct drain can do what a connection asks for, and how it reaches the brokers then.
//!
//! Owns the reading of librdkafka's properties for our own connections. What it does not know it does not guess: the
//! portable drain serves that connection, and the reason is told.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::security::{Sasl, Security, Tls};
use crate::token;

/// How our own connections are made and what they ask for.
#[derive(Clone)]
pub(crate) struct Settings {
    /// `host:port` of brokers to begin with.
    pub(super) bootstrap: Vec<String>,
    pub(super) client_id: String,
    pub(super) security: Security,
    /// How long a broker waits for `min_bytes` before it answers.
    pub(super) max_wait: Duration,
    pub(super) min_bytes: i32,
    /// The most bytes of one response, give or take one record batch.
    pub(super) response_bytes: i32,
    /// The most bytes of one partition in a response, give or take one record batch.
    pub(crate) partition_bytes: i32,
    /// Bytes that may wait to be taken, of all partitions together.
    pub(super) queue_bytes: usize,
    /// How long an answer may take.
    pub(super) patience: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("bootstrap", &self.bootstrap)
            .field("security", &self.security)
            .field("response_bytes", &self.response_bytes)
            .field("partition_bytes", &self.partition_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .finish_non_exhaustive()
    }
}

/// Properties of security that are understood here; another one leads to the portable drain.
const UNDERSTOOD: [&str; 15] = [
    "enable.ssl.certificate.verification",
    "sasl.mechanism",
    "sasl.mechanisms",
    token::TEXT,
    token::FILE,
    "sasl.password",
    "sasl.username",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.pem",
    "security.protocol",
];

/// Properties that ask for something only librdkafka does.
const FOREIGN: [&str; 5] = [
    "client.rack",
    "metadata.broker.list",
    "plugin.library.paths",
    "resolve.canonical.bootstrap.servers.only",
    "client.dns.lookup",
];

/// Where queues are shared out: the least and the most of one response.
const RESPONSE: (usize, usize) = (256 << 10, 2 << 20);
/// The most that may wait to be taken: enough for 300 MB a second over a way of 50 ms. More would only be memory.
const MOST_QUEUED: usize = 16 << 20;

impl Settings {
    /// Reads librdkafka's properties.
    ///
    /// # Errors
    /// Why the portable drain has to serve, in words.
    pub(crate) fn read(
        properties: &BTreeMap<String, String>,
        queue_bytes: usize,
        partitions: usize,
    ) -> Result<Self, String> {
        let get = |name: &str| properties.get(name).map(String::as_str);
        let strange = properties.keys().find(|name| {
            let security = ["ssl.", "sasl.", "https.", "enable.ssl", "enable.sasl"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
            FOREIGN.contains(&name.as_str()) || security && !UNDERSTOOD.contains(&name.as_str())
        });
        if let Some(name) = strange {
            return Err(format!("the property `{name}` is librdkafka's to answer"));
        }
        let bootstrap: Vec<String> = get("bootstrap.servers")
            .unwrap_or_default()
            .split(',')
            .map(|address| with_port(address.trim()))
            .filter(|address| !address.is_empty())
            .collect();
        let protocol = get("security.protocol")
            .unwrap_or("plaintext")
            .to_ascii_lowercase();
        let (tls, sasl) = match protocol.as_str() {
            "plaintext" => (false, false),
            "ssl" => (true, false),
            "sasl_plaintext" => (false, true),
            "sasl_ssl" => (true, true),
            other => return Err(format!("`security.protocol: {other}` is not known here")),
        };
        let security = Security {
            tls: if tls { Some(Tls::read(&get)?) } else { None },
            sasl: if sasl { Some(Sasl::read(&get)?) } else { None },
        };
        let queue_bytes = queue_bytes.min(MOST_QUEUED);
        let response = (queue_bytes / 2).clamp(RESPONSE.0, RESPONSE.1);
        let share = (queue_bytes / partitions.max(1)).clamp(64 << 10, 1 << 20);
        Ok(Self {
            bootstrap,
            client_id: get("client.id").unwrap_or("alluvium").to_owned(),
            security,
            max_wait: Duration::from_millis(number(&get, "fetch.wait.max.ms", 100)?),
            min_bytes: bytes(&get, "fetch.min.bytes", 1)?,
            response_bytes: bytes(&get, "fetch.max.bytes", response)?,
            partition_bytes: bytes(&get, "max.partition.fetch.bytes", share)?,
            queue_bytes,
            patience: Duration::from_millis(number(&get, "socket.timeout.ms", 30_000)?),
        })
    }
}

fn number<'p>(
    get: &impl Fn(&str) -> Option<&'p str>,
    name: &str,
    default: u64,
) -> Result<u64, String> {
    get(name).map_or(Ok(default), |written| {
        written
            .parse()
            .map_err(|_| format!("`{name}: {written}` is not a number"))
    })
}

fn bytes<'p>(
    get: &impl Fn(&str) -> Option<&'p str>,
    name: &str,
    default: usize,
) -> Result<i32, String> {
    number(get, name, default as u64).map(|count| i32::try_from(count).unwrap_or(i32::MAX))
}

/// librdkafka's default port is Kafka's.
fn with_port(address: &str) -> String {
    // librdkafka takes addresses with a protocol in front.
    let address = address.rsplit_once("://").map_or(address, |(_, rest)| rest);
    let named = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if address.is_empty() || named {
        address.to_owned()
    } else {
        format!("{address}:9092")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(properties: &[(&str, &str)]) -> Result<Settings, String> {
        let properties = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Settings::read(&properties, 32 << 20, 4)
    }

    #[test]
    fn addresses_get_kafkas_port() {
        let settings = read(&[("bootstrap.servers", "a, b:1, PLAINTEXT://c:2,[::1]:3")]).unwrap();
        assert_eq!(settings.bootstrap, ["a:9092", "b:1", "c:2", "[::1]:3"]);
    }

    #[test]
    fn what_is_not_understood_is_left_to_librdkafka() {
        for (name, value) in [
            ("ssl.cipher.suites", "AES"),
            ("sasl.kerberos.service.name", "kafka"),
            ("client.rack", "a"),
            ("security.protocol", "carrier_pigeon"),
            ("fetch.wait.max.ms", "soon"),
        ] {
            let why = read(&[(name, value)]).unwrap_err();
            assert!(why.contains(name), "{why}");
        }
        let why = read(&[
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "GSSAPI"),
        ])
        .unwrap_err();
        assert!(why.contains("GSSAPI"), "{why}");
    }
}
