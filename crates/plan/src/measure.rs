//! Measures: which aggregates merge, and what state each is kept in.

use std::ops::Range;

use datafusion::{
    arrow::datatypes::{DataType, Field},
    logical_expr::type_coercion::functions::fields_with_udf,
    sql::sqlparser::ast::{
        self, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Spanned as _,
    },
};

use crate::{
    diagnostic::Code,
    expression::{Expressions, Source, Typed, canonical, plain, type_name},
    hints,
    reader::Reader,
    shape::{Finish, StateKind},
    tree::Scalar,
};

const MEASURES: &[&str] = &[
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "approx_distinct",
    "approx_percentile_cont",
];

/// A measure as meant.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) kind: StateKind,
    pub(crate) finish: Finish,
    /// `None`: every row counts.
    pub(crate) input: Option<Typed>,
    pub(crate) filter: Option<Typed>,
    pub(crate) state_type: DataType,
    /// The canonical text of the whole measure.
    pub(crate) text: String,
}

impl Measure {
    /// What two quantiles must have in common to share one state.
    pub(crate) fn state_key(&self) -> (StateKind, Option<&str>, Option<&str>) {
        (
            self.kind,
            self.input.as_ref().map(|typed| typed.text.as_str()),
            self.filter.as_ref().map(|typed| typed.text.as_str()),
        )
    }
}

/// Reads a measure; every mistake in it goes to `reader`.
pub(crate) fn measure(
    expressions: &Expressions,
    sql: &Scalar,
    reader: &mut Reader<'_>,
) -> Option<Measure> {
    let mut parsed = Expressions::parse(sql, reader)?;
    while let ast::Expr::Nested(inner) = parsed {
        parsed = *inner;
    }
    let source = Source { sql };
    let text = canonical(&parsed);
    let ast::Expr::Function(call) = parsed else {
        let place = source.place(reader, parsed.span());
        let holds_aggregate = MEASURES
            .iter()
            .any(|name| text.contains(&format!("{name}(")));
        let (message, help) = if holds_aggregate {
            (
                "this cannot merge: a measure is one aggregate, not a calculation with them",
                "keep each aggregate as a measure of its own and calculate in the SQL that reads the table",
            )
        } else {
            (
                "this is not an aggregate",
                "a measure is one of count, sum, min, max, avg, approx_distinct, approx_percentile_cont; a value of the event belongs under `group_by`",
            )
        };
        reader.error(Code::Measure, place, message, help);
        return None;
    };
    Reading {
        expressions,
        source,
        reader,
    }
    .call(call, text)
}

struct Reading<'m, 'r, 's> {
    expressions: &'m Expressions,
    source: Source<'m>,
    reader: &'r mut Reader<'s>,
}

