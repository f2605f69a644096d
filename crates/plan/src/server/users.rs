//! Users and roles of the server file: who may come in, how each proves it, what each may read.
//!
//! Owns what a verifier, a token's hash and a grant look like. Does not own the proof itself: that needs a door.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{DoorTls, Loading};
use crate::{
    diagnostic::Code,
    hints,
    reader::{HashText, Keys as _, Named, SecretFrom},
    tree::Scalar,
    values::{self, Zero},
    written::server as written,
};

/// The longest name of a user, as in Postgres.
const LONGEST_NAME: usize = 63;
/// The fewest rounds of a verifier (RFC 7677), ...
const LEAST_ROUNDS: u32 = 4096;
/// ... and the most: a client works through them too, and a door does for each new password over HTTP.
const MOST_ROUNDS: u32 = 1_000_000;
/// Bytes of SHA-256.
const HASH: usize = 32;

/// Who may come in. Any one of its proofs is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Proves a password without holding it.
    pub password: Option<ScramVerifier>,
    /// Proves a token without holding it.
    pub token: Option<TokenHash>,
    /// The common name of a client certificate.
    pub certificate: Option<String>,
    /// What all its roles together may read.
    pub grants: BTreeSet<Grant>,
    /// The widest limits of its roles.
    pub limits: RoleLimits,
}

/// What proves a password over SCRAM-SHA-256 (RFC 5802, RFC 7677), in Postgres's form:
/// `SCRAM-SHA-256$<rounds>:<salt>$<StoredKey>:<ServerKey>`. No message, log or `Debug` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Rounds of PBKDF2.
    pub rounds: u32,
    /// The salt.
    pub salt: Vec<u8>,
    /// The hash of the client's key.
    pub stored_key: [u8; HASH],
    /// The key with which the server proves that it knows the user.
    pub server_key: [u8; HASH],
}

/// The SHA-256 of a token: `sha256:<64 hexadecimal digits>`. No message, log or `Debug` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenHash(pub [u8; HASH]);

/// A text that is no verifier, or no hash; which text is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAHash;

/// Relations that may be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// `*`: all of every schema.
    Everything,
    /// `schema.*`
    Schema(String),
    /// `schema.name`; a name alone is one of `public`.
    Relation(String, String),
}

/// How far queries may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryLimits {
    /// Each of them.
    pub each: RoleLimits,
    /// How many run at once.
    pub at_once: Option<usize>,
}

/// How far each query may go; `None`: for a role as far as the server lets all, for the server as far as is usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleLimits {
    /// How long one may take.
    pub timeout: Option<Duration>,
    /// Bytes of memory of one.
    pub memory: Option<usize>,
    /// Bytes on disk of one, for what does not fit into its memory.
    pub disk: Option<u64>,
    /// Rows of one answer.
    pub rows: Option<u64>,
    /// Bytes of one answer, as columns in memory.
    pub bytes: Option<u64>,
    /// Bytes of the files that one may open.
    pub scan: Option<u64>,
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for ScramVerifier {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        let parsed = text.strip_prefix("SCRAM-SHA-256$").and_then(|rest| {
            let (rounds, salt) = rest.split_once('$')?.0.split_once(':')?;
            let (stored, server) = rest.split_once('$')?.1.split_once(':')?;
            Some(Self {
                rounds: rounds.parse().ok()?,
                salt: BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?,
                stored_key: key(stored)?,
                server_key: key(server)?,
            })
        });
        parsed.ok_or(NotAHash)
    }
}

impl ScramVerifier {
    /// The text that the server file takes.
    pub fn to_text(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.rounds,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key)
        )
    }
}

impl FromStr for TokenHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let digits = text.strip_prefix("sha256:").ok_or(NotAHash)?;
        if digits.len() != 2 * HASH || !digits.is_ascii() {
            return Err(NotAHash);
        }
        let mut hash = [0; HASH];
        for (place, byte) in hash.iter_mut().enumerate() {
            let pair = &digits[2 * place..2 * place + 2];
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotAHash)?;
        }
        Ok(Self(hash))
    }
}

