//! One form of each double. Owns nothing else.

/// The one form of a value: both zeros are `0.0`, and whatever is no number is one NaN, which comes behind every number in the
/// total order. So equal values have equal bits.
#[inline]
pub fn canonical(value: f64) -> f64 {
    if value.is_nan() {
        f64::NAN
    } else {
        value + 0.0
    }
}
