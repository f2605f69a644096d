//! What a client of Postgres sends, sorted: questions for the engine, and what only concerns its connection.
//!
//! Owns the splitting of a text into statements and the recognition of those that drivers send around queries. What cannot
//! be parsed here is a question: the engine says what is wrong with it, and where.

use std::ops::Range;

use datafusion::sql::sqlparser::{
    ast::{
        self, CloseCursor, CopyLegacyOption, CopyOption, CopySource, CopyTarget, DiscardObject,
        FetchDirection, Reset, Set,
    },
    dialect::{GenericDialect, PostgreSqlDialect},
    parser::Parser,
    tokenizer::{Location, Token, Tokenizer},
};

/// A statement, as this door sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Statement {
    /// For the engine.
    #[default]
    Question,
    Begin,
    Commit,
    Rollback,
    /// `SAVEPOINT`, `RELEASE`: there is nothing to go back to. The command's tag.
    Savepoint(&'static str),
    RollbackToSavepoint,
    /// A new value; `None`: the default.
    Set {
        name: String,
        value: Option<String>,
    },
    /// `SET TRANSACTION …`: every transaction reads only, whatever is asked.
    SetTransaction,
    ResetAll,
    /// A setting of the connection, or `None` for all.
    Show(Option<String>),
    DiscardAll,
    /// A prepared statement, or `None` for all.
    Deallocate(Option<String>),
    Declare {
        cursor: String,
        query: String,
        holds: bool,
    },
    Fetch {
        cursor: String,
        rows: Rows,
        moves_only: bool,
    },
    /// A cursor, or `None` for all.
    Close(Option<String>),
    CopyOut {
        query: String,
        form: CopyForm,
    },
    /// `LISTEN`, `UNLISTEN`: taken, and nothing will ever come. The command's tag.
    Nothing(&'static str),
    /// Known and refused; why.
    Refused(&'static str),
}

/// How many rows a cursor hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    AtMost(usize),
    All,
}

/// How rows are copied out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyForm {
    Text {
        delimiter: char,
        null: String,
    },
    Csv {
        delimiter: char,
        null: String,
        header: bool,
    },
    Binary,
}

/// The statements of a text, without the semicolons between them; empty ones are left out.
pub(super) fn split(text: &str) -> Vec<Range<usize>> {
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location() else {
        // What is wrong with it is found when it is run.
        let all = 0..text.len();
        return Vec::from([all]);
    };
    let mut places = Places::new(text);
    let mut statements = Vec::new();
    let mut begin = None;
    for token in &tokens {
        match token.token {
            Token::SemiColon => {
                let end = places.byte(token.span.start);
                if let Some(begin) = begin.take() {
                    statements.push(begin..end);
                }
            }
            Token::Whitespace(_) | Token::EOF => {}
            _ => {
                if begin.is_none() {
                    begin = Some(places.byte(token.span.start));
                }
            }
        }
    }
    if let Some(begin) = begin {
        statements.push(begin..text.len());
    }
    statements
}

/// Lines and columns as byte offsets, asked in ascending order.
struct Places<'t> {
    text: &'t str,
    at: usize,
    place: Location,
}

impl<'t> Places<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            at: 0,
            place: Location { line: 1, column: 1 },
        }
    }

    fn byte(&mut self, wanted: Location) -> usize {
        while self.place < wanted {
            let Some(next) = self.text[self.at..].chars().next() else {
                break;
            };
            self.at += next.len_utf8();
            if next == '\n' {
                self.place = Location {
                    line: self.place.line + 1,
                    column: 1,
                };
            } else {
                self.place.column += 1;
            }
        }
        self.at
    }
}

/// Sorts one statement.
pub(super) fn sort(sql: &str) -> Statement {
    if let Some(found) = by_first_words(sql) {
        return found;
    }
    // Its dialect for Postgres takes for ever over calls inside each other.
    let Ok(mut statements) = Parser::parse_sql(&GenericDialect {}, sql) else {
        return Statement::Question;
    };
    match statements.pop() {
        Some(statement) if statements.is_empty() => sorted(statement),
        _ => Statement::Question,
    }
}

