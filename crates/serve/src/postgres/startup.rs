//! The first messages of a client: who it is, the proof of it, and what it is told when it is let in.
//!
//! Owns the order of these messages. Passwords come over SCRAM only, so they never come at all. Does not own proofs
//! ([`crate::auth`]).

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use alluvium_query::{Access, POSTGRES_VERSION};
use alluvium_types::survived;
use async_trait::async_trait;
use futures::{Sink, SinkExt};
use pgwire::{
    api::{
        ClientInfo, PgWireConnectionState,
        auth::{
            DefaultServerParameterProvider, StartupHandler, finish_authentication,
            protocol_negotiation, save_startup_parameters_to_metadata,
        },
    },
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage, PgWireFrontendMessage,
        startup::{Authentication, PasswordMessageFamily, Startup as Said},
    },
};

use super::{connection::Connection, refusal};
use crate::{
    auth::{BOUND, Denied, Exchange, Failed, UNBOUND, Users},
    tls::Peer,
};

/// One client on its way in.
pub(super) struct Startup {
    connection: Arc<Connection>,
    users: Users,
    peer: Peer,
    /// The hash of the certificate that this connection was made with.
    binding: Option<Arc<[u8]>>,
    step: Mutex<Step>,
}

/// What comes next.
enum Step {
    /// Its name.
    Name,
    /// The first message of its proof.
    Proof(Asked),
    /// The last one.
    End(Asked, Box<Exchange>),
    Nothing,
}

/// What it said of itself.
struct Asked {
    user: String,
    parameters: BTreeMap<String, String>,
}

impl Startup {
    pub(super) fn new(
        connection: Arc<Connection>,
        users: Users,
        peer: Peer,
        binding: Option<Arc<[u8]>>,
    ) -> Self {
        Self {
            connection,
            users,
            peer,
            binding,
            step: Mutex::new(Step::Name),
        }
    }

    /// Takes the step that is due; after an error nothing is.
    fn take(&self) -> Step {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut step, Step::Nothing)
    }

    fn expect(&self, next: Step) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// What somebody may do at once, without a password.
    fn at_once(&self, user: &str) -> PgWireResult<Option<Access>> {
        if !self.peer.is_safe() {
            return Err(denied(Denied::NeedsTls, user));
        }
        if self.users.is_empty() {
            return Ok(Some(Access::unrestricted()));
        }
        if let Some(access) = self.users.certified_as(user, &self.peer) {
            return Ok(Some(access));
        }
        match self.users.may_try(&self.peer) {
            Ok(()) => Ok(None),
            Err(why) => Err(denied(why, user)),
        }
    }

    fn begin(&self, asked: Asked, message: PasswordMessageFamily) -> PgWireResult<(Step, String)> {
        let first = match survived(|| message.into_sasl_initial_response()) {
            Some(first) => first?,
            // The decoder panics over one that is shorter than it says.
            None => return Err(self.failed(Failed::Malformed("it ends too early"), &asked.user)),
        };
        let verifier = self.users.verifier(&asked.user);
        let said = first.data.as_deref().unwrap_or_default();
        let begun = Exchange::begin(verifier, &first.auth_method, self.binding.as_deref(), said);
        match begun {
            Ok((answer, exchange)) => Ok((Step::End(asked, Box::new(exchange)), answer)),
            Err(why) => Err(self.failed(why, &asked.user)),
        }
    }

    fn end(
        &self,
        asked: &Asked,
        exchange: Exchange,
        last: &[u8],
    ) -> PgWireResult<(String, Access)> {
        // Others may have been wrong since this one began.
        let may_try = self.users.may_try(&self.peer);
        may_try.map_err(|why| denied(why, &asked.user))?;
        let answer = exchange
            .finish(last)
            .map_err(|why| self.failed(why, &asked.user))?;
        let access = self.users.access(&asked.user);
        let access = access.ok_or_else(|| self.failed(Failed::Wrong, &asked.user))?;
        Ok((answer, access))
    }

    fn failed(&self, why: Failed, user: &str) -> PgWireError {
        let wrong = denied(self.users.failed(&self.peer), user);
        match why {
            Failed::Wrong => wrong,
            Failed::Malformed(what) => {
                refusal::fatal("08P01", format!("malformed SCRAM message: {what}"))
            }
        }
    }

    async fn let_in<C>(
        &self,
        client: &mut C,
        access: Access,
        parameters: &BTreeMap<String, String>,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self.connection.enter(access, parameters.iter())?;
        let place = &self.connection.place;
        client.set_pid_and_secret_key(place.number, place.secret.clone());
        finish_authentication(client, &self.parameters()).await?;
        client.set_state(PgWireConnectionState::ReadyForQuery);
        Ok(())
    }

    fn parameters(&self) -> DefaultServerParameterProvider {
        let get = |name| self.connection.setting(name).unwrap_or_default();
        let mut parameters = DefaultServerParameterProvider::default();
        parameters.server_version = POSTGRES_VERSION.into();
        parameters.is_superuser = false;
        parameters.default_transaction_read_only = true;
        parameters.time_zone = get("timezone");
        parameters.date_style = get("datestyle");
        parameters.interval_style = get("intervalstyle");
        parameters
    }
}

