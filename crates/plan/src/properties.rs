//! Which librdkafka properties a file may set, and why not the others.

use crate::{diagnostic::Code, hints, reader::Reader, tree::Scalar};

/// Properties of librdkafka's consumer that are the user's to choose. Source: librdkafka's
/// CONFIGURATION.md.
const TAKEN: &[&str] = &[
    "api.version.fallback.ms",
    "api.version.request",
    "api.version.request.timeout.ms",
    "broker.address.family",
    "broker.address.ttl",
    "broker.version.fallback",
    "check.crcs",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "connections.max.idle.ms",
    "coordinator.query.interval.ms",
    "debug",
    "enable.metrics.push",
    "enable.random.seed",
    "enable.ssl.certificate.verification",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "heartbeat.interval.ms",
    "log.connection.close",
    "log_level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "message.copy.max.bytes",
    "message.max.bytes",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "receive.message.max.bytes",
    "reconnect.backoff.jitter.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "session.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.sigalgs.list",
    "topic.metadata.propagation.max.ms",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.sparse",
];

/// Whether a file may set the property `name`; says why not.
pub(crate) fn check(name: &Scalar, reader: &mut Reader<'_>) -> bool {
    let text = name.text.as_str();
    if TAKEN.contains(&text) {
        return true;
    }
    let reason = match text {
        "auto.offset.reset" => Some(
            "where tables begin is `start`; later every offset comes from the tables, and one that Kafka no longer has halts its partition",
        ),
        "enable.auto.commit"
        | "auto.commit.enable"
        | "auto.commit.interval.ms"
        | "enable.auto.offset.store" => {
            Some("offsets are committed with the rows, in the table; Kafka is only told afterwards")
        }
        "enable.partition.eof" => Some("the server needs to know the end of a partition"),
        "isolation.level" => Some("aborted transactions are never read"),
        "partition.assignment.strategy" => {
            Some("all servers of a pipeline must deal out partitions alike")
        }
        "group.id" => Some("the consumer group is `group` in the pipeline file"),
        "group.instance.id" => {
            Some("the server's name in the group is `instance` in alluvium.yaml")
        }
        "bootstrap.servers" | "metadata.broker.list" => {
            Some("brokers stand under `brokers` of the connection")
        }
        "allow.auto.create.topics" => Some("a pipeline whose topic is missing waits and says so"),
        "statistics.interval.ms" => Some("the server chooses it for its own metrics"),
        text if text.starts_with("group.") => Some("the server's part in its group is its own"),
        text if text.starts_with("offset.store") => Some("offsets are kept in the tables"),
        "security.protocol" => Some("`tls: {…}` and `sasl: {…}` of the connection say it"),
        text if text.starts_with("sasl.") => Some(
            "write `sasl: {mechanism, username, password}` or `sasl: {mechanism: OAUTHBEARER, token}` in the connection",
        ),
        text if text.starts_with("ssl.") || text.starts_with("ssl_") => {
            Some("write `tls: {ca, cert, key}` in the connection")
        }
        _ => None,
    };
    let (message, help) = match reason {
        Some(reason) => (format!("`{text}` is not yours to set"), reason.to_owned()),
        None => (
            format!(
                "librdkafka's consumer has no property `{}` that can be set here",
                name.shown
            ),
            match hints::nearest(text, TAKEN.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "look it up in librdkafka's CONFIGURATION.md".to_owned(),
            },
        ),
    };
    reader.error(Code::Structure, name.span.clone(), message, help);
    false
}
