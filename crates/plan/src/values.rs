//! Single values: durations, sizes, shares, moments, names. Each says at its place what is wrong with it.
//!
//! Messages show a value as it stands in the file, never what an environment variable filled in.

use std::time::Duration;

use alluvium_types::Timestamp;
use datafusion::arrow::{compute::kernels::cast_utils::string_to_datetime, datatypes::DataType};

use crate::{
    TableShape,
    diagnostic::Code,
    hints,
    plan::{EpochUnit, StopIf},
    reader::{Keys, Reader},
    tree::Scalar,
};

const UNITS: &[(&str, u64)] = &[
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// Whether a duration may be nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zero {
    Taken,
    Refused,
}

/// A duration with a unit, at most what microseconds in 63 bits can say.
pub(crate) fn duration(scalar: &Scalar, zero: Zero, reader: &mut Reader<'_>) -> Option<Duration> {
    match duration_of(&scalar.text) {
        Ok(duration) if duration.is_zero() && zero == Zero::Refused => {
            reader.error(
                Code::Value,
                scalar.span.clone(),
                format!("`{}` must be longer than nothing", scalar.shown),
                "examples: 10s, 1m, 1h",
            );
            None
        }
        Ok(duration) => Some(duration),
        Err(wrong) => {
            let shown = &scalar.shown;
            let number = if scalar.is_filled_in() {
                ""
            } else {
                scalar.text.trim()
            };
            let (message, help) = match wrong {
                WrongDuration::Negative => (
                    format!("`{shown}` is negative; a duration is not"),
                    "write it without the sign".to_owned(),
                ),
                WrongDuration::NoUnit => (
                    format!("`{shown}` has no unit"),
                    format!("write `{number}s`, `{number}m`, `{number}h` or `{number}d`"),
                ),
                WrongDuration::Unit(better) => (
                    format!("`{shown}` has a unit that is not taken"),
                    format!("did you mean `{better}`? Units are ms, s, m, h and d"),
                ),
                WrongDuration::TooLong => (
                    format!("`{shown}` is too long"),
                    "a duration is at most 100000d".to_owned(),
                ),
                WrongDuration::Not => (
                    format!("`{shown}` is not a duration"),
                    "write a whole number and a unit: 250ms, 30s, 5m, 2h, 1d".to_owned(),
                ),
            };
            reader.error(Code::Value, scalar.span.clone(), message, help);
            None
        }
    }
}

enum WrongDuration {
    Negative,
    NoUnit,
    Unit(String),
    TooLong,
    Not,
}

fn duration_of(text: &str) -> Result<Duration, WrongDuration> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    if digits == 0 {
        let is_negative = text
            .strip_prefix('-')
            .is_some_and(|rest| duration_of(rest).is_ok());
        return Err(if is_negative {
            WrongDuration::Negative
        } else {
            WrongDuration::Not
        });
    }
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Err(WrongDuration::NoUnit);
    }
    let Some((_, micros)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        let unit = match unit.to_lowercase().as_str() {
            "msec" | "millis" | "millisecond" | "milliseconds" => "ms",
            "sec" | "secs" | "second" | "seconds" => "s",
            "min" | "mins" | "minute" | "minutes" => "m",
            "hr" | "hrs" | "hour" | "hours" => "h",
            "day" | "days" => "d",
            "w" | "week" | "weeks" => {
                let days = number.parse().unwrap_or(0u64).saturating_mul(7);
                return Err(WrongDuration::Unit(format!("{days}d")));
            }
            _ => return Err(WrongDuration::Not),
        };
        return Err(WrongDuration::Unit(format!("{number}{unit}")));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*micros))
        .filter(|micros| *micros <= 100_000 * 86_400_000_000)
        .map(Duration::from_micros)
        .ok_or(WrongDuration::TooLong)
}

