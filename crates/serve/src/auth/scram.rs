//! SCRAM-SHA-256 from a verifier (RFC 5802, RFC 7677), bound to the server's certificate where the client can (RFC 5929).
//!
//! Owns the two messages that a client sends and the two that it hears. A password itself is never known here but where
//! HTTP brings it ([`fits`]).

use alluvium_plan::ScramVerifier;
use aws_lc_rs::{constant_time, digest, hmac};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use pgwire::api::auth::sasl::scram::gen_salted_password;
use rand::RngCore;

/// The mechanism without channel binding, ...
pub(crate) const UNBOUND: &str = "SCRAM-SHA-256";
/// ... and with it.
pub(crate) const BOUND: &str = "SCRAM-SHA-256-PLUS";
/// The only kind of binding that is offered.
const END_POINT: &str = "p=tls-server-end-point";
/// Rounds of new verifiers, as Postgres makes them.
pub(super) const ROUNDS: u32 = 4096;
/// Bytes of a new salt.
pub(super) const SALT: usize = 16;
/// Bytes of our part of the nonce.
const NONCE: usize = 18;

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It does not keep to the protocol, or somebody between changed what it said.
    Malformed(&'static str),
    /// It does not know the password.
    Wrong,
}

/// After the client's first message.
pub(crate) struct Exchange {
    verifier: ScramVerifier,
    first_bare: String,
    server_first: String,
    nonce: String,
    /// What the client has to say again, with the certificate's hash where it binds to it.
    binding: Vec<u8>,
}

impl Exchange {
    /// Takes the client's first message; the text is our answer. `end_point` is the hash of the certificate that this
    /// connection was made with, if there is one.
    pub(crate) fn begin(
        verifier: ScramVerifier,
        mechanism: &str,
        end_point: Option<&[u8]>,
        client_first: &[u8],
    ) -> Result<(String, Self), Failed> {
        let text = std::str::from_utf8(client_first).map_err(|_| Failed::Malformed("not UTF-8"))?;
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(authorize), Some(bare)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(Failed::Malformed("the first message has too few parts"));
        };
        if !authorize.is_empty() {
            return Err(Failed::Malformed(
                "another authorization identity is not offered",
            ));
        }
        let mut binding = format!("{flag},{authorize},").into_bytes();
        match (mechanism, flag, end_point) {
            (UNBOUND, "n", _) | (UNBOUND, "y", None) => {}
            (UNBOUND, "y", Some(_)) => {
                // It can bind and did not see that we offer it: somebody between has taken the offer away.
                return Err(Failed::Malformed(
                    "channel binding was offered and not seen",
                ));
            }
            (BOUND, END_POINT, Some(hash)) => binding.extend_from_slice(hash),
            _ => return Err(Failed::Malformed("this channel binding is not offered")),
        }
        let mut attributes = bare.split(',');
        let named = attributes.next().is_some_and(|name| name.starts_with("n="));
        let theirs = attributes.next().and_then(|nonce| nonce.strip_prefix("r="));
        let Some(theirs) = theirs.filter(|nonce| named && !nonce.is_empty()) else {
            return Err(Failed::Malformed(
                "the first message lacks a name or a nonce",
            ));
        };
        let mut ours = [0; NONCE];
        rand::rng().fill_bytes(&mut ours);
        let nonce = format!("{theirs}{}", BASE64.encode(ours));
        let salt = BASE64.encode(&verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", verifier.rounds);
        let exchange = Self {
            verifier,
            first_bare: bare.to_owned(),
            server_first: server_first.clone(),
            nonce,
            binding,
        };
        Ok((server_first, exchange))
    }

    /// Takes the client's last message; the text is ours, which proves that we know the user too.
    pub(crate) fn finish(self, client_final: &[u8]) -> Result<String, Failed> {
        let text = std::str::from_utf8(client_final).map_err(|_| Failed::Malformed("not UTF-8"))?;
        let (without_proof, proof) = text
            .rsplit_once(",p=")
            .ok_or(Failed::Malformed("the last message lacks a proof"))?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|text| text.strip_prefix("c="));
        let nonce = attributes.next().and_then(|text| text.strip_prefix("r="));
        let (Some(binding), Some(nonce)) = (binding, nonce) else {
            return Err(Failed::Malformed("the last message lacks a part"));
        };
        if BASE64.decode(binding).ok().as_deref() != Some(&self.binding) {
            return Err(Failed::Malformed("it is bound to another connection"));
        }
        if nonce != self.nonce {
            return Err(Failed::Malformed("the nonce is another one"));
        }
        let proof = BASE64
            .decode(proof)
            .ok()
            .filter(|proof| proof.len() == self.verifier.stored_key.len())
            .ok_or(Failed::Malformed("the proof is none"))?;
        let said = format!("{},{},{without_proof}", self.first_bare, self.server_first);
        let signature = sign(&self.verifier.stored_key, said.as_bytes());
        let client_key: Vec<u8> = proof
            .iter()
            .zip(signature.as_ref())
            .map(|(proof, signature)| proof ^ signature)
            .collect();
        let stored = digest::digest(&digest::SHA256, &client_key);
        constant_time::verify_slices_are_equal(stored.as_ref(), &self.verifier.stored_key)
            .map_err(|_| Failed::Wrong)?;
        let ours = sign(&self.verifier.server_key, said.as_bytes());
        Ok(format!("v={}", BASE64.encode(ours.as_ref())))
    }
}

