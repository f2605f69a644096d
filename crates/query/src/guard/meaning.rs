//! Statements that would be answered otherwise than they say.
//!
//! Owns the forms that the parser reads with another precedence, and those that the planner drops or gets wrong: the first are put
//! right, the second are said in words that mean the same, or refused. A wrong answer is worse than none.

use std::{mem, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Query, SetExpr, SetOperator, SetQuantifier, Statement, TableFactor,
    UnaryOperator, Value, VisitMut, VisitorMut,
};

use super::patterns;
use crate::error::{ErrorKind, QueryError};

/// Makes a statement mean what it says.
pub(super) fn put_right(statement: &mut Statement) -> Result<(), QueryError> {
    match statement.visit(&mut PutRight) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct PutRight;

impl VisitorMut for PutRight {
    type Break = Box<QueryError>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        if !query.locks.is_empty() {
            return refused(
                "FOR UPDATE and FOR SHARE are not offered: nothing is ever locked",
                "leave it out",
            );
        }
        operands(&query.body)
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table {
                sample: Some(_), ..
            }
            | TableFactor::Derived {
                sample: Some(_), ..
            } => refused(
                "TABLESAMPLE is not offered",
                "all rows are read; filter on window_start to read fewer",
            ),
            _ => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let taken = mem::replace(expr, Expr::value(Value::Null));
        *expr = match rewritten(taken) {
            Ok(expr) => expr,
            Err(error) => return ControlFlow::Break(error),
        };
        ControlFlow::Continue(())
    }
}

fn refused(message: &str, hint: &str) -> ControlFlow<Box<QueryError>> {
    ControlFlow::Break(Box::new(
        QueryError::new(ErrorKind::Unsupported, message).hint(hint),
    ))
}

/// The planner forgets how often a row stands in the operands.
fn operands(body: &SetExpr) -> ControlFlow<Box<QueryError>> {
    let SetExpr::SetOperation {
        op,
        set_quantifier,
        left,
        right,
    } = body
    else {
        return ControlFlow::Continue(());
    };
    if matches!(op, SetOperator::Except | SetOperator::Intersect)
        && matches!(set_quantifier, SetQuantifier::All)
    {
        return refused(
            &format!("{op} ALL is not offered"),
            "without ALL it answers every row once; or join on the columns",
        );
    }
    operands(left)?;
    operands(right)
}

fn rewritten(expr: Expr) -> Result<Expr, Box<QueryError>> {
    Ok(match expr {
        Expr::IsDistinctFrom(one, other) => lift(*other, &mut |other| {
            Expr::IsDistinctFrom(one.clone(), Box::new(other))
        }),
        Expr::IsNotDistinctFrom(one, other) => lift(*other, &mut |other| {
            Expr::IsNotDistinctFrom(one.clone(), Box::new(other))
        }),
        // What was lifted below may have to go on: an operator never has a weaker one beside it without brackets.
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } if is_or(&right) => {
            let Expr::BinaryOp {
                left: first,
                op,
                right: second,
            } = *right
            else {
                unreachable!("it was seen to be one")
            };
            Expr::BinaryOp {
                left: both(left, BinaryOperator::And, first),
                op,
                right: second,
            }
        }
        Expr::Function(mut function) => {
            patterns::translate(&mut function)?;
            Expr::Function(function)
        }
        Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr: inner,
        } => lift(*inner, &mut |inner| Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr: Box::new(inner),
        }),
        Expr::AnyOp {
            left,
            compare_op: BinaryOperator::Eq,
            right,
            is_some,
        } => match *right {
            Expr::Subquery(subquery) => Expr::InSubquery {
                expr: left,
                subquery,
                negated: false,
            },
            other => Expr::AnyOp {
                left,
                compare_op: BinaryOperator::Eq,
                right: Box::new(other),
                is_some,
            },
        },
        Expr::AllOp {
            left,
            compare_op: BinaryOperator::NotEq,
            right,
        } if matches!(*right, Expr::Subquery(_)) => {
            let Expr::Subquery(subquery) = *right else {
                unreachable!("it was seen to be one")
            };
            Expr::InSubquery {
                expr: left,
                subquery,
                negated: true,
            }
        }
        Expr::AnyOp { right, .. } | Expr::AllOp { right, .. }
            if matches!(*right, Expr::Subquery(_)) =>
        {
            return Err(Box::new(
                QueryError::new(
                    ErrorKind::Unsupported,
                    "ANY and ALL over a subquery are offered for = ANY and <> ALL only",
                )
                .hint("compare with (SELECT max(…) …) or (SELECT min(…) …)"),
            ));
        }
        other => other,
    })
}

