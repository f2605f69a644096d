//! Numbers as written to numbers as stored: exact, or refused.
//!
//! The texts have been checked against the grammar. Nothing is rounded, wrapped or saturated, with one
//! exception that every JSON reader shares: a `double` is the nearest one.

use super::FaultKind;

/// An integer without fraction or exponent; `-0` is 0.
#[inline]
pub(crate) fn integer(text: &str) -> Result<i64, FaultKind> {
    let bytes = text.as_bytes();
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() > 18 {
        return text.parse().map_err(|_| FaultKind::OutOfRange);
    }
    let magnitude = digits
        .iter()
        .fold(0, |value: i64, digit| value * 10 + i64::from(digit - b'0'));
    Ok(if negative { -magnitude } else { magnitude })
}

/// An integer of up to 18 digits that begins at `at`, and where it ends. `None` for whatever is not plainly one; what
/// follows the digits is not looked at.
#[inline(always)]
pub(crate) fn scan_integer(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    let start = at + usize::from(negative);
    let (magnitude, end) = scan_digits(bytes, start)?;
    let magnitude = magnitude as i64;
    Some((if negative { -magnitude } else { magnitude }, end))
}

/// Digits as JSON allows them before a point: some, at most 18, and no zero before others.
#[inline(always)]
fn scan_digits(bytes: &[u8], start: usize) -> Option<(u64, usize)> {
    match few_digits(bytes, start) {
        Some((value, count @ 1..8)) if count == 1 || bytes[start] != b'0' => {
            Some((value, start + count))
        }
        _ => many_digits(bytes, start),
    }
}

#[cold]
#[inline(never)]
fn many_digits(bytes: &[u8], start: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    let mut at = start;
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        if at - start == 18 {
            return None;
        }
        value = value * 10 + u64::from(digit - b'0');
        at += 1;
    }
    let leading_zero = at - start > 1 && bytes[start] == b'0';
    (at > start && !leading_zero).then_some((value, at))
}

/// The digits among the next eight bytes, and how many they are: 8 may mean more. `None` near the end of the bytes.
#[inline]
fn few_digits(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    let digits = word ^ 0x3030_3030_3030_3030;
    // A byte's high bit comes out set where it is above 9; a carry only spoils those behind the first such byte.
    let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & HIGHS;
    let count = others.trailing_zeros() as usize / 8;
    if count == 0 {
        return Some((0, 0));
    }
    // The digits move behind zeros, and pairs, quadruples and all eight are put together.
    let ones = digits << (64 - 8 * count);
    let pairs = ones.wrapping_mul(10).wrapping_add(ones >> 8);
    let low = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    Some((low.wrapping_add(high) >> 32, count))
}

/// A number that was scanned for a double.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scanned {
    /// Its value, and where it ends.
    Value(f64, usize),
    /// It is too long to be rounded once, or has an exponent.
    Unusual,
}

const INTEGER_POWERS: [u64; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// A number without an exponent that begins at `at`, to the nearest double. `None` for whatever is no number; what
/// follows it is not looked at.
#[inline(always)]
pub(crate) fn scan_double(bytes: &[u8], at: usize) -> Option<Scanned> {
    let negative = bytes.get(at) == Some(&b'-');
    let start = at + usize::from(negative);
    let Some((mut mantissa, mut end)) = scan_digits(bytes, start) else {
        return bytes
            .get(start)?
            .is_ascii_digit()
            .then_some(Scanned::Unusual);
    };
    let mut decimals = 0;
    if bytes.get(end) == Some(&b'.') {
        let point = end;
        end += 1;
        match few_digits(bytes, end) {
            Some((fraction, count @ 0..8)) => {
                // Together no more than 18 + 7 digits: too many are refused by their number below.
                mantissa = mantissa
                    .wrapping_mul(INTEGER_POWERS[count])
                    .wrapping_add(fraction);
                end += count;
            }
            _ => {
                while let Some(digit @ b'0'..=b'9') = bytes.get(end) {
                    if end - start > 16 {
                        return Some(Scanned::Unusual);
                    }
                    mantissa = mantissa * 10 + u64::from(digit - b'0');
                    end += 1;
                }
            }
        }
        decimals = end - point - 1;
        if decimals == 0 {
            return None;
        }
    }
    if end - start > 16 || matches!(bytes.get(end), Some(b'e' | b'E')) {
        return Some(Scanned::Unusual);
    }
    Some(match short_quotient(mantissa, decimals) {
        Some(value) => Scanned::Value(if negative { -value } else { value }, end),
        None => Scanned::Unusual,
    })
}

/// The nearest double; infinity is refused.
#[inline]
pub(crate) fn double(text: &str) -> Result<f64, FaultKind> {
    if let Some(value) = short_double(text.as_bytes()) {
        return Ok(value);
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(FaultKind::OutOfRange),
    }
}

/// Clinger's fast path: a mantissa below 2^53 divided by a power of ten up to 10^22 is rounded once,
/// hence right. `None` for a larger mantissa.
#[inline]
fn short_quotient(mantissa: u64, decimals: usize) -> Option<f64> {
    const POWERS: [f64; 17] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    ];
    (mantissa < 1 << 53).then(|| mantissa as f64 / POWERS[decimals])
}

