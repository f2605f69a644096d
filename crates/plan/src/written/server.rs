//! The server file as written.

use crate::reader::{
    Flag, HashText, Later, Named, Number, Property, SecretText, Size, Span, Text, Version, written,
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
        /// TLS of the doors; present means on.
        tls: DoorTls,
        /// Who may come in, by name. Without users whoever reaches a door may read everything, so doors stay on loopback.
        users: Named<User>,
        /// What users may read, by the role's name.
        roles: Named<Role>,
        /// Budgets that hold.
        memory: Memory,
        /// Budgets of disk.
        disk: Disk,
        /// How far queries may go.
        query: Query,
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
        /// Flight SQL (default 127.0.0.1:8433, if that is free); port 0 takes a free one, `off` shuts the door.
        flight: Text,
    }
}

written! {
    /// TLS of the doors. The files are read anew when they change.
    DoorTls, "under the server's `tls`" {
        /// A PEM file with the server's certificate, and those between it and its authority.
        #[schemars(required)]
        cert: Text,
        /// A PEM file with the certificate's private key.
        #[schemars(required)]
        key: Text,
        /// A PEM file with the authorities whose client certificates are taken (default: none are asked for).
        client_ca: Text,
    }
}

written! {
    /// A user; `alluvium user add` writes one. Any one of its proofs lets it in.
    User, "in a user" {
        /// The verifier of a password, as Postgres keeps it.
        password: HashText,
        /// The hash of a token.
        token: HashText,
        /// The common name of a client certificate.
        certificate: Text,
        /// Its roles.
        #[schemars(required)]
        roles: Vec<Text>,
    }
}

written! {
    /// What a role may do.
    Role, "in a role" {
        /// Relations that it may read: `name`, `schema.name`, `schema.*`, or `*` for all.
        #[schemars(required)]
        tables: Vec<Text>,
        /// How far each of its queries may go, within the server's own limits.
        query: RoleQuery,
    }
}

written! {
    /// How far each query of a role may go.
    RoleQuery, "under `query`" {
        /// How long one may take, its answer included.
        timeout: Span,
        /// Memory of one.
        memory: Size,
        /// Disk of one, for what does not fit into its memory.
        disk: Size,
        /// Rows of one answer.
        rows: Number,
        /// Bytes of one answer, as columns in memory.
        bytes: Size,
        /// Bytes of the files that one may open.
        scan: Size,
    }
}

written! {
    /// How far queries may go; roles can narrow it.
    Query, "under the server's `query`" {
        /// How long one may take, its answer included (default 60s).
        timeout: Span,
        /// Memory of one (default: all that `memory: {query: …}` gives to all of them).
        memory: Size,
        /// Disk of one, for what does not fit into its memory (default: all that `disk: {query: …}` gives to all of them).
        disk: Size,
        /// Rows of one answer (default 10000000).
        rows: Number,
        /// Bytes of one answer, as columns in memory (default 4GiB).
        bytes: Size,
        /// Bytes of the files that one may open, after windows have been ruled out (default 64GiB).
        scan: Size,
        /// How many run at once (default 16). The next one waits for two seconds.
        at_once: Number,
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

written! {
    /// Budgets of disk, in the folder for temporary files.
    Disk, "under `disk`" {
        /// For what queries cannot hold in memory (default 2GiB).
        query: Size,
    }
}
