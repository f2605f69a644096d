//! The windows that are compared.

use alluvium_plan::{CommittedFile, TableShape};
use alluvium_types::Timestamp;
use datafusion::arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::TimestampMicrosecondType,
    error::ArrowError,
};

/// A stretch of event time: every window that lies in it whole. Without an end it goes on for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// No window begins before.
    pub from: Option<Timestamp>,
    /// No window ends after.
    pub to: Option<Timestamp>,
}

impl Windows {
    /// Whether the window `[start, end)` is one of these.
    pub fn contains(&self, start: Timestamp, end: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= start) && self.to.is_none_or(|to| end <= to)
    }

    /// Whether a file may hold rows of these, as far as the log tells.
    pub(super) fn may_be_in(&self, file: &CommittedFile) -> bool {
        let Some((first, last)) = file.window_start else {
            return true;
        };
        self.from.is_none_or(|from| from <= last) && self.to.is_none_or(|to| first < to)
    }

    /// The rows of panes that are in these.
    pub(super) fn within(&self, panes: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        if *self == Self::default() {
            return Ok(panes.clone());
        }
        let column = |name: &str| {
            let column = panes.schema_ref().index_of(name)?;
            let moments = panes
                .column(column)
                .as_primitive::<TimestampMicrosecondType>();
            Ok::<_, ArrowError>(moments)
        };
        let starts = column(TableShape::WINDOW_START)?.values().iter();
        let ends = column(TableShape::WINDOW_END)?.values();
        let chosen: BooleanArray = starts
            .zip(ends)
            .map(|(&start, &end)| {
                let [start, end] = [start, end].map(Timestamp::from_micros);
                Some(self.contains(start, end))
            })
            .collect();
        filter_record_batch(panes, &chosen)
    }
}
