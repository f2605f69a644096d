//! A running server's HTTP door, seen from a command.
//!
//! Owns the words for what can go wrong on the way there. Does not own what is asked.

use std::{error::Error, io, time::Duration};

use reqwest::{
    StatusCode, Url,
    blocking::{Client, Response},
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde_json::Value;

use crate::failure::Failure;

/// How long to wait for a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait for an answer: longer than the server lets a query run.
const PATIENCE: Duration = Duration::from_secs(120);

/// The token for a server with users.
const TOKEN: &str = "ALLUVIUM_TOKEN";

/// A server's address and a client for it.
pub(crate) struct Door {
    url: Url,
    client: Client,
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
        let parsed = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| {
                Failure::input(format!("`{url}` is not the URL of a server"))
                    .help("write it like http://127.0.0.1:8427")
            })?;
        let mut headers = HeaderMap::new();
        if let Ok(token) = std::env::var(TOKEN) {
            let mut shown = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                .map_err(|_| Failure::input(format!("what {TOKEN} holds is no token")))?;
            shown.set_sensitive(true);
            headers.insert(AUTHORIZATION, shown);
        }
        let client = Client::builder()
            .connect_timeout(CONNECT_PATIENCE)
            .timeout(PATIENCE)
            .default_headers(headers)
            .build()
            .map_err(|error| Failure::work("no HTTP client could be made").because(&error))?;
        Ok(Self {
            url: parsed,
            client,
        })
    }

    /// Its address.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Asks for JSON.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Silence> {
        let url = self.at(path);
        let response = self
            .client
            .get(url)
            .send()
            .map_err(|error| self.unanswered(&error))?;
        self.read(response)
    }

    /// Sends JSON and returns the JSON reply.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let response = self
            .client
            .post(self.at(path))
            .json(body)
            .send()
            .map_err(|error| self.unanswered(&error).into_failure())?;
        self.read(response).map_err(Silence::into_failure)
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

    fn read(&self, response: Response) -> Result<Value, Silence> {
        let status = response.status();
        let text = response.text().map_err(|error| {
            Silence::Refused(
                Failure::work(format!("the answer of {} broke off", self.url)).because(&error),
            )
        })?;
        let body: Option<Value> = serde_json::from_str(&text).ok();
        match body {
            Some(body) if status.is_success() => Ok(body),
            body => Err(Silence::Refused(refusal(status, body.as_ref(), &text))),
        }
    }
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

/// `{"error": {"code", "message", "hint"}}`, or whatever came instead.
fn refusal(status: StatusCode, body: Option<&Value>, text: &str) -> Failure {
    let told = |key: &str| body.and_then(|body| body["error"][key].as_str());
    let Some(message) = told("message") else {
        return Failure::work(format!("the server answered {status}: {}", text.trim()));
    };
    let failure = match told("code") {
        Some(code) => Failure::work(format!("{message} ({code})")),
        None => Failure::work(message),
    };
    match told("hint") {
        Some(hint) => failure.help(hint),
        None => failure,
    }
}

impl Silence {
    /// The failure, whichever it is.
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Nobody(failure) | Self::Refused(failure) => failure,
        }
    }
}
