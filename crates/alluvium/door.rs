//! A running server's doors, seen from a command: HTTP here, the others in files of their own.
//!
//! Owns the words for what can go wrong on the way there. Does not own what is asked.

pub(crate) mod flight;
pub(crate) mod postgres;

use std::{error::Error, io, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;

/// An address as it may be printed: without its password, and without its query, in which clients write passwords too.
pub(crate) fn printable(url: &Url) -> Url {
    let mut shown = url.clone();
    if shown.password().is_some() {
        // Only an address that has no place for one refuses.
        let _ = shown.set_password(None);
    }
    shown.set_query(None);
    shown
}

/// How long to wait for a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait for an answer: longer than the server lets a query run.
const PATIENCE: Duration = Duration::from_secs(120);

/// The token for a server with users.
const TOKEN: &str = "ALLUVIUM_TOKEN";
/// The password of the user whom an address names.
const PASSWORD: &str = "ALLUVIUM_PASSWORD";

/// A server's address and a client for it.
pub(crate) struct Door {
    url: Url,
    client: Client,
    runtime: Runtime,
}

/// Why there is no answer.
pub(crate) enum Silence {
    /// Nobody listens there.
    Nobody(Failure),
    /// Somebody does, and refused.
    Refused(Failure),
}

impl Door {
    /// The door at `url`; nothing is asked yet.
    ///
    /// # Errors
    /// A usage failure when `url` is none.
    pub(crate) fn new(url: &str) -> Result<Self, Failure> {
        let mut parsed = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| {
                Failure::input("that is not the URL of a server")
                    .help("write it like http://127.0.0.1:8427")
            })?;
        let mut headers = HeaderMap::new();
        let shown = match (parsed.username(), std::env::var(TOKEN)) {
            ("", Ok(token)) => Some(format!("Bearer {}", token.trim())),
            ("", Err(_)) => None,
            (user, _) => {
                let user = postgres::decoded(user);
                let named = format!("{user}:{}", password(&parsed).unwrap_or_default());
                Some(format!("Basic {}", BASE64_STANDARD.encode(named)))
            }
        };
        if let Some(shown) = shown {
            let mut shown = HeaderValue::from_str(&shown)
                .map_err(|_| Failure::input(format!("what {TOKEN} holds is no token")))?;
            shown.set_sensitive(true);
            headers.insert(AUTHORIZATION, shown);
        }
        // From here on the address may be printed; only one without a host would refuse.
        let _ = parsed.set_password(None);
        let _ = parsed.set_username("");
        let client = Client::builder()
            .connect_timeout(CONNECT_PATIENCE)
            .timeout(PATIENCE)
            .default_headers(headers)
            .build()
            .map_err(|error| Failure::work("no HTTP client could be made").because(&error))?;
        Ok(Self {
            url: parsed,
            client,
            runtime: Builder::new_current_thread().enable_all().build()?,
        })
    }

    /// Its address.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Where its questions wait for their answers.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Asks for JSON.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Silence> {
        self.runtime.block_on(async {
            let response = self.client.get(self.at(path)).send().await;
            self.read(response.map_err(|error| self.unanswered(&error))?, None)
                .await
        })
    }

    /// Sends JSON and returns the JSON reply. Whoever does not wait for it ends the question: the server notices.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let asked = self.client.post(self.at(path)).json(body);
        let response = asked.send().await;
        let response = response.map_err(|error| self.unanswered(&error).into_failure())?;
        let read = self.read(response, body["sql"].as_str()).await;
        read.map_err(Silence::into_failure)
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url
    }

    fn unanswered(&self, error: &reqwest::Error) -> Silence {
        if distrusts(error) {
            let failure = Failure::work(format!("the server at {} cannot be trusted", self.url));
            return Silence::Refused(failure.because(error).help(
                "name its authority's certificate (PEM) in SSL_CERT_FILE, or use the name that its certificate has",
            ));
        }
        let failure = Failure::work(format!("no server answers at {}", self.url)).because(error);
        if error.is_connect() {
            Silence::Nobody(failure.help(
                "is `alluvium run` or `alluvium demo` running there? Without `--url`, storage is read directly",
            ))
        } else {
            Silence::Refused(failure)
        }
    }

    /// Reads a reply; `asked` is the statement that it answers, in which mistakes are shown.
    async fn read(&self, response: Response, asked: Option<&str>) -> Result<Value, Silence> {
        let status = response.status();
        let text = response.text().await.map_err(|error| {
            Silence::Refused(
                Failure::work(format!("the answer of {} broke off", self.url)).because(&error),
            )
        })?;
        let body: Option<Value> = serde_json::from_str(&text).ok();
        match body {
            Some(body) if status.is_success() => Ok(body),
            body => Err(Silence::Refused(refusal(
                status,
                body.as_ref(),
                &text,
                asked,
            ))),
        }
    }
}

/// The password of an address, or of the environment.
fn password(url: &Url) -> Option<String> {
    let written = url.password().map(postgres::decoded);
    written.or_else(|| std::env::var(PASSWORD).ok())
}

/// Whether somebody is there, but TLS with it failed.
fn distrusts(cause: &(dyn Error + 'static)) -> bool {
    if let Some(failed) = cause.downcast_ref::<io::Error>() {
        if failed.kind() == io::ErrorKind::InvalidData {
            return true;
        }
        // What it wraps is no source of its own.
        if let Some(inner) = failed.get_ref() {
            return distrusts(inner);
        }
    }
    cause.source().is_some_and(distrusts)
}

/// `{"error": {"code", "message", "hint", "position"}}`, or whatever came instead.
fn refusal(status: StatusCode, body: Option<&Value>, text: &str, asked: Option<&str>) -> Failure {
    let told = |key: &str| body.and_then(|body| body["error"][key].as_str());
    let Some(message) = told("message") else {
        return Failure::work(format!("the server answered {status}: {}", text.trim()));
    };
    let mut failure = match told("code") {
        Some(code) => Failure::work(format!("{message} ({code})")),
        None => Failure::work(message),
    };
    if let (Some(asked), Some([line, column])) = (asked, place(body)) {
        failure = failure.at(asked, line, column);
    }
    match told("hint") {
        Some(hint) => failure.help(hint),
        None => failure,
    }
}

/// Where in the statement the mistake is: its line and column.
fn place(body: Option<&Value>) -> Option<[u64; 2]> {
    let position = body?["error"].get("position")?;
    Some([position["line"].as_u64()?, position["column"].as_u64()?])
}

impl Silence {
    /// The failure, whichever it is.
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Nobody(failure) | Self::Refused(failure) => failure,
        }
    }
}