/// An amount of bytes with a unit.
pub(crate) fn size(scalar: &Scalar, reader: &mut Reader<'_>) -> Option<usize> {
    const UNITS: &[(&str, u64)] = &[
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let text = scalar.text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = UNITS
        .iter()
        .find(|(name, _)| *name == unit.trim_start())
        .map(|(_, factor)| *factor);
    let bytes = number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .and_then(|bytes| usize::try_from(bytes).ok());
    if bytes.is_none() {
        reader.error(
            Code::Value,
            scalar.span.clone(),
            format!("`{}` is not a size", scalar.shown),
            "write a whole number and a unit: 512MiB, 2GiB",
        );
    }
    bytes
}

/// `5% over 10m`.
pub(crate) fn stop_if(scalar: &Scalar, reader: &mut Reader<'_>) -> Option<StopIf> {
    let parsed = scalar.text.split_once(" over ").and_then(|(share, over)| {
        let percent: f64 = share.trim().strip_suffix('%')?.trim_end().parse().ok()?;
        let over = duration_of(over).ok()?;
        ((0.0..=100.0).contains(&percent) && !over.is_zero()).then_some(StopIf {
            ratio: percent / 100.0,
            over,
        })
    });
    if parsed.is_none() {
        reader.error(
            Code::Value,
            scalar.span.clone(),
            format!("`{}` is not a share over a time", scalar.shown),
            "write it like `5% over 10m`: a share between 0% and 100%, and a duration",
        );
    }
    parsed
}

/// An RFC 3339 time; `None` when it is none.
pub(crate) fn moment(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let is_dated = bytes.len() >= 20
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && matches!(bytes[10], b'T' | b't' | b' ')
        && bytes[13] == b':'
        && bytes[16] == b':';
    let zone = text
        .get(19..)?
        .trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let is_zoned = matches!(zone, "Z" | "z")
        || (zone.len() == 6 && zone.starts_with(['+', '-']) && zone.as_bytes()[3] == b':');
    if !is_dated || !is_zoned {
        return None;
    }
    let utc: datafusion::arrow::array::timezone::Tz = "+00:00".parse().ok()?;
    let time = string_to_datetime(&utc, text).ok()?;
    Some(Timestamp::from_micros(time.timestamp_micros()))
}

pub(crate) fn boolean(scalar: &Scalar, reader: &mut Reader<'_>) -> Option<bool> {
    match scalar.text.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => {
            reader.error(
                Code::Value,
                scalar.span.clone(),
                format!("`{}` is neither true nor false", scalar.shown),
                "write true or false, without quotation marks",
            );
            None
        }
    }
}

/// The version of a file's format.
pub(crate) fn version(scalar: Option<&Scalar>, whole: &impl Keys, reader: &mut Reader<'_>) {
    match scalar {
        Some(version) if version.text == "1" => {}
        Some(version) => reader.error(
            Code::Value,
            version.span.clone(),
            format!(
                "version `{}` of this file's format is not known",
                version.shown
            ),
            "this release reads `version: 1`",
        ),
        None if whole.lacks("version") => {
            missing(
                reader,
                whole.span(),
                "version",
                "write `version: 1` as the first line",
            );
        }
        None => {}
    }
}

/// Says that `key` must be there.
pub(crate) fn missing(reader: &mut Reader<'_>, at: &std::ops::Range<usize>, key: &str, help: &str) {
    // A key that stands at another place has been reported there.
    let elsewhere = format!("unknown key `{key}` ");
    let file = reader.file;
    let is_told = |found: &crate::diagnostic::Diagnostic| {
        std::sync::Arc::ptr_eq(&found.file, file) && found.message.starts_with(&elsewhere)
    };
    if reader.found.0.iter().any(is_told) {
        return;
    }
    reader.error(
        Code::Structure,
        at.clone(),
        format!("`{key}` is missing here"),
        help,
    );
}

/// What a name is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameOf {
    Table,
    Column,
}

/// Whether `name` may name a table or a column that a pipeline makes.
pub(crate) fn name(scalar: &Scalar, of: NameOf, reader: &mut Reader<'_>) -> bool {
    let name = scalar.text.as_str();
    let what = match of {
        NameOf::Table => "a table",
        NameOf::Column => "a column",
    };
    let (message, help) = if name.starts_with('_') {
        (
            format!("`{name}` may not name {what}: names that begin with `_` are ours"),
            format!("call it `{}`", name.trim_start_matches('_')),
        )
    } else if of == NameOf::Column
        && [
            TableShape::WINDOW_START,
            TableShape::WINDOW_END,
            TableShape::FINAL,
        ]
        .contains(&name)
    {
        (
            format!("`{name}` may not name a column: every table has it already"),
            "window_start, window_end and final come by themselves; choose another name".to_owned(),
        )
    } else if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    {
        (
            format!("`{}` may not name {what}", scalar.shown),
            format!(
                "a name is lower-case letters, digits and `_`, and begins with a letter: `{}`",
                tame(name)
            ),
        )
    } else if name.len() > 63 {
        (
            format!("`{name}` is {} letters long", name.len()),
            "a name has at most 63, so that every SQL client can show it".to_owned(),
        )
    } else {
        return true;
    };
    reader.error(Code::Name, scalar.span.clone(), message, help);
    false
}

