//! The decoder against a corpus of corners; against oracles of other hands in `laws`.

mod laws;

use std::sync::Arc;

use alluvium_plan::{EpochUnit, EventColumn, UnknownFields};
use alluvium_types::Timestamp;
use datafusion::arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType},
    util::display::array_value_to_string,
};

use super::*;

fn moment_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn column(name: &str, data_type: DataType, epoch_unit: Option<EpochUnit>) -> EventColumn {
    EventColumn {
        name: name.into(),
        data_type,
        optional: true,
        epoch_unit,
    }
}

fn decoder(columns: &[EventColumn], used: &[&str], unknown: UnknownFields) -> JsonDecoder {
    let fields: Vec<Field> = columns
        .iter()
        .filter(|column| used.contains(&&*column.name))
        .map(|column| Field::new(&*column.name, column.data_type.clone(), column.optional))
        .collect();
    JsonDecoder::with_schema(columns, &Arc::new(Schema::new(fields)), unknown).unwrap()
}

/// A decoder of one optional column `v`.
fn one(data_type: DataType, unit: Option<EpochUnit>) -> JsonDecoder {
    decoder(
        &[column("v", data_type, unit)],
        &["v"],
        UnknownFields::Ignore,
    )
}

/// What column `v` holds after decoding `payload`, as text; or why it is refused.
fn value(data_type: DataType, unit: Option<EpochUnit>, payload: &str) -> Result<String, String> {
    let mut decoder = one(data_type, unit);
    decoder
        .decode(Some(payload.as_bytes()))
        .map_err(|error| error.message)?;
    let batch = decoder.finish().unwrap();
    let column = batch.column(0);
    Ok(if column.is_null(0) {
        "NULL".into()
    } else {
        array_value_to_string(column, 0).unwrap()
    })
}

fn refused(data_type: DataType, unit: Option<EpochUnit>, payload: &str) -> String {
    match value(data_type, unit, payload) {
        Ok(value) => panic!("{payload} was taken as {value}"),
        Err(message) => message,
    }
}

