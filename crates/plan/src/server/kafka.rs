//! Kafka connections of the server file, as librdkafka's properties.
//!
//! Owns what TLS and SASL mean in these. Does not own which other properties are taken: [`crate::properties`] does.

use std::{collections::BTreeMap, fmt};

use super::Loading;
use crate::{
    diagnostic::Code,
    properties,
    reader::{Keys as _, SecretFrom},
    tree::Scalar,
    values,
    written::server as written,
};

/// A Kafka cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConnection {
    /// `host:port`, several with commas.
    pub brokers: String,
    /// TLS, SASL and checked properties under librdkafka's names. Holds the password or the token: `Debug` hides them.
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: BTreeMap<&str, &str> = self
            .properties
            .iter()
            .map(|(name, value)| match name.as_str() {
                PASSWORD | TOKEN => (name.as_str(), "***"),
                name => (name, value.as_str()),
            })
            .collect();
        f.debug_struct("KafkaConnection")
            .field("brokers", &self.brokers)
            .field("properties", &properties)
            .finish()
    }
}

const PASSWORD: &str = "sasl.password";
/// Not librdkafka's: the client shows the token to it.
const TOKEN: &str = "sasl.oauthbearer.token";
const TOKEN_FILE: &str = "sasl.oauthbearer.token.file";

impl Loading<'_> {
    pub(super) fn kafka(
        &mut self,
        name: &Scalar,
        connection: &written::Kafka,
    ) -> Option<KafkaConnection> {
        let brokers = match &connection.brokers {
            Some(brokers) => {
                let is_list = brokers.text.split(',').all(|broker| {
                    let broker = broker.trim();
                    broker.rsplit_once(':').is_some_and(|(host, port)| {
                        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
                    })
                });
                if !is_list {
                    let message = format!("`{}` is not a list of brokers", brokers.shown);
                    let help = "write host:port, several with commas: kafka1:9092,kafka2:9092";
                    self.error(Code::Value, &brokers.span, message, help);
                }
                Some(brokers.text.clone())
            }
            None => {
                if connection.lacks("brokers") {
                    let help = "name at least one: `brokers: localhost:9092`";
                    values::missing(&mut self.reader, &name.span, "brokers", help);
                }
                None
            }
        };
        let mut properties = BTreeMap::new();
        for (name, value) in connection.properties.iter().flat_map(|named| &named.0) {
            if properties::check(name, &mut self.reader) {
                properties.insert(name.text.clone(), value.text.clone());
            }
        }
        if let Some(tls) = &connection.tls {
            for (property, path) in [
                ("ssl.ca.location", &tls.ca),
                ("ssl.certificate.location", &tls.cert),
                ("ssl.key.location", &tls.key),
            ] {
                if let Some(path) = path {
                    properties.insert(property.into(), self.path(path));
                }
            }
            if tls.cert.is_some() != tls.key.is_some() {
                let help = "a client certificate needs both `cert` and `key`; leave both out if the broker asks for none";
                self.error(
                    Code::Structure,
                    &tls.span,
                    "`cert` and `key` go together",
                    help,
                );
            }
        }
        if let Some(sasl) = &connection.sasl {
            self.sasl(sasl, &mut properties);
        }
        let protocol = match (connection.tls.is_some(), connection.sasl.is_some()) {
            (true, true) => Some("SASL_SSL"),
            (true, false) => Some("SSL"),
            (false, true) => Some("SASL_PLAINTEXT"),
            (false, false) => None,
        };
        if let Some(protocol) = protocol {
            properties.insert("security.protocol".into(), protocol.into());
        }
        Some(KafkaConnection {
            brokers: brokers?,
            properties,
        })
    }

    fn sasl(&mut self, sasl: &written::Sasl, properties: &mut BTreeMap<String, String>) {
        const MECHANISM: (&str, &str) = (
            "mechanism",
            "write PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
        );
        const OF_TOKENS: [(&str, &str); 2] = [
            MECHANISM,
            ("token", "write `token: {file: /run/secrets/kafka-token}`"),
        ];
        const OF_PASSWORDS: [(&str, &str); 3] = [
            MECHANISM,
            ("username", "write the user's name"),
            (
                "password",
                "write `password: {file: /run/secrets/kafka}` or `password: ${KAFKA_PASSWORD}`",
            ),
        ];
        let bearer = sasl
            .mechanism
            .as_ref()
            .is_some_and(|mechanism| mechanism.text.eq_ignore_ascii_case("OAUTHBEARER"));
        let (needed, strange): (&[_], &[_]) = match bearer {
            true => (&OF_TOKENS, &["username", "password"]),
            false => (&OF_PASSWORDS, &["token"]),
        };
        for (key, help) in needed {
            if sasl.lacks(key) {
                values::missing(&mut self.reader, &sasl.span, key, help);
            }
        }
        if let Some(mechanism) = &sasl.mechanism {
            for key in strange.iter().filter(|key| !sasl.lacks(key)) {
                let message = format!("{} does not take `{key}`", mechanism.shown);
                let help = match bearer {
                    true => "the token says whose it is: leave this out",
                    false => "a token goes with `mechanism: OAUTHBEARER`",
                };
                self.error(Code::Structure, &sasl.span, message, help);
            }
            let choices =
                ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"].map(|name| (name, name));
            if mechanism.text == "GSSAPI" {
                let help = "use SCRAM-SHA-512, SCRAM-SHA-256, PLAIN or OAUTHBEARER";
                self.reader
                    .not_supported(mechanism.span.clone(), "SASL GSSAPI", help);
            } else if let Some(name) = values::choice(mechanism, &choices, &mut self.reader) {
                properties.insert("sasl.mechanism".into(), name.into());
            }
        }
        if let Some(username) = &sasl.username {
            properties.insert("sasl.username".into(), username.text.clone());
        }
        if let Some(password) = &sasl.password
            && let Some(password) = self.secret("password", password)
        {
            properties.insert(PASSWORD.into(), password);
        }
        if let Some(token) = &sasl.token
            && let Some(text) = self.secret("token", token)
        {
            match &token.from {
                SecretFrom::File(path) => properties.insert(TOKEN_FILE.into(), self.path(path)),
                _ => properties.insert(TOKEN.into(), text),
            };
        }
    }
}
