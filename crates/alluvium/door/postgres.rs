//! A running server's Postgres door, seen from the prompt.
//!
//! Owns the address with its user and password, one connection that is kept between statements, and how values in Postgres' text
//! become those that the other doors give. Does not own the protocol, which is pgwire's.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures::{FutureExt, SinkExt, StreamExt};
use pgwire::{
    api::client::{ClientInfo, Config, auth::DefaultStartupHandler},
    error::{ErrorInfo, PgWireClientError, PgWireError},
    messages::{
        PgWireBackendMessage, PgWireFrontendMessage,
        data::{DataRow, FieldDescription},
        simplequery::Query,
    },
    tokio::client::PgWireClient,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use serde_json::Value;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Mutex, Notify},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{CONNECT_PATIENCE, PASSWORD, PATIENCE, distrusts, password, printable};
use crate::{failure::Failure, output::Sheet};

/// Where a server listens unless the address says otherwise.
const PORT: u16 = 8432;
/// How long a query that was told to end may take to say so.
const FAREWELL: Duration = Duration::from_secs(2);

/// A server's address, and a connection once something was asked.
pub(crate) struct PostgresDoor {
    /// The address as it is shown: without a password.
    shown: String,
    config: Arc<Config>,
    tls: TlsConnector,
    runtime: Runtime,
    connection: Mutex<Option<PgWireClient>>,
    /// Ends the query that runs.
    ending: Notify,
}

/// Why a statement has no answer.
enum Trouble {
    /// The server refused it; the connection is fine.
    Refused(Failure),
    /// The connection is gone.
    Broken(PgWireClientError),
}

impl From<PgWireClientError> for Trouble {
    fn from(error: PgWireClientError) -> Self {
        Self::Broken(error)
    }
}

impl From<PgWireError> for Trouble {
    fn from(error: PgWireError) -> Self {
        Self::Broken(error.into())
    }
}

impl PostgresDoor {
    /// The door at `postgres://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE][?sslmode=…]`; nothing is asked yet.
    ///
    /// # Errors
    /// A usage failure when `url` is none.
    pub(crate) fn new(url: &Url) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::input(format!("`{}` {why}", printable(url)))
                .help("write it like postgres://me@127.0.0.1:8432/alluvium?sslmode=require")
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong("names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_here =
            host == "localhost" || host.parse().is_ok_and(|host: IpAddr| host.is_loopback());
        // A password crosses the network encrypted or not at all.
        let mut mode = if is_here { "prefer" } else { "require" };
        for (name, value) in url.query_pairs() {
            mode = match (name.as_ref(), value.as_ref()) {
                ("sslmode", "disable") => "disable",
                ("sslmode", "prefer") => "prefer",
                // The certificate is always held to its authority and its name.
                ("sslmode", "require" | "verify-ca" | "verify-full") => "require",
                _ => {
                    return Err(wrong(&format!(
                        "has a part `{name}` that is not known here, or not as it is"
                    )));
                }
            };
        }
        let mut config: Config = format!("sslmode={mode}")
            .parse()
            .map_err(|error| Failure::work("no client could be made").because(&error))?;
        let user = decoded(url.username());
        config
            .host(host)
            .port(url.port().unwrap_or(PORT))
            .user(if user.is_empty() { "alluvium" } else { &user })
            .dbname(match url.path().trim_start_matches('/') {
                "" => "alluvium",
                database => database,
            })
            .application_name("alluvium sql");
        if let Some(password) = password(url) {
            config.password(password);
        }
        Ok(Self {
            shown: printable(url).to_string(),
            config: Arc::new(config),
            tls: trusting_authorities()?,
            runtime: Builder::new_current_thread().enable_all().build()?,
            connection: Mutex::default(),
            ending: Notify::new(),
        })
    }

    /// Where its questions wait for their answers.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Ends the query that runs: what waits for it hears so from the server.
    pub(crate) fn end(&self) {
        self.ending.notify_one();
    }

    /// Asks, and says what the answer includes.
    pub(crate) async fn ask(&self, query: &str) -> Result<(Sheet, Value), Failure> {
        let mut kept = self.connection.lock().await;
        // An order to end that came too late for the query before.
        let _ = self.ending.notified().now_or_never();
        // Whoever does not wait for the end takes the connection along, in the middle of an answer as it is.
        let (mut connection, is_old) = match kept.take() {
            Some(connection) => (connection, true),
            None => (self.connect().await?, false),
        };
        let mut answer = self.answer(&mut connection, query).await;
        if matches!(answer, Err(Trouble::Broken(_))) && is_old {
            // The server went away since the last statement; perhaps it is back.
            connection = self.connect().await?;
            answer = self.answer(&mut connection, query).await;
        }
        let sheet = match answer {
            Ok(sheet) => sheet,
            Err(Trouble::Refused(failure)) => {
                *kept = Some(connection);
                return Err(failure);
            }
            Err(Trouble::Broken(error)) => {
                let failure = Failure::work(format!("the answer of {} broke off", self.shown));
                return Err(failure.because(&error));
            }
        };
        let as_of = self.answer(&mut connection, "SHOW alluvium.as_of").await;
        if !matches!(as_of, Err(Trouble::Broken(_))) {
            *kept = Some(connection);
        }
        let told = as_of.ok().and_then(|sheet| {
            let [row] = sheet.into_rows().try_into().ok()?;
            let [text]: [Value; 1] = row.try_into().ok()?;
            serde_json::from_str(text.as_str()?).ok()
        });
        Ok((sheet, told.unwrap_or(Value::Null)))
    }

