//! The token that OAUTHBEARER shows to a broker.
//!
//! Owns where it comes from and what it says of itself. A file is read anew whenever a token is needed, because whoever
//! writes it also renews it: that is how platforms hand tokens to programs. Does not own asking an issuer for one.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt, fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::client::OAuthToken;
use serde::Deserialize;

/// Where the token stands, as properties of a connection. librdkafka knows neither of them.
pub(crate) const FILE: &str = "sasl.oauthbearer.token.file";
/// The token itself.
pub(crate) const TEXT: &str = "sasl.oauthbearer.token";

/// How long a token counts that does not say it, until it is read again.
const UNTOLD: Duration = Duration::from_secs(300);

/// Where tokens come from.
#[derive(Clone)]
pub(crate) enum Tokens {
    File(PathBuf),
    Text(String),
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text"),
        }
    }
}

/// What a token may say of itself, if it is a JSON web token.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    /// Seconds since 1970.
    exp: Option<f64>,
}

impl Tokens {
    /// The tokens of a connection with these properties, if it has any.
    pub(crate) fn of(properties: &BTreeMap<String, String>) -> Option<Self> {
        let file = properties.get(FILE).map(|path| Self::File(path.into()));
        file.or_else(|| properties.get(TEXT).cloned().map(Self::Text))
    }

    /// The token as it is now.
    ///
    /// # Errors
    /// In words, without the token, why there is none.
    pub(crate) fn read(&self) -> Result<String, String> {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::File(path) => fs::read_to_string(path)
                .map_err(|cause| format!("the token file {}: {cause}", path.display()))?,
        };
        let text = text.trim();
        if text.is_empty() || text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(format!(
                "{self:?} holds no token: it must be one word of printable characters"
            ));
        }
        Ok(text.to_owned())
    }

    /// The token as librdkafka wants it.
    pub(crate) fn generate(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let token = self.read()?;
        let Claims { sub, exp } = claims(&token);
        let since_1970 = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = since_1970(SystemTime::now());
        let until = match exp {
            Some(seconds) => Duration::try_from_secs_f64(seconds)?,
            None => now + UNTOLD,
        };
        if until <= now {
            return Err(format!("the token of {self:?} has expired; it has to be renewed").into());
        }
        Ok(OAuthToken {
            token,
            principal_name: sub.unwrap_or_else(|| "alluvium".to_owned()),
            lifetime_ms: i64::try_from(until.as_millis())?,
        })
    }
}

/// The token of a client that has asked for one.
pub(crate) fn generate(tokens: Option<&Tokens>) -> Result<OAuthToken, Box<dyn Error>> {
    tokens.ok_or("OAUTHBEARER without a token")?.generate()
}

/// What the token says of itself; nothing when it is of another kind, which is between its issuer and the broker.
fn claims(token: &str) -> Claims {
    token
        .split('.')
        .nth(1)
        .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok())
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> Tokens {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        Tokens::Text(format!("{}.{}.", part("{\"alg\":\"none\"}"), part(claims)))
    }

    #[test]
    fn a_token_says_whose_it_is_and_until_when() {
        let tokens = token("{\"sub\":\"me\",\"exp\":32503680000.5}");
        let read = tokens.generate().unwrap();
        assert_eq!(read.principal_name, "me");
        assert_eq!(read.lifetime_ms, 32_503_680_000_500);
        assert!(token("{\"exp\":1}").generate().is_err(), "long expired");
        let opaque = Tokens::Text("opaque\n".to_owned());
        assert_eq!(opaque.generate().unwrap().token, "opaque");
        for wrong in ["", " \n", "two words", "wörd"] {
            let error = Tokens::Text(wrong.to_owned()).read().unwrap_err();
            assert!(wrong.trim().is_empty() || !error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_file_is_read_anew() {
        let path = std::env::temp_dir().join(format!("alluvium-token-{}", std::process::id()));
        let tokens = Tokens::File(path.clone());
        assert!(tokens.read().unwrap_err().contains("alluvium-token"));
        fs::write(&path, "one\n").unwrap();
        assert_eq!(tokens.read().unwrap(), "one");
        fs::write(&path, "two").unwrap();
        assert_eq!(tokens.read().unwrap(), "two");
        fs::remove_file(&path).unwrap();
    }
}
