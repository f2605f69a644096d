//! Patterns for moments as Postgres writes them: `YYYY-MM-DD HH24:MI:SS`.
//!
//! Owns what each of their words is in the engine's patterns, `%Y-%m-%d %H:%M:%S`. Taken as they stand, they would be answered with
//! themselves.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Value,
};

use crate::error::{ErrorKind, QueryError};

/// Functions whose arguments after the first are patterns.
const TAKE_PATTERNS: [&str; 8] = [
    "to_char",
    "date_format",
    "to_date",
    "to_timestamp",
    "to_timestamp_seconds",
    "to_timestamp_millis",
    "to_timestamp_micros",
    "to_timestamp_nanos",
];

/// Words of Postgres's patterns and ours, the longest first where one begins with another. Their case does not matter, but in
/// names ([`NAMES`]).
const WORDS: [(&str, &str); 26] = [
    ("yyyy", "%Y"),
    ("yy", "%y"),
    ("iyyy", "%G"),
    ("iw", "%V"),
    ("mm", "%m"),
    ("mi", "%M"),
    ("ms", "%3f"),
    ("ddd", "%j"),
    ("dd", "%d"),
    ("id", "%u"),
    ("hh24", "%H"),
    ("hh12", "%I"),
    ("hh", "%I"),
    ("ss", "%S"),
    ("us", "%6f"),
    ("ff3", "%3f"),
    ("ff6", "%6f"),
    ("am", "%p"),
    ("pm", "%p"),
    ("tzh:tzm", "%:z"),
    ("of", "%:z"),
    ("tz", "%Z"),
    ("q", "%q"),
    ("fmdd", "%-d"),
    ("fmmm", "%-m"),
    ("fmhh24", "%-H"),
];
/// Names, which are written as the word is. Without `FM` Postgres fills them up with spaces, which nobody asks for.
const NAMES: [(&str, &str); 6] = [
    ("FMMonth", "%B"),
    ("FMDay", "%A"),
    ("Month", "%B"),
    ("Mon", "%b"),
    ("Day", "%A"),
    ("Dy", "%a"),
];

/// Writes the patterns of a call in the engine's words.
///
/// # Errors
/// When a pattern has a word that the engine cannot write or read.
pub(super) fn translate(function: &mut Function) -> Result<(), Box<QueryError>> {
    let name = function.name.0.last().and_then(|part| part.as_ident());
    let takes = name.is_some_and(|name| {
        TAKE_PATTERNS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(&name.value))
    });
    let FunctionArguments::List(arguments) = &mut function.args else {
        return Ok(());
    };
    if !takes {
        return Ok(());
    }
    for argument in arguments.args.iter_mut().skip(1) {
        if let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) = argument
            && let Value::SingleQuotedString(pattern) = &mut value.value
            && !pattern.contains('%')
        {
            *pattern = translated(pattern)?;
        }
    }
    Ok(())
}

fn translated(pattern: &str) -> Result<String, Box<QueryError>> {
    let mut translated = String::with_capacity(2 * pattern.len());
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        // Between double quotes stands text.
        if first == '"'
            && let Some((text, after)) = rest[1..].split_once('"')
        {
            translated.push_str(text);
            rest = after;
            continue;
        }
        if let Some((word, ours)) = word_at(rest) {
            translated.push_str(ours);
            rest = &rest[word.len()..];
            continue;
        }
        // Between date and time of ISO 8601, and behind them.
        let is_text = !first.is_alphanumeric() || matches!(first, 'T' | 'Z');
        if !is_text {
            return Err(Box::new(
                QueryError::new(
                    ErrorKind::Unsupported,
                    format!("the pattern '{pattern}' has a word that is not known, at '{rest}'"),
                )
                .hint("put text in double quotes, or write the pattern like '%Y-%m-%d %H:%M:%S'"),
            ));
        }
        translated.push(first);
        rest = &rest[first.len_utf8()..];
    }
    Ok(translated)
}

fn word_at(rest: &str) -> Option<(&'static str, &'static str)> {
    let name = NAMES.iter().find(|(name, _)| rest.starts_with(name));
    let found = name.or_else(|| {
        let begins = |word: &str| {
            let begin = rest.get(..word.len());
            begin.is_some_and(|begin| begin.eq_ignore_ascii_case(word))
        };
        WORDS.iter().find(|(word, _)| begins(word))
    });
    found.copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_postgres_become_ours() {
        for (theirs, ours) in [
            ("YYYY-MM-DD HH24:MI:SS.US", "%Y-%m-%d %H:%M:%S.%6f"),
            ("yyyy-mm-dd", "%Y-%m-%d"),
            ("YYYY-MM-DD\"T\"HH24:MI:SSOF", "%Y-%m-%dT%H:%M:%S%:z"),
            ("YYYY-MM-DDTHH24:MI:SSZ", "%Y-%m-%dT%H:%M:%SZ"),
            ("IYYY-\"W\"IW", "%G-W%V"),
            ("Dy, DD Mon YYYY", "%a, %d %b %Y"),
            ("FMDay FMDD.FMMM.", "%A %-d.%-m."),
            ("HH12:MI AM", "%I:%M %p"),
            ("YYYY \"Q\"Q", "%Y Q%q"),
            ("DDD", "%j"),
            ("", ""),
        ] {
            assert_eq!(translated(theirs).unwrap(), ours, "{theirs}");
        }
    }

    #[test]
    fn words_without_an_equal_are_refused() {
        for pattern in ["MONTH", "DDth", "J", "WW", "year"] {
            let refused = translated(pattern).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Unsupported, "{pattern}");
            assert!(refused.message.contains(pattern), "{refused}");
        }
    }
}
