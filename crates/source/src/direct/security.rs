//! TLS and SASL for our own connections.
//!
//! Owns what is read from librdkafka's properties and the exchange of SASL messages. Does not own sockets.

use std::{fmt, io, sync::Arc};

use aws_lc_rs::{
    constant_time, digest, hmac, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::token::{self, Tokens};

/// How a connection is secured.
#[derive(Clone, Debug, Default)]
pub(super) struct Security {
    pub(super) tls: Option<Tls>,
    pub(super) sasl: Option<Sasl>,
}

/// TLS with verified certificates and names.
#[derive(Clone)]
pub(super) struct Tls(pub(super) Arc<ClientConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// # Errors
    /// Why librdkafka has to serve this connection.
    pub(super) fn read<'p>(get: &impl Fn(&str) -> Option<&'p str>) -> Result<Self, String> {
        let switched_off = get("enable.ssl.certificate.verification")
            .is_some_and(|value| !value.eq_ignore_ascii_case("true"))
            || get("ssl.endpoint.identification.algorithm")
                .is_some_and(|value| !value.eq_ignore_ascii_case("https"));
        if switched_off {
            return Err("verification of certificates is switched off".to_owned());
        }
        let mut roots = RootCertStore::empty();
        match pem(get, "ssl.ca.location", "ssl.ca.pem")? {
            Some((name, text)) => {
                let certificates = certificates(name, &text)?;
                let (added, _) = roots.add_parsable_certificates(certificates);
                if added == 0 {
                    return Err(format!("`{name}` holds no certificate"));
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err("this machine has no store of certificates".to_owned());
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|cause| cause.to_string())?
            .with_root_certificates(roots);
        let own = pem(get, "ssl.certificate.location", "ssl.certificate.pem")?;
        let key = pem(get, "ssl.key.location", "ssl.key.pem")?;
        let config = match (own, key) {
            (Some((name, own)), Some((key_name, key))) => {
                let key = PrivateKeyDer::from_pem_slice(&key)
                    .map_err(|cause| format!("`{key_name}`: {cause}"))?;
                config
                    .with_client_auth_cert(certificates(name, &own)?, key)
                    .map_err(|cause| format!("`{name}`: {cause}"))?
            }
            (None, None) => config.with_no_client_auth(),
            _ => return Err("a client certificate and its key go together".to_owned()),
        };
        Ok(Self(Arc::new(config)))
    }
}

/// The bytes of a property that names a file or holds the text itself, and the property's name.
fn pem<'p>(
    get: &impl Fn(&str) -> Option<&'p str>,
    file: &'static str,
    text: &'static str,
) -> Result<Option<(&'static str, Vec<u8>)>, String> {
    if let Some(written) = get(text) {
        return Ok(Some((text, written.as_bytes().to_vec())));
    }
    get(file)
        .map(|path| {
            std::fs::read(path)
                .map(|bytes| (file, bytes))
                .map_err(|cause| format!("`{file}: {path}`: {cause}"))
        })
        .transpose()
}

fn certificates(name: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|cause| format!("`{name}`: {cause}"))
}

/// A mechanism and its credentials.
#[derive(Clone, Debug)]
pub(super) enum Sasl {
    Password(Credentials),
    /// OAUTHBEARER, RFC 7628.
    Bearer(Tokens),
}

/// A user by name and password.
#[derive(Clone)]
pub(super) struct Credentials {
    mechanism: Mechanism,
    user: String,
    password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("mechanism", &self.mechanism)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl Sasl {
    /// # Errors
    /// Why librdkafka has to serve this connection.
    pub(super) fn read<'p>(get: &impl Fn(&str) -> Option<&'p str>) -> Result<Self, String> {
        let written = get("sasl.mechanism").or_else(|| get("sasl.mechanisms"));
        let mechanism = match written {
            Some("PLAIN") => Mechanism::Plain,
            Some("SCRAM-SHA-256") => Mechanism::ScramSha256,
            Some("SCRAM-SHA-512") => Mechanism::ScramSha512,
            Some("OAUTHBEARER") => {
                let owned = |name: &str| Some((name.to_owned(), get(name)?.to_owned()));
                let tokens = [token::FILE, token::TEXT].iter().copied().filter_map(owned);
                return Tokens::of(&tokens.collect())
                    .map(Self::Bearer)
                    .ok_or_else(|| format!("`{}` is missing", token::FILE));
            }
            other => {
                return Err(format!(
                    "`sasl.mechanism: {}` is librdkafka's to answer",
                    other.unwrap_or("GSSAPI")
                ));
            }
        };
        let given = |name: &str| {
            get(name)
                .map(str::to_owned)
                .ok_or_else(|| format!("`{name}` is missing"))
        };
        let (user, password) = (given("sasl.username")?, given("sasl.password")?);
        if mechanism != Mechanism::Plain && !(user.is_ascii() && password.is_ascii()) {
            // They would have to be normalised first (SASLprep).
            return Err("SCRAM with letters beyond ASCII is librdkafka's to answer".to_owned());
        }
        Ok(Self::Password(Credentials {
            mechanism,
            user,
            password,
        }))
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Bearer(_) => "OAUTHBEARER",
            Self::Password(credentials) => match credentials.mechanism {
                Mechanism::Plain => "PLAIN",
                Mechanism::ScramSha256 => "SCRAM-SHA-256",
                Mechanism::ScramSha512 => "SCRAM-SHA-512",
            },
        }
    }

    /// Begins an exchange: what to send first, and who answers what comes back.
    pub(super) fn begin(&self) -> io::Result<(Vec<u8>, Exchange)> {
        let credentials = match self {
            Self::Password(credentials) => credentials,
            Self::Bearer(tokens) => {
                let token = tokens.read().map_err(io::Error::other)?;
                return Ok((
                    format!("n,,\x01auth=Bearer {token}\x01\x01").into_bytes(),
                    Exchange::Bearer,
                ));
            }
        };
        match credentials.mechanism {
            Mechanism::Plain => Ok((
                format!("\0{}\0{}", credentials.user, credentials.password).into_bytes(),
                Exchange::Plain,
            )),
            Mechanism::ScramSha256 | Mechanism::ScramSha512 => {
                let mut random = [0; 24];
                SystemRandom::new()
                    .fill(&mut random)
                    .map_err(|_| io::Error::other("no randomness for SCRAM"))?;
                let scram = Scram::new(credentials, BASE64.encode(random));
                Ok((
                    format!("n,,{}", scram.first).into_bytes(),
                    Exchange::Scram(Box::new(scram)),
                ))
            }
        }
    }
}

