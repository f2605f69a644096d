//! The decoder against serde_json and big integers, over random events, texts and bytes.

use datafusion::arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int32Type};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn all_types() -> Vec<EventColumn> {
    vec![
        column("i", DataType::Int32, None),
        column("big", DataType::Int64, None),
        column("d", DataType::Float64, None),
        column("flag", DataType::Boolean, None),
        column("m", DataType::Decimal128(12, 3), None),
        column("day", DataType::Date32, None),
        column("at", moment_type(), Some(EpochUnit::Millis)),
        column("s", DataType::Utf8, None),
        EventColumn {
            optional: false,
            ..column("must", DataType::Utf8, None)
        },
    ]
}

const ALL: &[&str] = &["i", "big", "d", "flag", "m", "day", "at", "s", "must"];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-5i64..5).prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has no NaN", |d| d.is_finite())
            .prop_map(Value::from),
        "[ -~é😀\\\\\"\n]{0,12}".prop_map(Value::from),
        Just(json!("2024-02-29")),
        Just(json!("2026-03-01T12:00:05Z")),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z\"\\\\]{0,3}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Values as producers write them: mostly plain, some unusual, some wrong.
fn written(column: &str) -> &'static [&'static str] {
    match column {
        "i" => &["0", "17", "-4", "2147483648", "01", "1.5", "\"1\"", "null"],
        "big" => &[
            "5",
            "-0",
            "1234567890123456789",
            "9223372036854775808",
            "1e3",
            "null",
            "[1]",
        ],
        "d" => &[
            "0.25",
            "12",
            "-3.5",
            "1e-3",
            "123456789.123456789",
            "0.",
            ".5",
            "-",
            "00.1",
            "null",
            "1234567890123456.5",
        ],
        "flag" => &["true", "false", "null", "truth", "\"true\""],
        "m" => &["1.25", "-0.5", "1e2", "0.0001", "null"],
        "day" => &["\"2024-02-29\"", "\"2023-02-29\"", "null", "5"],
        "at" => &[
            "\"2026-03-01T12:00:05Z\"",
            "\"2026-03-01T12:00:05.123456789+02:00\"",
            "\"2026-03-02 23:59:60z\"",
            "1772366405000",
            "\"2026-03-01T12:00:05\"",
            "\"2026-03-01T12:00:\\u0030\\u0035Z\"",
            "\"0000-01-01T00:00:00Z\"",
            "null",
        ],
        "s" | "must" => &[
            "\"plain\"",
            "\"\"",
            "\"a longer text with several words\"",
            "\"é😀\"",
            "\"\\\"quoted\\\"\"",
            "\"\\u0041\"",
            "null",
            "7",
        ],
        _ => &[
            "1",
            "\"x\"",
            "null",
            "{\"a\":[1,{\"b\":null}]}",
            "[]",
            "true",
            "-1.5e3",
            "{\"a\":}",
            "\"\\q\"",
        ],
    }
}

