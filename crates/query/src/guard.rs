//! The gate before planning: only reading, only so long, only so deep.
//!
//! Owns the caps on a query's text and the list of statements that are let through. Does not own
//! what a plan may contain: the session verifies that once more, so that a statement which slips
//! through here in disguise is refused there.

mod meaning;
mod patterns;

use std::ops::ControlFlow;

use datafusion::{
    error::DataFusionError,
    sql::{
        parser::{DFParserBuilder, Statement},
        sqlparser::{
            ast::{self, Set, visit_relations},
            dialect::{Dialect, GenericDialect, PostgreSqlDialect},
            keywords::Keyword,
            tokenizer::{Token, Tokenizer},
        },
    },
};

use crate::{
    error::{ErrorKind, QueryError},
    postgres::Postgres,
    view::ReadMode,
};

/// Most operators in one query. Each may deepen the expression tree by one, and planning recurses over it;
/// the planner's stack is made for this many.
const MAX_OPERATORS: usize = 1_000;
/// Most brackets that may be open at once.
const MAX_NESTING: usize = 64;
/// Most tables, subqueries and set operations.
const MAX_RELATIONS: usize = 128;
/// How deep the parser itself may recurse; one bracket costs it several steps.
const PARSER_RECURSION: usize = 600;

/// A statement that may run.
#[derive(Debug)]
pub(crate) enum Request {
    /// To be planned.
    Plan(Box<Statement>),
    /// `SET alluvium.read = …`
    SetRead(ReadMode),
    /// `SHOW alluvium.read`
    ShowRead,
    /// `SHOW alluvium.as_of`
    ShowAsOf,
}

/// Checks and parses one statement, written for Postgres or as we offer it.
pub(crate) fn parse(
    sql: &str,
    max_bytes: usize,
    postgres: Option<&Postgres>,
) -> Result<Request, QueryError> {
    if sql.len() > max_bytes {
        return Err(QueryError::new(
            ErrorKind::TooLong,
            format!("the query has {} bytes, {max_bytes} are allowed", sql.len()),
        ));
    }
    let dialect: &dyn Dialect = match postgres {
        Some(_) => &PostgreSqlDialect {},
        None => &GenericDialect {},
    };
    let tokens = Tokenizer::new(dialect, sql)
        .tokenize_with_location()
        .map_err(|error| DataFusionError::SQL(Box::new(error.into()), None))?;
    measure_complexity(tokens.iter().map(|token| &token.token))?;
    let known = postgres.and_then(|postgres| postgres.known_question(&tokens, sql));
    let mut statements = match known {
        Some(statements) => statements?,
        None => {
            let statements = DFParserBuilder::new(tokens)
                // In its dialect for Postgres the parser tries every call twice: sixty inside each other would never end.
                .with_dialect(&GenericDialect {})
                .with_recursion_limit(PARSER_RECURSION)
                .build()?
                .parse_statements()?;
            match postgres {
                Some(postgres) => statements
                    .into_iter()
                    .map(|statement| postgres.rewrite(statement))
                    .collect(),
                None => statements,
            }
        }
    };
    let Some(statement) = statements.pop_front() else {
        return Err(QueryError::new(ErrorKind::Syntax, "the query is empty"));
    };
    if !statements.is_empty() {
        return Err(
            QueryError::new(ErrorKind::Syntax, "there is more than one statement")
                .hint("send them one by one"),
        );
    }
    classify(put_right(statement)?)
}

fn put_right(statement: Statement) -> Result<Statement, QueryError> {
    Ok(match statement {
        Statement::Statement(mut inner) => {
            meaning::put_right(&mut inner)?;
            Statement::Statement(inner)
        }
        Statement::Explain(mut explain) => {
            *explain.statement = put_right(*explain.statement)?;
            Statement::Explain(explain)
        }
        other => other,
    })
}