fn is_or(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::BinaryOp {
            op: BinaryOperator::Or | BinaryOperator::Xor,
            ..
        }
    )
}

fn both(left: Box<Expr>, op: BinaryOperator, right: Box<Expr>) -> Box<Expr> {
    Box::new(Expr::BinaryOp { left, op, right })
}

/// Takes AND and OR out of an operand that reached too far: `make` gets what stands before the first of them. What was
/// written in brackets stays together.
fn lift(operand: Expr, make: &mut dyn FnMut(Expr) -> Expr) -> Expr {
    match operand {
        Expr::BinaryOp {
            left,
            op: op @ (BinaryOperator::And | BinaryOperator::Or | BinaryOperator::Xor),
            right,
        } => Expr::BinaryOp {
            left: Box::new(lift(*left, make)),
            op,
            right,
        },
        operand => make(operand),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, parser::Parser};

    use super::*;

    fn parsed(sql: &str) -> Statement {
        Parser::parse_sql(&GenericDialect {}, sql)
            .unwrap()
            .remove(0)
    }

    fn meaning(sql: &str) -> Result<String, QueryError> {
        let mut statement = parsed(sql);
        put_right(&mut statement)?;
        Ok(statement.to_string())
    }

    /// With brackets around every AND and OR.
    fn grouped(expr: &Expr) -> String {
        match expr {
            Expr::BinaryOp {
                left,
                op: op @ (BinaryOperator::And | BinaryOperator::Or),
                right,
            } => format!("({} {op} {})", grouped(left), grouped(right)),
            Expr::UnaryOp { op, expr } => format!("{op} {}", grouped(expr)),
            other => other.to_string(),
        }
    }

    #[test]
    fn distinct_from_reaches_as_far_as_in_postgres() {
        for (sql, expected) in [
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b AND c)"),
            (
                "a IS NOT DISTINCT FROM b OR c",
                "(a IS NOT DISTINCT FROM b OR c)",
            ),
            (
                "x AND a IS DISTINCT FROM b OR c",
                "((x AND a IS DISTINCT FROM b) OR c)",
            ),
            (
                "x OR a IS DISTINCT FROM b AND c",
                "(x OR (a IS DISTINCT FROM b AND c))",
            ),
            (
                "NOT a IS DISTINCT FROM b AND c",
                "(NOT a IS DISTINCT FROM b AND c)",
            ),
            (
                "a IS DISTINCT FROM (b AND c)",
                "a IS DISTINCT FROM (b AND c)",
            ),
            (
                "a IS DISTINCT FROM b AND c IS DISTINCT FROM d OR e",
                "((a IS DISTINCT FROM b AND c IS DISTINCT FROM d) OR e)",
            ),
        ] {
            let mut statement = parsed(&format!("SELECT {sql}"));
            put_right(&mut statement).unwrap();
            let Statement::Query(query) = statement else {
                unreachable!()
            };
            let SetExpr::Select(select) = *query.body else {
                unreachable!()
            };
            let datafusion::sql::sqlparser::ast::SelectItem::UnnamedExpr(expr) =
                &select.projection[0]
            else {
                unreachable!()
            };
            assert_eq!(grouped(expr), expected, "{sql}");
        }
    }

    #[test]
    fn what_would_be_dropped_is_refused() {
        for sql in [
            "SELECT * FROM t TABLESAMPLE (10 PERCENT)",
            "SELECT * FROM t FOR UPDATE",
            "SELECT a FROM t EXCEPT ALL SELECT a FROM u",
            "SELECT * FROM (SELECT a FROM t INTERSECT ALL SELECT a FROM u) AS v",
            "SELECT a >= ALL (SELECT b FROM t) FROM t",
            "SELECT a < ANY (SELECT b FROM t) FROM t",
        ] {
            let error = meaning(sql).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unsupported, "{sql}");
        }
        assert_eq!(
            meaning("SELECT a = ANY (SELECT b FROM t), a <> ALL (SELECT b FROM t)").unwrap(),
            "SELECT a IN (SELECT b FROM t), a NOT IN (SELECT b FROM t)"
        );
        assert_eq!(
            meaning("SELECT a FROM t EXCEPT SELECT a FROM u").unwrap(),
            "SELECT a FROM t EXCEPT SELECT a FROM u"
        );
    }
}
