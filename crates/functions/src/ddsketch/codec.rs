//! The bytes of a sketch: Datadog's encoding `DDSketchWithExactSummaryStatistics`, which their
//! libraries for Java, Go and Python read. Owns both directions and the checks that keep damaged
//! bytes from becoming a wrong answer.
//!
//! A sequence of sections, each a flag byte (low two bits: its type) and what belongs to it: exact
//! count, minimum, maximum and sum; the mapping's base; the number of zeros; for each sign the bins
//! as differences of their keys, zigzag and variable in length, with counts as variable doubles.

use super::{
    bins::Bins,
    sketch::{CONFIG, MAX_COUNT, Sketch},
};
use crate::error::FunctionError;

const COUNT: u8 = 0xa0;
const SUM: u8 = 0x84;
const MIN: u8 = 0x88;
const MAX: u8 = 0x8c;
const LOGARITHMIC_MAPPING: u8 = 0x02;
const ZEROS: u8 = 0x04;
const POSITIVE: u8 = 0x05;
const NEGATIVE: u8 = 0x07;
/// May stand before everything; some writers put it there.
const VERSION: u8 = 0x02;

/// The bytes of a sketch.
pub(super) fn write(sketch: &Sketch) -> Vec<u8> {
    let bins = sketch.positive.len() + sketch.negative.len();
    let mut bytes = Vec::with_capacity(56 + 3 * bins);
    if sketch.count() > 0 {
        bytes.push(COUNT);
        write_count(&mut bytes, sketch.count());
        write_double(&mut bytes, MIN, sketch.min);
        write_double(&mut bytes, MAX, sketch.max);
    }
    // A sum that left the range of doubles would be a wrong one; readers take none for zero.
    if sketch.sum != 0.0 && sketch.sum.is_finite() {
        write_double(&mut bytes, SUM, sketch.sum);
    }
    write_double(&mut bytes, LOGARITHMIC_MAPPING, CONFIG.gamma);
    bytes.extend_from_slice(&0_f64.to_le_bytes());
    if sketch.zeros > 0 {
        bytes.push(ZEROS);
        write_count(&mut bytes, sketch.zeros);
    }
    write_bins(&mut bytes, POSITIVE, &sketch.positive);
    write_bins(&mut bytes, NEGATIVE, &sketch.negative);
    bytes
}

fn write_double(bytes: &mut Vec<u8>, flag: u8, value: f64) {
    bytes.push(flag);
    bytes.extend_from_slice(&value.to_le_bytes());
}

fn write_bins(bytes: &mut Vec<u8>, flag: u8, bins: &Bins) {
    if bins.count() == 0 {
        return;
    }
    bytes.push(flag);
    write_integer(bytes, bins.len() as u64);
    let mut previous = 0;
    for (key, count) in bins.iter() {
        let step = i64::from(key) - previous;
        write_integer(bytes, ((step >> 63) ^ (step << 1)) as u64);
        write_count(bytes, count);
        previous = i64::from(key);
    }
}

