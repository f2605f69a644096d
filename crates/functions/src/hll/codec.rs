//! The bytes of an HLL sketch: read strictly, written in one form. Owns the checks that keep
//! damaged bytes from becoming a wrong count or a panic, and the canonical form, in which equal
//! sets of values have equal bytes.
//!
//! The layout is that of the DataSketches libraries: eight bytes of header (preamble length,
//! version, family, lgK, size of the coupon table, flags, coupon count, mode), then either
//! *coupons* (up to 7 in a list, some hundreds in a set) or, from about 390 distinct values on,
//! three doubles of estimator state, the number of zero registers and one byte a register.

use std::{mem, sync::LazyLock};

use datasketches::hll::{HllSketch, HllType, HllUnion};

use crate::error::FunctionError;

const LG_K: u8 = 12;
/// Registers of a sketch that has all of them, a byte each.
pub(super) const REGISTERS: usize = 1 << LG_K;
/// Values of a register, of six bits.
const VALUES: usize = 64;
const HEADER: usize = 8;
const ARRAY_START: usize = 40;

const FLAGS: usize = 5;
const COMPACT: u8 = 8;
const OUT_OF_ORDER: u8 = 16;
const HLL_8: u8 = 2;

enum Mode {
    List,
    Set,
    Array,
}

/// A union that holds nothing yet.
pub(super) fn empty() -> HllUnion {
    HllUnion::new(LG_K).expect("12 is a valid lgK")
}

/// Reads a sketch that this module or another DataSketches library wrote.
pub(super) fn read(bytes: &[u8]) -> Result<HllSketch, FunctionError> {
    look(bytes)?;
    read_checked(bytes)
}

/// Reads a sketch that was looked into already.
pub(super) fn read_checked(bytes: &[u8]) -> Result<HllSketch, FunctionError> {
    HllSketch::deserialize(bytes).map_err(|error| damaged(error.to_string()))
}

/// A sketch as it is stored.
pub(super) enum Stored<'a> {
    Registers(&'a [u8; REGISTERS]),
    /// Four bytes each, some of them empty.
    Coupons(&'a [u8]),
}

/// Raises registers to what the coupons say.
pub(super) fn raise(registers: &mut [u8; REGISTERS], bytes: &[u8]) {
    for coupon in coupons(bytes) {
        let register = &mut registers[coupon as usize % REGISTERS];
        // The upper six bits; zero in an empty place.
        *register = (*register).max((coupon >> 26) as u8);
    }
}

/// The canonical bytes of a sketch that has all registers.
pub(super) fn write_registers(registers: &[u8; REGISTERS]) -> Vec<u8> {
    /// The crate's own header; it is the same for all of them.
    static FULL: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut union = empty();
        (0..REGISTERS as u64).for_each(|value| union.update_value(value));
        let mut header = write(&union);
        header.truncate(HEADER + 8);
        header
    });
    let mut bytes = Vec::with_capacity(ARRAY_START + REGISTERS);
    bytes.extend_from_slice(&FULL);
    bytes.extend_from_slice(&derived(registers));
    bytes.extend_from_slice(registers);
    bytes
}

/// The canonical bytes: equal sets of values give equal bytes.
pub(super) fn write(union: &HllUnion) -> Vec<u8> {
    let mut bytes = union.to_sketch(HllType::Hll8).serialize();
    match bytes[7] & 3 {
        // The order of coupons is the order of arrival; readers take any.
        0 => sort_coupons(&mut bytes[HEADER..]),
        1 => sort_coupons(&mut bytes[HEADER + 4..]),
        // The HIP accumulator depends on history. With the out-of-order bit no library reads it,
        // so that every engine gives the composite estimate, as we do.
        _ => {
            bytes[FLAGS] |= OUT_OF_ORDER;
            bytes[HEADER..HEADER + 8].fill(0);
        }
    }
    bytes
}

fn sort_coupons(bytes: &mut [u8]) {
    let mut coupons: Vec<u32> = coupons(bytes).collect();
    coupons.sort_unstable();
    for (place, coupon) in bytes.chunks_exact_mut(4).zip(coupons) {
        place.copy_from_slice(&coupon.to_le_bytes());
    }
}

fn coupons(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes
        .chunks_exact(4)
        .map(|coupon| u32::from_le_bytes([coupon[0], coupon[1], coupon[2], coupon[3]]))
}