#[test]
fn values_of_every_type_are_exact_or_refused() {
    use DataType::{Boolean, Date32, Decimal128, Float64, Int32, Int64, Utf8};
    let nines = "9".repeat(38);
    // type, JSON value, what is stored; None: refused
    let corpus: &[(DataType, &str, Option<&str>)] = &[
        (Int32, "2147483647", Some("2147483647")),
        (Int32, "-2147483648", Some("-2147483648")),
        (Int32, "2147483648", None),
        (Int32, "-2147483649", None),
        (Int32, "-0", Some("0")),
        (Int32, "1.0", None),
        (Int32, "1e2", None),
        (Int32, "\"1\"", None),
        (Int32, "true", None),
        (Int32, "null", Some("NULL")),
        (Int64, "9223372036854775807", Some("9223372036854775807")),
        (Int64, "-9223372036854775808", Some("-9223372036854775808")),
        (Int64, "9223372036854775808", None),
        (Int64, "-9223372036854775809", None),
        (Int64, "123456789012345678901234567890", None),
        (Int64, "[1]", None),
        (Int64, "{\"a\":1}", None),
        (Float64, "1", Some("1.0")),
        (Float64, "-0.0", Some("-0.0")),
        (Float64, "0.1", Some("0.1")),
        (Float64, "1e400", None),
        (Float64, "-1e400", None),
        (Float64, "1e-400", Some("0.0")),
        (
            Float64,
            "1.7976931348623157e308",
            Some("1.7976931348623157e308"),
        ),
        (Float64, "123456789.123456789", Some("123456789.12345679")),
        (Float64, "\"NaN\"", None),
        (Decimal128(5, 2), "123.45", Some("123.45")),
        (Decimal128(5, 2), "123.4500", Some("123.45")),
        (Decimal128(5, 2), "123.456", None),
        (Decimal128(5, 2), "1000", None),
        (Decimal128(5, 2), "999.99", Some("999.99")),
        (Decimal128(5, 2), "-999.99", Some("-999.99")),
        (Decimal128(5, 2), "1e2", Some("100.00")),
        (Decimal128(5, 2), "1.5E-1", Some("0.15")),
        (Decimal128(5, 2), "1e-3", None),
        (Decimal128(5, 2), "1e999999999999999999999", None),
        (Decimal128(5, 2), "0e999999999999999999999", Some("0.00")),
        (Decimal128(5, 2), "-0.000", Some("0.00")),
        (Decimal128(5, 2), "1e-999999999999999999999", None),
        (Decimal128(38, 0), &nines, Some(&nines)),
        (
            Decimal128(38, 0),
            "100000000000000000000000000000000000000",
            None,
        ),
        (
            Decimal128(38, 0),
            "12345678901234567890123456789012345678.9",
            None,
        ),
        (Boolean, "true", Some("true")),
        (Boolean, "false", Some("false")),
        (Boolean, "1", None),
        (Boolean, "\"true\"", None),
        (Utf8, "\"\"", Some("")),
        (
            Utf8,
            r#""a\"\\\/\b\f\n\r\tz""#,
            Some("a\"\\/\u{8}\u{c}\n\r\tz"),
        ),
        (Utf8, r#""\u00e9\u20AC\uD83D\uDE00!""#, Some("é€😀!")),
        (Utf8, "\"é€😀\u{7f}\"", Some("é€😀\u{7f}")),
        (Utf8, "1", None),
        (Utf8, r#""\ud800""#, None),
        (Utf8, r#""\udc00""#, None),
        (Utf8, r#""\ud800\u0041""#, None),
        (Utf8, r#""\ud800x""#, None),
        (Utf8, r#""a\u0000b""#, None),
        (Utf8, r#""\u12g4""#, None),
        (Utf8, r#""\x41""#, None),
        (Utf8, "\"a\nb\"", None),
        (Utf8, "\"a\0b\"", None),
        (Date32, "\"2024-02-29\"", Some("2024-02-29")),
        (Date32, "\"2023-02-29\"", None),
        (Date32, "\"1900-02-29\"", None),
        (Date32, "\"2000-02-29\"", Some("2000-02-29")),
        (Date32, "\"0001-01-01\"", Some("0001-01-01")),
        (Date32, "\"0000-12-31\"", None),
        (Date32, "\"9999-12-31\"", Some("9999-12-31")),
        (Date32, "\"2024-13-01\"", None),
        (Date32, "\"2024-00-01\"", None),
        (Date32, "\"2024-04-31\"", None),
        (Date32, "\"2024-1-1\"", None),
        (Date32, "\"2024-01-01T00:00:00Z\"", None),
        (Date32, r#""2024\u002d01-01""#, Some("2024-01-01")),
        (Date32, "19000", None),
    ];
    for (data_type, written, expected) in corpus {
        let payload = format!("{{\"v\":{written}}}");
        let found = value(data_type.clone(), None, &payload);
        assert_eq!(
            found.as_deref().ok(),
            *expected,
            "{data_type} {payload}: {found:?}"
        );
    }
}

#[test]
fn timestamps_are_rfc_3339_or_numbers_in_their_unit() {
    let text = |written: &str| value(moment_type(), None, &format!("{{\"v\":\"{written}\"}}"));
    for (written, expected) in [
        ("2026-03-01T12:00:05Z", "2026-03-01T12:00:05Z"),
        ("2026-03-01t12:00:05z", "2026-03-01T12:00:05Z"),
        ("2026-03-01 12:00:05Z", "2026-03-01T12:00:05Z"),
        ("2026-03-01T12:00:05.5Z", "2026-03-01T12:00:05.500Z"),
        (
            "2026-03-01T12:00:05.1234569999Z",
            "2026-03-01T12:00:05.123456Z",
        ),
        ("2026-03-01T12:00:05+02:00", "2026-03-01T10:00:05Z"),
        ("2026-03-01T00:30:00-23:59", "2026-03-02T00:29:00Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        (
            "1969-12-31T23:59:59.9999999Z",
            "1969-12-31T23:59:59.999999Z",
        ),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ] {
        let mut decoder = one(moment_type(), None);
        decoder
            .decode(Some(format!("{{\"v\":\"{written}\"}}").as_bytes()))
            .unwrap();
        let batch = decoder.finish().unwrap();
        let micros = batch
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .value(0);
        assert_eq!(
            Timestamp::from_micros(micros).to_string(),
            expected,
            "{written}"
        );
    }
    for written in [
        "2026-03-01T12:00:05",
        "2026-03-01T12:00:05.Z",
        "2026-03-01T12:00:05+0200",
        "2026-03-01T12:00:05+02",
        "2026-03-01T12:00:05+24:00",
        "2026-03-01T24:00:00Z",
        "2026-03-01T12:60:00Z",
        "2026-03-01T12:00:61Z",
        "2026-02-30T12:00:00Z",
        "2026-03-01_12:00:00Z",
        "2026-03-01T12:00:05Zx",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:60Z",
        "0000-01-01T00:00:00Z",
        "+2026-03-01T12:00:05Z",
        "12026-03-01T12:00:05Z",
        "2026-03-01",
        "now",
        "",
    ] {
        assert!(text(written).is_err(), "{written} was taken");
    }

    let number = |written: &str, unit| {
        let mut decoder = one(moment_type(), Some(unit));
        decoder
            .decode(Some(format!("{{\"v\":{written}}}").as_bytes()))
            .ok()?;
        let batch = decoder.finish().unwrap();
        Some(
            batch
                .column(0)
                .as_primitive::<TimestampMicrosecondType>()
                .value(0),
        )
    };
    for (written, unit, expected) in [
        (
            "1772366405",
            EpochUnit::Seconds,
            Some(1_772_366_405_000_000),
        ),
        (
            "1772366405.25",
            EpochUnit::Seconds,
            Some(1_772_366_405_250_000),
        ),
        (
            "1.77236640525E9",
            EpochUnit::Seconds,
            Some(1_772_366_405_250_000),
        ),
        ("-0.0000001", EpochUnit::Seconds, Some(-1)),
        ("0.0000001", EpochUnit::Seconds, Some(0)),
        ("-1e-99999999999999999999", EpochUnit::Seconds, Some(-1)),
        ("1772366405000", EpochUnit::Seconds, None),
        (
            "1772366405123",
            EpochUnit::Millis,
            Some(1_772_366_405_123_000),
        ),
        (
            "1772366405123.4567",
            EpochUnit::Millis,
            Some(1_772_366_405_123_456),
        ),
        ("9223372036854775807", EpochUnit::Millis, None),
        (
            "-62135596800000",
            EpochUnit::Millis,
            Some(-62_135_596_800_000_000),
        ),
        ("-62135596800001", EpochUnit::Millis, None),
        (
            "1772366405123456",
            EpochUnit::Micros,
            Some(1_772_366_405_123_456),
        ),
        (
            "1772366405123456789",
            EpochUnit::Nanos,
            Some(1_772_366_405_123_456),
        ),
        ("-1", EpochUnit::Nanos, Some(-1)),
        ("1e400", EpochUnit::Micros, None),
    ] {
        assert_eq!(number(written, unit), expected, "{written} {unit:?}");
    }
    let advice = refused(moment_type(), None, "{\"v\":1772366405}");
    assert!(advice.contains("set `unit`"), "{advice}");
}

#[test]
fn a_number_that_is_no_integer_is_told_from_what_is_no_number() {
    for kind in [DataType::Int32, DataType::Int64] {
        for (payload, words) in [
            (r#"{"v":1.0}"#, "takes an integer without fraction"),
            (r#"{"v":1e2}"#, "takes an integer without fraction"),
            (r#"{"v":"1"}"#, "is of type"),
        ] {
            let told = refused(kind.clone(), None, payload);
            assert!(told.contains(words), "{payload}: {told}");
        }
    }
}

#[test]
fn what_is_no_single_object_is_refused_with_its_reason() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "empty"),
        (b" \n\t ", "empty"),
        (b"\xEF\xBB\xBF{}", "byte order mark"),
        (b"[]", "one JSON object"),
        (b"1", "one JSON object"),
        (b"null", "one JSON object"),
        (b"\"{}\"", "one JSON object"),
        (b"{", "a key in quotes"),
        (b"{\"v\"", "`:`"),
        (b"{\"v\":", "a value"),
        (b"{\"v\":\"abc", "does not end"),
        (b"{\"v\":\"abc\\", "does not end"),
        (b"{\"v\":\"a\"", "`,` or `}`"),
        (b"{\"v\":\"a\",}", "a key in quotes"),
        (b"{,}", "a key in quotes"),
        (b"{v:1}", "a key in quotes"),
        (b"{'v':1}", "a key in quotes"),
        (b"{} {}", "from byte 3"),
        (b"{}x", "from byte 2"),
        (b"{}\0", "from byte 2"),
        (b"{\"x\":01}", "malformed number"),
        (b"{\"x\":+1}", "a value"),
        (b"{\"x\":.5}", "a value"),
        (b"{\"x\":1.}", "malformed number"),
        (b"{\"x\":1e}", "malformed number"),
        (b"{\"x\":--1}", "malformed number"),
        (b"{\"x\":0x10}", "malformed number"),
        (b"{\"x\":NaN}", "a value"),
        (b"{\"x\":Infinity}", "a value"),
        (b"{\"x\":-Infinity}", "malformed number"),
        (b"{\"x\":tru}", "a value"),
        (b"{\"x\":truex}", "`,` or `}`"),
        (b"{\"x\":[1,]}", "a value"),
        (b"{\"x\":[1}", "`,` or `]`"),
        (b"{\"x\":{\"y\":1]}", "`,` or `}`"),
        (b"{\"x\":{\"y\" 1}}", "`:`"),
        (b"{\"x\":// no\n1}", "a value"),
        (b"{\"x\":\"\xFF\"}", "not valid UTF-8 at byte 6"),
        (b"{\"\xC0\x80\":1}", "not valid UTF-8 at byte 2"),
        (b"{\"x\":\"\xED\xA0\x80\"}", "not valid UTF-8"),
        (b"{\"x\":\"\\u0000\"}", "NUL"),
        (b"{\"\\udc00\":1}", "surrogate"),
        (b"{\"x\":[{\"y\":\"\\ud800\"}]}", "surrogate"),
        (b"\x0b{}", "one JSON object"),
    ];
    let mut decoder = one(DataType::Utf8, None);
    for (payload, reason) in cases {
        let error = decoder.decode(Some(payload)).unwrap_err();
        let shown = String::from_utf8_lossy(payload);
        assert!(error.message.contains(reason), "{shown}: {error}");
    }
    let error = decoder.decode(None).unwrap_err();
    assert!(error.message.contains("tombstone"), "{error}");
    assert_eq!(decoder.rows(), 0);
}

#[test]
fn the_last_of_two_equal_keys_counts_for_checking_too() {
    let int = |payload| value(DataType::Int64, None, payload);
    assert_eq!(int(r#"{"v":1,"v":2}"#), Ok("2".into()));
    assert_eq!(int(r#"{"v":"bad","v":2}"#), Ok("2".into()));
    assert_eq!(int(r#"{"v":1,"\u0076":2}"#), Ok("2".into()));
    assert_eq!(int(r#"{"v":1,"v":null}"#), Ok("NULL".into()));
    assert!(int(r#"{"v":2,"v":"bad"}"#).is_err());
    let required = EventColumn {
        optional: false,
        ..column("v", DataType::Int64, None)
    };
    let mut decoder = decoder(&[required], &[], UnknownFields::Ignore);
    let error = decoder.decode(Some(br#"{"v":1,"v":null}"#)).unwrap_err();
    assert_eq!(error.column.as_deref(), Some("v"));
    assert!(error.message.contains("null"), "{error}");
    let error = decoder.decode(Some(b"{}")).unwrap_err();
    assert!(error.message.contains("missing"), "{error}");
    assert!(
        decoder.decode(Some(br#"{"v":1.5}"#)).is_err(),
        "unused, and checked all the same"
    );
}

#[test]
fn unknown_fields_are_passed_over_or_refused() {
    let columns = [column("v", DataType::Int64, None)];
    let payload = br#"{"w":{"v":"x"},"v":1,"\u0078":[1e400,-1E+4000000000000000000000]}"#;
    let mut ignoring = decoder(&columns, &["v"], UnknownFields::Ignore);
    ignoring.decode(Some(payload)).unwrap();
    assert_eq!(
        ignoring
            .finish()
            .unwrap()
            .column(0)
            .as_primitive::<Int64Type>()
            .value(0),
        1
    );
    let mut strict = decoder(&columns, &["v"], UnknownFields::Reject);
    let error = strict.decode(Some(payload)).unwrap_err();
    assert!(error.message.contains("no field w"), "{error}");
    strict.decode(Some(br#"{"v":1}"#)).unwrap();
}

#[test]
fn nesting_is_taken_up_to_its_limit_and_never_recursed_into() {
    let mut decoder = one(DataType::Int64, None);
    let mut nested = |levels: usize, open: &str, close: &str| {
        let payload = format!("{{\"x\":{}1{}}}", open.repeat(levels), close.repeat(levels));
        decoder.decode(Some(payload.as_bytes()))
    };
    assert!(
        nested(127, "[", "]").is_ok(),
        "the event is one level of 128"
    );
    assert!(nested(127, "{\"v\":", "}").is_ok());
    for levels in [128, 1000, 1_000_000] {
        for (open, close) in [("[", "]"), ("{\"v\":", "}"), ("[{\"v\":", "}]")] {
            let error = nested(levels, open, close).unwrap_err();
            assert!(error.message.contains("nested deeper"), "{error}");
        }
    }
    let unclosed = format!("{{\"v\":{}", "[".repeat(1_000_000));
    assert!(decoder.decode(Some(unclosed.as_bytes())).is_err());
}

#[test]
fn long_strings_and_many_keys_are_read_whole() {
    for length in 0..70 {
        for special in ["", "\\n", "é", "\u{1F600}"] {
            let text = format!("{}{special}{}", "x".repeat(length), "y".repeat(69 - length));
            let payload = format!("{{\"unused\":\"{text}\",\"v\":\"{text}\"}}");
            let expected = text.replace("\\n", "\n");
            assert_eq!(value(DataType::Utf8, None, &payload), Ok(expected));
            let control = format!("{{\"unused\":\"{}\u{1f}\"}}", "x".repeat(length));
            refused(DataType::Utf8, None, &control);
        }
    }
    let keys: Vec<_> = (0..2000).map(|key| format!("\"k{key}\":{key}")).collect();
    let payload = format!("{{{},\"v\":\"last\"}}", keys.join(","));
    assert_eq!(value(DataType::Utf8, None, &payload), Ok("last".into()));
}
