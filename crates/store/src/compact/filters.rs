//! Which columns of a merged file get bloom filters.
//!
//! Owns the judgement, from a sample of what is merged. A filter pays where a value that is in the table is in few of its
//! row groups, as users are; where every row group has nearly every value, as countries, it would be read for nothing.
//! Does not own the writing of filters, nor their use.

use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    pin::pin,
    sync::Arc,
};

use alluvium_plan::TableShape;
use datafusion::arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Int32Type, Int64Type},
};
use futures::TryStreamExt as _;
use object_store::ObjectStore;

use super::Choice;
use crate::{
    StoreError,
    parquet_reader::{open_file, rows_of},
    stage::ROW_GROUP_ROWS,
};

/// Fewer rows are one row group or two, which bounds in the log and a glance at a page serve as well.
const WORTH_IT: u64 = 2 * ROW_GROUP_ROWS as u64;
/// Rows from the end of what is merged, whose values are looked for among the first.
const LOOKED_FOR: usize = 8 << 10;

/// The group columns that deserve filters, of files that have `rows` rows in all.
///
/// # Errors
/// That a file cannot be read.
pub(super) async fn filtered_columns(
    objects: &Arc<dyn ObjectStore>,
    choice: &Choice,
    shape: &TableShape,
    rows: u64,
) -> Result<Vec<Arc<str>>, StoreError> {
    let columns: Vec<&str> = shape
        .group_columns
        .iter()
        .filter(|field| can_be_filtered(field.data_type()))
        .map(|field| field.name().as_str())
        .collect();
    let (Some(last), false) = (choice.files().last(), columns.is_empty() || rows < WORTH_IT) else {
        return Ok(Vec::new());
    };
    // The first rows in the order of windows stand for one row group of the result.
    let mut group: Vec<HashSet<u64>> = vec![HashSet::new(); columns.len()];
    let mut sampled = 0;
    for file in choice.files() {
        if sampled >= ROW_GROUP_ROWS {
            break;
        }
        let open = open_file(objects.clone(), &file.path, file.size).await?;
        let rows = 0..ROW_GROUP_ROWS - sampled;
        let mut rows = pin!(rows_of(open, &file.path, &columns, rows)?);
        while let Some(batch) = rows.try_next().await? {
            sampled += batch.num_rows();
            for (column, values) in batch.columns().iter().zip(&mut group) {
                hashes(column, |hash| {
                    values.insert(hash);
                });
            }
        }
    }
    let open = open_file(objects.clone(), &last.path, last.size).await?;
    let end = usize::try_from(open.metadata().file_metadata().num_rows()).unwrap_or(0);
    let rows = end.saturating_sub(LOOKED_FOR)..end;
    let (mut found, mut looked_for) = (vec![0_usize; columns.len()], vec![0_usize; columns.len()]);
    let mut rows = pin!(rows_of(open, &last.path, &columns, rows)?);
    while let Some(batch) = rows.try_next().await? {
        for (position, column) in batch.columns().iter().enumerate() {
            hashes(column, |hash| {
                looked_for[position] += 1;
                found[position] += usize::from(group[position].contains(&hash));
            });
        }
    }
    Ok(columns
        .iter()
        .enumerate()
        .filter(|(position, _)| found[*position] * 2 < looked_for[*position])
        .map(|(_, column)| Arc::from(*column))
        .collect())
}

/// Types whose filters queries use.
fn can_be_filtered(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::Int32 | DataType::Int64
    )
}

/// A hash of each value that is not NULL.
fn hashes(column: &Arc<dyn Array>, mut take: impl FnMut(u64)) {
    let hash = |value: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        value(&mut hasher);
        hasher.finish()
    };
    match column.data_type() {
        DataType::Utf8 => {
            let values = column.as_string::<i32>().iter().flatten();
            values.for_each(|value| take(hash(&|hasher| value.hash(hasher))));
        }
        DataType::Int32 => {
            let values = column.as_primitive::<Int32Type>().iter().flatten();
            values.for_each(|value| take(hash(&|hasher| value.hash(hasher))));
        }
        DataType::Int64 => {
            let values = column.as_primitive::<Int64Type>().iter().flatten();
            values.for_each(|value| take(hash(&|hasher| value.hash(hasher))));
        }
        _ => {}
    }
}
