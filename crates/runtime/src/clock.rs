//! The one place where the data path asks what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

use alluvium_types::Timestamp;

/// The wall clock, in UTC.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// A duration in whole microseconds, as event-time arithmetic uses it.
pub(crate) fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
