//! The rows of many batches in the order of their keys, without holding all keys in a form that compares.
//!
//! Owns the order. Keys are compared as encoded bytes, which take about as much memory as rows of small states do; so rows
//! are first dealt out to ranges of keys, by a sample, and the keys of one range at a time are encoded and sorted. Does not
//! own the rows nor what becomes of them.

use std::vec;

use alluvium_types::{MemoryBudget, Reservation};
use datafusion::arrow::{
    array::{Array, RecordBatch},
    compute::interleave,
    datatypes::SchemaRef,
    error::ArrowError,
    row::{OwnedRow, RowConverter, Rows, SortField},
};

/// Rows of one range, about: their keys are encoded and sorted together. Least where memory is small, and usual; and the share of
/// a budget's bytes that so many rows may be.
const RANGE_ROWS: (usize, usize) = (32 << 10, 128 << 10);
const RANGE_SHARE: usize = 1 << 10;
/// Keys looked at for each range, to find where ranges begin.
const SAMPLES: usize = 32;

/// A batch, and a row of it.
pub(super) type Place = (u32, u32);

/// The order of the first columns of some batches, handed out range by range.
pub(super) struct KeyOrder {
    keys: usize,
    converter: RowConverter,
    /// The places of each range, in no order but that of the batches.
    ranges: vec::IntoIter<Vec<Place>>,
    budget: MemoryBudget,
    /// Counts the places.
    reservation: Reservation,
}

impl KeyOrder {
    /// The order of `batches`, all of `schema`, by their first `keys` columns, ascending, NULL first.
    pub(super) fn of(
        schema: &SchemaRef,
        keys: usize,
        batches: &[RecordBatch],
        budget: &MemoryBudget,
    ) -> Result<Self, ArrowError> {
        let rows = budget.share(RANGE_SHARE, RANGE_ROWS.0, RANGE_ROWS.1);
        Self::in_ranges_of(rows, schema, keys, batches, budget)
    }

    pub(super) fn in_ranges_of(
        range_rows: usize,
        schema: &SchemaRef,
        keys: usize,
        batches: &[RecordBatch],
        budget: &MemoryBudget,
    ) -> Result<Self, ArrowError> {
        let fields = schema.fields()[..keys]
            .iter()
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        let converter = RowConverter::new(fields)?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let reservation = budget.reserve(rows * size_of::<Place>());
        let starts = match rows.div_ceil(range_rows.max(1)) {
            0 | 1 => Vec::new(),
            ranges => starts_of_ranges(ranges, rows, keys, batches, &converter)?,
        };
        let usual = rows / (starts.len() + 1);
        let mut ranges: Vec<Vec<Place>> = (0..=starts.len())
            .map(|_| Vec::with_capacity(usual + usual / 8))
            .collect();
        for (number, batch) in batches.iter().enumerate() {
            let encoded = match starts.is_empty() {
                true => None,
                false => Some(converter.convert_columns(&batch.columns()[..keys])?),
            };
            for row in 0..batch.num_rows() {
                let range = encoded.as_ref().map_or(0, |encoded| {
                    starts.partition_point(|start| start.row() <= encoded.row(row))
                });
                ranges[range].push((number as u32, row as u32));
            }
        }
        Ok(Self {
            keys,
            converter,
            ranges: ranges.into_iter(),
            budget: budget.clone(),
            reservation,
        })
    }

    /// The places of the next range, in order; equal keys in the order of their batches. `None` behind the last one.
    pub(super) fn next_range(
        &mut self,
        batches: &[RecordBatch],
    ) -> Result<Option<Vec<Place>>, ArrowError> {
        let Some(places) = self.ranges.find(|places| !places.is_empty()) else {
            self.reservation.resize(0);
            return Ok(None);
        };
        let mut counted = self
            .budget
            .reserve(places.len() * size_of::<(usize, usize)>());
        let wanted: Vec<(usize, usize)> = places
            .iter()
            .map(|&(batch, row)| (batch as usize, row as usize))
            .collect();
        let columns = (0..self.keys)
            .map(|key| {
                let arrays: Vec<&dyn Array> = batches
                    .iter()
                    .map(|batch| batch.column(key).as_ref())
                    .collect();
                interleave(&arrays, &wanted)
            })
            .collect::<Result<Vec<_>, _>>()?;
        drop(wanted);
        let copied = columns
            .iter()
            .map(Array::get_array_memory_size)
            .sum::<usize>();
        // Encoded they are about as large again.
        counted.resize(2 * copied);
        let encoded = self.converter.convert_columns(&columns)?;
        drop(columns);
        counted.resize(encoded.size());
        let mut order: Vec<u32> = (0..places.len() as u32).collect();
        let key = |at: &u32| encoded.row(*at as usize);
        // Places are in the order of their batches, so positions among them are too.
        order.sort_unstable_by(|left, right| key(left).cmp(&key(right)).then(left.cmp(right)));
        Ok(Some(
            order.into_iter().map(|at| places[at as usize]).collect(),
        ))
    }
}