/// One event of a producer: its own order of fields, spelling and optional fields; sometimes a byte is wrong.
fn produced() -> impl Strategy<Value = Vec<u8>> {
    const ORDERS: [&[&str]; 4] = [
        &["i", "big", "d", "flag", "m", "day", "at", "s", "must"],
        &["must", "other", "at", "d", "s", "i"],
        &["s", "must", "more", "other", "big", "d", "at"],
        &["i", "must", "i"],
    ];
    const BETWEEN: [(&str, &str); 3] = [(":", ","), (": ", ", "), (" :\t", "\n,\n ")];
    let values = prop::collection::vec((0usize..40, any::<bool>()), 10);
    let wrong = prop::option::weighted(0.15, (any::<prop::sample::Index>(), any::<u8>()));
    (0usize..4, 0usize..3, values, wrong).prop_map(|(order, spelling, values, wrong)| {
        let (colon, comma) = BETWEEN[spelling];
        let fields = ORDERS[order]
            .iter()
            .zip(values)
            .filter_map(|(column, (value, there))| {
                let written = written(column);
                // The first ones are good; a third of the events has another one somewhere.
                let value = if value < 36 { value % 2 } else { value };
                let text = written[value % written.len()];
                // One producer leaves fields out.
                (order != 1 || there || *column == "must")
                    .then(|| format!("\"{column}\"{colon}{text}"))
            });
        let fields: Vec<String> = fields.collect();
        let mut bytes = format!("{{{}}}", fields.join(comma)).into_bytes();
        if let Some((at, byte)) = wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

fn any_event() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        8 => prop::sample::select(ALL).prop_map(str::to_owned),
        1 => "[a-z]{0,4}",
    ];
    prop::collection::vec((key, any_value()), 0..8).prop_map(|fields| {
        let mut event: serde_json::Map<String, Value> = fields.into_iter().collect();
        event.entry("must").or_insert_with(|| json!("here"));
        Value::Object(event)
    })
}

/// Text that is JSON or nearly so: a document with some bytes cut, doubled or replaced.
fn nearly_json() -> impl Strategy<Value = String> {
    let edit = (
        any::<prop::sample::Index>(),
        prop::sample::select(
            &[
                "", "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u", "0", "-", ".", "e", "\n", " ",
                "\u{1}", "null", "\\ud800", "\\u0000", "é",
            ][..],
        ),
    );
    (
        any_event(),
        any::<bool>(),
        prop::collection::vec(edit, 0..3),
    )
        .prop_map(|(event, pretty, edits)| {
            let mut text = if pretty {
                serde_json::to_string_pretty(&event).unwrap()
            } else {
                event.to_string()
            };
            for (at, insert) in edits {
                let chars: Vec<char> = text.chars().collect();
                let at = at.index(chars.len() + 1);
                let skip = usize::from(insert.is_empty());
                text = chars[..at].iter().collect::<String>()
                    + insert
                    + &chars[(at + skip).min(chars.len())..]
                        .iter()
                        .collect::<String>();
            }
            text
        })
}

/// Whether serde_json takes a text as one object, under our additional rules; `None`: it cannot say.
fn oracle(text: &str) -> Option<bool> {
    fn has_nul(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(has_nul),
            Value::Object(fields) => fields
                .iter()
                .any(|(key, value)| key.contains('\0') || has_nul(value)),
            _ => false,
        }
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) => Some(value.is_object() && !has_nul(&value)),
        // Too large for a double is well formed; what it means is up to its column.
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(_) => Some(false),
    }
}

