//! A running server's Flight SQL door, seen from the prompt.
//!
//! Owns the address with its user, password or token, and how an answer becomes rows. Does not own the protocol, which is
//! arrow-flight's.

use std::error::Error;

use arrow_flight::{
    FlightDescriptor, HandshakeRequest, Ticket,
    decode::{DecodedPayload, FlightDataDecoder},
    error::FlightError,
    flight_service_client::FlightServiceClient,
    sql::{CommandStatementQuery, ProstMessageExt},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use datafusion::arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use serde_json::Value;
use tokio::{
    runtime::{Builder, Runtime},
    sync::Mutex,
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use url::Url;

use super::{CONNECT_PATIENCE, PASSWORD, PATIENCE, TOKEN, distrusts, password, postgres::decoded};
use crate::{cells, failure::Failure, output::Sheet};

/// Where a server listens unless the address says otherwise.
const PORT: u16 = 8433;
/// The header that says what answers include.
const READ: &str = "alluvium-read";
const AUTHORIZATION: &str = "authorization";
/// The header with the SQLSTATE of a refusal.
const SQLSTATE: &str = "alluvium-sqlstate";
/// Longest message that is taken: a batch of rows is smaller.
const LONGEST_MESSAGE: usize = 64 << 20;

/// A server's address, and who asks.
pub(crate) struct FlightDoor {
    /// The address as it is shown: without a password.
    shown: String,
    channel: Channel,
    runtime: Runtime,
    /// What shows who asks, once that is known.
    shows: Mutex<Option<MetadataValue<Ascii>>>,
    user: Option<(String, String)>,
    reads: Option<MetadataValue<Ascii>>,
}

impl FlightDoor {
    /// The door at `grpc://HOST[:PORT]`, or with TLS `grpc+tls://[USER[:PASSWORD]@]HOST[:PORT]`; nothing is asked yet.
    ///
    /// # Errors
    /// A usage failure when `url` is none.
    pub(crate) fn new(url: &Url) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::input(format!("the URL of a Flight SQL server {why}"))
                .help("write it like grpc://127.0.0.1:8433 or grpc+tls://me@db.internal:8433")
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong("names a host"))?;
        let mut reads = None;
        for (name, value) in url.query_pairs() {
            match (name.as_ref(), value.as_ref()) {
                (READ, mode) => {
                    let mode = mode
                        .parse()
                        .map_err(|_| wrong("says `alluvium-read=committed`"))?;
                    reads = Some(mode);
                }
                _ => return Err(wrong("has no part but `alluvium-read`")),
            }
        }
        let is_safe = url.scheme() == "grpc+tls";
        let scheme = if is_safe { "https" } else { "http" };
        let port = url.port().unwrap_or(PORT);
        let endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{port}"));
        let mut endpoint = endpoint
            .map_err(|error| wrong("is wrong").because(&error))?
            .connect_timeout(CONNECT_PATIENCE)
            .timeout(PATIENCE);
        if is_safe {
            let trusting = ClientTlsConfig::new().with_native_roots();
            endpoint = endpoint
                .tls_config(trusting)
                .map_err(|error| Failure::work("TLS cannot be used").because(&error))?;
        }
        let (user, shows) = match (url.username(), std::env::var(TOKEN)) {
            ("", Ok(token)) => (None, Some(bearer(token.trim())?)),
            ("", Err(_)) => (None, None),
            (user, _) => (
                Some((decoded(user), password(url).unwrap_or_default())),
                None,
            ),
        };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let channel = {
            let _within = runtime.enter();
            endpoint.connect_lazy()
        };
        Ok(Self {
            shown: format!("{}://{host}:{port}", url.scheme()),
            channel,
            runtime,
            shows: Mutex::new(shows),
            user,
            reads,
        })
    }

    /// Where its questions wait for their answers.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Asks, and says what the answer includes. Whoever does not wait for it ends the question: the server notices.
    pub(crate) async fn ask(&self, query: &str) -> Result<(Sheet, Value), Failure> {
        let was_known = self.user.is_some() && self.shows.lock().await.is_some();
        let answer = match self.answer(query).await {
            // What a handshake gave is no longer taken: another one.
            Err(status) if status.code() == Code::Unauthenticated && was_known => {
                *self.shows.lock().await = None;
                self.answer(query).await
            }
            answer => answer,
        };
        answer.map_err(|status| self.refused(&status, query))
    }

    async fn answer(&self, query: &str) -> Result<(Sheet, Value), Status> {
        let mut client = self.client();
        let shows = self.shows(&mut client).await?;
        let command = CommandStatementQuery {
            query: query.to_owned(),
            transaction_id: None,
        };
        let asked = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let found = client
            .get_flight_info(self.request(asked, shows.as_ref()))
            .await?;
        let tickets: Vec<Ticket> = found
            .into_inner()
            .endpoint
            .into_iter()
            .filter_map(|place| place.ticket)
            .collect();
        let mut schema: SchemaRef = Schema::empty().into();
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut as_of = Value::Null;
        for ticket in tickets {
            let stream = client
                .do_get(self.request(ticket, shows.as_ref()))
                .await?
                .into_inner();
            let mut decoded = FlightDataDecoder::new(stream.map_err(FlightError::from));
            while let Some(message) = decoded.next().await {
                let message = message.map_err(status)?;
                if let Ok(told) = serde_json::from_slice(&message.inner.app_metadata) {
                    as_of = told;
                }
                match message.payload {
                    DecodedPayload::Schema(found) => schema = found,
                    DecodedPayload::RecordBatch(batch) => batches.push(batch),
                    DecodedPayload::None => {}
                }
            }
        }
        let sheet = cells::sheet(&schema, &batches);
        let sheet = sheet.map_err(|error| Status::internal(error.to_string()))?;
        Ok((sheet, as_of))
    }

    fn client(&self) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(self.channel.clone()).max_decoding_message_size(LONGEST_MESSAGE)
    }

    fn request<T>(&self, asked: T, shows: Option<&MetadataValue<Ascii>>) -> Request<T> {
        let mut request = Request::new(asked);
        if let Some(reads) = &self.reads {
            request.metadata_mut().insert(READ, reads.clone());
        }
        if let Some(shows) = shows {
            request.metadata_mut().insert(AUTHORIZATION, shows.clone());
        }
        request
    }

    /// What shows who asks: a token, or what a handshake gives for a name and a password.
    async fn shows(
        &self,
        client: &mut FlightServiceClient<Channel>,
    ) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let mut shows = self.shows.lock().await;
        if let (None, Some((user, password))) = (shows.as_ref(), &self.user) {
            let mut asked = Request::new(stream::iter([HandshakeRequest::default()]));
            let basic = BASE64_STANDARD.encode(format!("{user}:{password}"));
            let basic = format!("Basic {basic}").parse();
            let mut basic: MetadataValue<Ascii> =
                basic.map_err(|_| Status::unauthenticated("no such user"))?;
            basic.set_sensitive(true);
            asked.metadata_mut().insert(AUTHORIZATION, basic);
            let answer = client.handshake(asked).await?;
            *shows = answer.metadata().get(AUTHORIZATION).cloned();
        }
        Ok(shows.clone())
    }

    fn refused(&self, status: &Status, query: &str) -> Failure {
        let cause = status.source();
        if let Some(cause) = cause.filter(|cause| distrusts(*cause)) {
            return Failure::work(format!("the server at {} cannot be trusted", self.shown))
                .because(cause)
                .help("name its authority's certificate (PEM) in SSL_CERT_FILE, or use the name that its certificate has");
        }
        if let (Code::Unavailable | Code::Unknown, Some(cause)) = (status.code(), cause) {
            return Failure::work(format!("no server answers at {}", self.shown))
                .because(cause)
                .help("is `alluvium run` or `alluvium demo` running there? Without `--url`, storage is read directly");
        }
        let code = status.metadata().get(SQLSTATE);
        let code = code.and_then(|code| code.to_str().ok());
        let named = |message: &str| match code {
            Some(code) => Failure::work(format!("{message} ({code})")),
            None => Failure::work(message),
        };
        if status.code() == Code::Unauthenticated {
            return named(status.message()).help(format!(
                "the user stands in the URL, grpc+tls://USER@HOST, the password, too, or in {PASSWORD}; or {TOKEN} holds a token"
            ));
        }
        match placed(status.message()) {
            Some((message, [line, column], advice)) => {
                let failure = named(message).at(query, line, column);
                match advice {
                    "" => failure,
                    advice => failure.help(advice),
                }
            }
            None => named(status.message()),
        }
    }
}

/// What broke while an answer was read.
fn status(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => Status::internal(other.to_string()),
    }
}

/// The parts of `message (at line 1, column 8); advice`.
fn placed(text: &str) -> Option<(&str, [u64; 2], &str)> {
    let (message, rest) = text.split_once(" (at line ")?;
    let (place, advice) = rest.split_once(')')?;
    let (line, column) = place.split_once(", column ")?;
    let place = [line.parse().ok()?, column.parse().ok()?];
    Some((message, place, advice.trim_start_matches("; ")))
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, Failure> {
    let mut shown: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| Failure::input(format!("what {TOKEN} holds is no token")))?;
    shown.set_sensitive(true);
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_come_apart() {
        assert_eq!(
            placed("there is no column evnets (at line 1, column 8); did you mean events?"),
            Some(("there is no column evnets", [1, 8], "did you mean events?"))
        );
        assert_eq!(placed("the query was cancelled"), None);
    }
}