/// What the parser does not know, or what has too many forms.
fn by_first_words(sql: &str) -> Option<Statement> {
    let mut words = sql
        .split(|c: char| c.is_whitespace() || c == ';')
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_uppercase);
    let first = words.next()?;
    let second = words.next();
    match (first.as_str(), second.as_deref()) {
        ("SELECT" | "WITH" | "VALUES" | "EXPLAIN" | "TABLE", _) => Some(Statement::Question),
        ("ABORT", _) => Some(Statement::Rollback),
        ("END", _) => Some(Statement::Commit),
        ("SHOW", Some("ALL")) => Some(Statement::Show(None)),
        ("SHOW", Some("TRANSACTION")) => {
            Some(Statement::Show(Some("transaction_isolation".into())))
        }
        ("SHOW", Some("SESSION")) => Some(Statement::Show(Some("session_authorization".into()))),
        ("SHOW", Some("TIME")) => Some(Statement::Show(Some("timezone".into()))),
        ("UNLISTEN", _) => Some(Statement::Nothing("UNLISTEN")),
        ("SET", Some("TRANSACTION")) => Some(Statement::SetTransaction),
        ("SET", Some("SESSION")) if words.next().as_deref() == Some("CHARACTERISTICS") => {
            Some(Statement::SetTransaction)
        }
        ("MOVE", _) => {
            let fetch = format!("FETCH {}", sql.trim_start()[4..].trim_start());
            match sort(&fetch) {
                Statement::Fetch { cursor, rows, .. } => Some(Statement::Fetch {
                    cursor,
                    rows,
                    moves_only: true,
                }),
                other => Some(other),
            }
        }
        _ => None,
    }
}

fn sorted(statement: ast::Statement) -> Statement {
    use ast::Statement as Parsed;
    match statement {
        Parsed::StartTransaction { .. } => Statement::Begin,
        Parsed::Commit { .. } => Statement::Commit,
        Parsed::Rollback {
            savepoint: Some(_), ..
        } => Statement::RollbackToSavepoint,
        Parsed::Rollback { .. } => Statement::Rollback,
        Parsed::Savepoint { .. } => Statement::Savepoint("SAVEPOINT"),
        Parsed::ReleaseSavepoint { .. } => Statement::Savepoint("RELEASE"),
        Parsed::Set(set) => sorted_set(set),
        Parsed::Reset(reset) => match reset.reset {
            Reset::ALL => Statement::ResetAll,
            Reset::ConfigurationParameter(name) => Statement::Set {
                name: name.to_string(),
                value: None,
            },
        },
        Parsed::ShowVariable { variable } => {
            let words: Vec<&str> = variable.iter().map(|word| word.value.as_str()).collect();
            match words.as_slice() {
                // The engine's own.
                [name] if name.starts_with("alluvium.") => Statement::Question,
                ["alluvium", ..] => Statement::Question,
                [name] => Statement::Show(Some((*name).to_owned())),
                words => Statement::Show(Some(words.concat())),
            }
        }
        Parsed::Discard { object_type } => match object_type {
            DiscardObject::ALL => Statement::DiscardAll,
            DiscardObject::PLANS | DiscardObject::SEQUENCES | DiscardObject::TEMP => {
                Statement::Nothing("DISCARD")
            }
        },
        Parsed::Deallocate { name, .. } => match name.value.to_ascii_lowercase().as_str() {
            "all" if name.quote_style.is_none() => Statement::Deallocate(None),
            _ => Statement::Deallocate(Some(folded(&name))),
        },
        Parsed::Declare { stmts } => declared(stmts),
        Parsed::Fetch {
            name,
            direction,
            into: None,
            ..
        } => fetched(&name, &direction),
        Parsed::Close { cursor } => Statement::Close(match cursor {
            CloseCursor::All => None,
            CloseCursor::Specific { name } => Some(folded(&name)),
        }),
        Parsed::LISTEN { .. } => Statement::Nothing("LISTEN"),
        Parsed::Copy {
            source,
            to: true,
            target: CopyTarget::Stdout,
            options,
            legacy_options,
            ..
        } => copied(&source, &options, &legacy_options),
        Parsed::Copy { to: true, .. } => {
            Statement::Refused("COPY writes to STDOUT only: the server reaches no files")
        }
        Parsed::Copy { .. } => {
            Statement::Refused("COPY … FROM is not offered: tables change only by their pipelines")
        }
        _ => Statement::Question,
    }
}

