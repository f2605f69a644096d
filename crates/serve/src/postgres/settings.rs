//! The settings of one connection that drivers read and write.
//!
//! Owns their names, defaults and what they may be. Those that change how values are written are kept; the others are taken
//! because drivers send them, and change nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alluvium_query::fixed_setting;
use datafusion::arrow::array::timezone::Tz;
use pgwire::{error::PgWireError, types::format::FormatOptions};

use super::{refusal, statement::is_utf8};

/// Settings that a client may write, with their defaults. Reported when they change, if the name is given as drivers know
/// it.
const WRITABLE: [(&str, &str, Option<&str>); 23] = [
    ("application_name", "", Some("application_name")),
    ("bytea_output", "hex", None),
    ("client_encoding", "UTF8", Some("client_encoding")),
    ("client_min_messages", "notice", None),
    ("datestyle", "ISO, MDY", Some("DateStyle")),
    ("default_transaction_deferrable", "off", None),
    ("default_transaction_isolation", "read committed", None),
    (
        "default_transaction_read_only",
        "on",
        Some("default_transaction_read_only"),
    ),
    ("extra_float_digits", "1", None),
    ("geqo", "on", None),
    ("idle_in_transaction_session_timeout", "0", None),
    ("intervalstyle", "postgres", Some("IntervalStyle")),
    ("jit", "off", None),
    ("lock_timeout", "0", None),
    ("row_security", "on", None),
    ("search_path", "public", None),
    (
        "standard_conforming_strings",
        "on",
        Some("standard_conforming_strings"),
    ),
    ("statement_timeout", "0", None),
    ("synchronous_commit", "on", None),
    ("timezone", "UTC", Some("TimeZone")),
    ("transaction_isolation", "read committed", None),
    ("transaction_read_only", "on", None),
    ("work_mem", "4MB", None),
];

/// What one connection has set.
#[derive(Debug, Default)]
pub(super) struct Settings {
    changed: BTreeMap<&'static str, String>,
}

/// A change that the client is told of.
pub(super) struct Reported {
    pub(super) name: &'static str,
    pub(super) value: String,
}

impl Settings {
    /// Takes what a client said when it connected. Unknown names are other software's.
    pub(super) fn start(&mut self, name: &str, value: &str) -> Result<(), PgWireError> {
        match name {
            "user" | "database" | "options" | "replication" => Ok(()),
            name if writable(name).is_none() => Ok(()),
            name => self.set(name, Some(value)).map(drop),
        }
    }

    /// Writes a setting; `None` is its default.
    pub(super) fn set(
        &mut self,
        name: &str,
        value: Option<&str>,
    ) -> Result<Option<Reported>, PgWireError> {
        let Some((known, default, reported)) = writable(name) else {
            return Err(match fixed_setting(name) {
                Some(_) => {
                    refusal::error("55P02", format!("parameter \"{name}\" cannot be changed"))
                }
                None => unknown(name),
            });
        };
        let value = match value {
            Some(value) => checked(known, value)?,
            None => default.to_owned(),
        };
        self.changed.insert(known, value.clone());
        Ok(reported.map(|name| Reported { name, value }))
    }

    /// All as they were at first.
    pub(super) fn reset(&mut self) -> Vec<Reported> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_keys()
            .filter_map(|name| {
                let (_, default, reported) = writable(name)?;
                Some(Reported {
                    name: reported?,
                    value: default.to_owned(),
                })
            })
            .collect()
    }

    pub(super) fn get(&self, name: &str) -> Result<String, PgWireError> {
        if let Some((known, default, _)) = writable(name) {
            let changed = self.changed.get(known);
            return Ok(changed.cloned().unwrap_or_else(|| default.to_owned()));
        }
        fixed_setting(name)
            .map(str::to_owned)
            .ok_or_else(|| unknown(&name.to_ascii_lowercase()))
    }

    /// All names and values.
    pub(super) fn all(&self) -> Vec<(&'static str, String)> {
        WRITABLE
            .iter()
            .map(|(name, default, _)| {
                let changed = self.changed.get(name);
                (
                    *name,
                    changed.cloned().unwrap_or_else(|| (*default).to_owned()),
                )
            })
            .collect()
    }

    /// How values are written.
    pub(super) fn format(&self) -> Arc<FormatOptions> {
        let mut format = FormatOptions::default();
        format.date_style = self.get("datestyle").unwrap_or_default();
        format.interval_style = self.get("intervalstyle").unwrap_or_default();
        format.bytea_output = self.get("bytea_output").unwrap_or_default();
        format.extra_float_digits = self
            .get("extra_float_digits")
            .ok()
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(1);
        Arc::new(format)
    }

    /// The time zone that timestamps are shown in, unless it is UTC.
    pub(super) fn time_zone(&self) -> Option<&str> {
        let zone = self.changed.get("timezone")?;
        (zone != "UTC").then_some(zone)
    }

    /// How long a statement may take, where that was said.
    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        duration(self.changed.get("statement_timeout")?).filter(|time| !time.is_zero())
    }
}

