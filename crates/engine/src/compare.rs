//! The rows of a table beside the same rows computed a second time.
//!
//! Owns the walk over both sides, and when two rows are the same row. Does not own when they have the same answers
//! ([`answers`]), nor where either side comes from.

mod answers;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, ops::Range, sync::Arc};

use alluvium_plan::{Rounding, TableShape};
use datafusion::{
    arrow::{
        array::{Array, RecordBatch},
        row::{OwnedRow, Row, RowConverter, Rows, SortField},
    },
    common::ScalarValue,
};

use crate::{EngineError, once::finish_measures};
use answers::Answers;

/// What is compared. Every side comes sorted by window, then group columns, NULL first, each of these once.
#[derive(Debug)]
pub struct Sides<S, R, U> {
    /// Panes of the table, in the pane schema of its shape.
    pub stored: S,
    /// Panes computed again, in the pane schema of the wider shape.
    pub recomputed: R,
    /// Panes, of the wider shape too, whose events may or may not be part of the table: rows with their keys are set aside.
    pub undecided: U,
}

/// What a comparison came to, in rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// The same on both sides.
    pub equal: u64,
    /// On both sides, with other answers.
    pub differing: u64,
    /// In the table only.
    pub only_stored: u64,
    /// Computed again only.
    pub only_recomputed: u64,
    /// Set aside.
    pub undecided: u64,
    /// The first rows that are not the same, in their order.
    pub first: Vec<Difference>,
}

impl Comparison {
    /// Whether both sides have the same rows with the same answers.
    pub fn is_equal(&self) -> bool {
        self.rows() == self.equal
    }

    /// Rows of either side.
    pub fn rows(&self) -> u64 {
        self.equal + self.differing + self.only_stored + self.only_recomputed + self.undecided
    }
}

/// A row that is not the same on both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// `window_start`, `window_end`, and the group columns.
    pub key: Vec<ScalarValue>,
    /// In what.
    pub kind: DifferenceKind,
}

/// In what a row is not the same.
#[derive(Clone, Debug, PartialEq)]
pub enum DifferenceKind {
    /// Only the table has it.
    OnlyStored,
    /// Only what was computed again has it.
    OnlyRecomputed,
    /// Measures with other answers.
    Measures(Vec<DifferingMeasure>),
}

/// An answer that is not the same.
#[derive(Clone, Debug, PartialEq)]
pub struct DifferingMeasure {
    /// The measure.
    pub name: Arc<str>,
    /// The table's answer.
    pub stored: ScalarValue,
    /// The one that was computed again.
    pub recomputed: ScalarValue,
}

/// Compares the sides row by row, and keeps the first `most` differences. `wider` is `shape` with the states that
/// `roundings` names ([`TablePlan::with_rounding`](alluvium_plan::TablePlan::with_rounding)).
///
/// Answers are equal when they are the same value; both zeros are one, and so are all that are no number. Sums and averages
/// of doubles depend on the order in which they were added up: they are equal as far as any order of the same values can
/// tell ([`Rounding::bound`]).
///
/// # Errors
/// The first error of a side; [`EngineError::Unordered`] when a side does not come in order.
pub fn compare_panes<S, R, U>(
    shape: &TableShape,
    wider: &TableShape,
    roundings: &[Rounding],
    sides: Sides<S, R, U>,
    most: usize,
) -> Result<Comparison, EngineError>
where
    S: Iterator<Item = Result<RecordBatch, EngineError>>,
    R: Iterator<Item = Result<RecordBatch, EngineError>>,
    U: Iterator<Item = Result<RecordBatch, EngineError>>,
{
    let schema = shape.pane_schema();
    let keys = 2 + shape.group_columns.len();
    let fields = schema.fields()[..keys]
        .iter()
        .map(|field| SortField::new(field.data_type().clone()))
        .collect();
    let converter = RowConverter::new(fields)?;
    let mut stored = Cursor::new(sides.stored, shape, &converter, "the table's rows")?;
    let mut recomputed = Cursor::new(sides.recomputed, wider, &converter, "rows computed again")?;
    let mut undecided = Cursor::new(sides.undecided, wider, &converter, "rows set aside")?;
    let mut answers = Answers::new(shape, roundings);
    let mut found = Comparison::default();
    loop {
        let order = match (stored.key(), recomputed.key()) {
            (None, None) => return Ok(found),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(stored), Some(recomputed)) => stored.cmp(&recomputed),
        };
        let is_undecided = match order {
            Ordering::Less | Ordering::Equal => undecided.has(&stored)?,
            Ordering::Greater => undecided.has(&recomputed)?,
        };
        let (counted, kind) = match order {
            _ if is_undecided => (&mut found.undecided, None),
            Ordering::Less => (&mut found.only_stored, Some(DifferenceKind::OnlyStored)),
            Ordering::Greater => (
                &mut found.only_recomputed,
                Some(DifferenceKind::OnlyRecomputed),
            ),
            Ordering::Equal if answers.differ(stored.held(), recomputed.held())? => {
                let measures = match found.first.len() < most {
                    true => answers.differing(stored.held(), recomputed.held())?,
                    false => Vec::new(),
                };
                let kind = DifferenceKind::Measures(measures);
                (&mut found.differing, Some(kind))
            }
            Ordering::Equal => (&mut found.equal, None),
        };
        *counted += 1;
        if let Some(kind) = kind.filter(|_| found.first.len() < most) {
            let key = match order {
                Ordering::Greater => recomputed.scalars(0..keys)?,
                Ordering::Less | Ordering::Equal => stored.scalars(0..keys)?,
            };
            found.first.push(Difference { key, kind });
        }
        if order != Ordering::Greater {
            stored.advance()?;
        }
        if order != Ordering::Less {
            recomputed.advance()?;
        }
    }
}