/// Seven bits a byte, the lowest first; the high bit says that more follows. A ninth byte has eight.
fn write_integer(bytes: &mut Vec<u8>, mut value: u64) {
    for _ in 0..8 {
        if value < 0x80 {
            break;
        }
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A count is a double, turned so that small integers have few leading bits: seven bits a byte, the
/// highest first.
fn write_count(bytes: &mut Vec<u8>, count: u64) {
    let bits = (count as f64 + 1.0).to_bits() - 1.0_f64.to_bits();
    let mut bits = bits.rotate_left(6);
    for _ in 0..8 {
        let next = (bits >> 57) as u8;
        bits <<= 7;
        if bits == 0 {
            bytes.push(next);
            return;
        }
        bytes.push(next | 0x80);
    }
    bytes.push((bits >> 56) as u8);
}

/// Reads what [`write`] or another library wrote.
pub(super) fn read(bytes: &[u8]) -> Result<Sketch, FunctionError> {
    let mut input = match bytes {
        [] => return Err(damaged("no bytes")),
        // The mapping's flag has the version's value, but then a double follows, and that of our
        // base begins with no section's flag.
        [
            VERSION,
            COUNT | SUM | MIN | MAX | ZEROS | LOGARITHMIC_MAPPING,
            rest @ ..,
        ] => Input(&bytes[bytes.len() - rest.len() - 1..]),
        _ => Input(bytes),
    };
    let mut sketch = Sketch::default();
    let (mut count, mut mapped) = (None, false);
    while let Some(flag) = input.next() {
        match flag {
            COUNT => count = Some(input.count()?),
            SUM => sketch.sum = input.double()?,
            MIN => sketch.min = input.double()?,
            MAX => sketch.max = input.double()?,
            LOGARITHMIC_MAPPING => {
                let (base, offset) = (input.double()?, input.double()?);
                if (base - CONFIG.gamma).abs() > 1e-9 || offset != 0.0 {
                    return Err(FunctionError::Foreign {
                        sketch: "DDSketch",
                        found: format!("base {base} and offset {offset}"),
                        expected: "a relative error of 1 %",
                    });
                }
                mapped = true;
            }
            ZEROS => sketch.zeros = input.count()?,
            POSITIVE => sketch.positive = input.bins()?,
            NEGATIVE => sketch.negative = input.bins()?,
            flag => return Err(damaged(format!("no section begins with {flag:#04x}"))),
        }
    }
    let parts = [
        sketch.zeros,
        sketch.positive.count(),
        sketch.negative.count(),
    ];
    let total: u64 = parts.iter().sum();
    if !mapped {
        return Err(damaged("it does not name its mapping"));
    }
    if total > MAX_COUNT || count.unwrap_or(0) != total {
        return Err(damaged(format!(
            "its bins hold {total} values, its count says {}",
            count.unwrap_or(0)
        )));
    }
    let ordered = sketch.min <= sketch.max && sketch.min.is_finite() && sketch.max.is_finite();
    let signs = (sketch.negative.count() > 0) == (sketch.min < -CONFIG.min_possible())
        && (sketch.positive.count() > 0) == (sketch.max > CONFIG.min_possible());
    if total > 0 && !(ordered && signs) {
        return Err(damaged(format!(
            "its values cannot lie between {} and {}",
            sketch.min, sketch.max
        )));
    }
    if total == 0 {
        return Ok(Sketch::default());
    }
    Ok(sketch)
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn byte(&mut self) -> Result<u8, FunctionError> {
        self.next().ok_or_else(|| damaged("it ends too early"))
    }

    fn double(&mut self) -> Result<f64, FunctionError> {
        let Some((bytes, rest)) = self.0.split_first_chunk::<8>() else {
            return Err(damaged("it ends too early"));
        };
        self.0 = rest;
        Ok(f64::from_le_bytes(*bytes))
    }

    fn integer(&mut self) -> Result<u64, FunctionError> {
        let mut value = 0;
        for shift in (0..56).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Ok(value | u64::from(self.byte()?) << 56)
    }

    fn signed(&mut self) -> Result<i64, FunctionError> {
        let zigzag = self.integer()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// A whole number of values.
    fn count(&mut self) -> Result<u64, FunctionError> {
        let mut bits = 0;
        for shift in (1..58).rev().step_by(7) {
            let byte = self.byte()?;
            if shift == 1 {
                bits |= u64::from(byte);
                break;
            }
            bits |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let count = f64::from_bits(bits.rotate_right(6).wrapping_add(1.0_f64.to_bits())) - 1.0;
        if !(0.0..=MAX_COUNT as f64).contains(&count) || count.fract() != 0.0 {
            return Err(damaged(format!("{count} is no count of values")));
        }
        Ok(count as u64)
    }

    fn bins(&mut self) -> Result<Bins, FunctionError> {
        let keys = CONFIG.key(CONFIG.min_possible())..=CONFIG.key(f64::MAX);
        let mut bins = Bins::default();
        let mut key = 0_i64;
        for _ in 0..self.integer()? {
            let step = self.signed()?;
            let next = key.checked_add(step);
            let valid = next.and_then(|key| i32::try_from(key).ok());
            let Some(bin) = valid.filter(|bin| keys.contains(bin)) else {
                return Err(damaged(format!(
                    "no value lies in the bin {step} after {key}"
                )));
            };
            key = i64::from(bin);
            let count = self.count()?;
            if count > 0 {
                bins.add(bin, count);
            }
            // Keeps sums of counts far from the end of 64 bits.
            if bins.count() > MAX_COUNT {
                return Err(damaged("more values than can be"));
            }
        }
        Ok(bins)
    }
}

fn damaged(reason: impl Into<String>) -> FunctionError {
    FunctionError::Damaged {
        sketch: "DDSketch",
        reason: reason.into(),
    }
}
