//! Dates and timestamps as written to days and microseconds since 1970.
//!
//! Timestamps are RFC 3339 with a zone, or numbers in the column's unit. Only the years 0001 to 9999
//! (in UTC) are taken, so that every reader of the stored tables can show them.

use alluvium_plan::EpochUnit;

use super::{FaultKind, number, syntax::NumberForm};

const MICROS_A_DAY: i64 = 86_400_000_000;
/// 0001-01-01T00:00:00Z.
const FIRST: i64 = -719_162 * MICROS_A_DAY;
/// 9999-12-31T23:59:59.999999Z.
const LAST: i64 = 2_932_897 * MICROS_A_DAY - 1;

/// Days since 1970 of `YYYY-MM-DD`.
pub(crate) fn date(text: &str) -> Result<i64, FaultKind> {
    let bytes: &[u8; 10] = text.as_bytes().try_into().map_err(|_| FaultKind::NoDate)?;
    days(bytes).ok_or(FaultKind::NoDate)
}

fn days(bytes: &[u8; 10]) -> Option<i64> {
    let year = pair(bytes[0], bytes[1])? * 100 + pair(bytes[2], bytes[3])?;
    let month = pair(bytes[5], bytes[6])?;
    let day = pair(bytes[8], bytes[9])?;
    let valid = bytes[4] == b'-'
        && bytes[7] == b'-'
        && year >= 1
        && (1..=12).contains(&month)
        && day >= 1
        && day <= days_in_month(year, month);
    valid.then(|| days_from_civil(year, month, day))
}

fn pair(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit())
        .then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Microseconds of an RFC 3339 text. Digits beyond microseconds are cut off; the second 60 of a leap
/// second is the first one of the next minute, as in Postgres.
pub(crate) fn timestamp(text: &str) -> Result<i64, FaultKind> {
    within_years(rfc3339(text.as_bytes(), days).ok_or(FaultKind::NoTimestamp)?)
}

/// What was read last: the next time has most often the same date, and often the same minute.
#[derive(Debug)]
pub(crate) struct Days {
    written: [u8; 10],
    days: i64,
    /// A minute in UTC as written, `YYYY-MM-DDTHH:MM`, and its microseconds since 1970.
    minute: u128,
    micros: i64,
}

impl Default for Days {
    fn default() -> Self {
        Self {
            written: *b"1970-01-01",
            days: 0,
            minute: u128::from_le_bytes(*b"1970-01-01T00:00"),
            micros: 0,
        }
    }
}

impl Days {
    #[inline]
    fn of(&mut self, bytes: &[u8; 10]) -> Option<i64> {
        if self.written != *bytes {
            (self.written, self.days) = (*bytes, days(bytes)?);
        }
        Some(self.days)
    }

    /// The microseconds of a time in the minute that is known, when it is written `SSZ` or `SS.fffZ` behind it.
    #[inline(always)]
    fn within_minute(&self, bytes: &[u8]) -> Option<i64> {
        let (minute, rest) = bytes.split_first_chunk::<16>()?;
        if u128::from_le_bytes(*minute) != self.minute {
            return None;
        }
        match *rest {
            [b':', s1, s0, b'Z'] => Some(self.micros + within(s1, s0)?),
            [b':', s1, s0, b'.', f1, f2, f3, b'Z'] => {
                let digits = f1.is_ascii_digit() && f2.is_ascii_digit() && f3.is_ascii_digit();
                let [f1, f2, f3] = [f1, f2, f3].map(|digit| i64::from(digit) - i64::from(b'0'));
                let millis = f1 * 100 + f2 * 10 + f3;
                digits.then_some(self.micros + within(s1, s0)? + millis * 1000)
            }
            _ => None,
        }
    }
}

/// Microseconds of the seconds of a minute.
#[inline(always)]
fn within(tens: u8, ones: u8) -> Option<i64> {
    pair(tens, ones)
        .filter(|second| *second <= 60)
        .map(|second| second * 1_000_000)
}