/// Where a side has been read to.
struct Cursor<'c, I> {
    panes: I,
    shape: &'c TableShape,
    converter: &'c RowConverter,
    what: &'static str,
    held: Option<Held>,
    /// The last key of the batch before.
    last: Option<OwnedRow>,
    batches: u64,
}

/// The batch at hand, and the row.
struct Held {
    /// Which batch of its side it is.
    number: u64,
    panes: RecordBatch,
    finished: RecordBatch,
    rows: Rows,
    row: usize,
}

impl<'c, I: Iterator<Item = Result<RecordBatch, EngineError>>> Cursor<'c, I> {
    fn new(
        panes: I,
        shape: &'c TableShape,
        converter: &'c RowConverter,
        what: &'static str,
    ) -> Result<Self, EngineError> {
        let mut cursor = Self {
            panes,
            shape,
            converter,
            what,
            held: None,
            last: None,
            batches: 0,
        };
        cursor.next_batch()?;
        Ok(cursor)
    }

    fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    fn key(&self) -> Option<Row<'_>> {
        self.held.as_ref().map(|held| held.rows.row(held.row))
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        let Some(held) = &mut self.held else {
            return Ok(());
        };
        held.row += 1;
        if held.row < held.rows.num_rows() {
            return Ok(());
        }
        self.last = Some(held.rows.row(held.row - 1).owned());
        self.next_batch()
    }

    fn next_batch(&mut self) -> Result<(), EngineError> {
        self.held = None;
        let keys = 2 + self.shape.group_columns.len();
        for panes in self.panes.by_ref() {
            let panes = panes?;
            if panes.num_rows() == 0 {
                continue;
            }
            let rows = self.converter.convert_columns(&panes.columns()[..keys])?;
            let first = self
                .last
                .as_ref()
                .is_none_or(|last| last.row() < rows.row(0));
            let rest = (1..rows.num_rows()).all(|row| rows.row(row - 1) < rows.row(row));
            if !first || !rest {
                return Err(EngineError::Unordered { what: self.what });
            }
            self.batches += 1;
            self.held = Some(Held {
                number: self.batches,
                finished: finish_measures(self.shape, &panes)?,
                panes,
                rows,
                row: 0,
            });
            return Ok(());
        }
        Ok(())
    }

    /// Whether this side has the row that `other` stands at. Asked with keys that never fall.
    fn has<J>(&mut self, other: &Cursor<'_, J>) -> Result<bool, EngineError>
    where
        J: Iterator<Item = Result<RecordBatch, EngineError>>,
    {
        let Some(wanted) = other.key() else {
            return Ok(false);
        };
        loop {
            match self.key().map(|key| key.cmp(&wanted)) {
                Some(Ordering::Less) => self.advance()?,
                order => return Ok(order == Some(Ordering::Equal)),
            }
        }
    }

    /// Columns of the row at hand.
    fn scalars(&self, columns: Range<usize>) -> Result<Vec<ScalarValue>, EngineError> {
        let held = self.held.iter();
        held.flat_map(|held| {
            let columns = held.finished.columns()[columns.clone()].iter();
            columns.map(|column| scalar(column, held.row))
        })
        .collect()
    }
}

fn scalar(column: &dyn Array, row: usize) -> Result<ScalarValue, EngineError> {
    let column = column.slice(row, 1);
    ScalarValue::try_from_array(&column, 0).map_err(|source| EngineError::Merge {
        source: Box::new(source),
    })
}
