//! One key, one form: doubles in group columns.

use std::sync::Arc;

use alluvium_functions::canonical;
use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array},
    datatypes::{DataType, Float64Type},
};

/// Makes -0.0 and 0.0 one key and all NaNs one key, so that equal keys have equal bytes wherever they
/// are sorted, hashed or merged.
pub(crate) fn canonical_keys(keys: ArrayRef) -> ArrayRef {
    if *keys.data_type() != DataType::Float64 {
        return keys;
    }
    let doubles = keys.as_primitive::<Float64Type>();
    let unified: Float64Array = doubles.unary(canonical);
    Arc::new(unified)
}