impl Reading<'_, '_, '_> {
    fn error(&mut self, place: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.reader.error(Code::Measure, place, message, help);
    }

    fn call(&mut self, call: Function, text: String) -> Option<Measure> {
        let name = call.name.to_string().to_lowercase();
        let place = self.source.place(self.reader, call.name.span());
        if call.over.is_some() {
            self.error(
                place,
                "a window function cannot merge",
                "keep the aggregate as a measure; use `over (…)` in the SQL that reads the table",
            );
            return None;
        }
        if !MEASURES.contains(&name.as_str()) {
            let (message, help) = refusal(self.expressions, &name, &call);
            self.error(place, message, help);
            return None;
        }
        let filter = match call.filter {
            Some(filter) => Some(self.expressions.typed_condition(
                self.source,
                *filter,
                self.reader,
            )),
            None => None,
        };
        let FunctionArguments::List(list) = call.args else {
            self.error(
                place,
                format!("`{name}` needs arguments"),
                "write them in parentheses",
            );
            return None;
        };
        if matches!(
            list.duplicate_treatment,
            Some(ast::DuplicateTreatment::Distinct)
        ) {
            let argument = list
                .args
                .first()
                .map_or_else(String::new, ToString::to_string);
            let help = match name.as_str() {
                "count" => format!("use approx_distinct({argument}), kept as a mergeable sketch"),
                "min" | "max" => "leave `distinct` out: it changes nothing here".to_owned(),
                _ => "make what must be distinct a group column".to_owned(),
            };
            self.error(
                place,
                format!("{name}(distinct …) cannot merge exactly"),
                help,
            );
            return None;
        }
        if !list.clauses.is_empty() || call.null_treatment.is_some() {
            self.error(
                place,
                format!("`{name}` takes only arguments and a filter here"),
                "leave out order by, limit and null treatment",
            );
            return None;
        }
        let (kind, finish, input) = match name.as_str() {
            "approx_percentile_cont" => self.percentile(list.args, call.within_group, &place)?,
            _ if !call.within_group.is_empty() => {
                self.error(
                    place,
                    format!("`{name}` takes no `within group`"),
                    "only approx_percentile_cont does",
                );
                return None;
            }
            "count" if is_wildcard(&list.args) => (StateKind::Count, Finish::Value, None),
            _ => {
                let (kind, finish) = match name.as_str() {
                    "count" => (StateKind::Count, Finish::Value),
                    "sum" => (StateKind::Sum, Finish::Value),
                    "min" => (StateKind::Min, Finish::Value),
                    "max" => (StateKind::Max, Finish::Value),
                    "avg" => (StateKind::Avg, Finish::Average),
                    _ => (StateKind::Hll, Finish::Distinct),
                };
                let [argument] = self.arguments(&name, list.args, &place)?;
                (kind, finish, Some(argument))
            }
        };
        let (input, state_type) = match input {
            Some(argument) => {
                let place = self.source.place(self.reader, argument.span());
                let typed = self.expressions.typed(self.source, argument, self.reader)?;
                let (typed, state_type) = self.state(&name, kind, typed, place)?;
                (Some(typed), state_type)
            }
            None => (None, DataType::Int64),
        };
        let filter = match filter {
            Some(filter) => Some(filter?),
            None => None,
        };
        Some(Measure {
            kind,
            finish,
            input,
            filter,
            state_type,
            text,
        })
    }

    /// Exactly `N` plain arguments.
    fn arguments<const N: usize>(
        &mut self,
        name: &str,
        args: Vec<FunctionArg>,
        place: &Range<usize>,
    ) -> Option<[ast::Expr; N]> {
        let count = args.len();
        let plain: Vec<ast::Expr> = args
            .into_iter()
            .filter_map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
                _ => None,
            })
            .collect();
        let plain = (plain.len() == count)
            .then(|| plain.try_into().ok())
            .flatten();
        if plain.is_none() {
            let help = match (name, N) {
                ("approx_percentile_cont", _) => {
                    "write approx_percentile_cont(column, 0.99)".to_owned()
                }
                ("count", _) => "write count(*) or count(column)".to_owned(),
                _ => format!("write {name}(column)"),
            };
            let expected = match N {
                1 => "one argument".to_owned(),
                n => format!("{n} arguments"),
            };
            self.error(place.clone(), format!("`{name}` takes {expected}"), help);
        }
        plain
    }

    /// `(x, q)`, or `(q) within group (order by x)`.
    fn percentile(
        &mut self,
        args: Vec<FunctionArg>,
        within_group: Vec<ast::OrderByExpr>,
        place: &Range<usize>,
    ) -> Option<(StateKind, Finish, Option<ast::Expr>)> {
        let name = "approx_percentile_cont";
        let (value, rank) = if within_group.is_empty() {
            let [value, rank] = self.arguments(name, args, place)?;
            (value, rank)
        } else {
            let [rank] = self.arguments(name, args, place)?;
            let mut within_group = within_group;
            let order = within_group.pop()?;
            if !within_group.is_empty() || order.options.asc == Some(false) {
                self.error(
                    place.clone(),
                    "`within group` orders by one column, upwards",
                    "for a rank from above take 1 - rank",
                );
                return None;
            }
            (order.expr, rank)
        };
        // Up to fifteen digits a number is the same after every way through text; the table's metadata
        // is one.
        let parsed = Some(rank.to_string())
            .filter(|text| text.len() <= 16)
            .and_then(|text| text.parse::<f64>().ok())
            .filter(|rank| (0.0..=1.0).contains(rank));
        let Some(parsed) = parsed else {
            let place = self.source.place(self.reader, rank.span());
            let help = match rank.to_string().parse::<f64>() {
                Ok(percent) if percent > 1.0 && percent <= 100.0 => {
                    format!("for the {percent}th percentile write {}", percent / 100.0)
                }
                _ => "write it as a number: 0.5 for the median, 0.99 for p99".to_owned(),
            };
            self.error(
                place,
                format!("the rank `{rank}` is not a number between 0 and 1"),
                help,
            );
            return None;
        };
        Some((StateKind::DdSketch, Finish::Quantile(parsed), Some(value)))
    }

    /// The input as its fold takes it, and the type of the state that comes out.
    fn state(
        &mut self,
        name: &str,
        kind: StateKind,
        typed: Typed,
        place: Range<usize>,
    ) -> Option<(Typed, DataType)> {
        let found = type_name(&typed.data_type);
        // What is counted is not stored; any type will do.
        let typed = match kind {
            StateKind::Count => return Some((typed, DataType::Int64)),
            _ => self.expressions.storable(typed),
        };
        let help = match kind {
            StateKind::Sum | StateKind::Avg | StateKind::DdSketch => {
                "it takes int, bigint, double and decimal; cast(x as double) makes a number of a text"
            }
            _ => "it takes texts, numbers, booleans, times and dates",
        };
        let Some(typed) = typed else {
            self.error(place, format!("`{name}` does not take {found}"), help);
            return None;
        };
        let is_number = matches!(
            typed.data_type,
            DataType::Int32 | DataType::Int64 | DataType::Float64 | DataType::Decimal128(..)
        );
        let needs_number = matches!(kind, StateKind::Sum | StateKind::Avg | StateKind::DdSketch);
        if needs_number && !is_number {
            self.error(place, format!("`{name}` does not take {found}"), help);
            return None;
        }
        let fold = kind.fold();
        let field = std::sync::Arc::new(Field::new("input", typed.data_type.clone(), true));
        let state = fields_with_udf(&[field], fold.as_ref()).and_then(|coerced| {
            let input = coerced.first().map_or_else(
                || typed.data_type.clone(),
                |field| field.data_type().clone(),
            );
            let state = fold.return_type(std::slice::from_ref(&input))?;
            Ok((input, state))
        });
        match state {
            Ok((input, state)) => Some((typed.cast(input), state)),
            Err(error) => {
                let reason = plain(&error.strip_backtrace());
                let reason = reason.lines().next().unwrap_or_default();
                self.error(
                    place,
                    format!("`{name}` does not take {found}: {reason}"),
                    help,
                );
                None
            }
        }
    }
}

