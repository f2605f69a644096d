//! Values that the library writes otherwise than Postgres: decimals of more than 28 digits, moments with a fraction of zeros, and
//! whatever holds other values.

use std::error::Error;

use arrow_pg::{
    datatypes::into_pg_type,
    encoder::{Encoder, encode_value},
};
use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Offset, TimeZone};
use datafusion::arrow::{
    array::{Array, ArrayRef, AsArray, timezone::Tz},
    datatypes::{DataType, Decimal128Type, Field, TimeUnit, TimestampMicrosecondType},
};
use pgwire::{
    api::results::{FieldFormat, FieldInfo},
    error::{PgWireError, PgWireResult},
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
        DataType::Struct(_) => {
            let value = column.is_valid(row).then(|| record(column, row, shown));
            encoder.encode_field(&value.transpose()?, shown)
        }
        DataType::List(_) => {
            let value = column.is_valid(row).then(|| list(column, row, shown));
            encoder.encode_field(&value.transpose()?, shown)
        }
        _ => encode_value(encoder, column, row, field, shown),
    }
}

/// A row within a row.
fn record(column: &ArrayRef, row: usize, shown: &FieldInfo) -> PgWireResult<Encoded> {
    let record = column.as_struct();
    let is_text = shown.format() == FieldFormat::Text;
    let mut out = BytesMut::new();
    match is_text {
        true => out.put_u8(b'('),
        false => out.put_i32(length(record.num_columns())?),
    }
    for (place, (inner, field)) in record.columns().iter().zip(record.fields()).enumerate() {
        let (value, oid) = One::of(inner, row, field, shown)?;
        if !is_text {
            out.put_u32(oid);
            put_sized(&mut out, value.as_deref())?;
            continue;
        }
        if place > 0 {
            out.put_u8(b',');
        }
        // What is empty has quotes, what is not there has none.
        if let Some(value) = value {
            let special = b"(),\"\\";
            let is_plain = !value.is_empty()
                && !value
                    .iter()
                    .any(|byte| special.contains(byte) || byte.is_ascii_whitespace());
            match is_plain {
                true => out.put_slice(&value),
                false => put_quoted(&mut out, &value, |byte| byte),
            }
        }
    }
    if is_text {
        out.put_u8(b')');
    }
    Ok(Encoded(out))
}

/// An array of one dimension.
fn list(column: &ArrayRef, row: usize, shown: &FieldInfo) -> PgWireResult<Encoded> {
    let values = column.as_list::<i32>().value(row);
    let field = Field::new_list_field(values.data_type().clone(), true);
    let mut out = BytesMut::new();
    if shown.format() == FieldFormat::Binary {
        out.put_i32(i32::from(!values.is_empty()));
        out.put_i32(i32::from(values.null_count() > 0));
        out.put_u32(into_pg_type(values.data_type())?.oid());
        if !values.is_empty() {
            out.put_i32(length(values.len())?);
            out.put_i32(1);
        }
        for place in 0..values.len() {
            let (value, _) = One::of(&values, place, &field, shown)?;
            put_sized(&mut out, value.as_deref())?;
        }
        return Ok(Encoded(out));
    }
    out.put_u8(b'{');
    for place in 0..values.len() {
        if place > 0 {
            out.put_u8(b',');
        }
        match One::of(&values, place, &field, shown)?.0 {
            None => out.put_slice(b"NULL"),
            Some(value) => {
                let special = b"{},\"\\";
                let is_plain = !value.is_empty()
                    && !value.eq_ignore_ascii_case(b"null")
                    && !value
                        .iter()
                        .any(|byte| special.contains(byte) || byte.is_ascii_whitespace());
                match is_plain {
                    true => out.put_slice(&value),
                    false => put_quoted(&mut out, &value, |_| b'\\'),
                }
            }
        }
    }
    out.put_u8(b'}');
    Ok(Encoded(out))
}

/// Puts a text between quotes; `escape` says what stands before a quote or a backslash in it.
fn put_quoted(out: &mut BytesMut, text: &[u8], escape: fn(u8) -> u8) {
    out.put_u8(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.put_u8(escape(*byte));
        }
        out.put_u8(*byte);
    }
    out.put_u8(b'"');
}

/// Puts a value behind its length, or the length that says that there is none.
fn put_sized(out: &mut BytesMut, value: Option<&[u8]>) -> PgWireResult<()> {
    match value {
        Some(value) => {
            out.put_i32(length(value.len())?);
            out.put_slice(value);
        }
        None => out.put_i32(-1),
    }
    Ok(())
}

fn length(count: usize) -> PgWireResult<i32> {
    i32::try_from(count).map_err(|error| PgWireError::ApiError(Box::new(error)))
}

