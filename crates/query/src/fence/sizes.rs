//! How much values hold, row by row: bytes, and elements of lists.
//!
//! Owns the measuring of what is there. Does not own what a function makes of it ([`super::growth`]).

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, OffsetSizeTrait},
        compute::cast,
        datatypes::DataType,
    },
    common::{Result, ScalarValue},
    logical_expr::ColumnarValue,
};

/// What is summed over the innermost values of lists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    Bytes,
    Elements,
}

/// What is summed in each of so many rows of an argument; of one that is missing nothing.
pub(super) fn weights(
    argument: Option<&ColumnarValue>,
    rows: usize,
    leaf: Leaf,
) -> Result<Vec<usize>> {
    Ok(match argument {
        None => vec![0; rows],
        Some(ColumnarValue::Array(array)) => weigh(array, leaf)?,
        Some(ColumnarValue::Scalar(value)) => {
            let one = match value {
                ScalarValue::Null => 0,
                value => weigh(&value.to_array()?, leaf)?.into_iter().sum(),
            };
            vec![one; rows]
        }
    })
}

/// Bytes of each value of a column.
pub(super) fn sizes(array: &ArrayRef) -> Result<Vec<usize>> {
    weigh(array, Leaf::Bytes)
}

/// Innermost elements of each list of a column; those of lists of lists count as the lists they are in at least.
pub(super) fn elements(array: &ArrayRef) -> Result<Vec<usize>> {
    let innermost = weigh(array, Leaf::Elements)?.into_iter();
    let lists = match array.data_type() {
        DataType::List(_) => lengths(array.as_list::<i32>().value_offsets()),
        DataType::LargeList(_) => lengths(array.as_list::<i64>().value_offsets()),
        DataType::FixedSizeList(_, length) => vec![*length as usize; array.len()],
        _ => vec![1; array.len()],
    };
    Ok(innermost
        .zip(lists)
        .map(|(innermost, lists)| innermost.max(lists))
        .collect())
}

fn lengths<O: OffsetSizeTrait>(offsets: &[O]) -> Vec<usize> {
    offsets
        .windows(2)
        .map(|pair| pair[1].as_usize() - pair[0].as_usize())
        .collect()
}

/// Sums what lists hold.
fn over<O: OffsetSizeTrait>(offsets: &[O], values: &ArrayRef, leaf: Leaf) -> Result<Vec<usize>> {
    if let (Leaf::Bytes, Some(width)) = (leaf, values.data_type().primitive_width()) {
        return Ok(lengths(offsets)
            .iter()
            .map(|length| length * width)
            .collect());
    }
    let values = weigh(values, leaf)?;
    // Each of them has a place as well.
    let place = usize::from(leaf == Leaf::Bytes) * size_of::<O>();
    let sums = offsets.windows(2).map(|pair| {
        let inside = &values[pair[0].as_usize()..pair[1].as_usize()];
        inside.iter().sum::<usize>() + inside.len() * place
    });
    Ok(sums.collect())
}

fn weigh(array: &ArrayRef, leaf: Leaf) -> Result<Vec<usize>> {
    Ok(match array.data_type() {
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            over(lists.value_offsets(), lists.values(), leaf)?
        }
        DataType::LargeList(_) => {
            let lists = array.as_list::<i64>();
            over(lists.value_offsets(), lists.values(), leaf)?
        }
        DataType::Map(..) => {
            let maps = array.as_map();
            let entries: ArrayRef = Arc::new(maps.entries().clone());
            over(maps.value_offsets(), &entries, leaf)?
        }
        DataType::FixedSizeList(_, length) => {
            let length = *length as usize;
            let lists = array.as_fixed_size_list();
            let values = weigh(lists.values(), leaf)?;
            match length {
                0 => vec![0; lists.len()],
                length => values
                    .chunks(length)
                    .map(|list| list.iter().sum())
                    .collect(),
            }
        }
        _ if leaf == Leaf::Elements => vec![1; array.len()],
        DataType::Utf8 => lengths(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => lengths(array.as_string::<i64>().value_offsets()),
        DataType::Binary => lengths(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => lengths(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => view_sizes(array.as_string_view().views()),
        DataType::BinaryView => view_sizes(array.as_binary_view().views()),
        DataType::Struct(_) => {
            let mut sum = vec![0; array.len()];
            for column in array.as_struct().columns() {
                for (sum, bytes) in sum.iter_mut().zip(weigh(column, leaf)?) {
                    *sum += bytes;
                }
            }
            sum
        }
        DataType::Dictionary(_, value) => weigh(&cast(array, value)?, leaf)?,
        DataType::Null => vec![0; array.len()],
        other => {
            let width = other
                .primitive_width()
                .unwrap_or_else(|| array.get_array_memory_size() / array.len().max(1));
            vec![width; array.len()]
        }
    })
}

fn view_sizes(views: &[u128]) -> Vec<usize> {
    // The lower half of a view begins with the length.
    views.iter().map(|view| *view as u32 as usize).collect()
}