/// A number of up to 16 characters without an exponent.
#[inline]
fn short_double(bytes: &[u8]) -> Option<f64> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() > 16 {
        return None;
    }
    let mut mantissa = 0u64;
    let mut point = None;
    for (at, &byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => mantissa = mantissa * 10 + u64::from(byte - b'0'),
            b'.' => point = Some(at),
            _ => return None,
        }
    }
    let decimals = point.map_or(0, |point| digits.len() - point - 1);
    let value = short_quotient(mantissa, decimals)?;
    Some(if negative { -value } else { value })
}

/// A number's exact value: `magnitude × 10^exponent`, with the sign in the magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exact {
    magnitude: i128,
    exponent: i64,
}

/// The most digits a decimal has.
const MAX_DIGITS: u32 = 38;

fn exact(text: &str) -> Result<Exact, FaultKind> {
    let mut magnitude: i128 = 0;
    let mut digits: u32 = 0;
    // Zeros behind the last digit that is not one: they only count when another digit follows.
    let mut zeros: u32 = 0;
    let mut exponent: i64 = 0;
    let mut in_fraction = false;
    let negative = text.starts_with('-');
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'-' => {}
            b'.' => in_fraction = true,
            b'e' | b'E' => {
                exponent = exponent.saturating_add(saturating_integer(&text[at + 1..]));
                break;
            }
            digit => {
                exponent -= i64::from(in_fraction);
                if digit != b'0' {
                    digits = digits.saturating_add(zeros).saturating_add(1);
                    if digits > MAX_DIGITS {
                        return Err(FaultKind::TooPrecise);
                    }
                    magnitude = magnitude * 10i128.pow(zeros + 1) + i128::from(digit - b'0');
                    zeros = 0;
                } else if magnitude != 0 {
                    zeros = zeros.saturating_add(1);
                }
            }
        }
    }
    Ok(Exact {
        magnitude: if negative { -magnitude } else { magnitude },
        exponent: exponent.saturating_add(i64::from(zeros)),
    })
}

fn saturating_integer(text: &str) -> i64 {
    let digits = text.trim_start_matches(['+', '-']);
    let magnitude = digits.bytes().fold(0i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
    });
    if text.starts_with('-') {
        -magnitude
    } else {
        magnitude
    }
}

/// The unscaled value of a `decimal(precision, scale)`.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128, FaultKind> {
    let Exact {
        magnitude,
        exponent,
    } = exact(text)?;
    if magnitude == 0 {
        return Ok(0);
    }
    let shift = exponent.saturating_add(i64::from(scale));
    if shift < 0 {
        return Err(FaultKind::TooPrecise);
    }
    power_of_ten(shift)
        .and_then(|power| magnitude.checked_mul(power))
        .filter(|value| value.abs() < 10i128.pow(u32::from(precision)))
        .ok_or(FaultKind::OutOfRange)
}

/// `value × 10^power`, rounded down, within 64 bits.
pub(crate) fn scaled_down(text: &str, power: i64) -> Result<i64, FaultKind> {
    let Exact {
        magnitude,
        exponent,
    } = exact(text)?;
    let shift = exponent.saturating_add(power);
    let value = if magnitude == 0 {
        0
    } else if shift >= 0 {
        power_of_ten(shift)
            .and_then(|power| magnitude.checked_mul(power))
            .ok_or(FaultKind::OutOfRange)?
    } else {
        match power_of_ten(shift.saturating_neg()) {
            Some(power) => magnitude.div_euclid(power),
            None => magnitude.signum().min(0),
        }
    };
    i64::try_from(value).map_err(|_| FaultKind::OutOfRange)
}

fn power_of_ten(power: i64) -> Option<i128> {
    u32::try_from(power)
        .ok()
        .and_then(|power| 10i128.checked_pow(power))
}
