//! The text of statements: where one ends, and what its pieces are.

/// What a piece of a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword, a function, or a name without quotes.
    Word,
    Number,
    /// In single quotes.
    Text,
    /// In double quotes.
    Name,
    Comment,
    /// Everything else: one sign, or space.
    Other,
}

/// A piece of a statement; all of them together are the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'t> {
    pub(super) kind: Kind,
    pub(super) text: &'t str,
    /// Whether a quote or a comment has its end.
    pub(super) is_closed: bool,
}

/// Cuts a text into pieces.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (kind, length, is_closed) = match first {
            '\'' => quoted(rest, '\'', Kind::Text),
            '"' => quoted(rest, '"', Kind::Name),
            '-' if rest.starts_with("--") => {
                (Kind::Comment, rest.find('\n').unwrap_or(rest.len()), true)
            }
            '/' if rest.starts_with("/*") => match rest.find("*/") {
                Some(end) => (Kind::Comment, end + 2, true),
                None => (Kind::Comment, rest.len(), false),
            },
            _ if first.is_ascii_digit() => (Kind::Number, run_of(rest, is_of_number), true),
            _ if is_of_word(first) => (Kind::Word, run_of(rest, is_of_word), true),
            _ => (Kind::Other, first.len_utf8(), true),
        };
        let (piece, after) = rest.split_at(length);
        pieces.push(Piece {
            kind,
            text: piece,
            is_closed,
        });
        rest = after;
    }
    pieces
}

fn quoted(text: &str, quote: char, kind: Kind) -> (Kind, usize, bool) {
    match text[1..].find(quote) {
        // Two quotes in the middle are two pieces side by side, which changes nothing here.
        Some(end) => (kind, end + 2, true),
        None => (kind, text.len(), false),
    }
}

fn run_of(text: &str, belongs: fn(char) -> bool) -> usize {
    text.find(|character| !belongs(character))
        .unwrap_or(text.len())
}

fn is_of_number(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '.'
}

/// Whether a name without quotes can hold it.
pub(super) fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Splits at semicolons outside quotes and comments; blank statements are left out.
pub(super) fn statements(text: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    for piece in pieces(text) {
        match (piece.text, statements.last_mut()) {
            (";", _) => statements.push(String::new()),
            (other, Some(last)) => last.push_str(other),
            (_, None) => {}
        }
    }
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

/// Whether the last statement has its semicolon, so that nothing is left open.
pub(super) fn is_complete(text: &str) -> bool {
    let pieces = pieces(text);
    let said = |piece: &&Piece<'_>| piece.kind != Kind::Comment && !piece.text.trim().is_empty();
    let last = pieces.iter().rev().find(said);
    pieces.iter().all(|piece| piece.is_closed) && last.is_none_or(|last| last.text == ";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_that_stand_alone() {
        assert_eq!(
            statements("SELECT ';' ; SELECT \"a;b\" -- no; end\n, 2 /* ; */;\n ;"),
            ["SELECT ';' ", " SELECT \"a;b\" -- no; end\n, 2 /* ; */"]
        );
        assert_eq!(statements("SELECT 'it''s; one'").len(), 1);
    }

    #[test]
    fn a_statement_is_complete_with_its_semicolon() {
        for complete in [
            "",
            " \n",
            "SELECT 1;",
            "SELECT ';'; -- done",
            "SELECT 1; /* so */ ",
        ] {
            assert!(is_complete(complete), "{complete}");
        }
        for open in [
            "SELECT",
            "SELECT ';",
            "SELECT 1 -- ;",
            "SELECT 1; SELECT",
            "SELECT 1; /* ",
        ] {
            assert!(!is_complete(open), "{open}");
        }
    }

    #[test]
    fn pieces_make_up_the_whole_text() {
        let text = "SELECT größe, 1.5e3 FROM \"a b\" WHERE x='ü' -- é\n/* open";
        let cut = pieces(text);
        let whole: String = cut.iter().map(|piece| piece.text).collect();
        assert_eq!(whole, text);
        let of = |kind| cut.iter().filter(move |piece| piece.kind == kind);
        assert!(
            of(Kind::Word)
                .map(|piece| piece.text)
                .eq(["SELECT", "größe", "FROM", "WHERE", "x"])
        );
        assert!(of(Kind::Number).map(|piece| piece.text).eq(["1.5e3"]));
        assert!(!cut[cut.len() - 1].is_closed);
    }
}