/// Looks into a sketch that this module or another DataSketches library wrote. Refuses whatever the crate would take but no
/// library writes: it would panic later or count wrongly.
pub(super) fn look(bytes: &[u8]) -> Result<Stored<'_>, FunctionError> {
    let &[
        preamble,
        version,
        family,
        lg_k,
        lg_table,
        flags,
        count,
        mode,
        ..,
    ] = bytes
    else {
        return Err(damaged(format!("{} bytes hold no header", bytes.len())));
    };
    if version != 1 || family != 7 {
        return Err(damaged(format!(
            "version {version} and family {family} are no HLL sketch"
        )));
    }
    let (mode, kind) = (mode & 3, mode >> 2);
    let mode = match (mode, preamble) {
        (0, 2) => Mode::List,
        (1, 3) => Mode::Set,
        (2, 10) => Mode::Array,
        _ => {
            return Err(damaged(format!(
                "mode {mode} does not go with a preamble of {preamble}"
            )));
        }
    };
    if kind > HLL_8 {
        return Err(damaged(format!("there is no register type {kind}")));
    }
    if lg_k != LG_K || kind != HLL_8 {
        return Err(FunctionError::Foreign {
            sketch: "HLL",
            found: format!("type HLL_{} and lgK {lg_k}", 4 + 2 * kind),
            expected: "HLL_8 with lgK 12",
        });
    }
    let compact = flags & COMPACT != 0;
    match mode {
        // A list of eight has become a set.
        Mode::List if count > 7 => Err(damaged(format!("a list of {count} coupons"))),
        Mode::List => {
            let places = match count {
                0 => 0,
                count if compact => count.into(),
                _ => 8,
            };
            let found = checked_coupons(&bytes[HEADER..], places, count.into())?;
            // Readers look at so many places from the front, whatever stands in the others.
            if coupons(found).take(count.into()).any(|coupon| coupon == 0) {
                return Err(damaged("an empty place among coupons".into()));
            }
            Ok(Stored::Coupons(found))
        }
        Mode::Set => {
            let &[a, b, c, d] = bytes.get(HEADER..HEADER + 4).unwrap_or_default() else {
                return Err(damaged("no count of coupons".into()));
            };
            let count = u32::from_le_bytes([a, b, c, d]) as usize;
            if !(5..=LG_K - 3).contains(&lg_table) || count * 4 > 3 << lg_table {
                return Err(damaged(format!(
                    "{count} coupons in a table of 2^{lg_table}"
                )));
            }
            let places = if compact { count } else { 1 << lg_table };
            checked_coupons(&bytes[HEADER + 4..], places, count).map(Stored::Coupons)
        }
        Mode::Array => checked_registers(bytes).map(Stored::Registers),
    }
}

/// There must be as many coupons as the header says, none of them twice; an empty place is zero.
fn checked_coupons(bytes: &[u8], places: usize, count: usize) -> Result<&[u8], FunctionError> {
    let Some(stored) = bytes.get(..places * 4) else {
        return Err(damaged(format!(
            "{} bytes do not hold {places} coupons",
            bytes.len()
        )));
    };
    // In the order that this module writes, one look at each is enough: they rise, and the first has the least value.
    let mut last = 0;
    let rise = coupons(stored).all(|coupon| coupon > mem::replace(&mut last, coupon));
    let first = coupons(stored).next();
    if rise && places == count && first.is_none_or(has_value) {
        return Ok(stored);
    }
    let mut found: Vec<u32> = coupons(stored).filter(|&coupon| coupon != 0).collect();
    let all = found.len();
    found.sort_unstable();
    found.dedup();
    if all != count || found.len() != count {
        return Err(damaged(format!(
            "{all} coupons, {} of them different, where the header says {count}",
            found.len()
        )));
    }
    if !found.iter().copied().all(has_value) {
        return Err(damaged("a coupon without a value".into()));
    }
    Ok(stored)
}

/// The upper six bits are a register's value, which is never zero.
fn has_value(coupon: u32) -> bool {
    coupon >> 26 != 0
}

fn checked_registers(bytes: &[u8]) -> Result<&[u8; REGISTERS], FunctionError> {
    let registers = bytes.get(ARRAY_START..).unwrap_or_default();
    let Some((registers, [])) = registers.split_first_chunk() else {
        return Err(damaged(format!(
            "{} bytes of registers instead of {REGISTERS}",
            registers.len()
        )));
    };
    // All together first: that is done many at a time.
    let together = registers.iter().fold(0, |all, register| all | register);
    if usize::from(together) >= VALUES {
        return Err(damaged(format!("a register beyond {}", VALUES - 1)));
    }
    if bytes[HEADER + 8..ARRAY_START] != derived(registers) {
        return Err(damaged(
            "the registers do not give the sums beside them".into(),
        ));
    }
    Ok(registers)
}

/// What stands beside the registers and follows from them: the sums of 2^-r of those below 32 and of the others, and how many
/// are zero. Each sum is exact: its terms are powers of two within 32 binary places, and there are 2^12 of them.
fn derived(registers: &[u8; REGISTERS]) -> [u8; ARRAY_START - HEADER - 8] {
    // Four at a time, each counted in its own table, so that equal neighbours do not wait for each other.
    let mut tables = [[0_u32; VALUES]; 4];
    for four in registers.as_chunks::<4>().0 {
        for (table, register) in tables.iter_mut().zip(four) {
            table[usize::from(*register) % VALUES] += 1;
        }
    }
    let count = |value: usize| tables.iter().map(|table| table[value]).sum::<u32>();
    let sum = |values: std::ops::Range<usize>| -> f64 {
        values
            .map(|value| f64::from(count(value)) / (1_u64 << value) as f64)
            .sum()
    };
    let mut derived = [0; ARRAY_START - HEADER - 8];
    derived[..8].copy_from_slice(&sum(0..VALUES / 2).to_le_bytes());
    derived[8..16].copy_from_slice(&sum(VALUES / 2..VALUES).to_le_bytes());
    derived[16..20].copy_from_slice(&count(0).to_le_bytes());
    derived
}

fn damaged(reason: String) -> FunctionError {
    FunctionError::Damaged {
        sketch: "HLL",
        reason,
    }
}
