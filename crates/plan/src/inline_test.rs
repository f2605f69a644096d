//! The tests that stand in a pipeline file, as meant.
//!
//! Owns that they name existing tables and columns. Does not own running them.

use std::{ops::Range, sync::Arc};

use indexmap::IndexMap;

use crate::{
    TableShape,
    diagnostic::{Code, SourceFile},
    hints,
    reader::{Keys as _, Reader},
    tree::Scalar,
    values,
    written::pipeline::{Expected, Row, Table, Test},
};

/// Events, and the rows they must give.
#[derive(Clone, Debug, PartialEq)]
pub struct InlineTest {
    /// What it shows.
    pub name: String,
    /// The events' bytes, in order: those of `given`, then those of `given_raw`.
    pub given: Vec<Vec<u8>>,
    /// For each named table all its rows; of each row only these columns are compared.
    pub expect: IndexMap<Arc<str>, Vec<IndexMap<String, serde_json::Value>>>,
    /// How many events must be dead letters, when the test says so.
    pub dead_letters: Option<u64>,
    /// The file it stands in.
    pub file: Arc<SourceFile>,
    /// Its name's place there.
    pub span: Range<usize>,
}

/// The name under `expect` that is no table.
pub(crate) const DEAD_LETTERS: &str = "dead_letters";

pub(crate) fn read(
    written: &[Test],
    tables: &[(Scalar, Table)],
    reader: &mut Reader<'_>,
) -> Vec<InlineTest> {
    written
        .iter()
        .filter_map(|test| read_one(test, tables, reader))
        .collect()
}

fn read_one(
    test: &Test,
    tables: &[(Scalar, Table)],
    reader: &mut Reader<'_>,
) -> Option<InlineTest> {
    let Some(name) = &test.name else {
        if test.lacks("name") {
            values::missing(reader, &test.span, "name", "say what the test shows");
        }
        return None;
    };
    let mut given: Vec<Vec<u8>> = Vec::new();
    for event in test.given.iter().flatten() {
        if event.text.starts_with('{') {
            given.push(event.text.clone().into_bytes());
        } else {
            reader.error(
                Code::Test,
                event.span.clone(),
                "an event under `given` is a map",
                "write {column: value, …}; bytes that are no JSON object go under `given_raw`",
            );
        }
    }
    given.extend(
        test.given_raw
            .iter()
            .flatten()
            .map(|event| event.text.clone().into_bytes()),
    );
    if given.is_empty() && test.lacks("given") && test.lacks("given_raw") {
        let help = "list the events as maps, or as text under `given_raw`";
        values::missing(reader, &name.span, "given", help);
    }
    let mut meant = InlineTest {
        name: name.text.clone(),
        given,
        expect: IndexMap::new(),
        dead_letters: None,
        file: reader.file.clone(),
        span: name.span.clone(),
    };
    let Some(expect) = &test.expect else {
        if test.lacks("expect") {
            let help = "name a table and all its rows, or `dead_letters` and their number";
            values::missing(reader, &name.span, "expect", help);
        }
        return None;
    };
    for (table, expected) in &expect.0 {
        match expected {
            _ if table.text == DEAD_LETTERS => {
                meant.dead_letters = dead_letters(table, expected, reader);
            }
            Expected::Rows(rows) => {
                let Some((_, known)) = tables.iter().find(|(known, _)| known.text == table.text)
                else {
                    unknown_table(table, tables, reader);
                    continue;
                };
                let rows = rows
                    .iter()
                    .map(|row| values_of(row, known, reader))
                    .collect();
                meant.expect.insert(table.text.as_str().into(), rows);
            }
            Expected::Number(number) => {
                let help = "write its rows: - {column: value}; only `dead_letters` is a number";
                let message = format!("`{}` needs a list of rows", table.shown);
                reader.error(Code::Test, number.span.clone(), message, help);
            }
        }
    }
    Some(meant)
}

fn dead_letters(key: &Scalar, expected: &Expected, reader: &mut Reader<'_>) -> Option<u64> {
    let number = match expected {
        Expected::Number(number) => number.text.parse().ok(),
        Expected::Rows(_) => None,
    };
    if number.is_none() {
        let span = match expected {
            Expected::Number(number) => number.span.clone(),
            Expected::Rows(_) => key.span.clone(),
        };
        let help = "write how many: dead_letters: 1";
        reader.error(Code::Test, span, "`dead_letters` is a number here", help);
    }
    number
}

fn unknown_table(table: &Scalar, tables: &[(Scalar, Table)], reader: &mut Reader<'_>) {
    let known = tables.iter().map(|(name, _)| name.text.as_str());
    let help = hints::for_name(&table.text, "the tables are", known);
    let message = format!("this file has no table `{}`", table.shown);
    reader.error(Code::Test, table.span.clone(), message, help);
}

fn values_of(
    row: &Row,
    table: &Table,
    reader: &mut Reader<'_>,
) -> IndexMap<String, serde_json::Value> {
    let groups = table.group_by.iter().flat_map(|named| &named.0);
    let measures = table.measures.iter().flat_map(|named| &named.0);
    let columns: Vec<&str> = [
        TableShape::WINDOW_START,
        TableShape::WINDOW_END,
        TableShape::FINAL,
    ]
    .into_iter()
    .chain(groups.chain(measures).map(|(name, _)| name.text.as_str()))
    .collect();
    let mut meant = IndexMap::new();
    for (column, value) in &row.0 {
        if !columns.contains(&column.text.as_str()) {
            let help = hints::for_name(&column.text, "its columns are", columns.iter().copied());
            let message = format!("the table has no column `{}`", column.shown);
            reader.error(Code::Test, column.span.clone(), message, help);
            continue;
        }
        // A number beyond every type (1e999) stays the text that it is.
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.as_str().into());
        meant.insert(column.text.clone(), value);
    }
    meant
}