impl TokenHash {
    /// The text that the server file takes.
    pub fn to_text(&self) -> String {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{digits}")
    }
}

impl Grant {
    fn read(text: &str) -> Option<Self> {
        let is_name = |name: &str| !name.is_empty() && !name.contains(['*', '.', ' ', '"']);
        match text.split_once('.') {
            None if text == "*" => Some(Self::Everything),
            None => is_name(text).then(|| Self::Relation("public".into(), text.into())),
            Some((schema, "*")) => is_name(schema).then(|| Self::Schema(schema.into())),
            Some((schema, name)) => (is_name(schema) && is_name(name))
                .then(|| Self::Relation(schema.into(), name.into())),
        }
    }
}

impl RoleLimits {
    /// The wider of two in each respect: who has two roles may do what either may.
    fn or(self, other: Self) -> Self {
        fn wider<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.zip(other).map(|(one, other)| one.max(other))
        }
        Self {
            timeout: wider(self.timeout, other.timeout),
            memory: wider(self.memory, other.memory),
            disk: wider(self.disk, other.disk),
            rows: wider(self.rows, other.rows),
            bytes: wider(self.bytes, other.bytes),
            scan: wider(self.scan, other.scan),
        }
    }
}

type Roles = BTreeMap<String, (BTreeSet<Grant>, RoleLimits)>;

/// What the file says of each query, of a server or of a role.
struct WrittenLimits<'w> {
    timeout: Option<&'w Scalar>,
    memory: Option<&'w Scalar>,
    disk: Option<&'w Scalar>,
    rows: Option<&'w Scalar>,
    bytes: Option<&'w Scalar>,
    scan: Option<&'w Scalar>,
}

