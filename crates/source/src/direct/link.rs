//! The first words on a connection: which versions the broker speaks, and who we are.
//!
//! Owns the way from a fresh socket to one that takes requests. Does not own the requests after that.

use std::{collections::BTreeMap, io, time::Instant};

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse, SaslAuthenticateRequest,
        SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
    },
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes},
};

use super::{
    connection::Connection,
    security::{Exchange, Sasl},
};

const UNSUPPORTED_VERSION: i16 = 35;
/// The version every broker answers a question about versions with when it does not know ours.
const ASK_VERSIONS: i16 = 3;

#[derive(Debug)]
enum Phase {
    /// Waits for the versions, asked in this version.
    Versions(i16),
    /// Waits for the broker's word on our mechanism.
    Mechanism,
    /// In the middle of proving who we are.
    Proof(Exchange, i16),
    Ready,
}

/// A connection with its introduction.
#[derive(Debug)]
pub(super) struct Link {
    connection: Connection,
    phase: Phase,
    versions: BTreeMap<i16, (i16, i16)>,
    /// When the broker must have answered.
    deadline: Instant,
}

impl Link {
    pub(super) fn begin(mut connection: Connection, deadline: Instant) -> io::Result<Self> {
        ask_versions(&mut connection, ASK_VERSIONS)?;
        Ok(Self {
            connection,
            phase: Phase::Versions(ASK_VERSIONS),
            versions: BTreeMap::new(),
            deadline,
        })
    }

    pub(super) fn into_connection(self) -> Connection {
        self.connection
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// The newest version of a request that both sides speak, if there is one from `least` to `most`.
    pub(super) fn version(&self, api: ApiKey, least: i16, most: i16) -> io::Result<i16> {
        let known = self.versions.get(&(api as i16)).copied();
        newest(known, least, most).ok_or_else(|| {
            let spoken = known.map_or_else(
                || format!("does not know {api:?}"),
                |(from, to)| format!("speaks {api:?} in versions {from} to {to}"),
            );
            io::Error::other(format!(
                "the broker {spoken}, this program in {least} to {most}"
            ))
        })
    }

    pub(super) fn ask<R: Encodable + HeaderVersion>(
        &mut self,
        api: ApiKey,
        version: i16,
        request: &R,
        deadline: Instant,
    ) -> io::Result<()> {
        self.deadline = deadline;
        self.connection.ask(api as i16, version, request)
    }

    pub(super) fn answer<R: Decodable + HeaderVersion>(
        &self,
        frame: Bytes,
        version: i16,
    ) -> io::Result<R> {
        self.connection.answer(frame, version)
    }

    /// Sends and receives what it can; a response to what was asked after the introduction.
    ///
    /// # Errors
    /// The connection is of no use any more. `waiting`: an answer is owed, so that silence counts.
    pub(super) fn drive(
        &mut self,
        sasl: Option<&Sasl>,
        now: Instant,
        waiting: bool,
    ) -> io::Result<Option<Bytes>> {
        while let Some(frame) = self.connection.drive()? {
            if self.is_ready() {
                return Ok(Some(frame));
            }
            self.introduce(frame, sasl)?;
        }
        if (waiting || !self.is_ready()) && now >= self.deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the broker did not answer in time",
            ));
        }
        Ok(None)
    }

    fn introduce(&mut self, frame: Bytes, sasl: Option<&Sasl>) -> io::Result<()> {
        match &mut self.phase {
            Phase::Versions(asked) => {
                let asked = *asked;
                // A broker that does not know the version answers in version 0, whose error stands first.
                let refused = frame.get(4..6) == Some(&UNSUPPORTED_VERSION.to_be_bytes());
                if refused && asked != 0 {
                    ask_versions(&mut self.connection, 0)?;
                    self.phase = Phase::Versions(0);
                    return Ok(());
                }
                let answer: ApiVersionsResponse = self.connection.answer(frame, asked)?;
                refuse(answer.error_code, "the question for its versions", None)?;
                self.versions = answer
                    .api_keys
                    .iter()
                    .map(|api| (api.api_key, (api.min_version, api.max_version)))
                    .collect();
                let Some(sasl) = sasl else {
                    self.phase = Phase::Ready;
                    return Ok(());
                };
                let version = self.version(ApiKey::SaslHandshake, 1, 1)?;
                let request = SaslHandshakeRequest::default()
                    .with_mechanism(StrBytes::from_static_str(sasl.name()));
                self.connection
                    .ask(ApiKey::SaslHandshake as i16, version, &request)?;
                self.phase = Phase::Mechanism;
            }
            Phase::Mechanism => {
                let sasl = sasl.expect("this phase is entered with SASL only");
                let answer: SaslHandshakeResponse = self.connection.answer(frame, 1)?;
                let offered = answer
                    .mechanisms
                    .iter()
                    .map(StrBytes::as_str)
                    .collect::<Vec<_>>()
                    .join(", ");
                let offered = Some(format!("it offers {offered}"));
                refuse(answer.error_code, sasl.name(), offered.as_deref())?;
                let version = self.version(ApiKey::SaslAuthenticate, 0, 2)?;
                let (first, exchange) = sasl.begin()?;
                self.prove(first, exchange, version)?;
            }
            Phase::Proof(exchange, version) => {
                let version = *version;
                let answer: SaslAuthenticateResponse = self.connection.answer(frame, version)?;
                let words = answer.error_message.as_ref().map(StrBytes::as_str);
                refuse(answer.error_code, "our credentials", words)?;
                match exchange
                    .answer(&answer.auth_bytes)
                    .map_err(io::Error::other)?
                {
                    None => self.phase = Phase::Ready,
                    Some(next) => {
                        let Phase::Proof(exchange, _) =
                            std::mem::replace(&mut self.phase, Phase::Ready)
                        else {
                            unreachable!("matched above");
                        };
                        self.prove(next, exchange, version)?;
                    }
                }
            }
            Phase::Ready => {}
        }
        Ok(())
    }

    fn prove(&mut self, words: Vec<u8>, exchange: Exchange, version: i16) -> io::Result<()> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(words.into());
        self.connection
            .ask(ApiKey::SaslAuthenticate as i16, version, &request)?;
        self.phase = Phase::Proof(exchange, version);
        Ok(())
    }
}

fn ask_versions(connection: &mut Connection, version: i16) -> io::Result<()> {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("alluvium"))
        .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
    connection.ask(ApiKey::ApiVersions as i16, version, &request)
}

fn refuse(code: i16, what: &str, words: Option<&str>) -> io::Result<()> {
    if code == 0 {
        return Ok(());
    }
    let name = super::error_name(code);
    let words = words.map(|words| format!(": {words}")).unwrap_or_default();
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("the broker refuses {what} ({name}){words}"),
    ))
}

/// The newest version from `least` to `most` that is among those of the broker, if it knows the request at all.
fn newest(known: Option<(i16, i16)>, least: i16, most: i16) -> Option<i16> {
    let (from, to) = known?;
    let version = most.min(to);
    (version >= least.max(from)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn a_request_is_sent_in_the_newest_version_that_both_sides_speak() {
        for (known, expected) in [
            (None, None),
            (Some((0, 3)), None),
            (Some((0, 4)), Some(4)),
            (Some((7, 9)), Some(9)),
            (Some((9, 20)), Some(13)),
            (Some((13, 20)), Some(13)),
            (Some((14, 20)), None),
        ] {
            assert_eq!(newest(known, 4, 13), expected, "{known:?}");
        }
    }
}
