//! How clients of Postgres write, as far as the rewriting of `datafusion-pg-catalog` does not know it.
//!
//! Owns the names that columns without a name get, and what clients ask of the catalogue about things that do not exist here.

use std::{collections::HashSet, mem, ops::ControlFlow, sync::LazyLock};

use datafusion::sql::sqlparser::{
    ast::{
        DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
        Ident, JoinOperator, ObjectName, Query, Select, SelectItem, SetExpr, Statement,
        TableFactor, Value, ValueWithSpan, VisitMut, VisitorMut,
    },
    dialect::{GenericDialect, PostgreSqlDialect},
    keywords::Keyword,
    parser::Parser,
    tokenizer::{Token, Tokenizer},
};

use super::absent;

/// Stands between a name that several columns have and a number that tells them apart inside of the engine. The wire shows
/// what is before it.
pub const SAME_NAME: char = '\u{1}';

/// A column without a name.
const NAMELESS: &str = "?column?";

/// Rewrites a statement that asks or explains.
pub(super) fn rewrite(statement: &mut Statement) {
    // Nothing ever stops the visit.
    let _ = statement.visit(&mut Catalogue);
    if let Statement::Query(query) = statement {
        name_columns(query);
    }
}

/// Gives columns the names that they would have in Postgres.
fn name_columns(query: &mut Query) {
    let mut body = query.body.as_mut();
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(inner) => return name_columns(inner),
            // The names of the first operand are those of all.
            SetExpr::SetOperation { left, .. } => body = left.as_mut(),
            _ => return,
        }
    };
    let has_wildcard = select.projection.iter().any(|item| {
        matches!(
            item,
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
        )
    });
    let mut taken = HashSet::new();
    for (number, item) in select.projection.iter_mut().enumerate() {
        let (name, is_plain) = match item {
            SelectItem::UnnamedExpr(expr) => (
                name_of(expr).unwrap_or_else(|| NAMELESS.to_owned()),
                matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)),
            ),
            SelectItem::ExprWithAlias { alias, .. } => (alias.value.clone(), true),
            _ => continue,
        };
        let is_new = taken.insert(name.clone());
        if is_new && is_plain {
            continue;
        }
        // Beside a wildcard a name may come again, so whatever is no plain column is told apart at once.
        let alias = match is_new && !has_wildcard {
            true => name,
            false => format!("{name}{SAME_NAME}{number}"),
        };
        let alias = Ident::with_quote('"', alias);
        let placeholder = SelectItem::UnnamedExpr(Expr::value(Value::Null));
        *item = match mem::replace(item, placeholder) {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                SelectItem::ExprWithAlias { expr, alias }
            }
            other => other,
        };
    }
}