/// An exchange of SASL messages.
#[derive(Debug)]
pub(super) enum Exchange {
    /// One message, and nothing to check.
    Plain,
    /// One message; what the broker says to it is why it refuses.
    Bearer,
    /// RFC 5802.
    Scram(Box<Scram>),
}

impl Exchange {
    /// Answers the broker's message; `None`: both sides are convinced.
    ///
    /// # Errors
    /// What is wrong with the broker's message.
    pub(super) fn answer(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::Plain => Ok(None),
            Self::Bearer if message.is_empty() => Ok(None),
            // The broker waits for this byte before it ends the exchange with an error.
            Self::Bearer => Ok(Some(b"\x01".to_vec())),
            Self::Scram(scram) => scram.answer(message),
        }
    }
}

/// The client's side of SCRAM, without channel binding.
pub(super) struct Scram {
    mechanism: Mechanism,
    password: String,
    nonce: String,
    /// The client's first message without its header.
    first: String,
    /// What the server must prove to know; set once our own proof is sent.
    server_signature: Option<Vec<u8>>,
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scram")
    }
}

/// Fewer rounds than brokers allow would give the password away cheaply.
const FEWEST_ROUNDS: u32 = 4096;
/// More would keep the one thread that reads busy for seconds.
const MOST_ROUNDS: u32 = 1_000_000;

impl Scram {
    fn new(credentials: &Credentials, nonce: String) -> Self {
        let user = credentials.user.replace('=', "=3D").replace(',', "=2C");
        Self {
            mechanism: credentials.mechanism,
            password: credentials.password.clone(),
            first: format!("n={user},r={nonce}"),
            nonce,
            server_signature: None,
        }
    }

    fn answer(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let message = std::str::from_utf8(message).map_err(|_| "SCRAM: not text".to_owned())?;
        if let Some(refusal) = field(message, 'e') {
            return Err(format!("SCRAM: the broker refuses: {refusal}"));
        }
        let Some(expected) = &self.server_signature else {
            return self.prove(message).map(Some);
        };
        let proof = field(message, 'v')
            .and_then(|proof| BASE64.decode(proof).ok())
            .ok_or("SCRAM: the broker proves nothing")?;
        constant_time::verify_slices_are_equal(&proof, expected)
            .map(|()| None)
            .map_err(|_| "SCRAM: the broker does not know the password".to_owned())
    }

