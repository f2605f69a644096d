//! Values that the library writes otherwise than Postgres: decimals of more than 28 digits, and moments with a fraction of zeros.

use std::error::Error;

use arrow_pg::encoder::{Encoder, encode_value};
use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Offset, TimeZone};
use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, timezone::Tz},
    datatypes::{DataType, Decimal128Type, Field, TimeUnit, TimestampMicrosecondType},
};
use pgwire::{
    api::results::FieldInfo,
    error::PgWireResult,
    types::{ToSqlText, format::FormatOptions},
};
use postgres_types::{IsNull, ToSql, Type, accepts, to_sql_checked};

/// Microseconds from 1970 to 2000, when time begins for Postgres.
const EPOCH: i64 = 946_684_800_000_000;

/// Writes one value.
pub(super) fn encode<E: Encoder>(
    encoder: &mut E,
    column: &ArrayRef,
    row: usize,
    field: &Field,
    shown: &FieldInfo,
) -> PgWireResult<()> {
    let is_iso = shown.format_options().date_style.starts_with("ISO");
    match column.data_type() {
        DataType::Decimal128(_, scale) => {
            let values = column.as_primitive::<Decimal128Type>();
            let value = values.is_valid(row).then(|| Numeric {
                unscaled: values.value(row),
                scale: *scale,
            });
            encoder.encode_field(&value, shown)
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) if is_iso => {
            let values = column.as_primitive::<TimestampMicrosecondType>();
            let value = values.is_valid(row).then(|| Moment {
                micros: values.value(row),
                zone: zone.as_ref().and_then(|zone| zone.parse().ok()),
            });
            encoder.encode_field(&value, shown)
        }
        _ => encode_value(encoder, column, row, field, shown),
    }
}

type Written = Result<IsNull, Box<dyn Error + Sync + Send>>;

/// A decimal: `unscaled × 10^-scale`.
#[derive(Clone, Copy, Debug)]
struct Numeric {
    unscaled: i128,
    scale: i8,
}

impl Numeric {
    /// Digits before and behind the point.
    fn digits(self) -> (String, String) {
        let digits = self.unscaled.unsigned_abs().to_string();
        match usize::try_from(self.scale) {
            Ok(scale) if digits.len() > scale => {
                let (before, behind) = digits.split_at(digits.len() - scale);
                (before.to_owned(), behind.to_owned())
            }
            Ok(scale) => ("0".to_owned(), format!("{digits:0>scale$}")),
            // A negative scale is zeros behind.
            Err(_) => {
                let zeros = usize::from(self.scale.unsigned_abs());
                (digits + &"0".repeat(zeros), String::new())
            }
        }
    }
}

impl ToSqlText for Numeric {
    fn to_sql_text(&self, _: &Type, out: &mut BytesMut, _: &FormatOptions) -> Written {
        let (before, behind) = self.digits();
        if self.unscaled < 0 {
            out.put_u8(b'-');
        }
        out.put_slice(before.as_bytes());
        if !behind.is_empty() {
            out.put_u8(b'.');
            out.put_slice(behind.as_bytes());
        }
        Ok(IsNull::No)
    }
}

impl ToSql for Numeric {
    /// Digits of base 10,000, the weight of the first, sign, and digits behind the point.
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Written {
        let (before, behind) = self.digits();
        let scale = behind.len();
        let front = before.len().div_ceil(4) * 4;
        let back = behind.len().div_ceil(4) * 4;
        let all = format!("{before:0>front$}{behind:0<back$}");
        let mut groups: Vec<u16> = all
            .as_bytes()
            .chunks(4)
            .map(|four| {
                four.iter()
                    .fold(0, |group, digit| group * 10 + u16::from(digit - b'0'))
            })
            .collect();
        let mut weight = (front / 4) as i16 - 1;
        let leading = groups.iter().take_while(|group| **group == 0).count();
        groups.drain(..leading);
        weight -= leading as i16;
        while groups.last() == Some(&0) {
            groups.pop();
        }
        if groups.is_empty() {
            weight = 0;
        }
        out.put_i16(groups.len() as i16);
        out.put_i16(weight);
        out.put_u16(if self.unscaled < 0 { 0x4000 } else { 0 });
        out.put_u16(scale as u16);
        for group in groups {
            out.put_u16(group);
        }
        Ok(IsNull::No)
    }