/// An identifier as Postgres reads it: in lower case unless it is quoted.
fn folded(name: &ast::Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}

fn sorted_set(set: Set) -> Statement {
    match set {
        Set::SingleAssignment {
            variable, values, ..
        } => {
            let name = variable.to_string().replace('"', "").to_ascii_lowercase();
            if name.starts_with("alluvium.") {
                return Statement::Question;
            }
            let values: Vec<String> = values.iter().map(plain).collect();
            let value = values.join(", ");
            let is_default = value.eq_ignore_ascii_case("default");
            Statement::Set {
                name,
                value: (!is_default).then_some(value),
            }
        }
        Set::SetTimeZone { value, .. } => {
            let value = plain(&value);
            let is_default =
                value.eq_ignore_ascii_case("default") || value.eq_ignore_ascii_case("local");
            Statement::Set {
                name: "timezone".into(),
                value: (!is_default).then_some(value),
            }
        }
        Set::SetNames { charset_name, .. } => Statement::Set {
            name: "client_encoding".into(),
            value: Some(charset_name.value),
        },
        Set::SetNamesDefault {} => Statement::Set {
            name: "client_encoding".into(),
            value: None,
        },
        Set::SetTransaction { .. } => Statement::SetTransaction,
        Set::SetRole { .. } | Set::SetSessionAuthorization(_) => {
            Statement::Refused("who is connected cannot be changed; connect as somebody else")
        }
        _ => Statement::Question,
    }
}

/// A value without its quotes.
fn plain(value: &ast::Expr) -> String {
    let text = value.to_string();
    match text
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''))
    {
        Some(inner) => inner.replace("''", "'"),
        None => text.trim_matches('"').to_owned(),
    }
}

fn declared(mut declarations: Vec<ast::Declare>) -> Statement {
    let Some(declaration) = declarations.pop().filter(|_| declarations.is_empty()) else {
        return Statement::Question;
    };
    if declaration.scroll == Some(true) {
        return Statement::Refused("cursors go forward only: leave SCROLL out");
    }
    match (declaration.names.as_slice(), declaration.for_query) {
        ([name], Some(query)) => Statement::Declare {
            cursor: folded(name),
            query: query.to_string(),
            holds: declaration.hold == Some(true),
        },
        _ => Statement::Question,
    }
}

fn fetched(name: &ast::Ident, direction: &FetchDirection) -> Statement {
    let count = |limit: &ast::ValueWithSpan| limit.to_string().parse::<usize>().ok();
    let rows = match direction {
        FetchDirection::Next | FetchDirection::Forward { limit: None } => Some(Rows::AtMost(1)),
        FetchDirection::Count { limit } | FetchDirection::Forward { limit: Some(limit) } => {
            count(limit).map(Rows::AtMost)
        }
        FetchDirection::All | FetchDirection::ForwardAll => Some(Rows::All),
        _ => None,
    };
    match rows {
        Some(rows) => Statement::Fetch {
            cursor: folded(name),
            rows,
            moves_only: false,
        },
        None => Statement::Refused("cursors go forward only: FETCH n, FETCH NEXT or FETCH ALL"),
    }
}

