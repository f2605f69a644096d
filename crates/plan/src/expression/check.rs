//! Whether an expression depends on one event and nothing else (P5).

use std::ops::ControlFlow;

use datafusion::{
    logical_expr::Volatility,
    sql::sqlparser::ast::{self, Spanned as _, Visit as _, Visitor},
};

use super::{Expressions, Source};
use crate::{diagnostic::Code, hints, reader::Reader};

/// Reports every unknown column, unknown or unfit function and subquery; whether there was none.
pub(super) fn event_only(
    expressions: &Expressions,
    source: Source<'_>,
    parsed: &ast::Expr,
    reader: &mut Reader<'_>,
) -> bool {
    let before = reader.found.0.len();
    let mut check = Check {
        expressions,
        source,
        reader,
    };
    let _ = parsed.visit(&mut check);
    reader.found.0.len() == before
}

struct Check<'c, 'r, 's> {
    expressions: &'c Expressions,
    source: Source<'c>,
    reader: &'r mut Reader<'s>,
}

impl Visitor for Check<'_, '_, '_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
        self.error(
            query.span(),
            "a subquery cannot be used here",
            "an expression sees one event and nothing else",
        );
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
        match expr {
            ast::Expr::Identifier(ident) => self.column(ident),
            ast::Expr::CompoundIdentifier(parts) => {
                let name: Vec<&str> = parts.iter().map(|part| part.value.as_str()).collect();
                let last = parts.last().map_or("", |part| part.value.as_str());
                self.error(
                    expr.span(),
                    format!("unknown column `{}`", name.join(".")),
                    format!("columns stand here without a prefix: `{last}`"),
                );
            }
            ast::Expr::Function(function) => self.function(function),
            ast::Expr::Value(value) if matches!(value.value, ast::Value::Placeholder(_)) => {
                self.error(
                    value.span,
                    "a placeholder has no value here",
                    "write the value out",
                );
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Check<'_, '_, '_> {
    fn error(
        &mut self,
        span: datafusion::sql::sqlparser::tokenizer::Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let place = self.source.place(self.reader, span);
        self.reader.error(Code::Expression, place, message, help);
    }

    fn column(&mut self, ident: &ast::Ident) {
        let name = match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_lowercase(),
        };
        let columns = &self.expressions.columns;
        if columns.iter().any(|column| **column == *name) {
            return;
        }
        let exact = columns.iter().find(|column| ***column == *ident.value);
        let help = match (ident.quote_style, exact) {
            // SQL folds unquoted names to lower case.
            (None, Some(column)) => {
                format!("a column with capital letters needs double quotes: \"{column}\"")
            }
            (Some('"'), None) if hints::nearest(&name, columns.iter().map(|c| &**c)).is_none() => {
                format!("a text stands in single quotes: '{name}'")
            }
            _ => hints::for_name(
                &name,
                "the schema has",
                columns.iter().map(|column| &**column),
            ),
        };
        self.error(
            ident.span,
            format!("unknown column `{}`", ident.value),
            help,
        );
    }

    fn function(&mut self, function: &ast::Function) {
        let name = function.name.to_string().to_lowercase();
        let span = function.name.span();
        let bare = matches!(function.args, ast::FunctionArguments::None);
        if bare
            && self
                .expressions
                .columns
                .iter()
                .any(|column| **column == *name)
        {
            self.error(
                span,
                format!("`{name}` is a function of SQL when it stands without quotes"),
                format!("the column is \"{name}\", in double quotes"),
            );
            return;
        }
        let state = &self.expressions.state;
        if function.over.is_some() || state.window_functions().contains_key(&name) {
            self.error(
                span,
                format!("`{name}` looks at other rows and cannot be used here"),
                "an expression sees one event; use window functions in the SQL that reads the table",
            );
            return;
        }
        if let Some(known) = state.scalar_functions().get(&name) {
            match known.signature().volatility {
                Volatility::Immutable if function.filter.is_some() => self.error(
                    span,
                    format!("`{name}` takes no filter"),
                    "only measures have one: count(*) filter (where …)",
                ),
                Volatility::Immutable => {}
                Volatility::Stable | Volatility::Volatile => {
                    let help = match name.as_str() {
                        "random" | "uuid" | "rand" => {
                            "reading an event again must give the same answer: take a column instead"
                        }
                        _ => {
                            "reading an event again must give the same answer: use the event-time column; a filter on the present belongs into the SQL that reads the table"
                        }
                    };
                    self.error(
                        span,
                        format!("`{name}` depends on more than the event"),
                        help,
                    );
                }
            }
            return;
        }
        if state.aggregate_functions().contains_key(&name) {
            self.error(
                span,
                format!("`{name}` is an aggregate and cannot be used here"),
                "aggregates stand alone, under `measures`",
            );
            return;
        }
        let help = hints::nearest(&name, state.scalar_functions().keys().map(String::as_str))
            .map_or_else(
                || {
                    "functions are those of DataFusion: coalesce, split_part, date_trunc, …"
                        .to_owned()
                },
                |near| format!("did you mean `{near}`?"),
            );
        self.error(span, format!("unknown function `{name}`"), help);
    }
}