/// A name in the allowed letters that reads like `name`.
fn tame(name: &str) -> String {
    let mut tamed = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            if tamed.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
                tamed.push('_');
            }
            tamed.push(c.to_ascii_lowercase());
        } else if c.is_ascii_lowercase() || (c.is_ascii_digit() && !tamed.is_empty()) {
            tamed.push(c);
        } else if !tamed.is_empty() && !tamed.ends_with('_') {
            tamed.push('_');
        }
    }
    let tamed = tamed.trim_end_matches('_');
    if tamed.is_empty() {
        "name".into()
    } else {
        tamed.chars().take(63).collect()
    }
}

/// A column type of a schema file, without its `?`.
pub(crate) fn data_type(text: &str, scalar: &Scalar, reader: &mut Reader<'_>) -> Option<DataType> {
    const TYPES: &[&str] = &[
        "string",
        "int",
        "bigint",
        "double",
        "boolean",
        "timestamp",
        "date",
        "decimal(p,s)",
    ];
    let found = match text {
        "string" => DataType::Utf8,
        "int" => DataType::Int32,
        "bigint" => DataType::Int64,
        "double" => DataType::Float64,
        "boolean" => DataType::Boolean,
        "timestamp" => TableShape::window_type(),
        "date" => DataType::Date32,
        _ => {
            if let Some(rest) = text.strip_prefix("decimal") {
                return decimal(rest, scalar, reader);
            }
            let better = match text.to_lowercase().as_str() {
                "text" | "varchar" | "str" | "char" | "uuid" | "utf8" => Some("string"),
                "integer" | "int32" | "i32" | "smallint" | "tinyint" | "short" => Some("int"),
                "long" | "int64" | "i64" | "uint32" => Some("bigint"),
                "float" | "real" | "number" | "float64" | "f64" => Some("double"),
                "bool" => Some("boolean"),
                "datetime" | "timestamptz" | "time" | "timestamp_ms" => Some("timestamp"),
                "numeric" => Some("decimal(18,2)"),
                lower => hints::nearest(lower, TYPES.iter().copied()),
            };
            let help = match better {
                Some(better) => format!("did you mean `{better}`? Types are {}", TYPES.join(", ")),
                None => format!("types are {}", TYPES.join(", ")),
            };
            reader.error(
                Code::Value,
                scalar.span.clone(),
                format!("`{}` is not a type", scalar.shown),
                help,
            );
            return None;
        }
    };
    Some(found)
}

fn decimal(rest: &str, scalar: &Scalar, reader: &mut Reader<'_>) -> Option<DataType> {
    let digits = rest
        .trim()
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .and_then(|inner| inner.split_once(','))
        .and_then(|(precision, scale)| {
            Some((
                precision.trim().parse::<u8>().ok()?,
                scale.trim().parse::<i8>().ok()?,
            ))
        })
        .filter(|(precision, scale)| {
            (1..=38).contains(precision) && *scale >= 0 && scale.unsigned_abs() <= *precision
        });
    match digits {
        Some((precision, scale)) => Some(DataType::Decimal128(precision, scale)),
        None => {
            reader.error(
                Code::Value,
                scalar.span.clone(),
                format!("`{}` is not a decimal type", scalar.shown),
                "write decimal(p,s) with p digits (1 to 38), s of them after the point: decimal(18,2)",
            );
            None
        }
    }
}

/// The unit of a time that is a number.
pub(crate) fn epoch_unit(scalar: &Scalar, reader: &mut Reader<'_>) -> Option<EpochUnit> {
    match scalar.text.as_str() {
        "s" => Some(EpochUnit::Seconds),
        "ms" => Some(EpochUnit::Millis),
        "us" => Some(EpochUnit::Micros),
        "ns" => Some(EpochUnit::Nanos),
        _ => {
            reader.error(
                Code::Value,
                scalar.span.clone(),
                format!("`{}` is not a unit of time", scalar.shown),
                "units are s, ms, us and ns since 1970",
            );
            None
        }
    }
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(
    scalar: &Scalar,
    choices: &[(&str, T)],
    reader: &mut Reader<'_>,
) -> Option<T> {
    let chosen = choices
        .iter()
        .find(|(word, _)| *word == scalar.text)
        .map(|(_, value)| *value);
    if chosen.is_none() {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let help = match hints::nearest(&scalar.text, words.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", words.join(", ")),
        };
        reader.error(
            Code::Value,
            scalar.span.clone(),
            format!("`{}` is not taken here", scalar.shown),
            help,
        );
    }
    chosen
}