    fn prove(&mut self, message: &str) -> Result<Vec<u8>, String> {
        let nonce = field(message, 'r')
            .filter(|nonce| nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len())
            .ok_or("SCRAM: the broker's nonce does not continue ours")?;
        let salt = field(message, 's')
            .and_then(|salt| BASE64.decode(salt).ok())
            .ok_or("SCRAM: no salt")?;
        let rounds = field(message, 'i')
            .and_then(|rounds| rounds.parse::<u32>().ok())
            .filter(|rounds| (FEWEST_ROUNDS..=MOST_ROUNDS).contains(rounds))
            .ok_or_else(|| {
                format!("SCRAM: rounds outside {FEWEST_ROUNDS} to {MOST_ROUNDS}: {message}")
            })?;
        let rounds = std::num::NonZeroU32::new(rounds).expect("4096 at least");
        let (derive, mac, hash) = match self.mechanism {
            Mechanism::ScramSha512 => (
                pbkdf2::PBKDF2_HMAC_SHA512,
                hmac::HMAC_SHA512,
                &digest::SHA512,
            ),
            Mechanism::Plain | Mechanism::ScramSha256 => (
                pbkdf2::PBKDF2_HMAC_SHA256,
                hmac::HMAC_SHA256,
                &digest::SHA256,
            ),
        };
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(mac, key), text);
        let mut salted = vec![0; hash.output_len()];
        pbkdf2::derive(derive, rounds, &salt, self.password.as_bytes(), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(hash, client_key.as_ref());
        // `biws` says that no channel is bound.
        let last = format!("c=biws,r={nonce}");
        let all = format!("{},{message},{last}", self.first);
        let signature = sign(stored_key.as_ref(), all.as_bytes());
        let proof: Vec<u8> = client_key
            .as_ref()
            .iter()
            .zip(signature.as_ref())
            .map(|(key, signed)| key ^ signed)
            .collect();
        let server_key = sign(&salted, b"Server Key");
        self.server_signature = Some(sign(server_key.as_ref(), all.as_bytes()).as_ref().to_vec());
        Ok(format!("{last},p={}", BASE64.encode(proof)).into_bytes())
    }
}

/// The value of a message's attribute.
fn field(message: &str, name: char) -> Option<&str> {
    message
        .split(',')
        .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3.
    #[test]
    fn scram_speaks_as_its_standard_does() {
        let sasl = Credentials {
            mechanism: Mechanism::ScramSha256,
            user: "user".to_owned(),
            password: "pencil".to_owned(),
        };
        let mut scram = Scram::new(&sasl, "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(scram.first, "n=user,r=rOprNGfwEbeRWgbNEkqO");
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let first = format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let proof = scram.answer(first.as_bytes()).unwrap().unwrap();
        assert_eq!(
            String::from_utf8(proof).unwrap(),
            format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
        );
        let signature = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(scram.answer(signature), Ok(None));
        let wrong = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G8=";
        assert!(scram.answer(wrong).is_err());
        assert!(scram.answer(b"e=other-error").is_err());
    }

    #[test]
    fn a_token_is_shown_as_its_standard_says() {
        let sasl = Sasl::Bearer(Tokens::Text("abc.def".to_owned()));
        let (first, mut exchange) = sasl.begin().unwrap();
        assert_eq!(first, b"n,,\x01auth=Bearer abc.def\x01\x01");
        assert_eq!(exchange.answer(b""), Ok(None));
        let refused = exchange.answer(b"{\"status\":\"invalid_token\"}");
        assert_eq!(refused, Ok(Some(vec![1])));
        assert!(!format!("{sasl:?}").contains("abc"));
    }

    /// Whoever signed it knew a key that is gone.
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBfjCCASOgAwIBAgIUJ+q1hazBDrVs8KsxUlgjWfFkzDowCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIYWxsdXZpdW0wIBcNMjYxMTI3MDAxNjU3WhgPMjEyNjExMDMw
MDE2NTdaMBMxETAPBgNVBAMMCGFsbHV2aXVtMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEoTmyWtWcGydBqCWWMG1dvugR5Bv7LbcpIMkwsfwEjg4pCFCxeJi88Ltb
76Us/nJqIWgHGGHvj8rLsd5qeX2YP6NTMFEwHQYDVR0OBBYEFLQxak83j0l45mFu
YkFeRWdRQrPPMB8GA1UdIwQYMBaAFLQxak83j0l45mFuYkFeRWdRQrPPMA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhANWv7yEH7CYpoN+OqS+L98sm
lkrODW86Lxn6I1+uxm5wAiEA492mEeCta8t/c6dOcKnGufU/BeMan9kxTv7ZtOw5
+Ds=
-----END CERTIFICATE-----";

    #[test]
    fn a_client_certificate_and_its_key_go_together() {
        let read = |more: &[(&str, &'static str)]| {
            let get = |name: &str| match name {
                "ssl.ca.pem" => Some(AUTHORITY),
                _ => more.iter().find(|own| own.0 == name).map(|own| own.1),
            };
            Tls::read(&get).map(|_| ())
        };
        read(&[]).unwrap();
        let certificate = ("ssl.certificate.pem", AUTHORITY);
        let key = ("ssl.key.pem", "no key");
        for alone in [certificate, key] {
            let why = read(&[alone]).unwrap_err();
            assert!(why.contains("go together"), "{why}");
        }
        let why = read(&[certificate, key]).unwrap_err();
        assert!(why.starts_with("`ssl.key.pem`"), "{why}");
    }

    #[test]
    fn a_broker_that_does_not_continue_our_nonce_is_refused() {
        let sasl = Credentials {
            mechanism: Mechanism::ScramSha512,
            user: "u".to_owned(),
            password: "p".to_owned(),
        };
        for message in [
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=mine,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=mine+,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
            "r=mine+,i=4096",
        ] {
            let mut scram = Scram::new(&sasl, "mine".to_owned());
            assert!(scram.answer(message.as_bytes()).is_err(), "{message}");
        }
    }
}