/// The verifier of a new password, with a salt of its own.
pub fn verifier_of(password: &str) -> ScramVerifier {
    let mut salt = vec![0; SALT];
    rand::rng().fill_bytes(&mut salt);
    derive(password, salt, ROUNDS)
}

/// Whether a password is the one of a verifier. Works through all its rounds.
pub(super) fn fits(password: &str, verifier: &ScramVerifier) -> bool {
    let derived = derive(password, verifier.salt.clone(), verifier.rounds);
    constant_time::verify_slices_are_equal(&derived.stored_key, &verifier.stored_key).is_ok()
}

fn derive(password: &str, salt: Vec<u8>, rounds: u32) -> ScramVerifier {
    let rounds_of_usize = usize::try_from(rounds).expect("32 bits fit");
    let salted = gen_salted_password(password, &salt, rounds_of_usize);
    let client_key = sign(&salted, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client_key.as_ref());
    let server = sign(&salted, b"Server Key");
    let key = |bytes: &[u8]| bytes.try_into().expect("SHA-256 has 32 bytes");
    ScramVerifier {
        rounds,
        salt,
        stored_key: key(stored.as_ref()),
        server_key: key(server.as_ref()),
    }
}

fn sign(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3, from the server's side.
    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = derive("pencil", salt, 4096);
        let first_bare = "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned();
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
        let exchange = |verifier: &ScramVerifier| Exchange {
            verifier: verifier.clone(),
            first_bare: first_bare.clone(),
            server_first: format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
            nonce: nonce.clone(),
            binding: b"n,,".to_vec(),
        };
        let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(
            exchange(&verifier).finish(last.as_bytes()).as_deref(),
            Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        );
        let other = derive("pencils", verifier.salt.clone(), 4096);
        assert_eq!(exchange(&other).finish(last.as_bytes()), Err(Failed::Wrong));
        assert!(fits("pencil", &verifier) && !fits("pencils", &verifier));
        for broken in [
            last.replace("c=biws", "c=eSws"),
            last.replace("r=rOpr", "r=xOpr"),
            last.replace(",p=", ",q="),
            last.replace("ndVQ=", "ndVQ"),
        ] {
            let outcome = exchange(&verifier).finish(broken.as_bytes());
            assert!(matches!(outcome, Err(Failed::Malformed(_))), "{broken}");
        }
    }

    #[test]
    fn binding_is_neither_dropped_nor_made_up() {
        let begin = |mechanism: &str, end_point: Option<&[u8]>, first: &str| {
            Exchange::begin(verifier_of("x"), mechanism, end_point, first.as_bytes()).map(drop)
        };
        let hash: Option<&[u8]> = Some(&[1; 32]);
        assert!(begin(UNBOUND, None, "n,,n=,r=abc").is_ok());
        assert!(begin(UNBOUND, None, "y,,n=,r=abc").is_ok());
        assert!(begin(UNBOUND, hash, "n,,n=,r=abc").is_ok());
        assert!(begin(BOUND, hash, "p=tls-server-end-point,,n=,r=abc").is_ok());
        for (mechanism, end_point, first) in [
            (UNBOUND, hash, "y,,n=,r=abc"),
            (UNBOUND, hash, "p=tls-server-end-point,,n=,r=abc"),
            (BOUND, None, "p=tls-server-end-point,,n=,r=abc"),
            (BOUND, hash, "n,,n=,r=abc"),
            (BOUND, hash, "p=tls-unique,,n=,r=abc"),
            (UNBOUND, None, "n,a=other,n=,r=abc"),
            (UNBOUND, None, "n,,m=x,n=,r=abc"),
            (UNBOUND, None, "n,,n=,r="),
            (UNBOUND, None, ""),
            ("PLAIN", None, "n,,n=,r=abc"),
        ] {
            assert!(begin(mechanism, end_point, first).is_err(), "{first}");
        }
    }
}