fn copied(source: &CopySource, options: &[CopyOption], legacy: &[CopyLegacyOption]) -> Statement {
    let query = match source {
        CopySource::Query(query) => query.to_string(),
        CopySource::Table {
            table_name,
            columns,
        } => {
            let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
            let columns = match columns.is_empty() {
                true => "*".to_owned(),
                false => columns.join(", "),
            };
            format!("SELECT {columns} FROM {table_name}")
        }
    };
    let (mut format, mut header) = ("text".to_owned(), false);
    let (mut delimiter, mut null) = (None, None);
    for option in options {
        match option {
            CopyOption::Format(name) => format = name.value.to_ascii_lowercase(),
            CopyOption::Header(wanted) => header = *wanted,
            CopyOption::Delimiter(wanted) => delimiter = Some(*wanted),
            CopyOption::Null(wanted) => null = Some(wanted.clone()),
            CopyOption::Encoding(name) if is_utf8(name) => {}
            CopyOption::Quote('"') | CopyOption::Escape('"') => {}
            _ => return Statement::Refused("COPY takes FORMAT, HEADER, DELIMITER and NULL here"),
        }
    }
    for option in legacy {
        match option {
            CopyLegacyOption::Binary => format = "binary".into(),
            CopyLegacyOption::Csv(inner) => {
                format = "csv".into();
                header |= inner
                    .iter()
                    .any(|option| matches!(option, ast::CopyLegacyCsvOption::Header));
            }
            CopyLegacyOption::Delimiter(wanted) => delimiter = Some(*wanted),
            CopyLegacyOption::Null(wanted) => null = Some(wanted.clone()),
            CopyLegacyOption::Header => header = true,
            _ => return Statement::Refused("COPY takes FORMAT, HEADER, DELIMITER and NULL here"),
        }
    }
    let form = match format.as_str() {
        "text" if header => {
            return Statement::Refused("COPY in text has no header; use FORMAT csv");
        }
        "text" => CopyForm::Text {
            delimiter: delimiter.unwrap_or('\t'),
            null: null.unwrap_or_else(|| "\\N".into()),
        },
        "csv" => CopyForm::Csv {
            delimiter: delimiter.unwrap_or(','),
            null: null.unwrap_or_default(),
            header,
        },
        "binary" => CopyForm::Binary,
        _ => return Statement::Refused("COPY has the formats text, csv and binary"),
    };
    Statement::CopyOut { query, form }
}

