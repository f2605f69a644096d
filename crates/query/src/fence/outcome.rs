//! What a function has made: measured, refused where it is too large, and counted for as long as it lives.
//!
//! Owns the reservation that goes with an array, and the making of an outcome piece by piece. Does not own how large an
//! outcome can be ([`super::growth`]).

use std::{ops::Range, sync::atomic::Ordering};

use bytes::Bytes;
use datafusion::{
    arrow::{
        array::{Array, ArrayData, ArrayRef, UInt64Array, make_array},
        buffer::Buffer,
        compute,
    },
    common::{Result, ScalarValue},
    execution::memory_pool::{MemoryReservation, human_readable_size},
    logical_expr::{ColumnarValue, ScalarFunctionArgs},
};

use super::{Account, COPIES_OF_A_CONSTANT, LONG_CONSTANT, MOST_OF_ONE_VALUE, sizes::sizes};
use crate::error::{ErrorKind, QueryError};

/// Bytes that one call may make without being measured in between. Twice that, with two threads, is what no reservation knows.
pub(super) const PIECE: usize = 32 << 20;
/// Bytes of a place in a list or a column of texts.
const PLACE: usize = 4;
/// Outcomes up to so many bytes are not counted: 64 bytes for each row of a usual batch.
pub(super) const SMALL: usize = 512 << 10;
/// Most bytes of the values that one call makes for a batch. Operators and doors make copies that nobody counts.
const MOST_OF_ONE_OUTCOME: usize = 128 << 20;

/// Takes the bytes that an outcome will have from the memory of the query.
///
/// # Errors
/// When that is more than there is.
pub(super) fn take(
    function: &str,
    account: Option<&Account>,
    bytes: usize,
) -> Result<Option<MemoryReservation>> {
    if bytes > MOST_OF_ONE_OUTCOME {
        let (bytes, most) = (
            human_readable_size(bytes),
            human_readable_size(MOST_OF_ONE_OUTCOME),
        );
        return Err(QueryError::new(
            ErrorKind::Memory,
            format!(
                "{function} would make {bytes} for the rows of one batch, which may have {most}"
            ),
        )
        .hint("make shorter values, or of fewer rows")
        .into_datafusion());
    }
    let Some(account) = account.filter(|_| bytes > SMALL) else {
        return Ok(None);
    };
    let taken = account.reservation(function);
    taken.try_grow(bytes)?;
    Ok(Some(taken))
}

/// The refusal of one value.
pub(super) fn too_large(function: &str, bytes: usize) -> QueryError {
    let (bytes, most) = (
        human_readable_size(bytes),
        human_readable_size(MOST_OF_ONE_VALUE),
    );
    QueryError::new(
        ErrorKind::Memory,
        format!("{function} would make a value of {bytes}, one value may have {most}"),
    )
    .hint("make shorter values, or several rows of them")
}

/// Bytes of a constant.
pub(super) fn size(value: &ScalarValue) -> usize {
    value.size() - size_of::<ScalarValue>()
}

/// A constant for each of some rows.
///
/// # Errors
/// When all of them together are too large.
pub(super) fn repeated(
    function: &str,
    value: &ScalarValue,
    rows: usize,
    account: Option<&Account>,
) -> Result<ColumnarValue> {
    let taken = take(function, account, size(value).saturating_mul(rows))?;
    let array = ColumnarValue::Array(value.to_array_of_size(rows)?);
    counted(function, array, rows, account, taken)
}

/// Counts an outcome for so many rows until nothing of it is left; `taken` was taken for it before.
///
/// # Errors
/// When a value, or all of them together, are too large.
pub(super) fn counted(
    function: &str,
    outcome: ColumnarValue,
    rows: usize,
    account: Option<&Account>,
    taken: Option<MemoryReservation>,
) -> Result<ColumnarValue> {
    let array = match outcome {
        ColumnarValue::Scalar(value) => {
            constant(function, &value, account.filter(|_| rows == 1))?;
            // What comes next may need it for every row.
            return match size(&value).saturating_mul(rows) > PIECE && rows > 1 {
                true => repeated(function, &value, rows, account),
                false => Ok(ColumnarValue::Scalar(value)),
            };
        }
        ColumnarValue::Array(array) => array,
    };
    if array.data_type().is_primitive() || array.get_array_memory_size() <= SMALL {
        return Ok(ColumnarValue::Array(array));
    }
    // It may be a part of something larger that others hold.
    let sizes = sizes(&array)?;
    let largest = sizes.iter().max().copied().unwrap_or(0);
    if largest > MOST_OF_ONE_VALUE {
        return Err(too_large(function, largest).into_datafusion());
    }
    let bytes = sizes.iter().sum::<usize>() + PLACE * array.len();
    let taken = match taken {
        Some(taken) => taken,
        None => match take(function, account, bytes)? {
            Some(taken) => taken,
            None => return Ok(ColumnarValue::Array(array)),
        },
    };
    match taken.size() {
        less if less < bytes => taken.try_grow(bytes - less)?,
        more => taken.shrink(more - bytes),
    }
    Ok(ColumnarValue::Array(held(&array, taken)?))
}