fn measure_complexity<'a>(tokens: impl Iterator<Item = &'a Token>) -> Result<(), QueryError> {
    let (mut operators, mut relations) = (0, 0);
    let (mut nesting, mut deepest) = (0usize, 0);
    for token in tokens {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                nesting += 1;
                deepest = deepest.max(nesting);
            }
            Token::RParen | Token::RBracket | Token::RBrace => nesting = nesting.saturating_sub(1),
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::SELECT
                | Keyword::JOIN
                | Keyword::UNION
                | Keyword::INTERSECT
                | Keyword::EXCEPT => relations += 1,
                Keyword::AND
                | Keyword::OR
                | Keyword::XOR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::IN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::BETWEEN
                | Keyword::CASE
                | Keyword::WHEN
                | Keyword::INTERVAL
                | Keyword::COLLATE
                | Keyword::AT
                | Keyword::EXPLAIN => operators += 1,
                _ => {}
            },
            Token::Word(_)
            | Token::Whitespace(_)
            | Token::Comma
            | Token::Period
            | Token::SemiColon
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::DollarQuotedString(_)
            | Token::Placeholder(_)
            | Token::EOF => {}
            _ => operators += 1,
        }
    }
    let too_complex = |what: String| {
        Err(QueryError::new(ErrorKind::TooComplex, what)
            .hint("use IN (…) instead of many OR, or split the query"))
    };
    if operators > MAX_OPERATORS {
        return too_complex(format!(
            "the query has {operators} operators, {MAX_OPERATORS} are allowed"
        ));
    }
    if deepest > MAX_NESTING {
        return too_complex(format!(
            "the query has {deepest} brackets inside each other, {MAX_NESTING} are allowed"
        ));
    }
    if relations > MAX_RELATIONS {
        return too_complex(format!(
            "the query has {relations} subqueries and joins, {MAX_RELATIONS} are allowed"
        ));
    }
    Ok(())
}

fn classify(statement: Statement) -> Result<Request, QueryError> {
    match statement {
        Statement::Statement(inner) => match *inner {
            ast::Statement::Set(set) => set_read(&set),
            ast::Statement::ShowVariable { variable } if is_ours(&variable, "read") => {
                Ok(Request::ShowRead)
            }
            ast::Statement::ShowVariable { variable } if is_ours(&variable, "as_of") => {
                Ok(Request::ShowAsOf)
            }
            ast::Statement::Query(_)
            | ast::Statement::ShowVariable { .. }
            | ast::Statement::ShowTables { .. }
            | ast::Statement::ShowColumns { .. }
            | ast::Statement::ShowFunctions { .. }
            | ast::Statement::ExplainTable { .. } => {
                let statement = Statement::Statement(inner);
                count_relations(&statement)?;
                Ok(Request::Plan(Box::new(statement)))
            }
            other => Err(read_only(&first_word(&other.to_string()))),
        },
        Statement::Explain(explain) => {
            let Statement::Statement(inner) = explain.statement.as_ref() else {
                return Err(read_only("this statement"));
            };
            if !matches!(inner.as_ref(), ast::Statement::Query(_)) {
                return Err(read_only(&first_word(&inner.to_string())));
            }
            count_relations(&explain.statement)?;
            Ok(Request::Plan(Box::new(Statement::Explain(explain))))
        }
        Statement::CreateExternalTable(_) => Err(read_only("CREATE EXTERNAL TABLE")),
        Statement::CopyTo(_) => Err(read_only("COPY")),
        Statement::Reset(_) => Err(read_only("RESET")),
    }
}