#[async_trait]
impl StartupHandler for Startup {
    async fn on_startup<C>(
        &self,
        client: &mut C,
        message: PgWireFrontendMessage,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match (self.take(), message) {
            (Step::Name, PgWireFrontendMessage::Startup(said)) => {
                let asked = asked(&said)?;
                let at_once = self.at_once(&asked.user)?;
                protocol_negotiation(client, &said).await?;
                save_startup_parameters_to_metadata(client, &said);
                if let Some(access) = at_once {
                    return self.let_in(client, access, &asked.parameters).await;
                }
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                let bound = self.binding.as_ref().map(|_| BOUND);
                let ways = bound.into_iter().chain([UNBOUND]).map(String::from);
                let question = Authentication::SASL(ways.collect());
                client
                    .send(PgWireBackendMessage::Authentication(question))
                    .await?;
                self.expect(Step::Proof(asked));
                Ok(())
            }
            (Step::Proof(asked), PgWireFrontendMessage::PasswordMessageFamily(message)) => {
                let (next, answer) = self.begin(asked, message)?;
                let answer = Authentication::SASLContinue(answer.into());
                client
                    .send(PgWireBackendMessage::Authentication(answer))
                    .await?;
                self.expect(next);
                Ok(())
            }
            (Step::End(asked, exchange), PgWireFrontendMessage::PasswordMessageFamily(message)) => {
                let last = message.into_sasl_response()?;
                let (answer, access) = self.end(&asked, *exchange, &last.data)?;
                let answer = Authentication::SASLFinal(answer.into());
                client
                    .send(PgWireBackendMessage::Authentication(answer))
                    .await?;
                self.let_in(client, access, &asked.parameters).await
            }
            _ => Err(refusal::fatal("08P01", "a start-up message was expected")),
        }
    }
}

fn asked(said: &Said) -> PgWireResult<Asked> {
    if said.parameters.contains_key("replication") {
        return Err(refusal::fatal("0A000", "replication is not offered"));
    }
    Ok(Asked {
        user: said.parameters.get("user").cloned().unwrap_or_default(),
        parameters: said.parameters.clone(),
    })
}

/// A refusal that is the same for a name that nobody has and for a wrong password.
fn denied(why: Denied, user: &str) -> PgWireError {
    metrics::counter!("alluvium_denied_total", "door" => "postgres").increment(1);
    match why {
        Denied::Wrong => refusal::fatal(
            "28P01",
            format!("password authentication failed for user \"{user}\""),
        ),
        why => refusal::fatal("28000", why.to_string()),
    }
}
