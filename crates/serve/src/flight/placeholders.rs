//! Parameters as JDBC writes them: `?` becomes `$1`, `$2` and so on, as the engine knows them.

use std::borrow::Cow;

use datafusion::sql::sqlparser::{
    dialect::GenericDialect,
    tokenizer::{Location, Token, Tokenizer},
};

/// The statement with numbered parameters. One that has none, or cannot be read, stays as it is: the engine says what is wrong.
pub(super) fn numbered(sql: &str) -> Cow<'_, str> {
    if !sql.contains('?') {
        return Cow::Borrowed(sql);
    }
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location() else {
        return Cow::Borrowed(sql);
    };
    let is_parameter = |token: &Token| match token {
        Token::Placeholder(text) => text == "?",
        Token::Question => true,
        _ => false,
    };
    let places = tokens.iter().filter(|token| is_parameter(&token.token));
    let mut places = places.map(|token| token.span.start).peekable();
    let mut text = String::with_capacity(sql.len() + 16);
    let (mut at, mut number) = (Location { line: 1, column: 1 }, 0);
    for character in sql.chars() {
        if places.next_if_eq(&at).is_some() {
            number += 1;
            text += &format!("${number}");
        } else {
            text.push(character);
        }
        at = match character {
            '\n' => Location {
                line: at.line + 1,
                column: 1,
            },
            _ => Location {
                line: at.line,
                column: at.column + 1,
            },
        };
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_marks_become_numbers_where_they_are_parameters() {
        for (written, expected) in [
            ("SELECT 1", "SELECT 1"),
            ("SELECT ? + ?", "SELECT $1 + $2"),
            ("SELECT $1", "SELECT $1"),
            (
                "SELECT '?', \"?\", ? -- ?\nFROM t\nWHERE ü = ? /* ? */",
                "SELECT '?', \"?\", $1 -- ?\nFROM t\nWHERE ü = $2 /* ? */",
            ),
            ("SELECT 'unfinished ?", "SELECT 'unfinished ?"),
        ] {
            assert_eq!(numbered(written), expected);
        }
    }
}
