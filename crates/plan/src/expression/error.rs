//! What DataFusion says about an expression, in the words and at the place that help.

use std::ops::ControlFlow;

use datafusion::{
    arrow::datatypes::{DataType, TimeUnit},
    common::DataFusionError,
    sql::sqlparser::{
        ast::{self, Spanned as _, Visit as _, Visitor},
        tokenizer::{Location, Span},
    },
};

use super::{Expressions, Source};
use crate::{diagnostic::Code, reader::Reader};

/// A text that is not an SQL expression.
pub(super) fn syntax(source: Source<'_>, error: &DataFusionError, reader: &mut Reader<'_>) {
    let text = first_line(error);
    let text = text
        .trim_start_matches("SQL error: ")
        .trim_start_matches("ParserError(\"")
        .trim_start_matches("TokenizerError(\"")
        .trim_end_matches("\")");
    let (message, at) = match text.split_once(" at Line: ") {
        Some((message, at)) => {
            let mut numbers = at
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse::<u64>().ok());
            (message, numbers.next().zip(numbers.next()))
        }
        None => (text, None),
    };
    let place = match at {
        Some((line, column)) => {
            let start = Location { line, column };
            source.place(reader, Span { start, end: start })
        }
        None => source.sql.span.clone(),
    };
    let message = message.replace("found: EOF", "found: the end");
    let help = if message.contains("Unterminated string") {
        "a text begins with ' and ends with '; one quote inside is written ''"
    } else if message.contains("end of expression") {
        "is a comma, an operator or a quotation mark missing before this?"
    } else if message.contains("recursion") {
        "this is nested too deep: split it up"
    } else if message.contains("Expected: )") {
        "is a closing parenthesis or a comma missing?"
    } else {
        "write one SQL expression over the columns of the schema"
    };
    reader.error(
        Code::Expression,
        place,
        format!("this is not SQL: {message}"),
        help,
    );
}

/// An expression whose types do not fit: marked at the smallest part that fails by itself.
pub(super) fn typing(
    expressions: &Expressions,
    source: Source<'_>,
    parsed: &ast::Expr,
    whole: &DataFusionError,
    reader: &mut Reader<'_>,
) {
    struct Smallest<'e> {
        expressions: &'e Expressions,
        found: Option<(Span, String)>,
    }

    impl Visitor for Smallest<'_> {
        type Break = ();

        fn post_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
            match self.expressions.plan(expr) {
                Ok(_) => ControlFlow::Continue(()),
                Err(error) => {
                    self.found = Some((expr.span(), first_line(&error)));
                    ControlFlow::Break(())
                }
            }
        }
    }

    let mut smallest = Smallest {
        expressions,
        found: None,
    };
    let _ = parsed.visit(&mut smallest);
    let (span, message) = smallest
        .found
        .unwrap_or_else(|| (parsed.span(), first_line(whole)));
    let message = plain(&message);
    let help = if message.contains("No function matches")
        || message.contains("coerce arguments")
        || message.contains("expects")
    {
        "look at the number and types of its arguments; cast(x as type) changes a type"
    } else if message.contains("time zone") {
        "write it like 'UTC', '+01:00' or 'Europe/Zurich'"
    } else if message.contains("arse") || message.contains("Cannot cast") {
        "this part fails for every event: write a value of that type"
    } else if message.contains("verflow") || message.contains("ivide by zero") {
        "this part fails for every event"
    } else {
        "cast(x as type) changes a type; types are string, int, bigint, double, boolean, timestamp, date, decimal(p,s)"
    };
    let place = source.place(reader, span);
    reader.error(Code::Expression, place, message, help);
}

fn first_line(error: &DataFusionError) -> String {
    let text = error.find_root().strip_backtrace();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The message without DataFusion's own words for where it was raised and for types.
pub(crate) fn plain(message: &str) -> String {
    let mut plain = message;
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "Schema error: ",
        "Arrow error: ",
        "This feature is not implemented: ",
        "Cast error: ",
        "Arithmetic overflow: ",
        "Parser error: ",
    ] {
        plain = plain.strip_prefix(prefix).unwrap_or(plain);
    }
    let plain = plain
        .split(" You might need to add explicit type casts")
        .next()
        .unwrap_or(plain);
    let plain = plain
        .split("This issue was likely caused by a bug")
        .next()
        .unwrap_or(plain);
    let mut plain = plain.trim_end_matches(['.', ' ']).to_owned();
    let between = |text: &str, before: &str, after: &str| {
        let rest = text.split_once(before)?.1;
        Some(rest.split_once(after)?.0.to_owned())
    };
    if let Some(operation) = between(&plain, "Cannot coerce arithmetic expression ", " to valid") {
        plain = format!("there is no operation {operation}");
    } else if let Some(operation) =
        between(&plain, "comparison operation ", " failed").or_else(|| {
            plain
                .split_once("comparison operation ")
                .map(|(_, rest)| rest.to_owned())
        })
    {
        plain = format!("there is no comparison {operation}");
    }
    for (theirs, ours) in [
        ("Timestamp(µs, \"UTC\")", "timestamp"),
        ("Timestamp(Microsecond, Some(\"UTC\"))", "timestamp"),
        ("Utf8View", "string"),
        ("Utf8", "string"),
        ("Int32", "int"),
        ("Int64", "bigint"),
        ("Float64", "double"),
        ("Boolean", "boolean"),
        ("Date32", "date"),
        ("Decimal128", "decimal"),
    ] {
        // `UInt64` holds `Int64` and is no type of ours.
        plain = plain
            .replace(&format!("U{theirs}"), "\u{1}")
            .replace(theirs, ours);
        plain = plain.replace('\u{1}', &format!("U{theirs}"));
    }
    plain
}

/// The name of a type in schema files.
pub(crate) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "string".into(),
        DataType::Int32 => "int".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Float64 => "double".into(),
        DataType::Boolean => "boolean".into(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => "timestamp".into(),
        DataType::Date32 => "date".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Null => "null".into(),
        other => plain(&other.to_string()),
    }
}