/// Counts a value of one row, which is computed while planning: it becomes a part of the plan.
fn constant(function: &str, value: &ScalarValue, account: Option<&Account>) -> Result<()> {
    let bytes = size(value);
    if bytes > MOST_OF_ONE_VALUE {
        return Err(too_large(function, bytes).into_datafusion());
    }
    let Some(account) = account.filter(|_| bytes > LONG_CONSTANT) else {
        return Ok(());
    };
    if account.is_explained.load(Ordering::Relaxed) {
        // Nobody is told: the planner leaves the call as it is.
        return Err(too_large(function, bytes).into_datafusion());
    }
    account.constants.try_grow(bytes * COPIES_OF_A_CONSTANT)
}

/// Makes an outcome in pieces of rows, so that one which is too large is noticed before it is whole.
///
/// # Errors
/// When a value, or all of them together, are too large, and when the function fails.
pub(super) fn in_pieces(
    function: &str,
    pieces: &[Range<usize>],
    args: &ScalarFunctionArgs,
    account: Option<&Account>,
    call: impl Fn(ScalarFunctionArgs) -> Result<ColumnarValue>,
) -> Result<ColumnarValue> {
    let mut made: Vec<ArrayRef> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let rows = UInt64Array::from_iter_values(piece.start as u64..piece.end as u64);
        let arguments = args.args.iter().map(|argument| -> Result<ColumnarValue> {
            Ok(match argument {
                // A copy: of a slice, functions take the whole buffer for what they have to make room for.
                ColumnarValue::Array(array) => {
                    ColumnarValue::Array(compute::take(array, &rows, None)?)
                }
                scalar => scalar.clone(),
            })
        });
        let outcome = call(ScalarFunctionArgs {
            args: arguments.collect::<Result<_>>()?,
            arg_fields: args.arg_fields.clone(),
            number_rows: piece.len(),
            return_field: args.return_field.clone(),
            config_options: args.config_options.clone(),
        })?;
        let outcome = outcome.into_array(piece.len())?;
        let counted = counted(
            function,
            ColumnarValue::Array(outcome),
            piece.len(),
            account,
            None,
        )?;
        made.push(counted.into_array(piece.len())?);
    }
    let bytes = made.iter().map(|piece| piece.get_array_memory_size());
    let bytes = bytes.fold(0, usize::saturating_add);
    let taken = take(function, account, bytes)?;
    let made: Vec<&dyn Array> = made.iter().map(AsRef::as_ref).collect();
    counted(
        function,
        ColumnarValue::Array(compute::concat(&made)?),
        args.number_rows,
        account,
        taken,
    )
}

/// A buffer, and what was taken for its array. Both go together.
struct Held {
    buffer: Buffer,
    _taken: MemoryReservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

/// The same array, whose largest buffer holds the reservation.
fn held(array: &ArrayRef, taken: MemoryReservation) -> Result<ArrayRef> {
    let data = array.to_data();
    let place = largest(&data);
    Ok(make_array(hold(&data, &place, taken)?))
}

/// Where the largest buffer is: children, then the number of the buffer.
fn largest(data: &ArrayData) -> (Vec<usize>, usize) {
    fn visit(data: &ArrayData, path: &mut Vec<usize>, best: &mut (usize, Vec<usize>, usize)) {
        for (number, buffer) in data.buffers().iter().enumerate() {
            if buffer.capacity() > best.0 {
                *best = (buffer.capacity(), path.clone(), number);
            }
        }
        for (number, child) in data.child_data().iter().enumerate() {
            path.push(number);
            visit(child, path, best);
            path.pop();
        }
    }
    let mut best = (0, Vec::new(), 0);
    visit(data, &mut Vec::new(), &mut best);
    (best.1, best.2)
}

fn hold(
    data: &ArrayData,
    (path, number): &(Vec<usize>, usize),
    taken: MemoryReservation,
) -> Result<ArrayData> {
    let builder = data.clone().into_builder();
    let builder = match path.split_first() {
        Some((child, path)) => {
            let mut children = data.child_data().to_vec();
            children[*child] = hold(&children[*child], &(path.to_vec(), *number), taken)?;
            builder.child_data(children)
        }
        None => {
            let mut buffers = data.buffers().to_vec();
            if let Some(buffer) = buffers.get_mut(*number) {
                let held = Held {
                    buffer: buffer.clone(),
                    _taken: taken,
                };
                *buffer = Buffer::from(Bytes::from_owner(held));
            }
            builder.buffers(buffers)
        }
    };
    Ok(builder.build()?)
}
