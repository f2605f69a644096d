//! The server file as meant: storage, connections, doors, limits.
//!
//! Owns everything but Kafka connections (`server/kafka.rs`), users and roles (`server/users.rs`).

mod kafka;
mod users;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    advice,
    diagnostic::{Code, Diagnostics, SourceFile},
    load::ReadFile,
    reader::{FromNode, Keys as _, Reader, SecretFrom, SecretText},
    stars,
    tree::Scalar,
    values,
    written::server as written,
    yaml::{self, Environment},
};

pub use kafka::KafkaConnection;
pub use users::{Grant, QueryLimits, RoleLimits, ScramVerifier, TokenHash, User};

const MEMORY: usize = 512 << 20;
const DISK: u64 = 2 << 30;
const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8427);
const POSTGRES: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8432);
const FLIGHT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8433);

/// A server, ready to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Where tables are stored.
    pub storage: Storage,
    /// Kafka clusters by the name that pipelines call them.
    pub kafka: BTreeMap<String, KafkaConnection>,
    /// The doors.
    pub listen: Listen,
    /// TLS of the doors.
    pub tls: Option<DoorTls>,
    /// Who may come in, by name; none: everybody who reaches a door.
    pub users: BTreeMap<String, User>,
    /// Budgets that hold.
    pub memory: Memory,
    /// Bytes on disk for what queries cannot hold in memory.
    pub query_disk: u64,
    /// How far queries may go.
    pub query: QueryLimits,
    /// Worker threads; `None`: one a core.
    pub workers: Option<NonZeroUsize>,
    /// The server's name in consumer groups; `None`: host, server file and a free slot (P29).
    pub instance: Option<String>,
}

impl Server {
    /// The URL of its HTTP door for whoever is on its own machine.
    pub fn door(&self) -> String {
        let mut address = self.listen.http;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }
}

/// Where tables are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// A folder, already seen from the working directory, or `s3://bucket/prefix`.
    pub root: String,
    /// The URL of an S3-compatible store.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// The access key.
    pub access_key: Option<String>,
    /// The secret key.
    pub secret_key: Option<Secret>,
    /// Whether the endpoint may lack TLS.
    pub allow_http: AllowHttp,
}

/// Whether an S3 endpoint may lack TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowHttp {
    /// Only `https://`.
    #[default]
    No,
    /// `http://` as well.
    Yes,
}

/// A value that no message, log or `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// TLS of the doors: PEM files, seen from the working directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorTls {
    /// The server's certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// Authorities whose client certificates are taken.
    pub client_ca: Option<PathBuf>,
}

/// The doors. One that other machines can reach has TLS and users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// Where the Postgres wire listens.
    pub postgres: DoorAt,
    /// Where Flight SQL listens.
    pub flight: DoorAt,
}

/// Where a door listens that a server can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorAt {
    /// Where the file says: it opens there, or the server does not start.
    Written(SocketAddr),
    /// At its usual place. If that is taken, by another server on this machine, the door stays shut.
    Usual(SocketAddr),
    /// Nowhere: `off`.
    Off,
}

/// Budgets in bytes, each counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// For events on their way into tables (P30).
    pub ingest: usize,
    /// For queries.
    pub query: usize,
}

/// Reads a server file; the second value holds warnings.
///
/// # Errors
/// Every mistake in the file.
pub fn load_server(
    source: &SourceFile,
    read_file: ReadFile<'_>,
    environment: &Environment,
) -> Result<(Server, Diagnostics), Diagnostics> {
    let file = Arc::new(source.clone());
    let mut found = Diagnostics::default();
    let reader = Reader {
        file: &file,
        found: &mut found,
        advise: advice::for_key,
    };
    let mut loading = Loading {
        reader,
        read_file,
        environment,
        folder: Path::new(&source.path).parent().unwrap_or(Path::new("")),
        literals: Vec::new(),
        lacks_beyond_loopback: None,
    };
    let server = loading.server();
    let literals = loading.literals;
    stars::hide(&literals, stars::IN_SERVER_FILES, &file, &mut found);
    match server {
        Some(server) if !found.has_errors() => Ok((server, found.finish())),
        _ => Err(found.finish()),
    }
}