impl Loading<'_> {
    pub(super) fn door_tls(&mut self, tls: &written::DoorTls) -> Option<DoorTls> {
        for (key, help) in [
            ("cert", "name a PEM file: `cert: server.pem`"),
            ("key", "name a PEM file: `key: server.key`"),
        ] {
            if tls.lacks(key) {
                values::missing(&mut self.reader, &tls.span, key, help);
            }
        }
        Some(DoorTls {
            cert: self.path(tls.cert.as_ref()?).into(),
            key: self.path(tls.key.as_ref()?).into(),
            client_ca: tls.client_ca.as_ref().map(|path| self.path(path).into()),
        })
    }

    pub(super) fn users(
        &mut self,
        users: &Named<written::User>,
        roles: &Named<written::Role>,
        tls: Option<&Option<DoorTls>>,
    ) -> BTreeMap<String, User> {
        let roles = self.roles(roles);
        let takes_certificates = tls.is_some_and(|tls| {
            // What could not be read has been reported.
            tls.as_ref().is_none_or(|tls| tls.client_ca.is_some())
        });
        let mut meant = BTreeMap::<String, User>::new();
        for (name, user) in &users.0 {
            self.user_name(name);
            let Some(user) = self.user(name, user, &roles, takes_certificates) else {
                continue;
            };
            let same = |other: &&User| {
                user.token.is_some() && user.token == other.token
                    || user.certificate.is_some() && user.certificate == other.certificate
            };
            if meant.values().any(|other| same(&other)) {
                self.error(
                    Code::Value,
                    &name.span,
                    format!(
                        "`{}` has the token or the certificate of another user",
                        name.shown
                    ),
                    "a token or a certificate says who somebody is: give each user its own",
                );
            }
            meant.insert(name.text.clone(), user);
        }
        meant
    }

    fn user_name(&mut self, name: &Scalar) {
        let text = &name.text;
        if text.trim().is_empty()
            || text.len() > LONGEST_NAME
            || text.contains(|c: char| c == ':' || c.is_control())
        {
            self.error(
                Code::Value,
                &name.span,
                format!("`{}` may not name a user", name.shown),
                format!("use at most {LONGEST_NAME} bytes, without `:`"),
            );
        }
    }

    fn user(
        &mut self,
        name: &Scalar,
        user: &written::User,
        roles: &Roles,
        takes_certificates: bool,
    ) -> Option<User> {
        let help = format!("`alluvium user add {}` writes one", name.shown);
        if ["password", "token", "certificate"]
            .iter()
            .all(|key| user.lacks(key))
        {
            self.error(
                Code::Structure,
                &name.span,
                format!("`{}` has nothing to prove itself by", name.shown),
                format!("give it a `password`, a `token` or a `certificate`: {help}"),
            );
        }
        let password = user.password.as_ref().and_then(|written| {
            let verifier: ScramVerifier =
                self.hash("password", written, "the verifier of a password", &help)?;
            if !(LEAST_ROUNDS..=MOST_ROUNDS).contains(&verifier.rounds) {
                self.error(
                    Code::Value,
                    &written.0.span,
                    format!("this verifier has {} rounds", verifier.rounds),
                    format!("make one with {LEAST_ROUNDS} to {MOST_ROUNDS} rounds: {help}"),
                );
            }
            Some(verifier)
        });
        let token = user.token.as_ref().and_then(|written| {
            let help = format!("`alluvium user add {} --token` makes one", name.shown);
            self.hash("token", written, "the hash of a token", &help)
        });
        if let Some(certificate) = &user.certificate {
            if certificate.text.trim().is_empty() {
                let help = "write the common name of the client's certificate";
                self.error(
                    Code::Value,
                    &certificate.span,
                    "`certificate` is empty",
                    help,
                );
            } else if !takes_certificates {
                self.error(
                    Code::Structure,
                    &certificate.span,
                    "no door asks for client certificates",
                    "add `client_ca` under the server's `tls`",
                );
            }
        }
        let (mut grants, mut limits) = (BTreeSet::new(), None::<RoleLimits>);
        for role in user.roles.iter().flatten() {
            match roles.get(&role.text) {
                Some((granted, of_role)) => {
                    grants.extend(granted.iter().cloned());
                    limits = Some(limits.map_or(*of_role, |limits| limits.or(*of_role)));
                }
                None => {
                    let known = roles.keys().map(String::as_str);
                    let help = match roles.is_empty() {
                        true => format!("add it: `roles: {{{}: {{tables: [\"*\"]}}}}`", role.shown),
                        false => hints::for_name(&role.text, "there are:", known),
                    };
                    let message = format!("there is no role `{}`", role.shown);
                    self.error(Code::Value, &role.span, message, help);
                }
            }
        }
        if user.lacks("roles") || user.roles.as_ref().is_some_and(Vec::is_empty) {
            self.error(
                Code::Structure,
                &name.span,
                format!("`{}` has no role, so it could read nothing", name.shown),
                "name one under `roles`: `roles: [analyst]`",
            );
        }
        Some(User {
            password,
            token,
            certificate: user.certificate.as_ref().map(|name| name.text.clone()),
            grants,
            limits: limits?,
        })
    }

    /// A verifier or a hash, written out or as a secret. What it is not is said without its text: it may be the password.
    fn hash<T: FromStr>(
        &mut self,
        key: &str,
        written: &HashText,
        what: &str,
        help: &str,
    ) -> Option<T> {
        let written = &written.0;
        let text = match &written.from {
            SecretFrom::Literal(text) => {
                self.literals.push(written.span.clone());
                text.clone()
            }
            _ => self.secret(key, written)?,
        };
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            let message = format!("`{key}` is not {what}");
            let help = match written.from {
                SecretFrom::Literal(_) => {
                    format!("{help}; if this is the secret itself, change it: it has been seen")
                }
                _ => help.to_owned(),
            };
            self.error(Code::Secret, &written.span, message, help);
        }
        parsed
    }

    fn roles(&mut self, roles: &Named<written::Role>) -> Roles {
        let mut meant = Roles::new();
        for (name, role) in &roles.0 {
            if role.lacks("tables") {
                let help =
                    "say what it may read: `tables: [clicks, \"panes.*\"]`, or `[\"*\"]` for all";
                values::missing(&mut self.reader, &role.span, "tables", help);
            }
            let mut grants = BTreeSet::new();
            for table in role.tables.iter().flatten() {
                match Grant::read(&table.text) {
                    Some(Grant::Schema(schema) | Grant::Relation(schema, _))
                        if !SCHEMAS.contains(&schema.as_str()) =>
                    {
                        let message = format!("there is no schema `{schema}`");
                        let help = hints::for_name(&schema, "there are:", SCHEMAS);
                        self.error(Code::Value, &table.span, message, help);
                    }
                    Some(grant) => {
                        grants.insert(grant);
                    }
                    None => self.error(
                        Code::Value,
                        &table.span,
                        format!("`{}` names no relations", table.shown),
                        "write `name`, `schema.name`, `\"schema.*\"`, or `\"*\"` for all",
                    ),
                }
            }
            let limits = role.query.as_ref().map(|query| {
                self.limits(WrittenLimits {
                    timeout: query.timeout.as_deref(),
                    memory: query.memory.as_deref(),
                    disk: query.disk.as_deref(),
                    rows: query.rows.as_deref(),
                    bytes: query.bytes.as_deref(),
                    scan: query.scan.as_deref(),
                })
            });
            meant.insert(name.text.clone(), (grants, limits.unwrap_or_default()));
        }
        meant
    }

    /// How far all queries may go.
    pub(super) fn query_limits(&mut self, query: &written::Query) -> QueryLimits {
        let each = WrittenLimits {
            timeout: query.timeout.as_deref(),
            memory: query.memory.as_deref(),
            disk: query.disk.as_deref(),
            rows: query.rows.as_deref(),
            bytes: query.bytes.as_deref(),
            scan: query.scan.as_deref(),
        };
        QueryLimits {
            each: self.limits(each),
            at_once: query
                .at_once
                .as_ref()
                .and_then(|number| self.whole(number, MOST_AT_ONCE, "queries at once")),
        }
    }

    fn limits(&mut self, written: WrittenLimits<'_>) -> RoleLimits {
        let mut size = |size: Option<&Scalar>| {
            let bytes = values::size(size?, &mut self.reader)?;
            Some(bytes as u64)
        };
        let (disk, bytes, scan) = (size(written.disk), size(written.bytes), size(written.scan));
        RoleLimits {
            timeout: written
                .timeout
                .and_then(|span| values::duration(span, Zero::Refused, &mut self.reader)),
            memory: written.memory.and_then(|size| self.memory(Some(size))),
            disk,
            rows: written
                .rows
                .and_then(|rows| self.whole(rows, MOST_ROWS, "rows")),
            bytes,
            scan,
        }
    }

    /// A whole number from 1 to `most`.
    fn whole<T>(&mut self, number: &Scalar, most: T, of: &str) -> Option<T>
    where
        T: FromStr + Ord + Default + fmt::Display,
    {
        let parsed = number.text.parse().ok();
        let parsed = parsed.filter(|parsed| *parsed > T::default() && *parsed <= most);
        if parsed.is_none() {
            let message = format!("`{}` is not a number of {of}", number.shown);
            let help = format!("write a whole number from 1 to {most}");
            self.error(Code::Value, &number.span, message, help);
        }
        parsed
    }
}

/// Beyond it there is no limit worth writing.
const MOST_ROWS: u64 = 1_000_000_000_000;
/// Each of them has memory and a thread's time.
const MOST_AT_ONCE: usize = 1024;

/// The schemas whose relations can be granted.
const SCHEMAS: [&str; 4] = ["public", "panes", "dead_letters", "system"];

#[cfg(test)]
mod tests;