/// Whether a name of an encoding means UTF-8.
pub(super) fn is_utf8(name: &str) -> bool {
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    ["utf8", "unicode", "sqlascii"].contains(&letters.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        split(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn statements_end_at_semicolons_that_are_not_quoted() {
        assert_eq!(texts("SELECT 1"), ["SELECT 1"]);
        assert_eq!(texts(" ;; SELECT ';' ;\n"), ["SELECT ';' "]);
        assert_eq!(
            texts("SET a = 'ü;'; SELECT \"b;\" -- c;\n; SELECT $$;$$"),
            ["SET a = 'ü;'", "SELECT \"b;\" -- c;\n", "SELECT $$;$$"]
        );
        assert_eq!(texts("/* ; */ SELECT 1;"), ["SELECT 1"]);
        assert_eq!(texts("SELECT 'open; x"), ["SELECT 'open; x"]);
        assert!(texts(" ; ").is_empty());
    }

    #[test]
    fn what_drivers_send_is_known() {
        let set = |name: &str, value: Option<&str>| Statement::Set {
            name: name.into(),
            value: value.map(String::from),
        };
        for (sql, expected) in [
            ("SELECT 1", Statement::Question),
            ("SELEC 1", Statement::Question),
            ("BEGIN", Statement::Begin),
            ("BEGIN READ ONLY", Statement::Begin),
            (
                "start transaction isolation level repeatable read",
                Statement::Begin,
            ),
            ("COMMIT", Statement::Commit),
            ("END", Statement::Commit),
            ("ROLLBACK", Statement::Rollback),
            ("ABORT;", Statement::Rollback),
            ("SAVEPOINT a", Statement::Savepoint("SAVEPOINT")),
            ("RELEASE SAVEPOINT a", Statement::Savepoint("RELEASE")),
            ("ROLLBACK TO SAVEPOINT a", Statement::RollbackToSavepoint),
            (
                "SET extra_float_digits = 3",
                set("extra_float_digits", Some("3")),
            ),
            ("set DateStyle to 'ISO'", set("datestyle", Some("ISO"))),
            (
                "SET search_path TO public, system",
                set("search_path", Some("public, system")),
            ),
            (
                "SET TIME ZONE 'Europe/Berlin'",
                set("timezone", Some("Europe/Berlin")),
            ),
            (
                "SET client_encoding TO DEFAULT",
                set("client_encoding", None),
            ),
            ("RESET ALL", Statement::ResetAll),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                Statement::SetTransaction,
            ),
            ("SET alluvium.read = 'committed'", Statement::Question),
            ("SHOW alluvium.as_of", Statement::Question),
            (
                "SHOW TRANSACTION ISOLATION LEVEL",
                Statement::Show(Some("transaction_isolation".into())),
            ),
            (
                "SHOW server_version",
                Statement::Show(Some("server_version".into())),
            ),
            ("SHOW ALL", Statement::Show(None)),
            ("DISCARD ALL", Statement::DiscardAll),
            ("DEALLOCATE ALL", Statement::Deallocate(None)),
            (
                "DEALLOCATE \"S_1\"",
                Statement::Deallocate(Some("S_1".into())),
            ),
            ("CLOSE c", Statement::Close(Some("c".into()))),
            ("UNLISTEN *", Statement::Nothing("UNLISTEN")),
        ] {
            assert_eq!(sort(sql), expected, "{sql}");
        }
    }

    #[test]
    fn calls_inside_each_other_take_no_time() {
        let calls = format!("{}1{}", "abs(".repeat(40), ")".repeat(40));
        for sql in [
            format!("SET x = {calls}"),
            format!("COPY (SELECT {calls}) TO STDOUT"),
            format!("DECLARE c CURSOR FOR SELECT {calls}"),
        ] {
            let begin = std::time::Instant::now();
            sort(&sql);
            assert!(begin.elapsed().as_secs() < 5, "{sql}");
        }
    }

    #[test]
    fn cursors_are_known() {
        assert_eq!(
            sort("DECLARE \"C\" NO SCROLL CURSOR WITH HOLD FOR SELECT 1"),
            Statement::Declare {
                cursor: "C".into(),
                query: "SELECT 1".into(),
                holds: true
            }
        );
        let fetch = |rows, moves_only| Statement::Fetch {
            cursor: "c".into(),
            rows,
            moves_only,
        };
        assert_eq!(
            sort("FETCH FORWARD 10 FROM C"),
            fetch(Rows::AtMost(10), false)
        );
        assert_eq!(sort("FETCH 5 IN c"), fetch(Rows::AtMost(5), false));
        assert_eq!(sort("FETCH NEXT FROM c"), fetch(Rows::AtMost(1), false));
        assert_eq!(sort("FETCH ALL FROM c"), fetch(Rows::All, false));
        assert_eq!(sort("MOVE FORWARD 3 FROM c"), fetch(Rows::AtMost(3), true));
        assert!(matches!(sort("FETCH PRIOR FROM c"), Statement::Refused(_)));
    }

    #[test]
    fn copies_go_to_the_client_only() {
        assert_eq!(
            sort("COPY (SELECT 1) TO STDOUT WITH (FORMAT csv, HEADER)"),
            Statement::CopyOut {
                query: "SELECT 1".into(),
                form: CopyForm::Csv {
                    delimiter: ',',
                    null: String::new(),
                    header: true
                }
            }
        );
        assert_eq!(
            sort("COPY clicks (a, b) TO STDOUT"),
            Statement::CopyOut {
                query: "SELECT a, b FROM clicks".into(),
                form: CopyForm::Text {
                    delimiter: '\t',
                    null: "\\N".into()
                }
            }
        );
        for sql in [
            "COPY clicks TO '/tmp/x'",
            "COPY clicks TO PROGRAM 'rm'",
            "COPY clicks FROM STDIN",
        ] {
            assert!(matches!(sort(sql), Statement::Refused(_)), "{sql}");
        }
    }
}