/// [`timestamp`] with a memory for dates and minutes.
#[inline(always)]
pub(crate) fn timestamp_with(bytes: &[u8], memory: &mut Days) -> Result<i64, FaultKind> {
    if let Some(micros) = memory.within_minute(bytes) {
        return within_years(micros);
    }
    let micros = rfc3339(bytes, |day| memory.of(day)).ok_or(FaultKind::NoTimestamp)?;
    if let Some(minute) = bytes.first_chunk::<16>()
        && let Some(second) = bytes.get(17..19).and_then(|pair| within(pair[0], pair[1]))
        && bytes.last() == Some(&b'Z')
    {
        let fraction = micros.rem_euclid(1_000_000);
        memory.minute = u128::from_le_bytes(*minute);
        memory.micros = micros - fraction - second;
    }
    within_years(micros)
}

#[inline]
fn rfc3339(bytes: &[u8], mut days: impl FnMut(&[u8; 10]) -> Option<i64>) -> Option<i64> {
    let (day, rest) = bytes.split_first_chunk::<10>()?;
    let days = days(day)?;
    let (clock, rest) = rest.split_first_chunk::<9>()?;
    let &[separator, h1, h0, b':', m1, m0, b':', s1, s0] = clock else {
        return None;
    };
    let (hour, minute, second) = (pair(h1, h0)?, pair(m1, m0)?, pair(s1, s0)?);
    let valid =
        matches!(separator, b'T' | b't' | b' ') && hour <= 23 && minute <= 59 && second <= 60;
    if !valid {
        return None;
    }
    let (fraction, zone) = match rest {
        [b'.', rest @ ..] => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return None;
            }
            let (fraction, zone) = rest.split_at(digits);
            (micros_of(fraction), zone)
        }
        zone => (0, zone),
    };
    let offset = match *zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h0, b':', m1, m0] => {
            let (hours, minutes) = (pair(h1, h0)?, pair(m1, m0)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = hours * 60 + minutes;
            if sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let seconds = hour * 3600 + (minute - offset) * 60 + second;
    Some(days * MICROS_A_DAY + seconds * 1_000_000 + fraction)
}

fn micros_of(fraction: &[u8]) -> i64 {
    (0..6).fold(0, |micros, at| {
        micros * 10 + fraction.get(at).map_or(0, |digit| i64::from(digit - b'0'))
    })
}

/// Microseconds of a number in `unit`, rounded down.
pub(crate) fn epoch(text: &str, form: NumberForm, unit: EpochUnit) -> Result<i64, FaultKind> {
    let power = match unit {
        EpochUnit::Seconds => 6,
        EpochUnit::Millis => 3,
        EpochUnit::Micros => 0,
        EpochUnit::Nanos => -3,
    };
    let micros = match (form, unit) {
        (NumberForm::Integer, EpochUnit::Millis) => number::integer(text)?.checked_mul(1000),
        (NumberForm::Integer, EpochUnit::Seconds) => number::integer(text)?.checked_mul(1_000_000),
        _ => Some(number::scaled_down(text, power)?),
    };
    within_years(micros.ok_or(FaultKind::OutOfYears)?).map_err(|_| FaultKind::OutOfYears)
}

/// The microseconds of one unit; `None` where it is less than one.
pub(crate) fn micros(unit: EpochUnit) -> Option<u32> {
    match unit {
        EpochUnit::Seconds => Some(1_000_000),
        EpochUnit::Millis => Some(1000),
        EpochUnit::Micros => Some(1),
        EpochUnit::Nanos => None,
    }
}

/// Microseconds that are within the years that are taken.
#[inline]
pub(crate) fn checked(micros: i64) -> Option<i64> {
    within_years(micros).ok()
}

fn within_years(micros: i64) -> Result<i64, FaultKind> {
    if (FIRST..=LAST).contains(&micros) {
        Ok(micros)
    } else {
        Err(FaultKind::OutOfYears)
    }
}