fn writable(name: &str) -> Option<(&'static str, &'static str, Option<&'static str>)> {
    WRITABLE
        .iter()
        .find(|(known, ..)| known.eq_ignore_ascii_case(name))
        .copied()
}

fn unknown(name: &str) -> PgWireError {
    refusal::error(
        "42704",
        format!("unrecognized configuration parameter \"{name}\""),
    )
}

fn checked(name: &str, value: &str) -> Result<String, PgWireError> {
    let wrong = |hint: &str| {
        let message = format!("invalid value for parameter \"{name}\": \"{value}\"");
        Err(refusal::advised("22023", message, hint))
    };
    let one_of = |known: &[&str]| known.contains(&value.to_ascii_lowercase().as_str());
    match name {
        "client_encoding" if is_utf8(value) => Ok("UTF8".into()),
        "client_encoding" => wrong("text is sent in UTF8 only"),
        "standard_conforming_strings" if !one_of(&["on", "true", "1", "yes"]) => {
            wrong("it is always on")
        }
        "timezone" => match zone(value) {
            Some(zone) => Ok(zone),
            None => wrong("write a name such as Europe/Berlin, or an offset such as +02:00"),
        },
        "extra_float_digits"
            if !value
                .parse()
                .is_ok_and(|digits: i8| (-15..=3).contains(&digits)) =>
        {
            wrong("it is a number from -15 to 3")
        }
        "bytea_output" if !one_of(&["hex", "escape"]) => wrong("it is hex or escape"),
        "statement_timeout" if duration(value).is_none() => {
            wrong("write milliseconds, or a number with ms, s, min or h")
        }
        "search_path" => {
            let ours = value
                .split(',')
                .map(|part| part.trim().trim_matches('"').to_ascii_lowercase())
                .all(|part| {
                    ["public", "$user", "pg_catalog", "", "alluvium"].contains(&part.as_str())
                });
            match ours {
                true => Ok(value.to_owned()),
                false => {
                    wrong("names without a schema mean public; write panes.t or system.t in full")
                }
            }
        }
        _ => Ok(value.to_owned()),
    }
}

/// A time zone as Arrow names it. `+2` means east in a setting's value as a number.
fn zone(value: &str) -> Option<String> {
    let value = value.trim();
    if ["utc", "etc/utc", "gmt", "z", "zulu", "uct"].contains(&value.to_ascii_lowercase().as_str())
    {
        return Some("UTC".into());
    }
    if let Ok(hours) = value.parse::<i8>() {
        let zone = format!(
            "{}{:02}:00",
            if hours < 0 { '-' } else { '+' },
            hours.unsigned_abs()
        );
        return zone.parse::<Tz>().is_ok().then_some(zone);
    }
    value.parse::<Tz>().is_ok().then(|| value.to_owned())
}

fn duration(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let number: u64 = value[..digits].parse().ok()?;
    let millis = match value[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_kept_and_reset() {
        let mut settings = Settings::default();
        assert_eq!(settings.get("TimeZone").unwrap(), "UTC");
        assert!(settings.time_zone().is_none());
        let reported = settings
            .set("TimeZone", Some("Europe/Berlin"))
            .unwrap()
            .unwrap();
        assert_eq!(
            (reported.name, reported.value.as_str()),
            ("TimeZone", "Europe/Berlin")
        );
        assert_eq!(settings.time_zone(), Some("Europe/Berlin"));
        settings.set("statement_timeout", Some("2s")).unwrap();
        assert_eq!(settings.statement_timeout(), Some(Duration::from_secs(2)));
        for (name, value) in [
            ("timezone", "Mars/Olympus"),
            ("client_encoding", "LATIN1"),
            ("standard_conforming_strings", "off"),
            ("extra_float_digits", "many"),
            ("statement_timeout", "soon"),
            ("search_path", "elsewhere"),
            ("server_version", "9"),
            ("no_such", "1"),
        ] {
            assert!(settings.set(name, Some(value)).is_err(), "{name}");
        }
        assert!(settings.get("no_such").is_err());
        assert_eq!(settings.reset().len(), 1);
        assert_eq!(settings.get("timezone").unwrap(), "UTC");
        assert_eq!(settings.statement_timeout(), None);
    }

    #[test]
    fn zones_are_names_or_offsets() {
        assert_eq!(zone("utc").as_deref(), Some("UTC"));
        assert_eq!(zone("-3").as_deref(), Some("-03:00"));
        assert_eq!(zone("+05:30").as_deref(), Some("+05:30"));
        assert_eq!(
            zone("America/New_York").as_deref(),
            Some("America/New_York")
        );
        assert_eq!(zone("nowhere"), None);
    }
}