    accepts!(NUMERIC);
    to_sql_checked!();
}

/// A moment, with the zone it is shown in.
#[derive(Clone, Copy, Debug)]
struct Moment {
    micros: i64,
    zone: Option<Tz>,
}

impl ToSqlText for Moment {
    fn to_sql_text(&self, _: &Type, out: &mut BytesMut, _: &FormatOptions) -> Written {
        let utc = DateTime::from_timestamp_micros(self.micros)
            .ok_or("a timestamp beyond what can be written")?
            .naive_utc();
        let (local, offset) = match &self.zone {
            Some(zone) => {
                let local = zone.from_utc_datetime(&utc);
                let seconds = local.offset().fix().local_minus_utc();
                (local.naive_local(), Some(seconds))
            }
            None => (utc, None),
        };
        let mut text = local.format("%Y-%m-%d %H:%M:%S").to_string();
        let fraction = self.micros.rem_euclid(1_000_000);
        if fraction > 0 {
            let digits = format!("{fraction:06}");
            text = text + "." + digits.trim_end_matches('0');
        }
        if let Some(seconds) = offset {
            let sign = if seconds < 0 { '-' } else { '+' };
            let minutes = seconds.abs() / 60;
            text += &format!("{sign}{:02}", minutes / 60);
            if minutes % 60 > 0 {
                text += &format!(":{:02}", minutes % 60);
            }
        }
        out.put_slice(text.as_bytes());
        Ok(IsNull::No)
    }
}

impl ToSql for Moment {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Written {
        let micros = self
            .micros
            .checked_sub(EPOCH)
            .ok_or("a timestamp beyond what can be written")?;
        out.put_i64(micros);
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMP, TIMESTAMPTZ);
    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &impl ToSqlText) -> String {
        let mut out = BytesMut::new();
        value
            .to_sql_text(&Type::TEXT, &mut out, &FormatOptions::default())
            .unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn words(unscaled: i128, scale: i8) -> Vec<i16> {
        let mut out = BytesMut::new();
        Numeric { unscaled, scale }
            .to_sql(&Type::NUMERIC, &mut out)
            .unwrap();
        out.chunks(2)
            .map(|two| i16::from_be_bytes([two[0], two[1]]))
            .collect()
    }

    #[test]
    fn decimals_are_written_to_the_last_digit() {
        for (unscaled, scale, expected) in [
            (0, 0, "0"),
            (0, 2, "0.00"),
            (1250, 2, "12.50"),
            (-1, 2, "-0.01"),
            (7, -3, "7000"),
            (i128::MAX / 2, 0, "85070591730234615865843651857942052863"),
        ] {
            assert_eq!(text(&Numeric { unscaled, scale }), expected);
        }
        // As a Postgres sends them: number of digits, weight, sign, scale, digits.
        assert_eq!(words(0, 0), [0, 0, 0, 0]);
        assert_eq!(words(1250, 2), [2, 0, 0, 2, 12, 5000]);
        assert_eq!(words(-1, 2), [1, -1, 0x4000, 2, 100]);
        assert_eq!(words(10_000, 0), [1, 1, 0, 0, 1]);
        assert_eq!(words(100_000_001, 0), [3, 2, 0, 0, 1, 0, 1]);
        assert_eq!(words(5, 6), [1, -2, 0, 6, 500]);
    }

    #[test]
    fn moments_are_written_as_postgres_does() {
        let at = |micros, zone: Option<&str>| {
            text(&Moment {
                micros,
                zone: zone.map(|zone| zone.parse().unwrap()),
            })
        };
        assert_eq!(
            at(1_772_366_400_000_000, Some("UTC")),
            "2026-03-01 12:00:00+00"
        );
        assert_eq!(at(1_772_366_400_120_000, None), "2026-03-01 12:00:00.12");
        assert_eq!(
            at(1_772_366_400_000_001, Some("Asia/Kolkata")),
            "2026-03-01 17:30:00.000001+05:30"
        );
        assert_eq!(
            at(-1_000_000, Some("America/New_York")),
            "1969-12-31 18:59:59-05"
        );
    }
}
