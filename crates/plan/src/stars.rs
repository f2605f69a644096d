//! Stars over secrets in the excerpts of files.
//!
//! Owns where a secret may stand in a text that nobody has understood: misspelt keys, wrong YAML and settings in the wrong place are
//! shown with the lines around them, and a secret may be among these. Rather a star too many. Does not own secrets that were
//! understood: whoever has read one names its place.

use std::{ops::Range, sync::Arc};

use crate::diagnostic::{Diagnostics, SourceFile};

/// Parts of keys behind which a secret may stand: in server files ...
pub(crate) const IN_SERVER_FILES: &[&str] = &[
    "secret",
    "passw",
    "pasw",
    "pwd",
    "token",
    "jaas",
    "credential",
    "private",
    "sasl.",
    "ssl.key",
];
/// ... and in pipeline files, where `tokens` is a good name for a measure.
pub(crate) const IN_PIPELINE_FILES: &[&str] = &["sasl.", "ssl.key", "password", "jaas"];

/// Puts stars over these places of the file, and over what stands behind keys that contain one of `words`, in every excerpt of it.
pub(crate) fn hide(
    known: &[Range<usize>],
    words: &[&str],
    file: &Arc<SourceFile>,
    found: &mut Diagnostics,
) {
    let mut bytes = file.text.clone().into_bytes();
    for secret in known.iter().cloned().chain(suspects(&file.text, words)) {
        if let Some(bytes) = bytes.get_mut(secret) {
            // Line breaks stay, so that places do.
            for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
                *byte = b'*';
            }
        }
    }
    let hidden = Arc::new(SourceFile {
        path: file.path.clone(),
        text: String::from_utf8_lossy(&bytes).into_owned(),
    });
    for diagnostic in &mut found.0 {
        if Arc::ptr_eq(&diagnostic.file, file) {
            diagnostic.file = hidden.clone();
        }
    }
}

/// Where a secret may stand, to the end of each line.
fn suspects(text: &str, words: &[&str]) -> Vec<Range<usize>> {
    let mut suspects = Vec::new();
    let mut at = 0;
    // The indentation of a key whose value may go on in the lines below it.
    let mut below: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        let written = bare.trim_start();
        let indentation = bare.len() - written.len();
        let is_below = below.is_some_and(|key| {
            // A tab is as deep as its writer thinks, and what is no key may go on with the value, however deep it stands.
            indentation > key || bare[..indentation].contains(|c| c != ' ') || !has_key(written)
        });
        if is_below {
            if !is_elsewhere(written) {
                suspects.push(at + indentation..at + bare.len());
            }
        } else {
            let secret = value_in(bare, words);
            below = secret.as_ref().map(|_| indentation);
            suspects.extend(secret.flatten().map(|value| at + value..at + bare.len()));
        }
        at += line.len();
    }
    suspects
}

/// Whether a line begins something new.
fn has_key(line: &str) -> bool {
    let is_key = |(colon, _)| matches!(line[colon + 1..].chars().next(), None | Some(' ' | '\t'));
    !line.starts_with(['#', '-']) && line.match_indices(':').any(is_key)
}

/// Where in a line what may be a secret begins; `Some(None)`: it can only begin in the lines below.
fn value_in(line: &str, words: &[&str]) -> Option<Option<usize>> {
    let lower = line.to_ascii_lowercase();
    let mut values: Vec<usize> = words
        .iter()
        .flat_map(|word| lower.match_indices(word))
        .filter_map(|(key, _)| {
            let colon = key + lower[key..].find([':', '='])?;
            // What another key or a list comes between is no key itself.
            let is_key = !lower[key..colon].contains(['{', '}', ',']);
            is_key.then_some(colon + 1)
        })
        .collect();
    values.sort_unstable();
    let mut may_be_below = false;
    for value in values {
        let written = line[value..].trim_start();
        match written.chars().next() {
            None | Some('#') => may_be_below = true,
            Some(_) if is_elsewhere(written) => {}
            Some(_) => return Some(Some(line.len() - written.len())),
        }
    }
    may_be_below.then_some(None)
}

/// Whether a value says where the secret is, and nothing beside, rather than being it.
fn is_elsewhere(value: &str) -> bool {
    let value = value.trim_start_matches(['"', '\'', '{', ' ']);
    let is_place = ["file:", "env:"]
        .iter()
        .any(|place| value.starts_with(place));
    // With a comma before the brace another key follows, which may hold it.
    let is_alone = value
        .find([',', '}'])
        .is_none_or(|end| value[end..].starts_with('}'));
    // A default is written out, and so is what stands beside the variable.
    let is_variable = value.strip_prefix("${").is_some_and(|name| {
        let (name, behind) = name.split_once('}').unwrap_or((name, ""));
        let behind = behind.trim_start_matches(['"', '\'', ' ']);
        !name.contains(":-") && (behind.is_empty() || behind.starts_with([',', '}', ']', '#']))
    });
    is_variable || (is_place && is_alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starred(text: &str, words: &[&str]) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for place in suspects(text, words) {
            bytes[place].fill(b'*');
        }
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_may_be_a_secret_has_stars() {
        for text in [
            "pasword: geheim",
            "  sasl: {mechanism: PLAIN, pasword: geheim}\n",
            "properties: {sasl.jaas.config: 'password=\"geheim\"'}",
            "secret_key: {value: geheim}\nregion: x",
            "secret_key: [geheim]",
            "secret_key:\n  value: geheim\nregion: x",
            "password: |\n  geheim\n\n  geheim\nother: 1",
            "Secret-Key : geheim",
            "password = geheim",
            "{password: ${P}, token: geheim}",
            "password: {\n  value: geheim}",
            "ssl.key.pem: \"-----BEGIN\n  geheim\"",
            "password: !!str |\n  geheim",
            "{username: my-token, auth_token: geheim}",
            "    password:\n\tgeheim",
            "password:\n- geheim",
            "password:\n\u{a0} geheim",
            "ssl.key.pem: |\n-----BEGIN\ngeheim\n",
            "sasl.password:\n# from the vault\n  geheim",
            "password: ${P:-geheim}",
            "password: ${P}geheim",
            "password: {env: X, value: geheim}",
            "sasl: {password: ${P}}\npasswort: geheim\nö: ü",
        ] {
            let starred = starred(text, IN_SERVER_FILES);
            assert!(!starred.contains("geheim"), "{starred}");
            assert_eq!(starred.lines().count(), text.lines().count());
        }
    }

    #[test]
    fn everything_else_is_shown() {
        for text in [
            "password: ${KAFKA_PASSWORD}",
            "password: {file: secret}\nbrokers: geheim",
            "password:\n  file: secret\nbrokers: geheim",
            "secret_key: {env: KEY}\n",
            "brokers: localhost:9092",
        ] {
            assert_eq!(starred(text, IN_SERVER_FILES), text);
        }
        let measure = "tokens: approx_distinct(token)";
        assert_eq!(starred(measure, IN_PIPELINE_FILES), measure);
        let misplaced = starred("sasl.password: geheim", IN_PIPELINE_FILES);
        assert!(!misplaced.contains("geheim"), "{misplaced}");
    }
}