/// A list of tables after FROM is a chain of joins without the word.
fn count_relations(statement: &Statement) -> Result<(), QueryError> {
    let Statement::Statement(statement) = statement else {
        return Ok(());
    };
    let mut relations = 0;
    let counted = visit_relations(statement.as_ref(), |_| {
        relations += 1;
        if relations > MAX_RELATIONS {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    if counted.is_break() {
        return Err(QueryError::new(
            ErrorKind::TooComplex,
            format!("the query names more than {MAX_RELATIONS} tables"),
        )
        .hint("split the query"));
    }
    Ok(())
}

fn is_ours(variable: &[ast::Ident], name: &str) -> bool {
    let parts: Vec<String> = variable
        .iter()
        .flat_map(|part| part.value.split('.'))
        .map(str::to_lowercase)
        .collect();
    parts == ["alluvium", name]
}

fn set_read(set: &Set) -> Result<Request, QueryError> {
    let Set::SingleAssignment {
        scope: None,
        variable,
        values,
        ..
    } = set
    else {
        return Err(not_settable(&set.to_string()));
    };
    let parts: Option<Vec<ast::Ident>> = variable
        .0
        .iter()
        .map(|part| part.as_ident().cloned())
        .collect();
    if !parts.is_some_and(|parts| is_ours(&parts, "read")) {
        return Err(not_settable(&variable.to_string()));
    }
    let value = match values.as_slice() {
        [value] => value.to_string(),
        _ => String::new(),
    };
    match value.trim_matches(['\'', '"']).to_lowercase().as_str() {
        "fresh" => Ok(Request::SetRead(ReadMode::Fresh)),
        "committed" => Ok(Request::SetRead(ReadMode::Committed)),
        _ => Err(QueryError::new(
            ErrorKind::Invalid,
            format!("alluvium.read cannot be {value}"),
        )
        .hint("it is 'fresh' or 'committed'")),
    }
}

fn not_settable(what: &str) -> QueryError {
    QueryError::new(ErrorKind::ReadOnly, format!("{what} cannot be set here"))
        .hint("only alluvium.read can: SET alluvium.read = 'committed'")
}

fn read_only(what: &str) -> QueryError {
    QueryError::new(
        ErrorKind::ReadOnly,
        format!("{what} is not offered: tables change only by their pipelines"),
    )
    .hint("use SELECT, VALUES, EXPLAIN or SHOW")
}

fn first_word(statement: &str) -> String {
    statement
        .split_whitespace()
        .next()
        .unwrap_or("this statement")
        .to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(sql: &str) -> Option<ErrorKind> {
        parse(sql, 64 * 1024, None).err().map(|error| error.kind)
    }

    #[test]
    fn reading_passes() {
        for sql in [
            "SELECT 1",
            "VALUES (1), (2)",
            "WITH a AS (SELECT 1) SELECT * FROM a;",
            "EXPLAIN SELECT 1",
            "EXPLAIN ANALYZE SELECT 1",
            "SHOW TABLES",
            "SHOW alluvium.read",
            "SHOW alluvium.as_of",
            "DESCRIBE t",
            "SET alluvium.read = 'committed'",
            "SET alluvium.read TO fresh",
        ] {
            assert_eq!(kind(sql), None, "{sql}");
        }
    }

    #[test]
    fn complexity_is_capped_before_parsing() {
        let sum = format!("SELECT {}1", "1+".repeat(2_000));
        let ors = format!("SELECT 1 WHERE {}1=2", "1=2 OR ".repeat(5_000));
        let parentheses = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
        let nots = format!("SELECT {} true", "NOT ".repeat(5_000));
        let minuses = format!("SELECT {} 1", "- ".repeat(5_000));
        let calls = format!("SELECT {}1{}", "abs(".repeat(80), ")".repeat(80));
        let unions = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(500));
        let list = format!("SELECT 1 FROM t{}", ",t".repeat(500));
        let explains = format!("{} SELECT 1", "EXPLAIN ".repeat(5_000));
        for sql in [
            sum,
            ors,
            parentheses,
            nots,
            minuses,
            calls,
            unions,
            list,
            explains,
        ] {
            assert_eq!(kind(&sql), Some(ErrorKind::TooComplex), "{}", &sql[..60]);
        }
        let long = format!("SELECT '{}'", "x".repeat(70_000));
        assert_eq!(kind(&long), Some(ErrorKind::TooLong));
        let wide = format!("SELECT 1 WHERE 1 IN (1{})", ",1".repeat(20_000));
        assert_eq!(kind(&wide), None);
    }
}