/// Holds the bytes of one value, which becomes part of another.
#[derive(Default)]
struct One(Option<BytesMut>);

impl One {
    /// A value in the format of what it is part of, and its type.
    fn of(
        column: &ArrayRef,
        row: usize,
        field: &Field,
        whole: &FieldInfo,
    ) -> PgWireResult<(Option<BytesMut>, u32)> {
        let kind = into_pg_type(column.data_type())?;
        let oid = kind.oid();
        if column.is_null(row) {
            return Ok((None, oid));
        }
        let shown = FieldInfo::new(field.name().clone(), None, None, kind, whole.format())
            .with_format_options(whole.format_options().clone());
        let mut one = Self::default();
        encode(&mut one, column, row, field, &shown)?;
        Ok((one.0, oid))
    }
}

impl Encoder for One {
    type Item = Option<BytesMut>;

    fn encode_field<T>(&mut self, value: &T, shown: &FieldInfo) -> PgWireResult<()>
    where
        T: ToSql + ToSqlText + Sized,
    {
        let mut out = BytesMut::new();
        let written = match shown.format() {
            FieldFormat::Text => {
                value.to_sql_text(shown.datatype(), &mut out, shown.format_options())
            }
            FieldFormat::Binary => value.to_sql(shown.datatype(), &mut out),
        };
        self.0 = match written.map_err(PgWireError::ApiError)? {
            IsNull::Yes => None,
            IsNull::No => Some(out),
        };
        Ok(())
    }

    fn take_row(&mut self) -> Self::Item {
        self.0.take()
    }
}

/// A value that is written already, in the format that was asked for.
#[derive(Debug)]
struct Encoded(BytesMut);

impl ToSqlText for Encoded {
    fn to_sql_text(&self, _: &Type, out: &mut BytesMut, _: &FormatOptions) -> Written {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }
}

impl ToSql for Encoded {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Written {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
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
    use std::sync::Arc;

    use datafusion::arrow::{
        array::{
            Decimal128Array, ListArray, ListBuilder, StringArray, StringBuilder, StructArray,
            TimestampMicrosecondArray,
        },
        buffer::OffsetBuffer,
    };

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

    fn whole(column: &ArrayRef, format: FieldFormat) -> Vec<u8> {
        let kind = into_pg_type(column.data_type()).unwrap();
        let shown = FieldInfo::new("whole".into(), None, None, kind, format);
        let field = Field::new("whole", column.data_type().clone(), true);
        let mut one = One::default();
        encode(&mut one, column, 0, &field, &shown).unwrap();
        one.0.unwrap().to_vec()
    }

    #[test]
    fn what_holds_values_is_written_as_postgres_does() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![r#"say "a, \b""#]));
        let nothing: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
        let empty: ArrayRef = Arc::new(StringArray::from(vec![""]));
        let large = Decimal128Array::from(vec![10_i128.pow(37)])
            .with_precision_and_scale(38, 1)
            .unwrap();
        let large: ArrayRef = Arc::new(large);
        let moment: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0]));
        let columns = [texts, nothing, empty, large, moment];
        let names = ["a", "b", "c", "d", "e"];
        let fields = names
            .iter()
            .zip(&columns)
            .map(|(name, column)| Arc::new(Field::new(*name, column.data_type().clone(), true)));
        let record: ArrayRef = Arc::new(StructArray::new(fields.collect(), columns.into(), None));
        let text = String::from_utf8(whole(&record, FieldFormat::Text)).unwrap();
        assert_eq!(
            text,
            r#"("say ""a, \\b""",,"",1000000000000000000000000000000000000.0,"1970-01-01 00:00:00")"#
        );

        let item = Arc::new(Field::new_list_field(record.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([1]);
        let list: ArrayRef = Arc::new(ListArray::new(item, offsets, record, None));
        let text = String::from_utf8(whole(&list, FieldFormat::Text)).unwrap();
        assert!(
            text.starts_with(r#"{"(\"say \"\"a, \\\\b\"\"\",,"#),
            "{text}"
        );

        let words = [Some("x y"), Some("null"), None, Some(""), Some("plain")];
        let mut builder = ListBuilder::new(StringBuilder::new());
        builder.append_value(words);
        let list: ArrayRef = Arc::new(builder.finish());
        let text = String::from_utf8(whole(&list, FieldFormat::Text)).unwrap();
        assert_eq!(text, r#"{"x y","null",NULL,"",plain}"#);
        // Dimensions, whether there are NULLs, the type, the length and the first number, then values with their lengths.
        let bytes = whole(&list, FieldFormat::Binary);
        assert_eq!(
            bytes[..20],
            [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0, 5, 0, 0, 0, 1]
        );
        assert_eq!(bytes[20..27], [0, 0, 0, 3, b'x', b' ', b'y']);
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
