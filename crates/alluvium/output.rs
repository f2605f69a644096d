//! Results on stdout: one table of values, printed for people, for programs, or for spreadsheets.
//!
//! Owns the three formats and the rule that a closed pipe is not an error. Does not own what stands
//! in a table.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

/// How a table of results is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns, for people.
    Table,
    /// One JSON array of objects.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// RFC 4180, with a header.
    Csv,
}

/// Named columns and rows of values.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

struct Record<'a> {
    columns: &'a [String],
    row: &'a [Value],
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.row.len()))?;
        for (column, value) in self.columns.iter().zip(self.row) {
            map.serialize_entry(column, value)?;
        }
        map.end()
    }
}

impl Sheet {
    /// A sheet without rows.
    pub(crate) fn new(columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            columns: columns.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with one value a column.
    pub(crate) fn push(&mut self, row: Vec<Value>) {
        debug_assert_eq!(row.len(), self.columns.len(), "one value a column");
        self.rows.push(row);
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the sheet to `out` as `format` says.
    pub(crate) fn write(&self, format: Format, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Table => writeln!(out, "{}", self.table()),
            Format::Json => {
                let records: Vec<Record<'_>> = self.records().collect();
                serde_json::to_writer(&mut *out, &records)?;
                writeln!(out)
            }
            Format::Ndjson => self.records().try_for_each(|record| {
                serde_json::to_writer(&mut *out, &record)?;
                writeln!(out)
            }),
            Format::Csv => {
                let header: Vec<String> = self.columns.iter().map(|name| quoted(name)).collect();
                write!(out, "{}\r\n", header.join(","))?;
                self.rows.iter().try_for_each(|row| {
                    let fields: Vec<String> =
                        row.iter().map(|value| quoted(&plain(value))).collect();
                    write!(out, "{}\r\n", fields.join(","))
                })
            }
        }
    }

    /// Its rows, one value a column.
    pub(crate) fn into_rows(self) -> Vec<Vec<Value>> {
        self.rows
    }

    /// Writes one line a column, row by row.
    pub(crate) fn write_expanded(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = self.columns.iter().map(|name| name.chars().count()).max();
        let width = width.unwrap_or_default();
        for (number, row) in self.rows.iter().enumerate() {
            writeln!(out, "─[ {} ]─", number + 1)?;
            for (column, value) in self.columns.iter().zip(row) {
                writeln!(out, "{column:width$}  {}", plain(value))?;
            }
        }
        Ok(())
    }

    /// The sheet with aligned columns and a line under the header.
    pub(crate) fn table(&self) -> Table {
        let mut table = empty_table();
        table.set_header(&self.columns);
        for row in &self.rows {
            table.add_row(row.iter().map(cell));
        }
        table
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.rows.iter().map(|row| Record {
            columns: &self.columns,
            row,
        })
    }
}

/// Columns below which wrapping would leave single letters.
const LEAST_WIDTH: u16 = 40;

/// A line under the header and nothing else.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table in the one style of all commands, as wide as the terminal allows.
pub(crate) fn empty_table() -> Table {
    let width = crossterm::terminal::size().map_or(0, |(columns, _)| columns);
    // Lines that go into a file or another program are never wrapped, nor those of a terminal that does not
    // know how wide it is.
    let arrangement = if io::stdout().is_terminal() && width >= LEAST_WIDTH {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    };
    let mut table = Table::new();
    table.load_style(STYLE).set_content_arrangement(arrangement);
    table
}

fn cell(value: &Value) -> Cell {
    let cell = Cell::new(plain(value));
    if value.is_number() {
        cell.set_alignment(CellAlignment::Right)
    } else {
        cell
    }
}

/// A value without the quotes of JSON; nothing for null.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Writes a result to stdout, through `print`. A reader that went away (`| head`) has what it wanted: that is no
/// error.
///
/// # Errors
/// When stdout cannot be written for another reason.
pub(crate) fn to_stdout(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    match print(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints a line to stderr: what is going on, never a result.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    // A message that nobody can read any more is no reason to stop the work.
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Whole numbers in groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a binary unit and at most one decimal.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = count as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{amount:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(format: Format) -> String {
        let mut sheet = Sheet::new(["zeta", "alpha"]);
        sheet.push(vec![json!("a \"b\", c"), json!(1)]);
        sheet.push(vec![Value::Null, json!(25)]);
        let mut out = Vec::new();
        sheet.write(format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn programs_get_columns_in_order_and_unchanged_values() {
        assert_eq!(
            written(Format::Json),
            "[{\"zeta\":\"a \\\"b\\\", c\",\"alpha\":1},{\"zeta\":null,\"alpha\":25}]\n"
        );
        assert_eq!(
            written(Format::Csv),
            "zeta,alpha\r\n\"a \"\"b\"\", c\",1\r\n,25\r\n"
        );
        assert_eq!(written(Format::Ndjson).lines().count(), 2);
    }

    #[test]
    fn people_get_numbers_aligned_to_the_right() {
        let table = written(Format::Table);
        let ends: Vec<_> = table
            .lines()
            .filter_map(|line| line.trim_end().strip_suffix(['1', '5']).map(str::len))
            .collect();
        assert_eq!(ends.len(), 2, "{table}");
        assert_eq!(ends[0], ends[1], "{table}");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [512, 1536, 5 << 30].map(bytes),
            ["512 B", "1.5 KiB", "5.0 GiB"]
        );
    }
}