/// The name that Postgres gives a column of this expression.
fn name_of(expr: &Expr) -> Option<String> {
    let folded = |ident: &Ident| match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    };
    match expr {
        Expr::Identifier(ident) => Some(folded(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::Function(function) => {
            let last = function.name.0.last()?;
            last.as_ident().map(folded)
        }
        Expr::Cast {
            expr, data_type, ..
        } => name_of(expr).or_else(|| Some(type_name(data_type))),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => name_of(inner),
        Expr::AtTimeZone { .. } => Some("timezone".into()),
        Expr::Case { .. } => Some("case".into()),
        Expr::Extract { .. } => Some("extract".into()),
        Expr::Substring { .. } => Some("substring".into()),
        Expr::Position { .. } => Some("position".into()),
        Expr::Trim { .. } => Some("btrim".into()),
        Expr::Ceil { .. } => Some("ceil".into()),
        Expr::Floor { .. } => Some("floor".into()),
        Expr::Array(_) => Some("array".into()),
        Expr::Exists { .. } => Some("exists".into()),
        Expr::Interval(_) => Some("interval".into()),
        Expr::Tuple(_) => Some("row".into()),
        Expr::Value(value) => match value.value {
            Value::Boolean(_) => Some("bool".into()),
            _ => None,
        },
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => match select.projection.first()? {
                SelectItem::UnnamedExpr(expr) => name_of(expr),
                SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// What Postgres calls a type when it names a column after it.
fn type_name(data_type: &DataType) -> String {
    let written = data_type.to_string().to_lowercase();
    let name = written.split(['(', ' ']).next().unwrap_or_default();
    match name {
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "smallint" => "int2",
        "double" | "float" => "float8",
        "real" => "float4",
        "boolean" => "bool",
        "decimal" | "numeric" => "numeric",
        "character" | "varchar" => "varchar",
        "timestamp" if written.contains("with time zone") => "timestamptz",
        other => other,
    }
    .to_owned()
}

/// Questions about what does not exist here: access lists, options, memberships, the visibility of schemas.
struct Catalogue;

/// The schemas whose tables need no schema before their names.
static VISIBLE: LazyLock<Query> = LazyLock::new(|| {
    let sql = "SELECT oid FROM pg_catalog.pg_namespace WHERE nspname IN ('public', 'pg_catalog')";
    let statement = Parser::parse_sql(&GenericDialect {}, sql).expect("a constant query");
    match statement.into_iter().next() {
        Some(Statement::Query(query)) => *query,
        _ => unreachable!("it is a query"),
    }
});

fn is_user(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(ident) => {
            ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("user")
        }
        _ => false,
    }
}

/// What `SELECT user` means: in a query without relations it can only be who is connected.
static USER: LazyLock<Expr> = LazyLock::new(|| {
    let parsed = Parser::new(&GenericDialect {}).try_with_sql("session_user()");
    let parsed = parsed.and_then(|mut parser| parser.parse_expr());
    parsed.expect("a constant expression")
});

impl VisitorMut for Catalogue {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let SetExpr::Select(select) = query.body.as_mut() else {
            return ControlFlow::Continue(());
        };
        // What takes the place of a column keeps its name.
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && not_here(expr).is_some()
                && let Some(name) = name_of(expr)
            {
                *item = SelectItem::ExprWithAlias {
                    expr: expr.clone(),
                    alias: Ident::new(name),
                };
            }
        }
        if !select.from.is_empty() {
            return ControlFlow::Continue(());
        }
        for item in &mut select.projection {
            let (expr, alias) = match item {
                SelectItem::UnnamedExpr(expr) => (expr, Ident::new("user")),
                SelectItem::ExprWithAlias { expr, alias } => (expr, alias.clone()),
                _ => continue,
            };
            if is_user(expr) {
                let expr = USER.clone();
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, relation: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, args, .. } = relation else {
            return ControlFlow::Continue(());
        };
        let last = name.0.last().and_then(|last| last.as_ident());
        let last = last.map(|last| last.value.to_lowercase());
        match (last, name.0.len()) {
            (Some(last), _) if args.is_some() && last == "pg_show_all_settings" => {
                *name = of_catalogue("pg_settings");
                *args = None;
            }
            (Some(last), 1) if absent::names().any(|known| known == last) => {
                *name = of_catalogue(&last);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(instead) = not_here(expr) {
            *expr = instead;
            return ControlFlow::Continue(());
        }
        match expr {
            Expr::Cast { data_type, .. } if data_type.to_string().eq_ignore_ascii_case("name") => {
                *data_type = DataType::Text;
            }
            Expr::Subquery(query) if asks_what_is_not_here(query) => {
                *expr = Expr::value(Value::Null)
            }
            Expr::Subquery(query) => one_row(query),
            Expr::Like {
                pattern,
                escape_char,
                ..
            }
            | Expr::ILike {
                pattern,
                escape_char,
                ..
            } => escape_with_backslash(pattern, escape_char),
            Expr::Value(value) => {
                if let Value::SingleQuotedString(text) = &mut value.value
                    && let Some(date) = date_without_zone(text)
                {
                    *text = date.to_owned();
                }
            }
            Expr::Function(function) if is_array_of_catalogue(function) => *expr = no_texts(),
            Expr::Function(function) => {
                if let Some(schema) = schema_of_asked_table(function) {
                    *expr = Expr::InSubquery {
                        expr: Box::new(schema),
                        subquery: Box::new(VISIBLE.clone()),
                        negated: false,
                    };
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn of_catalogue(name: &str) -> ObjectName {
    ObjectName::from(vec![Ident::new("pg_catalog"), Ident::new(name)])
}

/// What stands for a column that tells of what does not exist here: grants to objects, options, versions of rows and so on.
fn not_here(expr: &Expr) -> Option<Expr> {
    const TEXTS: [&str; 23] = [
        "attacl",
        "attfdwoptions",
        "attoptions",
        "datacl",
        "defaclacl",
        "fdwacl",
        "fdwoptions",
        "ftoptions",
        "lanacl",
        "lomacl",
        "nspacl",
        "paracl",
        "proacl",
        "relacl",
        "reloptions",
        "rolconfig",
        "setconfig",
        "spcacl",
        "spcoptions",
        "srvacl",
        "srvoptions",
        "typacl",
        "umoptions",
    ];
    let (last, is_qualified) = match expr {
        Expr::Identifier(ident) if ident.quote_style.is_none() => (ident, false),
        Expr::CompoundIdentifier(parts) => (parts.last()?, true),
        _ => return None,
    };
    let written = match last.value.to_lowercase().as_str() {
        name if TEXTS.contains(&name) => "NULL::text[]",
        "extconfig" => "NULL::int[]",
        "colliculocale" | "collicurules" => "NULL::text",
        "tableoid" if is_qualified => "NULL::int",
        "xmin" if is_qualified => "0::bigint",
        _ => return None,
    };
    let parsed = Parser::new(&GenericDialect {}).try_with_sql(written);
    parsed.and_then(|mut parser| parser.parse_expr()).ok()
}

/// Has `LIKE … ESCAPE` use the one character that the engine knows.
fn escape_with_backslash(pattern: &mut Expr, escape: &mut Option<ValueWithSpan>) {
    let Some(Value::SingleQuotedString(character)) = escape.as_ref().map(|escape| &escape.value)
    else {
        return;
    };
    if character.chars().count() != 1 || character == "\\" {
        return;
    }
    let character = character.replace('\'', "''");
    // Twice the character is itself; meanwhile a control character stands for it.
    let written = format!(
        "replace(replace(replace(replace({pattern}, '\\', '\\\\'), '{character}{character}', chr(1)), '{character}', '\\'), chr(1), '{character}')"
    );
    let parsed = Parser::new(&GenericDialect {})
        .try_with_sql(&written)
        .and_then(|mut parser| parser.parse_expr());
    if let Ok(parsed) = parsed {
        (*pattern, *escape) = (parsed, None);
    }
}

/// For a question about keys, indexes and the like, of which there are none: an answer without rows and with its columns.
pub(super) fn nothing_of(statement: &Statement) -> Option<Statement> {
    let Statement::Query(query) = statement else {
        return None;
    };
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    // An aggregate answers with a row even then.
    let groups = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, _) => !expressions.is_empty(),
    };
    let counts = select
        .projection
        .iter()
        .any(|item| item.to_string().to_lowercase().starts_with("count("));
    if !has_no_rows(select) || counts && !groups {
        return None;
    }
    // One relation alone is answered by itself, with all of its columns.
    let is_alone = matches!(select.from.as_slice(), [from] if from.joins.is_empty());
    let has_wildcard = select.projection.iter().any(|item| {
        matches!(
            item,
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
        )
    });
    if is_alone && has_wildcard {
        return None;
    }
    let columns: Vec<String> = select
        .projection
        .iter()
        .map(|item| {
            let name = match item {
                SelectItem::UnnamedExpr(expr) => name_of(expr),
                SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
                _ => None,
            };
            let name = name.unwrap_or_else(|| NAMELESS.to_owned());
            format!("NULL::text AS \"{}\"", name.replace('"', "\"\""))
        })
        .collect();
    let sql = format!("SELECT {} WHERE false", columns.join(", "));
    let mut parsed = Parser::parse_sql(&GenericDialect {}, &sql).ok()?;
    parsed.pop()
}

/// Whether what is selected from needs a row of a table that has none about ours.
fn has_no_rows(select: &Select) -> bool {
    select.from.iter().any(|from| {
        is_empty(&from.relation)
            || from.joins.iter().any(|join| match join.join_operator {
                JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => {
                    is_empty(&join.relation)
                }
                _ => false,
            })
    })
}

fn is_empty(relation: &TableFactor) -> bool {
    const EMPTY: [&str; 17] = [
        "pg_aggregate",
        "pg_amop",
        "pg_amproc",
        "pg_opclass",
        "pg_opfamily",
        "pg_statistic_ext",
        "pg_ts_config",
        "pg_ts_dict",
        "pg_ts_parser",
        "pg_ts_template",
        "pg_index",
        "pg_constraint",
        "pg_trigger",
        "pg_policy",
        "pg_inherits",
        "pg_rewrite",
        "pg_partition_tree",
    ];
    match relation {
        TableFactor::Table { name, .. } => {
            let last = name.0.last().and_then(|part| part.as_ident());
            last.is_some_and(|last| {
                let last = last.value.to_lowercase();
                EMPTY.contains(&last.as_str()) || absent::names().any(|name| name == last)
            })
        }
        TableFactor::Derived { subquery, .. } => match subquery.body.as_ref() {
            SetExpr::Select(select) => has_no_rows(select),
            _ => false,
        },
        TableFactor::NestedJoin {
            table_with_joins, ..
        } => is_empty(&table_with_joins.relation),
        _ => false,
    }
}

/// The numbers of parameters that stand for a list: `x = ANY($1)`.
pub(crate) fn lists(sql: &str) -> Vec<usize> {
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize() else {
        return Vec::new();
    };
    let tokens: Vec<&Token> = tokens
        .iter()
        .filter(|token| !matches!(token, Token::Whitespace(_)))
        .collect();
    tokens
        .windows(4)
        .filter_map(|four| match four {
            [
                Token::Word(word),
                Token::LParen,
                Token::Placeholder(name),
                Token::RParen,
            ] if matches!(word.keyword, Keyword::ANY | Keyword::SOME | Keyword::ALL) => {
                name.trim_start_matches('$').parse().ok()
            }
            _ => None,
        })
        .collect()
}

/// The date of `2026-03-01 +00`: Postgres passes over the zone of a date, and the JDBC driver writes one.
pub fn date_without_zone(text: &str) -> Option<&str> {
    let (date, zone) = text.split_at_checked(10)?;
    let is_date = date.bytes().enumerate().all(|(place, byte)| match place {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    let zone = zone.trim_start().strip_prefix(['+', '-'])?;
    let is_zone = (2..=5).contains(&zone.len())
        && zone
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b':');
    (is_date && is_zone).then_some(date)
}

/// Whether a question is about defaults, sequences, collations or constraints: no column has any.
fn asks_what_is_not_here(query: &Query) -> bool {
    const NOT_HERE: [&str; 4] = ["pg_attrdef", "pg_sequence", "pg_collation", "pg_constraint"];
    let SetExpr::Select(select) = query.body.as_ref() else {
        return false;
    };
    select.from.iter().any(|from| {
        let relation = from.relation.to_string();
        NOT_HERE.iter().any(|name| relation.contains(name))
    })
}

/// A question about one object by its identifier has one answer, which is not known while it is planned: the largest of its
/// answers is the same.
fn one_row(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else {
        return;
    };
    let asks_catalogue = select.from.iter().any(|from| {
        let relation = from.relation.to_string();
        ["pg_class", "pg_namespace", "pg_proc", "pg_type"]
            .iter()
            .any(|name| relation.contains(name))
    });
    let [SelectItem::UnnamedExpr(asked)] = select.projection.as_mut_slice() else {
        return;
    };
    if !asks_catalogue || select.selection.is_none() || matches!(asked, Expr::Function(_)) {
        return;
    }
    let largest = Parser::new(&GenericDialect {})
        .try_with_sql(&format!("max({asked})"))
        .and_then(|mut parser| parser.parse_expr());
    if let Ok(largest) = largest {
        *asked = largest;
    }
}

fn no_texts() -> Expr {
    let parsed = Parser::new(&GenericDialect {})
        .try_with_sql("NULL::text[]")
        .and_then(|mut parser| parser.parse_expr());
    parsed.expect("a constant expression")
}

fn is_named(function: &Function, name: &str) -> bool {
    let last = function.name.0.last().and_then(|part| part.as_ident());
    last.is_some_and(|last| last.value.eq_ignore_ascii_case(name))
}

/// `ARRAY(SELECT … FROM pg_…)`: lists of what does not exist here.
fn is_array_of_catalogue(function: &Function) -> bool {
    match &function.args {
        FunctionArguments::Subquery(query) if is_named(function, "array") => {
            let text = query.to_string();
            text.contains("pg_") || text.contains("unnest")
        }
        _ => false,
    }
}

/// For `pg_table_is_visible(c.oid)`: `c.relnamespace`.
fn schema_of_asked_table(function: &Function) -> Option<Expr> {
    if !is_named(function, "pg_table_is_visible") {
        return None;
    }
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(asked))] = list.args.as_slice() else {
        return None;
    };
    let schema = Ident::new("relnamespace");
    match asked {
        Expr::Identifier(_) => Some(Expr::Identifier(schema)),
        Expr::CompoundIdentifier(parts) => {
            let mut parts = parts.clone();
            *parts.last_mut()? = schema;
            Some(Expr::CompoundIdentifier(parts))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(sql: &str) -> String {
        let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql)
            .unwrap()
            .remove(0);
        rewrite(&mut statement);
        statement.to_string().replace(SAME_NAME, "#")
    }

    #[test]
    fn columns_are_named_as_in_postgres() {
        for (sql, expected) in [
            ("SELECT a, b.c FROM t", "SELECT a, b.c FROM t"),
            ("SELECT count(*)", "SELECT count(*) AS \"count\""),
            (
                "SELECT 1, 2",
                "SELECT 1 AS \"?column?\", 2 AS \"?column?#1\"",
            ),
            (
                "SELECT a::text, a FROM t",
                "SELECT a::TEXT AS \"a\", a AS \"a#1\" FROM t",
            ),
            (
                "SELECT a AS x, b AS x FROM t",
                "SELECT a AS x, b AS \"x#1\" FROM t",
            ),
            ("SELECT *, 1 FROM t", "SELECT *, 1 AS \"?column?#1\" FROM t"),
            ("SELECT '1'::int", "SELECT '1'::INT AS \"int4\""),
            (
                "SELECT 1 UNION ALL SELECT 2",
                "SELECT 1 AS \"?column?\" UNION ALL SELECT 2",
            ),
        ] {
            assert_eq!(rewritten(sql), expected);
        }
    }

    #[test]
    fn lists_and_keys_are_recognised() {
        assert_eq!(
            lists("SELECT 1 WHERE a = ANY($2) AND b <> ALL ( $1 ) AND c = $3"),
            [2, 1]
        );
        let mut asked = Parser::parse_sql(
            &PostgreSqlDialect {},
            "SELECT r.TABLE_CAT, n AS \"KEY_SEQ\" FROM (SELECT 1 FROM pg_class c JOIN pg_index i ON true) r",
        )
        .unwrap();
        assert_eq!(
            nothing_of(&asked.remove(0)).unwrap().to_string(),
            "SELECT NULL::TEXT AS \"table_cat\", NULL::TEXT AS \"KEY_SEQ\" WHERE false"
        );
    }

    #[test]
    fn tables_beside_which_there_may_be_keys_are_answered() {
        for sql in [
            "SELECT relname FROM pg_class c LEFT JOIN pg_constraint k ON k.conrelid = c.oid",
            "SELECT count(*) FROM pg_constraint",
            "SELECT 1 FROM pg_class",
        ] {
            let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql)
                .unwrap()
                .remove(0);
            assert!(nothing_of(&statement).is_none(), "{sql}");
        }
    }

    #[test]
    fn other_escapes_become_backslashes() {
        assert_eq!(
            rewritten("SELECT a FROM t WHERE a LIKE 'x/_%' ESCAPE '/'"),
            "SELECT a FROM t WHERE a LIKE replace(replace(replace(replace('x/_%', '\\', '\\\\'), '//', chr(1)), '/', '\\'), chr(1), '/')"
        );
    }

    #[test]
    fn a_dates_zone_is_passed_over() {
        assert_eq!(date_without_zone("2026-03-01 +00"), Some("2026-03-01"));
        assert_eq!(date_without_zone("2026-03-01-05:30"), Some("2026-03-01"));
        for text in [
            "2026-03-01",
            "2026-03-01 12:00",
            "2026-03-01 +",
            "ümlaut-+00",
            "+00",
        ] {
            assert_eq!(date_without_zone(text), None, "{text}");
        }
    }

    #[test]
    fn columns_that_do_not_exist_keep_their_names() {
        assert_eq!(
            rewritten(
                "SELECT nspacl, n.xmin, c.tableoid AS t FROM pg_namespace n JOIN pg_locks ON true"
            ),
            "SELECT NULL::TEXT[] AS nspacl, 0::BIGINT AS xmin, NULL::INT AS t FROM pg_namespace n \
             JOIN pg_catalog.pg_locks ON true"
        );
        assert_eq!(
            rewritten("SELECT name, setting FROM pg_show_all_settings() WHERE name = 'a'::name"),
            "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = 'a'::TEXT"
        );
    }

    #[test]
    fn one_empty_relation_keeps_its_columns() {
        for sql in ["SELECT l.* FROM pg_locks l", "SELECT * FROM pg_index"] {
            let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap();
            assert!(nothing_of(&statement[0]).is_none(), "{sql}");
        }
    }

    #[test]
    fn what_does_not_exist_is_answered_as_missing() {
        let asked = rewritten(
            "SELECT c.relname FROM pg_class c WHERE pg_catalog.pg_table_is_visible(c.oid)",
        );
        assert!(asked.contains("c.relnamespace IN (SELECT oid"), "{asked}");
        let asked = rewritten(
            "SELECT c.relacl AS a, ARRAY(SELECT rolname FROM pg_roles WHERE oid = c.oid) AS b FROM pg_class c",
        );
        assert_eq!(
            asked,
            "SELECT NULL::TEXT[] AS a, NULL::TEXT[] AS b FROM pg_class c"
        );
    }
}
