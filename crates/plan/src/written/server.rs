//! The server file as written.

use crate::reader::{
    Flag, Later, Named, Number, Property, SecretText, Size, Text, Version, written,
};

written! {
    /// The server: storage, connections, doors and limits.
    ServerFile, "at the top level of alluvium.yaml" {
        /// The version of the file format: 1.
        #[schemars(required)]
        version: Version,
        /// Where tables are stored.
        #[schemars(required)]
        storage: Storage,
        /// Connections that pipelines name.
        connections: Connections,
        /// The doors.
        listen: Listen,
        /// Budgets that hold.
        memory: Memory,
        /// Worker threads (default: one a core).
        workers: Number,
        /// The server's name in consumer groups (default: host, server file and a free slot).
        instance: Text,
    }
}

written! {
    /// Where tables are stored.
    Storage, "under `storage`" {
        /// A folder, seen from this file, or s3://bucket/prefix.
        #[schemars(required)]
        root: Text,
        /// The URL of an S3-compatible store that is not AWS.
        endpoint: Text,
        /// The region of an S3 bucket.
        region: Text,
        /// The access key of an S3 bucket.
        access_key: Text,
        /// The secret key of an S3 bucket.
        secret_key: SecretText,
        /// Whether an endpoint without TLS is taken (default false).
        allow_http: Flag,
    }
}

written! {
    /// Connections that pipelines name.
    Connections, "under `connections`" {
        /// Kafka clusters, by name.
        kafka: Named<Kafka>,
        /// Schema registries, by name; no pipeline of this release uses one.
        registry: Named<Later>,
    }
}

written! {
    /// A Kafka cluster.
    Kafka, "in a Kafka connection" {
        /// host:port, several with commas.
        #[schemars(required)]
        brokers: Text,
        /// TLS; present means on.
        tls: Tls,
        /// SASL; present means on.
        sasl: Sasl,
        /// Checked librdkafka properties.
        properties: Named<Property>,
    }
}

written! {
    /// TLS of a Kafka connection.
    Tls, "under `tls`" {
        /// A file with the certificate authorities (default: the system's).
        ca: Text,
        /// A file with the client's certificate.
        cert: Text,
        /// A file with the client's private key.
        key: Text,
    }
}

written! {
    /// SASL of a Kafka connection.
    Sasl, "under `sasl`" {
        /// PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.
        #[schemars(required)]
        mechanism: Text,
        /// The user; not with OAUTHBEARER.
        username: Text,
        /// The password; not with OAUTHBEARER.
        password: SecretText,
        /// The token, with OAUTHBEARER. A file is read anew for each connection, so whoever writes it may renew it.
        token: SecretText,
    }
}

written! {
    /// The doors.
    Listen, "under `listen`" {
        /// HTTP (default 127.0.0.1:8427); port 0 takes a free one.
        http: Text,
        /// Postgres wire (default 127.0.0.1:8432, if that is free); port 0 takes a free one, `off` shuts the door.
        postgres: Text,
        /// Flight SQL. Not supported yet.
        flight: Text,
    }
}

written! {
    /// Budgets that hold; each is counted apart.
    Memory, "under `memory`" {
        /// For events on their way into tables (default 512MiB). Above it an epoch is committed early.
        ingest: Size,
        /// For queries (default 512MiB).
        query: Size,
    }
}