struct Loading<'l> {
    reader: Reader<'l>,
    read_file: ReadFile<'l>,
    environment: &'l Environment,
    folder: &'l Path,
    /// Places of secrets that stand in the file.
    literals: Vec<Range<usize>>,
    /// What a door that other machines can reach would need and the file has not.
    lacks_beyond_loopback: Option<&'static str>,
}

impl Loading<'_> {
    fn server(&mut self) -> Option<Server> {
        let root = yaml::parse(&mut self.reader, self.environment)?;
        let file = written::ServerFile::from_node(&root, &Scalar::root(), &mut self.reader)?;
        values::version(file.version.as_deref(), &file, &mut self.reader);
        let storage = match &file.storage {
            Some(storage) => self.storage(storage),
            None => {
                if file.lacks("storage") {
                    let help = "say where tables are stored: `storage: {root: ./data}`";
                    values::missing(&mut self.reader, &file.span, "storage", help);
                }
                None
            }
        };
        let connections = file.connections.unwrap_or_default();
        let mut kafka = BTreeMap::new();
        for (name, connection) in connections.kafka.iter().flat_map(|named| &named.0) {
            if let Some(connection) = self.kafka(name, connection) {
                kafka.insert(name.text.clone(), connection);
            }
        }
        self.lacks_beyond_loopback = match (&file.tls, &file.users) {
            (Some(_), Some(users)) if !users.0.is_empty() => None,
            (Some(_), _) => Some("no users"),
            (None, Some(users)) if !users.0.is_empty() => Some("no TLS"),
            (None, _) => Some("neither TLS nor users"),
        };
        let tls = file.tls.as_ref().map(|tls| self.door_tls(tls));
        let roles = file.roles.unwrap_or_default();
        let users = self.users(&file.users.unwrap_or_default(), &roles, tls.as_ref());
        let listen = self.listen(&file.listen.unwrap_or_default());
        let memory = file.memory.unwrap_or_default();
        let ingest = self.memory(memory.ingest.as_deref());
        let query = self.memory(memory.query.as_deref());
        let disk = match file.disk.unwrap_or_default().query.as_deref() {
            Some(size) => values::size(size, &mut self.reader).map(|bytes| bytes as u64),
            None => Some(DISK),
        };
        let limits = self.query_limits(&file.query.unwrap_or_default());
        let workers = match &file.workers {
            Some(number) => {
                let parsed = number
                    .text
                    .parse::<NonZeroUsize>()
                    .ok()
                    .filter(|number| number.get() <= 1024);
                if parsed.is_none() {
                    self.error(
                        Code::Value,
                        &number.span,
                        format!("`{}` is not a number of workers", number.shown),
                        "write a number from 1 to 1024, or leave the line out: one a core",
                    );
                }
                Some(parsed?)
            }
            None => None,
        };
        if let Some(instance) = &file.instance
            && instance.text.trim().is_empty()
        {
            let help = "write a name, or leave the line out";
            self.error(Code::Value, &instance.span, "`instance` is empty", help);
        }
        Some(Server {
            storage: storage?,
            kafka,
            listen: listen?,
            tls: match tls {
                Some(tls) => Some(tls?),
                None => None,
            },
            users,
            memory: Memory {
                ingest: ingest?,
                query: query?,
            },
            query_disk: disk?,
            query: limits,
            workers,
            instance: file.instance.map(|text| text.0.text),
        })
    }

    fn error(
        &mut self,
        code: Code,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.reader.error(code, span.clone(), message, help);
    }

    fn storage(&mut self, storage: &written::Storage) -> Option<Storage> {
        let Some(root) = &storage.root else {
            if storage.lacks("root") {
                let help =
                    "write a folder or a bucket: `root: ./data` or `root: s3://bucket/prefix`";
                values::missing(&mut self.reader, &storage.span, "root", help);
            }
            return None;
        };
        let is_s3 = root.text.starts_with("s3://");
        let meant_root = match root.text.split_once("://") {
            Some(("s3", bucket)) if !bucket.is_empty() && !bucket.starts_with('/') => {
                root.text.trim_end_matches('/').to_owned()
            }
            Some(("s3", _)) => {
                let message = format!("`{}` names no bucket", root.shown);
                self.error(Code::Value, &root.span, message, "write s3://bucket/prefix");
                return None;
            }
            Some((scheme, _)) => {
                let what = format!("storage in `{scheme}://…`");
                let help = "use a folder or s3://bucket/prefix";
                self.reader.not_supported(root.span.clone(), &what, help);
                return None;
            }
            None if root.text.trim().is_empty() => {
                self.error(
                    Code::Value,
                    &root.span,
                    "`root` is empty",
                    "write a folder: ./data",
                );
                return None;
            }
            None => self.path(root),
        };
        for (key, text) in [
            (
                "endpoint",
                storage.endpoint.as_deref().map(|text| &text.span),
            ),
            ("region", storage.region.as_deref().map(|text| &text.span)),
            (
                "access_key",
                storage.access_key.as_deref().map(|text| &text.span),
            ),
            (
                "secret_key",
                storage.secret_key.as_ref().map(|secret| &secret.span),
            ),
        ] {
            if let Some(span) = text.filter(|_| !is_s3) {
                let message = format!("`{key}` belongs to S3, but `root` is a folder");
                self.error(
                    Code::Structure,
                    span,
                    message,
                    "leave it out, or write `root: s3://bucket/prefix`",
                );
            }
        }
        let allow_http = match &storage.allow_http {
            Some(flag) if values::boolean(flag, &mut self.reader)? => AllowHttp::Yes,
            _ => AllowHttp::No,
        };
        if let Some(endpoint) = &storage.endpoint {
            let is_http = endpoint.text.starts_with("http://");
            let after_scheme = endpoint.text.split_once("://").map(|(_, rest)| rest);
            let authority = after_scheme.and_then(|rest| rest.split(['/', '?', '#']).next());
            if authority.is_some_and(|authority| authority.contains('@')) {
                self.literals.push(endpoint.span.clone());
                self.error(
                    Code::Value,
                    &endpoint.span,
                    "an endpoint has no user and no password in it",
                    "write them as `access_key` and `secret_key`",
                );
            } else if !is_http && !endpoint.text.starts_with("https://") {
                let message = format!("`{}` is not a URL", endpoint.shown);
                self.error(
                    Code::Value,
                    &endpoint.span,
                    message,
                    "write https://host:port",
                );
            } else if is_http && allow_http == AllowHttp::No {
                let help =
                    "write https://…, or add `allow_http: true` for a store in your own network";
                self.error(
                    Code::Value,
                    &endpoint.span,
                    "this endpoint has no TLS",
                    help,
                );
            }
        }
        let secret_key = match &storage.secret_key {
            Some(secret) => Some(Secret(self.secret("secret_key", secret)?)),
            None => None,
        };
        let text = |text: &Option<crate::reader::Text>| text.as_ref().map(|text| text.text.clone());
        Some(Storage {
            root: meant_root,
            endpoint: text(&storage.endpoint),
            region: text(&storage.region),
            access_key: text(&storage.access_key),
            secret_key,
            allow_http,
        })
    }

    /// A path in the file is seen from the file's folder.
    fn path(&self, path: &Scalar) -> String {
        self.folder.join(&path.text).display().to_string()
    }

    fn secret(&mut self, key: &str, secret: &SecretText) -> Option<String> {
        match &secret.from {
            SecretFrom::Variable(value) => Some(value.clone()),
            SecretFrom::Literal(_) => {
                self.literals.push(secret.span.clone());
                let variable = key.to_uppercase();
                self.error(
                    Code::Secret,
                    &secret.span,
                    format!("`{key}` stands here in the open; secrets do not belong into files that are kept and shared"),
                    format!("write `{key}: {{file: /run/secrets/{key}}}`, or, on a line of its own and without quotation marks, `{key}: ${{{variable}}}`; and change this one, it has been seen"),
                );
                None
            }
            SecretFrom::Env(name) => {
                let value = self.environment.get(&name.text).cloned();
                if value.is_none() {
                    let message = format!("the environment variable {} is not set", name.shown);
                    let help = format!("set it: export {}=…", name.shown);
                    self.error(Code::Secret, &name.span, message, help);
                }
                value
            }
            SecretFrom::File(name) => {
                let path = self.folder.join(&name.text);
                match (self.read_file)(&path).map(String::from_utf8) {
                    // Editors and `echo` end a file with a line break, which is no part of the secret.
                    Ok(Ok(value)) => Some(value.trim_end_matches(['\n', '\r']).to_owned()),
                    Ok(Err(_)) => {
                        let message = format!("the secret file {} is not UTF-8 text", name.shown);
                        self.error(Code::Secret, &name.span, message, "save it as UTF-8");
                        None
                    }
                    Err(error) => {
                        let message = match error.kind() {
                            std::io::ErrorKind::NotFound => {
                                format!("there is no secret file {}", name.shown)
                            }
                            _ => format!("the secret file {} cannot be read: {error}", name.shown),
                        };
                        let help = "a path is seen from the folder of this file";
                        self.error(Code::Secret, &name.span, message, help);
                        None
                    }
                }
            }
        }
    }

    fn listen(&mut self, listen: &written::Listen) -> Option<Listen> {
        let http = match &listen.http {
            Some(text) => self.address(text, HTTP),
            None => listen.lacks("http").then_some(HTTP),
        };
        let mut door_at = |key, written: Option<&Scalar>, usual| match written {
            Some(text) if text.text == "off" => Some(DoorAt::Off),
            Some(text) => self.address(text, usual).map(DoorAt::Written),
            None => listen.lacks(key).then_some(DoorAt::Usual(usual)),
        };
        let postgres = door_at("postgres", listen.postgres.as_deref(), POSTGRES);
        let flight = door_at("flight", listen.flight.as_deref(), FLIGHT);
        Some(Listen {
            http: http?,
            postgres: postgres?,
            flight: flight?,
        })
    }

    fn address(&mut self, written: &Scalar, usual: SocketAddr) -> Option<SocketAddr> {
        let text = match written.text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => written.text.clone(),
        };
        let Ok(address) = text.parse::<SocketAddr>() else {
            let message = format!("`{}` is not an address", written.shown);
            let help = format!("write an address and a port: {usual}; port 0 takes a free one");
            self.error(Code::Value, &written.span, message, help);
            return None;
        };
        if let Some(lacks) = self.lacks_beyond_loopback
            && !address.ip().is_loopback()
        {
            self.error(
                Code::Value,
                &written.span,
                format!(
                    "`{}` can be reached from other machines, and this file has {lacks}",
                    written.shown
                ),
                "add `tls:` and `users:` (`alluvium user add` writes one), or listen on 127.0.0.1",
            );
            return None;
        }
        Some(address)
    }

    fn memory(&mut self, size: Option<&Scalar>) -> Option<usize> {
        const LEAST: usize = 16 << 20;
        let Some(text) = size else {
            return Some(MEMORY);
        };
        let bytes = values::size(text, &mut self.reader)?;
        if bytes < LEAST {
            let message = format!("`{}` is too little to work in", text.shown);
            self.error(Code::Value, &text.span, message, "write at least 16MiB");
            return None;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests;
