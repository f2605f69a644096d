//! A running server's HTTP door, seen from a command.
//!
//! Owns the words for what can go wrong on the way there. Does not own what is asked.

use std::time::Duration;

use reqwest::{
    StatusCode, Url,
    blocking::{Client, Response},
};
use serde_json::Value;

use crate::failure::Failure;

/// How long to wait for a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait for an answer: longer than the server lets a query run.
const PATIENCE: Duration = Duration::from_secs(120);

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
        let client = Client::builder()
            .connect_timeout(CONNECT_PATIENCE)
            .timeout(PATIENCE)
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