/// The keys that ranges but the first begin with, in order, by a sample of evenly spaced rows.
fn starts_of_ranges(
    ranges: usize,
    rows: usize,
    keys: usize,
    batches: &[RecordBatch],
    converter: &RowConverter,
) -> Result<Vec<OwnedRow>, ArrowError> {
    let step = (rows / (ranges * SAMPLES)).max(1);
    let mut samples: Vec<OwnedRow> = Vec::with_capacity(rows / step + 1);
    let mut next = 0;
    for batch in batches {
        if next < batch.num_rows() {
            let encoded: Rows = converter.convert_columns(&batch.columns()[..keys])?;
            let sampled = (next..batch.num_rows()).step_by(step);
            samples.extend(sampled.map(|row| encoded.row(row).owned()));
        }
        let beyond = batch.num_rows().saturating_sub(next).div_ceil(step);
        next = next + beyond * step - batch.num_rows();
    }
    samples.sort_unstable();
    let each = samples.len().div_ceil(ranges).max(1);
    let mut starts: Vec<OwnedRow> = samples.iter().skip(each).step_by(each).cloned().collect();
    starts.dedup();
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::{
        array::{AsArray, Int64Array, StringArray},
        datatypes::{DataType, Field, Int64Type, Schema},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::testing::budget;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("number", DataType::Int64, true),
            Field::new("text", DataType::Utf8, true),
        ]))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_row_comes_once_and_in_order(
            rows in prop::collection::vec(
                prop::collection::vec((prop::option::of(-3i64..3), prop::option::of("[ab]{0,3}")), 0..40),
                0..6,
            ),
            range_rows in 1usize..60,
        ) {
            let batches: Vec<RecordBatch> = rows
                .iter()
                .map(|rows| {
                    let numbers: Int64Array = rows.iter().map(|row| row.0).collect();
                    let texts: StringArray = rows.iter().map(|row| row.1.clone()).collect();
                    RecordBatch::try_new(schema(), vec![Arc::new(numbers), Arc::new(texts)]).unwrap()
                })
                .collect();
            let budget = budget();
            let mut order =
                KeyOrder::in_ranges_of(range_rows, &schema(), 2, &batches, &budget).unwrap();
            let mut found = Vec::new();
            while let Some(places) = order.next_range(&batches).unwrap() {
                found.extend(places);
            }
            let value = |&(batch, row): &Place| {
                let batch = &batches[batch as usize];
                let number = batch.column(0).as_primitive::<Int64Type>().iter().nth(row as usize).unwrap();
                let text = batch.column(1).as_string::<i32>().iter().nth(row as usize).unwrap();
                (number, text.map(str::to_owned))
            };
            let mut expected: Vec<Place> = batches
                .iter()
                .enumerate()
                .flat_map(|(batch, rows)| (0..rows.num_rows()).map(move |row| (batch as u32, row as u32)))
                .collect();
            expected.sort_by_key(value);
            prop_assert_eq!(found, expected);
            drop(order);
            prop_assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn keys_are_held_for_one_range_at_a_time() {
        let batch = |from: i64| {
            let numbers: Int64Array = (from..from + 8192).map(|row| row * 7 % 100_003).collect();
            let texts: StringArray = (0..8192).map(|row| Some(format!("key {row}"))).collect();
            RecordBatch::try_new(schema(), vec![Arc::new(numbers), Arc::new(texts)]).unwrap()
        };
        let batches: Vec<RecordBatch> = (0..50).map(|number| batch(number * 8192)).collect();
        let rows = 50 * 8192;
        let budget = MemoryBudget::new(1 << 30);
        let mut order = KeyOrder::in_ranges_of(16 << 10, &schema(), 2, &batches, &budget).unwrap();
        let mut found = 0;
        while let Some(places) = order.next_range(&batches).unwrap() {
            found += places.len();
        }
        assert_eq!(found, rows);
        let places = rows * size_of::<Place>();
        assert!(
            budget.peak() < places + 4 * (16 << 10) * 48,
            "{}",
            budget.peak()
        );
    }
}