    async fn connect(&self) -> Result<PgWireClient, Failure> {
        let connecting = PgWireClient::connect(
            self.config.clone(),
            DefaultStartupHandler::new(),
            Some(self.tls.clone()),
        );
        let failure = match timeout(CONNECT_PATIENCE, connecting).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(PgWireClientError::RemoteError(told))) => {
                let failure = Failure::work(format!("{} ({})", told.message, told.code));
                match (told.hint, told.code.as_str()) {
                    (Some(hint), _) => failure.help(hint),
                    (None, "28P01" | "28000") => failure.help(format!(
                        "the user stands in the URL, postgres://USER@HOST; the password, too, or in {PASSWORD}"
                    )),
                    _ => failure,
                }
            }
            Ok(Err(PgWireClientError::IoError(error))) if distrusts(&error) => {
                Failure::work(format!("the server at {} cannot be trusted", self.shown))
                    .because(&error)
                    .help("name its authority's certificate (PEM) in SSL_CERT_FILE, or use the name that its certificate has")
            }
            Ok(Err(PgWireClientError::IoError(error)))
                if error.kind() == io::ErrorKind::ConnectionAborted =>
            {
                Failure::work(format!("the server at {} speaks no TLS", self.shown)).help(
                    "where nobody else is on the network, `sslmode=disable` in the URL goes without",
                )
            }
            Ok(Err(error)) => self.nobody().because(&error),
            Err(_) => self.nobody(),
        };
        Err(failure)
    }

    fn nobody(&self) -> Failure {
        Failure::work(format!("no server answers at {}", self.shown)).help(
            "is `alluvium run` or `alluvium demo` running there? Without `--url`, storage is read directly",
        )
    }

    async fn answer(&self, connection: &mut PgWireClient, query: &str) -> Result<Sheet, Trouble> {
        let asked = Query::new(query.to_owned());
        connection.send(PgWireFrontendMessage::Query(asked)).await?;
        let mut columns: Vec<FieldDescription> = Vec::new();
        let mut sheet = Sheet::default();
        let mut refusal = None;
        let mut patience = PATIENCE;
        loop {
            let message = tokio::select! {
                message = timeout(patience, connection.next()) => message,
                () = self.ending.notified() => {
                    connection.cancel().await?;
                    patience = FAREWELL;
                    continue;
                }
            };
            let message = message.map_err(|_| PgWireClientError::UnexpectedEOF)?;
            let message = message.ok_or(PgWireClientError::UnexpectedEOF)??;
            match message {
                PgWireBackendMessage::RowDescription(described) => {
                    columns = described.fields;
                    sheet = Sheet::new(columns.iter().map(|column| column.name.as_str()));
                }
                PgWireBackendMessage::DataRow(row) => {
                    let row =
                        values(row, &columns).ok_or(PgWireClientError::DataRowIndexOutOfBounds)?;
                    sheet.push(row);
                }
                PgWireBackendMessage::CopyOutResponse(_) => {
                    let failure = Failure::input("COPY is for other programs");
                    refusal = Some(failure.help("ask the query itself, with `--format csv`"));
                }
                PgWireBackendMessage::ErrorResponse(told) => {
                    refusal = Some(refused(&ErrorInfo::from(told), query));
                }
                PgWireBackendMessage::ReadyForQuery(ready) => {
                    connection.set_transaction_status(ready.status);
                    break;
                }
                _ => {}
            }
        }
        match refusal {
            Some(failure) => Err(Trouble::Refused(failure)),
            None => Ok(sheet),
        }
    }
}

