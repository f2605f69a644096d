//! Event time and its windows. Nothing here knows what time it is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A moment in UTC, in microseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp {
    micros: i64,
}

impl Timestamp {
    /// The moment `micros` microseconds after 1970.
    pub fn from_micros(micros: i64) -> Self {
        Self { micros }
    }

    /// The moment `millis` milliseconds after 1970; saturates at the ends of what microseconds
    /// can say (the years -290307 and 294246).
    pub fn from_millis(millis: i64) -> Self {
        Self {
            micros: millis.saturating_mul(1000),
        }
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.micros
    }

    /// This moment moved later by `micros` (earlier when negative), saturating.
    pub fn saturating_add_micros(self, micros: i64) -> Self {
        Self {
            micros: self.micros.saturating_add(micros),
        }
    }

    /// Microseconds from `earlier` to this moment, saturating.
    pub fn saturating_micros_since(self, earlier: Self) -> i64 {
        self.micros.saturating_sub(earlier.micros)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with as many fractional digits as needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.micros.div_euclid(1_000_000);
        let fraction = self.micros.rem_euclid(1_000_000);
        let days = seconds.div_euclid(86_400);
        let of_day = seconds.rem_euclid(86_400);
        let (year, month, day) = civil_from_days(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60
        )?;
        if fraction % 1000 != 0 {
            write!(f, ".{fraction:06}")?;
        } else if fraction != 0 {
            write!(f, ".{:03}", fraction / 1000)?;
        }
        f.write_str("Z")
    }
}

/// Days since 1970-01-01 to (year, month, day) of the proleptic Gregorian calendar.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// A half-open interval `[start, end)` of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// First moment inside.
    pub start: Timestamp,
    /// First moment after it.
    pub end: Timestamp,
}

impl Window {
    /// The tumbling window of `size_micros` (positive) that holds `time`; windows are aligned to 1970.
    /// `None` at the edge of representable time, where one of its ends cannot be said.
    pub fn tumbling(time: Timestamp, size_micros: i64) -> Option<Self> {
        let start = time
            .micros
            .checked_sub(time.micros.rem_euclid(size_micros))?;
        let end = start.checked_add(size_micros)?;
        Some(Self {
            start: Timestamp::from_micros(start),
            end: Timestamp::from_micros(end),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_print_as_rfc_3339() {
        let shown = |micros| Timestamp::from_micros(micros).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(1_772_366_405_000_000), "2026-03-01T12:00:05Z");
        assert_eq!(shown(951_782_400_120_000), "2000-02-29T00:00:00.120Z");
        assert_eq!(shown(-1), "1969-12-31T23:59:59.999999Z");
    }

    proptest! {
        #[test]
        fn every_moment_lies_in_its_window(time in any::<i64>(), size in 1i64..1_000_000_000_000) {
            if let Some(window) = Window::tumbling(Timestamp::from_micros(time), size) {
                prop_assert!(window.start.micros() <= time && time < window.end.micros());
                prop_assert_eq!(window.start.micros().rem_euclid(size), 0);
            }
        }
    }
}