fn is_wildcard(args: &[FunctionArg]) -> bool {
    matches!(args, [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)])
}

/// Why a function is no measure, and what to use instead.
fn refusal(expressions: &Expressions, name: &str, call: &Function) -> (String, String) {
    let argument = match &call.args {
        FunctionArguments::List(list) => list.args.first().map(ToString::to_string),
        _ => None,
    }
    .unwrap_or_else(|| "x".into());
    let help = match name {
        "median" | "approx_median" => format!("use approx_percentile_cont({argument}, 0.5)"),
        "percentile_cont"
        | "quantile_cont"
        | "percentile"
        | "quantile"
        | "approx_percentile_cont_with_weight" => {
            format!("use approx_percentile_cont({argument}, 0.99), kept as a mergeable sketch")
        }
        "mean" => format!("here it is called avg({argument})"),
        "approx_count_distinct" | "uniq" | "count_distinct" | "approx_unique" => {
            format!("here it is called approx_distinct({argument})")
        }
        "count_if" | "countif" => format!("use count(*) filter (where {argument})"),
        "sum_if" | "sumif" => format!("use sum({argument}) filter (where …)"),
        "stddev" | "stddev_samp" | "stddev_pop" | "var" | "var_samp" | "var_pop" | "variance"
        | "var_sample" | "corr" | "covar_pop" | "covar_samp" => format!(
            "keep count({argument}), sum({argument}) and sum({argument} * {argument}), and calculate it in the SQL that reads the table"
        ),
        "array_agg" | "string_agg" | "listagg" => {
            "it would keep every value; make it a group column, or count with approx_distinct"
                .into()
        }
        "first_value" | "last_value" | "nth_value" | "any_value" => {
            format!(
                "use min({argument}) or max({argument}): they do not depend on the order of events"
            )
        }
        "bool_and" | "every" => {
            format!("use count(*) filter (where not {argument}) and compare it with 0 when reading")
        }
        "bool_or" => {
            format!("use count(*) filter (where {argument}) and compare it with 0 when reading")
        }
        _ => hints::for_name(name, "measures are", MEASURES.iter().copied()),
    };
    let message = if expressions.is_aggregate(name) || !help.starts_with("measures are") {
        match hints::nearest(name, MEASURES.iter().copied()) {
            Some(_) if !expressions.is_aggregate(name) => format!("unknown function `{name}`"),
            _ => format!("`{name}` cannot merge"),
        }
    } else if expressions.is_scalar(name) {
        format!("`{name}` is not an aggregate")
    } else {
        format!("unknown function `{name}`")
    };
    (message, help)
}

#[cfg(test)]
mod tests;