/// TLS that trusts the authorities of this machine, or those of SSL_CERT_FILE.
fn trusting_authorities() -> Result<TlsConnector, Failure> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::work("TLS cannot be used").because(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A refusal, with its place in the statement.
fn refused(told: &ErrorInfo, query: &str) -> Failure {
    let mut failure = Failure::work(format!("{} ({})", told.message, told.code));
    let position = told.position.as_deref();
    if let Some(position) = position.and_then(|position| position.parse::<usize>().ok()) {
        let [line, column] = place(query, position);
        failure = failure.at(query, line, column);
    }
    match &told.hint {
        Some(hint) => failure.help(hint),
        None => failure,
    }
}

/// The line and column of a character; all three are counted from 1.
fn place(text: &str, position: usize) -> [u64; 2] {
    let mut place = [1, 1];
    for character in text.chars().take(position.saturating_sub(1)) {
        place = match character {
            '\n' => [place[0] + 1, 1],
            _ => [place[0], place[1] + 1],
        };
    }
    place
}

/// The values of a row; `None` when it is not as it was announced.
fn values(row: DataRow, columns: &[FieldDescription]) -> Option<Vec<Value>> {
    let mut rest = &row.data[..];
    let mut values = Vec::with_capacity(columns.len());
    for column in columns {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            rest = after;
            values.push(Value::Null);
            continue;
        };
        let (text, after) = after.split_at_checked(length)?;
        rest = after;
        values.push(value(&String::from_utf8_lossy(text), column.type_id));
    }
    Some(values)
}

/// A value as the other doors give it: numbers and truth as they are, moments in RFC 3339, bytes in base64. Lists and structs are
/// Postgres's text, which does not tell their types.
fn value(text: &str, type_id: u32) -> Value {
    const BOOL: u32 = 16;
    const BYTEA: u32 = 17;
    const INTEGERS: [u32; 3] = [20, 21, 23];
    const FLOATS: [u32; 2] = [700, 701];
    const TIMESTAMP: u32 = 1114;
    const TIMESTAMPTZ: u32 = 1184;
    match type_id {
        BOOL => (text == "t").into(),
        BYTEA => bytes(text).map_or_else(|| text.into(), |bytes| BASE64.encode(bytes).into()),
        kind if INTEGERS.contains(&kind) => match text.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => text.into(),
        },
        kind if FLOATS.contains(&kind) => {
            let number = text.parse().ok().and_then(serde_json::Number::from_f64);
            number.map_or_else(|| text.into(), Value::Number)
        }
        TIMESTAMP => text.replacen(' ', "T", 1).into(),
        TIMESTAMPTZ => {
            let moment = text.replacen(' ', "T", 1);
            match moment.strip_suffix("+00") {
                Some(utc) => format!("{utc}Z").into(),
                // Postgres leaves out minutes that are none.
                None if moment.len() >= 3 && moment.as_bytes()[moment.len() - 3] != b':' => {
                    format!("{moment}:00").into()
                }
                None => moment.into(),
            }
        }
        _ => text.into(),
    }
}

/// The bytes of `\x01ff`.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    rest.is_empty()
        .then(|| pairs.iter().map(byte).collect())
        .flatten()
}

/// What `%40` and its like stand for.
pub(super) fn decoded(text: &str) -> String {
    let pairs = format!("a={}", text.replace('+', "%2B"));
    let mut pairs = url::form_urlencoded::parse(pairs.as_bytes());
    pairs
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_those_of_the_other_doors() {
        for (text, kind, expected) in [
            ("t", 16, json!(true)),
            ("-7", 20, json!(-7)),
            ("0.5", 701, json!(0.5)),
            ("NaN", 701, json!("NaN")),
            ("12.50", 1700, json!("12.50")),
            ("\\x01ff", 17, json!("Af8=")),
            ("\\x", 17, json!("")),
            (
                "2026-03-01 12:00:05.5",
                1114,
                json!("2026-03-01T12:00:05.5"),
            ),
            (
                "2026-03-01 12:00:05+00",
                1184,
                json!("2026-03-01T12:00:05Z"),
            ),
            (
                "2026-03-01 12:00:05-03",
                1184,
                json!("2026-03-01T12:00:05-03:00"),
            ),
            (
                "2026-03-01 12:00:05+05:30",
                1184,
                json!("2026-03-01T12:00:05+05:30"),
            ),
        ] {
            assert_eq!(value(text, kind), expected, "{text}");
        }
    }

    #[test]
    fn places_are_lines_and_columns() {
        assert_eq!(place("SELECT evnets", 8), [1, 8]);
        assert_eq!(place("SELECT ü,\n evnets", 12), [2, 2]);
    }

    #[test]
    fn addresses_are_checked() {
        let door = |url: &str| PostgresDoor::new(&Url::parse(url).unwrap());
        let here = door("postgres://ann:s%40fe@127.0.0.1:1/db").ok().unwrap();
        assert_eq!(here.config.get_user(), Some("ann"));
        assert_eq!(here.config.get_password(), Some(b"s@fe".as_slice()));
        assert_eq!(here.config.get_dbname(), Some("db"));
        assert_eq!(here.shown, "postgres://ann@127.0.0.1:1/db");
        assert!(format!("{:?}", here.config).contains("Prefer"));
        let far = door("postgresql://db.internal").ok().unwrap();
        assert_eq!(far.config.get_ports(), [PORT]);
        assert!(format!("{:?}", far.config).contains("Require"));
        assert!(door("postgres:///db").is_err());
        assert!(door("postgres://h/db?options=-c").is_err());
    }
}
