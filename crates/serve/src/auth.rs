//! Who comes in: proofs of users, the same for every door.
//!
//! Owns what counts as a proof (a password over SCRAM or over HTTP, a token, a client certificate), how often somebody may be
//! wrong, and what is told of it: never which part was wrong. Does not own what a user may read: that is
//! [`alluvium_query::Access`]. Nothing here is logged.

mod scram;
mod throttle;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alluvium_plan::{ScramVerifier, TokenHash, User};
use alluvium_query::Access;
use aws_lc_rs::{constant_time, digest, hmac};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD as BASE64, STANDARD_NO_PAD},
};
use lru::LruCache;
use rand::RngCore;
use tokio::sync::Semaphore;

use crate::tls::Peer;
pub use scram::verifier_of;
pub(crate) use scram::{BOUND, Exchange, Failed, UNBOUND};
use throttle::Throttle;

/// Passwords that have been proven and are known again by a keyed hash, so that not every request works through all rounds.
const PROVEN: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");
/// Passwords that are checked at the same time; each takes a core for some milliseconds.
const CHECKS: usize = 2;
/// Bytes of a token before it is written in hexadecimal digits.
const TOKEN: usize = 32;
/// The longest credentials that are looked at.
const LONGEST: usize = 4096;

/// Who may come in. Cheap to clone.
#[derive(Clone)]
pub struct Users(Arc<Inner>);

struct Inner {
    users: HashMap<String, Known>,
    tokens: Vec<(TokenHash, Access)>,
    /// User names by the common name of their certificates.
    certificates: HashMap<String, String>,
    throttle: Mutex<Throttle>,
    proven: Mutex<LruCache<[u8; 32], Access>>,
    checks: Semaphore,
    /// Of this process alone.
    secret: hmac::Key,
    /// The rounds that strangers are asked for.
    rounds: u32,
}

struct Known {
    password: Option<ScramVerifier>,
    access: Access,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing was shown.
    #[error("this server has users: say who you are")]
    Unproven,
    /// What was shown proves nobody; which part of it is wrong is not said.
    #[error("wrong user, password or token")]
    Wrong,
    /// Too often wrong from this address.
    #[error("too many failed attempts from this address: try again in {} s", after.as_secs().max(1))]
    TooOften {
        /// When the next try is looked at.
        after: Duration,
    },
    /// Not encrypted, from another machine.
    #[error("from other machines this server is spoken to over TLS only")]
    NeedsTls,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users")
            .field("users", &self.0.users.len())
            .finish_non_exhaustive()
    }
}

impl Users {
    /// The users of a server file. Without any, whoever reaches a door may read everything.
    pub fn new(users: &BTreeMap<String, User>) -> Self {
        let mut known = HashMap::new();
        let (mut tokens, mut certificates) = (Vec::new(), HashMap::new());
        for (name, user) in users {
            let access = Access::of(name, user);
            if let Some(token) = &user.token {
                tokens.push((token.clone(), access.clone()));
            }
            if let Some(certificate) = &user.certificate {
                certificates.insert(certificate.clone(), name.clone());
            }
            let password = user.password.clone();
            known.insert(name.clone(), Known { password, access });
        }
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let rounds = known.values().find_map(|user| user.password.as_ref());
        Self(Arc::new(Inner {
            rounds: rounds.map_or(scram::ROUNDS, |verifier| verifier.rounds),
            users: known,
            tokens,
            certificates,
            throttle: Mutex::default(),
            proven: Mutex::new(LruCache::new(PROVEN)),
            checks: Semaphore::new(CHECKS),
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
        }))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.users.is_empty()
    }

