//! How much rows take.

use datafusion::arrow::array::{Array, RecordBatch};

/// Bytes of the rows themselves: several batches may be slices of one buffer.
pub(crate) fn sliced_size(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    let sizes = columns.map(|column| {
        let data = column.to_data();
        data.get_slice_memory_size()
            .unwrap_or_else(|_| column.get_array_memory_size())
    });
    sizes.sum()
}