/// An event of a few producers, most of whose strings are the same as those of others, and which may be broken at one byte.
fn staying() -> impl Strategy<Value = Vec<u8>> {
    let text = || {
        prop::sample::select(vec![
            "",
            "a",
            "b",
            "\u{fc}",
            "a\\\"b",
            "a rather long text, as agents have",
        ])
    };
    let fields = prop::collection::vec(text(), 3);
    let broken = prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    (fields, any::<bool>(), 0..3_u32, broken).prop_map(|(texts, first, number, broken)| {
        let [a, b, c] = [0, 1, 2].map(|at| texts[at]);
        let event = match first {
            true => format!(r#"{{"x":"{a}","y":"{b}","must":"{number}","z":"{c}"}}"#),
            false => format!(r#"{{"must":"{c}","x":"{a}","y":"{b}", "n":{number},"z":"{c}"}}"#),
        };
        let mut event = event.into_bytes();
        if let Some((at, byte)) = broken {
            let at = at.index(event.len());
            event[at] = byte;
        }
        event
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_grammar_is_that_of_serde_json(text in nearly_json()) {
        // Later duplicates replace a NUL in serde_json's map, so texts with NUL escapes only count when
        // the oracle accepts nothing else in them.
        prop_assume!(!text.contains("\\u0000"));
        let mut decoder = decoder(&[], &[], UnknownFields::Ignore);
        let Some(expected) = oracle(&text) else { return Ok(()) };
        let outcome = decoder.decode(Some(text.as_bytes()));
        prop_assert_eq!(outcome.is_ok(), expected, "{}: {:?}", text, outcome);
    }

    #[test]
    fn values_are_those_of_serde_json(mut event in any_event(), pretty in any::<bool>()) {
        // Decimals, dates and timestamps have laws of their own below.
        for name in ["m", "day", "at"] {
            event.as_object_mut().unwrap().remove(name);
        }
        let text = if pretty { serde_json::to_string_pretty(&event).unwrap() } else { event.to_string() };
        let mut decoder = decoder(&all_types(), ALL, UnknownFields::Ignore);
        let field = |name: &str| event.get(name).filter(|value| !value.is_null());
        let i = field("i").map(|v| v.as_i64().and_then(|v| i32::try_from(v).ok()));
        let big = field("big").map(Value::as_i64);
        let d = field("d").map(Value::as_f64);
        let flag = field("flag").map(Value::as_bool);
        let s = field("s").map(Value::as_str);
        let must = field("must").map(Value::as_str);
        let expected = ![i.is_some_and(|v| v.is_none()), big.is_some_and(|v| v.is_none()),
            d.is_some_and(|v| v.is_none()), flag.is_some_and(|v| v.is_none()),
            s.is_some_and(|v| v.is_none()), must.is_none_or(|v| v.is_none())].contains(&true);
        let outcome = decoder.decode(Some(text.as_bytes()));
        prop_assert_eq!(outcome.is_ok(), expected, "{}: {:?}", text, outcome);
        if expected {
            let batch = decoder.finish().unwrap();
            prop_assert_eq!(batch.column(0).as_primitive::<Int32Type>().iter().next(), Some(i.flatten()));
            prop_assert_eq!(batch.column(1).as_primitive::<Int64Type>().iter().next(), Some(big.flatten()));
            let bits = |v: Option<f64>| v.map(f64::to_bits);
            let found = batch.column(2).as_primitive::<Float64Type>().iter().next().unwrap();
            prop_assert_eq!(bits(found), bits(d.flatten()));
            prop_assert_eq!(batch.column(3).as_boolean().iter().next(), Some(flag.flatten()));
            prop_assert_eq!(batch.column(7).as_string::<i32>().iter().next(), Some(s.flatten()));
            prop_assert_eq!(batch.column(8).as_string::<i32>().iter().next(), Some(must.flatten()));
        }
    }

    #[test]
    fn what_is_used_decides_nothing(
        texts in prop::collection::vec(nearly_json(), 1..6),
        used in prop::sample::subsequence(ALL, 0..ALL.len()),
    ) {
        let mut whole = decoder(&all_types(), ALL, UnknownFields::Ignore);
        let mut part = decoder(&all_types(), &used, UnknownFields::Ignore);
        for text in texts {
            prop_assert_eq!(whole.decode(Some(text.as_bytes())), part.decode(Some(text.as_bytes())));
            // Nor does what came before: every event is judged as by a fresh decoder.
            let mut fresh = decoder(&all_types(), ALL, UnknownFields::Ignore);
            prop_assert_eq!(
                fresh.decode(Some(text.as_bytes())).is_ok(),
                decoder(&all_types(), &used, UnknownFields::Ignore).decode(Some(text.as_bytes())).is_ok()
            );
        }
    }

    #[test]
    fn a_refused_event_leaves_no_trace(texts in prop::collection::vec(nearly_json(), 1..12)) {
        let mut mixed = decoder(&all_types(), ALL, UnknownFields::Ignore);
        let mut only_good = decoder(&all_types(), ALL, UnknownFields::Ignore);
        for text in &texts {
            let fresh = decoder(&all_types(), ALL, UnknownFields::Ignore).decode(Some(text.as_bytes()));
            prop_assert_eq!(&mixed.decode(Some(text.as_bytes())), &fresh);
            if fresh.is_ok() {
                only_good.decode(Some(text.as_bytes())).unwrap();
            }
        }
        prop_assert_eq!(mixed.rows(), only_good.rows());
        prop_assert_eq!(mixed.finish().unwrap(), only_good.finish().unwrap());
    }

    #[test]
    fn layouts_change_no_answer(events in prop::collection::vec(produced(), 1..80), used in prop::sample::subsequence(ALL, 1..9)) {
        let mut predicting = decoder(&all_types(), &used, UnknownFields::Ignore);
        let mut general = decoder(&all_types(), &used, UnknownFields::Ignore);
        for event in &events {
            general.layouts.forget();
            let answer = general.decode(Some(event));
            prop_assert_eq!(predicting.decode(Some(event)), answer, "{}", String::from_utf8_lossy(event));
        }
        prop_assert_eq!(predicting.finish().unwrap(), general.finish().unwrap());
    }

    #[test]
    fn strings_that_stay_the_same_change_no_answer(
        events in prop::collection::vec((staying(), 1..30_usize), 1..30),
        used in prop::sample::subsequence(ALL, 1..9),
    ) {
        let mut predicting = decoder(&all_types(), &used, UnknownFields::Ignore);
        let mut general = decoder(&all_types(), &used, UnknownFields::Ignore);
        for (event, times) in &events {
            for _ in 0..*times {
                general.layouts.forget();
                let answer = general.decode(Some(event));
                prop_assert_eq!(predicting.decode(Some(event)), answer, "{}", String::from_utf8_lossy(event));
            }
        }
        prop_assert_eq!(predicting.finish().unwrap(), general.finish().unwrap());
    }

    #[test]
    fn bytes_of_any_kind_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut decoder = decoder(&all_types(), ALL, UnknownFields::Reject);
        prop_assert!(decoder.decode(Some(&bytes)).is_err());
        let mut framed = b"{\"must\":\"".to_vec();
        framed.extend(&bytes);
        framed.extend(b"\"}");
        let taken = decoder.decode(Some(&framed)).is_ok();
        let expected = std::str::from_utf8(&framed).is_ok_and(|text| {
            !text.contains("\\u0000") && serde_json::from_str::<Value>(text).is_ok_and(|value| {
                value.as_object().is_some_and(|fields| fields.len() == 1 && fields.contains_key("must"))
            })
        });
        prop_assert_eq!(taken, expected);
    }

    #[test]
    fn integers_are_exact_or_refused(number in any::<i128>(), shift in 0u32..127) {
        let number = number >> shift;
        let found = value(DataType::Int64, None, &format!("{{\"v\":{number}}}"));
        let expected = i64::try_from(number).map(|value| value.to_string());
        prop_assert_eq!(found.ok(), expected.ok());
    }

    #[test]
    fn doubles_are_the_nearest_ones(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?") {
        let mut decoder = one(DataType::Float64, None);
        decoder.decode(Some(format!("{{\"v\":{text}}}").as_bytes())).unwrap();
        let found = decoder.finish().unwrap().column(0).as_primitive::<Float64Type>().value(0);
        prop_assert_eq!(found.to_bits(), text.parse::<f64>().unwrap().to_bits());
    }

    #[test]
    fn decimals_are_exact_however_they_are_written(
        unscaled in -999_999_999_999i128..=999_999_999_999,
        exponent in -20i64..20,
        zeros in 0usize..40,
    ) {
        let mut decoder = one(DataType::Decimal128(12, 3), None);
        // unscaled × 10^-3, its point moved by an exponent and followed by zeros.
        let text = format!("{unscaled}.{}e{exponent}", "0".repeat(zeros + 1));
        let shift = exponent + 3;
        let expected = if shift >= 0 {
            unscaled.checked_mul(10i128.pow(shift as u32)).filter(|v| v.abs() < 10i128.pow(12))
        } else {
            let power = 10i128.pow(-shift as u32);
            (unscaled % power == 0).then_some(unscaled / power)
        };
        let outcome = decoder.decode(Some(format!("{{\"v\":{text}}}").as_bytes()));
        prop_assert_eq!(outcome.is_ok(), expected.is_some(), "{}", text);
        if let Some(expected) = expected {
            let found = decoder.finish().unwrap().column(0).as_primitive::<Decimal128Type>().value(0);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn moments_are_read_as_they_are_printed(
        micros in -62_135_596_800_000_000i64..=253_402_300_799_999_999,
        offset in -1439i64..1440,
    ) {
        let at = Timestamp::from_micros(micros);
        let text = |shown: &str| {
            let mut decoder = one(moment_type(), None);
            decoder.decode(Some(format!("{{\"v\":\"{shown}\"}}").as_bytes())).ok()?;
            Some(decoder.finish().unwrap().column(0).as_primitive::<TimestampMicrosecondType>().value(0))
        };
        prop_assert_eq!(text(&at.to_string()), Some(micros));
        let local = at.saturating_add_micros(offset * 60_000_000);
        let zone = format!("{}{:02}:{:02}", if offset < 0 { '-' } else { '+' }, offset.abs() / 60, offset.abs() % 60);
        if (-62_135_596_800_000_000..=253_402_300_799_999_999).contains(&local.micros()) {
            prop_assert_eq!(text(&local.to_string().replace('Z', &zone)), Some(micros));
        }
        let day = micros.div_euclid(86_400_000_000);
        let mut decoder = one(DataType::Date32, None);
        decoder.decode(Some(format!("{{\"v\":\"{}\"}}", &at.to_string()[..10]).as_bytes())).unwrap();
        let found = decoder.finish().unwrap().column(0).as_primitive::<Date32Type>().value(0);
        prop_assert_eq!(i64::from(found), day);
    }
}