    /// Lets somebody in who shows an `Authorization` header, a client certificate, or nothing.
    ///
    /// # Errors
    /// Why not.
    pub async fn admit(&self, authorization: Option<&[u8]>, peer: &Peer) -> Result<Access, Denied> {
        if !peer.is_safe() {
            return Err(Denied::NeedsTls);
        }
        if self.is_empty() {
            return Ok(Access::unrestricted());
        }
        let Some(shown) = authorization else {
            let access = peer.certificate().and_then(|name| self.certified(name));
            return access.ok_or(Denied::Unproven);
        };
        let shown = std::str::from_utf8(shown)
            .ok()
            .filter(|shown| shown.len() <= LONGEST);
        let admitted = match shown.and_then(|shown| shown.split_once(' ')) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                self.token(token.trim())
            }
            Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => {
                self.may_try(peer)?;
                self.basic(pair.trim(), peer).await?
            }
            _ => None,
        };
        admitted.ok_or_else(|| self.failed(peer))
    }

    /// Whether somebody may try a password now.
    pub(crate) fn may_try(&self, peer: &Peer) -> Result<(), Denied> {
        match self.throttle().wait(peer.address.ip(), Instant::now()) {
            None => Ok(()),
            Some(after) => Err(Denied::TooOften { after }),
        }
    }

    /// Remembers that somebody was wrong.
    pub(crate) fn failed(&self, peer: &Peer) -> Denied {
        self.throttle().failed(peer.address.ip(), Instant::now());
        Denied::Wrong
    }

    /// The user of a certificate that TLS has verified.
    fn certified(&self, common_name: &str) -> Option<Access> {
        let name = self.0.certificates.get(common_name)?;
        self.access(name)
    }

    /// A user whose certificate TLS has verified, if it is this one.
    pub(crate) fn certified_as(&self, name: &str, peer: &Peer) -> Option<Access> {
        let certified = self.0.certificates.get(peer.certificate()?)?;
        (certified == name).then(|| self.access(name))?
    }

    /// What a user may do who has been proven.
    pub(crate) fn access(&self, name: &str) -> Option<Access> {
        Some(self.0.users.get(name)?.access.clone())
    }

    /// What a password of this name is proven against. Names that nobody has, and users without a password, get one that no
    /// password fits, the same every time.
    pub(crate) fn verifier(&self, name: &str) -> ScramVerifier {
        let known = self.0.users.get(name);
        if let Some(verifier) = known.and_then(|user| user.password.clone()) {
            return verifier;
        }
        let made_up = |what: &str| {
            let tag = hmac::sign(&self.0.secret, format!("{what}\0{name}").as_bytes());
            <[u8; 32]>::try_from(tag.as_ref()).expect("a tag of SHA-256 has 32 bytes")
        };
        ScramVerifier {
            rounds: self.0.rounds,
            salt: made_up("salt")[..scram::SALT].to_vec(),
            stored_key: made_up("stored key"),
            server_key: made_up("server key"),
        }
    }

    fn token(&self, token: &str) -> Option<Access> {
        let hash = hash_of_token(token);
        let mut found = None;
        // All of them, so that time does not tell how far it fits.
        for (known, access) in &self.0.tokens {
            if constant_time::verify_slices_are_equal(&known.0, &hash.0).is_ok() {
                found = Some(access.clone());
            }
        }
        found
    }

    async fn basic(&self, pair: &str, peer: &Peer) -> Result<Option<Access>, Denied> {
        let pair = BASE64
            .decode(pair)
            .or_else(|_| STANDARD_NO_PAD.decode(pair));
        let pair = pair.ok().and_then(|pair| String::from_utf8(pair).ok());
        let Some((name, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) else {
            return Ok(None);
        };
        let tag = hmac::sign(&self.0.secret, format!("{name}\0{password}").as_bytes());
        let tag: [u8; 32] = tag
            .as_ref()
            .try_into()
            .expect("a tag of SHA-256 has 32 bytes");
        if let Some(access) = self.proven().get(&tag) {
            return Ok(Some(access.clone()));
        }
        let verifier = self.verifier(name);
        let password = password.to_owned();
        let turn = self.0.checks.acquire().await;
        let _turn = turn.expect("nobody closes the turns");
        // Others may have been wrong while this one waited: many guesses at once are no more than one after another.
        self.may_try(peer)?;
        let fits = tokio::task::spawn_blocking(move || scram::fits(&password, &verifier));
        let access = match fits.await {
            Ok(true) => self.access(name),
            _ => None,
        };
        if let Some(access) = &access {
            self.proven().put(tag, access.clone());
        }
        Ok(access)
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        // Entries come and go whole.
        self.0
            .throttle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn proven(&self) -> MutexGuard<'_, LruCache<[u8; 32], Access>> {
        // Entries come and go whole.
        self.0.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new token, and the hash that the server file keeps of it.
pub fn new_token() -> (String, TokenHash) {
    let mut bytes = [0; TOKEN];
    rand::rng().fill_bytes(&mut bytes);
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = format!("alv_{digits}");
    let hash = hash_of_token(&token);
    (token, hash)
}

fn hash_of_token(token: &str) -> TokenHash {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    TokenHash(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests;
