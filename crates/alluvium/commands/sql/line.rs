//! The line that is edited: when it is complete, its colours, and what Tab offers.

use std::{borrow::Cow, cell::OnceCell, rc::Rc};

use rustyline::{
    Context, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::{CmdKind, Highlighter},
    hint::Hinter,
    validate::{ValidationContext, ValidationResult, Validator},
};

use super::{
    Answering,
    command::COMMANDS,
    text::{Kind, is_complete, is_of_word, pieces},
};
use crate::output::plain;

/// Words of SQL that are offered and coloured.
const KEYWORDS: [&str; 62] = [
    "all",
    "and",
    "any",
    "as",
    "asc",
    "at",
    "between",
    "by",
    "case",
    "cast",
    "cross",
    "date",
    "desc",
    "describe",
    "distinct",
    "else",
    "end",
    "except",
    "exists",
    "explain",
    "false",
    "fetch",
    "filter",
    "first",
    "following",
    "from",
    "full",
    "group",
    "having",
    "ilike",
    "in",
    "inner",
    "intersect",
    "interval",
    "is",
    "join",
    "last",
    "lateral",
    "left",
    "like",
    "limit",
    "not",
    "null",
    "nulls",
    "offset",
    "on",
    "or",
    "order",
    "outer",
    "over",
    "partition",
    "preceding",
    "right",
    "select",
    "show",
    "then",
    "true",
    "union",
    "using",
    "when",
    "where",
    "with",
];

/// What there is to name, as the server says.
#[derive(Debug, Default)]
struct Names {
    /// Relations, with their schema unless it is `public`, and their columns.
    relations: Vec<(String, Vec<String>)>,
    functions: Vec<String>,
}

/// What the editor asks about the text in it.
pub(super) struct Line {
    answering: Rc<Answering>,
    /// Asked for when Tab is pressed first.
    names: OnceCell<Names>,
}

impl Line {
    pub(super) fn new(answering: Rc<Answering>) -> Self {
        Self {
            answering,
            names: OnceCell::new(),
        }
    }

    fn names(&self) -> &Names {
        self.names.get_or_init(|| {
            let rows = |sql: &str| {
                // Without an answer Tab offers less; the same question asked aloud says why.
                let answer = self.answering.answer(sql);
                answer.map(|reply| reply.sheet.into_rows()).unwrap_or_default()
            };
            let mut relations: Vec<(String, Vec<String>)> = Vec::new();
            for row in rows(
                "SELECT table_schema, table_name, column_name FROM information_schema.columns ORDER BY 1, 2, ordinal_position",
            ) {
                let [schema, table, column] = [0, 1, 2].map(|place| plain(&row[place]));
                let name = match schema.as_str() {
                    "public" => table,
                    _ => format!("{schema}.{table}"),
                };
                match relations.last_mut() {
                    Some((last, columns)) if *last == name => columns.push(column),
                    _ => relations.push((name, vec![column])),
                }
            }
            let functions = rows("SELECT DISTINCT routine_name FROM information_schema.routines");
            let functions = functions.iter().map(|row| plain(&row[0]));
            Names {
                relations,
                functions: functions.chain(["measure".to_owned()]).collect(),
            }
        })
    }
}

/// What can stand where `word` begins in `line`, the likeliest first: columns of the relations that the line names, relations,
/// columns of others, functions, keywords.
fn candidates(names: &Names, line: &str, word: &str) -> Vec<String> {
    let named = |relation: &str| {
        line.split(|character: char| !is_of_word(character) && character != '.')
            .any(|part| part.eq_ignore_ascii_case(relation))
    };
    let (here, elsewhere): (Vec<_>, Vec<_>) = names
        .relations
        .iter()
        .partition(|(relation, _)| named(relation));
    let columns = |relations: &[&(String, Vec<String>)]| -> Vec<String> {
        relations
            .iter()
            .flat_map(|(_, columns)| columns.clone())
            .collect()
    };
    let is_loud = word.chars().any(char::is_uppercase);
    let keywords = KEYWORDS.iter().map(|keyword| match is_loud {
        true => keyword.to_uppercase(),
        false => (*keyword).to_owned(),
    });
    let relations = names.relations.iter().map(|(relation, _)| relation.clone());
    let others = match here.is_empty() {
        true => columns(&elsewhere),
        false => Vec::new(),
    };
    let functions = names
        .functions
        .iter()
        .map(|function| format!("{function}("));
    let mut offered: Vec<String> = Vec::new();
    let all = columns(&here).into_iter().chain(relations).chain(others);
    for candidate in all.chain(functions).chain(keywords) {
        let begins = candidate.get(..word.len());
        if begins.is_some_and(|begin| begin.eq_ignore_ascii_case(word))
            && !offered.contains(&candidate)
        {
            offered.push(candidate);
        }
    }
    offered
}

impl Completer for Line {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> Result<(usize, Vec<String>), ReadlineError> {
        let before = &line[..position];
        if before.starts_with('\\') && !before.contains(' ') {
            let names = COMMANDS.iter().map(|(name, ..)| (*name).to_owned());
            return Ok((0, names.filter(|name| name.starts_with(before)).collect()));
        }
        let begin = before
            .rfind(|character: char| !is_of_word(character) && character != '.')
            .map_or(0, |place| {
                place + before[place..].chars().next().map_or(1, char::len_utf8)
            });
        Ok((begin, candidates(self.names(), line, &before[begin..])))
    }
}

impl Hinter for Line {
    type Hint = String;
}

impl Validator for Line {
    fn validate(
        &self,
        context: &mut ValidationContext<'_>,
    ) -> Result<ValidationResult, ReadlineError> {
        let text = context.input();
        Ok(match text.starts_with('\\') || is_complete(text) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

const KEYWORD_COLOUR: &str = "\x1b[1;34m";
const TEXT_COLOUR: &str = "\x1b[32m";
const NUMBER_COLOUR: &str = "\x1b[36m";
const COMMENT_COLOUR: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// The text with colours.
fn coloured(text: &str) -> String {
    let mut coloured = String::with_capacity(text.len() * 2);
    for piece in pieces(text) {
        let is_keyword = || {
            KEYWORDS
                .iter()
                .any(|word| word.eq_ignore_ascii_case(piece.text))
        };
        let colour = match piece.kind {
            Kind::Word if is_keyword() => KEYWORD_COLOUR,
            Kind::Text => TEXT_COLOUR,
            Kind::Number => NUMBER_COLOUR,
            Kind::Comment => COMMENT_COLOUR,
            Kind::Word | Kind::Name | Kind::Other => {
                coloured.push_str(piece.text);
                continue;
            }
        };
        coloured.push_str(colour);
        coloured.push_str(piece.text);
        coloured.push_str(PLAIN);
    }
    coloured
}

impl Highlighter for Line {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        match line.starts_with('\\') {
            true => Cow::Borrowed(line),
            false => Cow::Owned(coloured(line)),
        }
    }

    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        true
    }
}

impl Helper for Line {}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Names {
            relations: vec![
                (
                    "clicks".into(),
                    columns(&["window_start", "country", "clicks"]),
                ),
                (
                    "panes.clicks".into(),
                    columns(&["window_start", "country", "state"]),
                ),
                ("orders".into(), columns(&["window_start", "shop"])),
            ],
            functions: vec!["coalesce".into(), "measure".into()],
        }
    }

    #[test]
    fn the_likeliest_comes_first() {
        for (line, word, offered) in [
            ("SELECT co FROM clicks", "co", &["country", "coalesce("][..]),
            ("SELECT sh", "sh", &["shop", "show"]),
            ("SELECT sh FROM clicks", "sh", &["show"]),
            ("SELECT * FROM pan", "pan", &["panes.clicks"]),
            ("SELECT * FROM cl", "cl", &["clicks"]),
            ("SEL", "SEL", &["SELECT"]),
            ("SELECT me", "me", &["measure("]),
            ("SELECT zz", "zz", &[]),
        ] {
            assert_eq!(candidates(&names(), line, word), offered, "{line}");
        }
    }

    #[test]
    fn colours_change_no_letter() {
        let text = "select 'x;', 1.5 -- why\nFROM \"from\"";
        let shown = coloured(text);
        assert!(shown.contains("\x1b[1;34mselect\x1b[0m") && shown.contains("\x1b[32m'x;'"));
        let mut bare = shown;
        for colour in [
            KEYWORD_COLOUR,
            TEXT_COLOUR,
            NUMBER_COLOUR,
            COMMENT_COLOUR,
            PLAIN,
        ] {
            bare = bare.replace(colour, "");
        }
        assert_eq!(bare, text);
    }
}
