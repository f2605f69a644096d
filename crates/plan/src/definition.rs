//! Texts by which two versions of a pipeline are compared (P38).
//!
//! Owns what belongs to a definition. Does not own the canonical text of an expression.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use crate::plan::{Accept, EventColumn, Plan, UnknownFields};

/// Everything about a table that decides which row an event is folded into, and how.
pub(crate) struct TableDefinition<'d> {
    pub(crate) event_time: &'d str,
    pub(crate) pipeline_where: Option<&'d str>,
    pub(crate) table_where: Option<&'d str>,
    pub(crate) window: Duration,
    pub(crate) groups: Vec<(&'d str, &'d str)>,
    pub(crate) measures: Vec<(&'d str, &'d str)>,
}

impl TableDefinition<'_> {
    /// One `key: value` a line.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("event_time: {}\n", self.event_time);
        let mut line = |key: &str, value: &str| {
            text.push_str(key);
            text.push_str(": ");
            text.push_str(value);
            text.push('\n');
        };
        if let Some(condition) = self.pipeline_where {
            line("pipeline where", condition);
        }
        if let Some(condition) = self.table_where {
            line("where", condition);
        }
        line("window", &shown(self.window));
        for (name, value) in &self.groups {
            line(&format!("group {name}"), value);
        }
        for (name, value) in &self.measures {
            line(&format!("measure {name}"), value);
        }
        text
    }
}

/// The length of a table's windows, by the text of its definition.
pub fn window_of(definition: &str) -> Option<Duration> {
    let text = definition
        .lines()
        .find_map(|line| line.strip_prefix("window: "))?;
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, size) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let micros = number.parse::<u64>().ok()?.checked_mul(*size)?;
    Some(Duration::from_micros(micros))
}

/// What decides about an event before any table sees it.
pub(crate) struct EventDefinition<'d> {
    pub(crate) columns: &'d [EventColumn],
    pub(crate) unknown_fields: UnknownFields,
    pub(crate) max_delay: Duration,
    pub(crate) accept: Accept,
}

/// Sixteen hex digits over everything that decides about events, the same in every run and build.
pub(crate) fn version(event: &EventDefinition<'_>, tables: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for column in event.columns {
        // A type's text is this crate's own, so that an upgrade of Arrow changes no version.
        let name = crate::expression::type_name(&column.data_type);
        let unit = column.epoch_unit.map_or("", |unit| unit.name());
        let optional = if column.optional { "?" } else { "" };
        let _ = writeln!(text, "column {}: {name}{optional} {unit}", column.name);
    }
    let unknown = match event.unknown_fields {
        UnknownFields::Ignore => "ignore",
        UnknownFields::Reject => "reject",
    };
    let past = event.accept.past.map_or_else(|| "any".to_owned(), shown);
    let future = shown(event.accept.future);
    let _ = writeln!(text, "unknown_fields: {unknown}");
    let _ = writeln!(text, "max_delay: {}", shown(event.max_delay));
    let _ = writeln!(text, "accept: {past} {future}");
    for (name, definition) in tables {
        let _ = write!(text, "table {name}\n{definition}");
    }
    format!("{:016x}", fnv1a(text.as_bytes()))
}

impl Plan {
    /// The consumer group: the one that is written, or `alluvium.<pipeline>`.
    pub fn group(&self) -> String {
        let written = self.source.group.clone();
        written.unwrap_or_else(|| format!("alluvium.{}", self.name))
    }

    /// What servers of one pipeline have to have in common beside [`Plan::version`], by the keys of its file: with two groups
    /// every event is read twice and one of them is overtaken; the shortest `keep` decides for all; and so on. What a server may have for
    /// itself (`commit_every`, `drain`, `properties`) and what counts once (`start`, `continued_by`) is not part of it.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let source = &self.source;
        let stop_if = self.stop_if.as_ref();
        let stop_if = stop_if.map(|stop| format!("{} over {}", stop.ratio, shown(stop.over)));
        [
            ("connection", source.connection.clone()),
            ("topics", source.topics.join(", ")),
            ("group", self.group()),
            ("idle_after", shown(self.event_time.idle_after)),
            ("stop_if", stop_if.unwrap_or_else(|| "never".into())),
            ("keep", shown(self.keep_dead_letters)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

/// FNV-1a with 64 bits. Source: Fowler, Noll, Vo, "The FNV Non-Cryptographic Hash Algorithm".
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Units of durations, in microseconds.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// A duration in its largest whole unit, so that 60s and 1m are one.
pub fn shown(duration: Duration) -> String {
    let micros = duration.as_micros();
    for (unit, size) in UNITS {
        let size = u128::from(size);
        if micros >= size && micros.is_multiple_of(size) {
            return format!("{}{unit}", micros / size);
        }
    }
    format!("{micros}us")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the algorithm's authors.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn equal_durations_have_one_text() {
        assert_eq!(shown(Duration::from_secs(60)), "1m");
        assert_eq!(shown(Duration::from_secs(90)), "90s");
        assert_eq!(shown(Duration::from_millis(86_400_000)), "1d");
        assert_eq!(shown(Duration::ZERO), "0us");
    }

    #[test]
    fn a_window_is_read_as_it_was_written() {
        for micros in [1, 1_500, 90_000_000, 60_000_000, 604_800_000_000] {
            let window = Duration::from_micros(micros);
            let definition = TableDefinition {
                event_time: "ts",
                pipeline_where: None,
                table_where: Some("window: 7h"),
                window,
                groups: vec![("window", "x")],
                measures: Vec::new(),
            };
            assert_eq!(window_of(&definition.text()), Some(window));
        }
        for text in [
            "",
            "window: ",
            "window: m",
            "window: 5 apples",
            "window: 99999999999999d",
        ] {
            assert_eq!(window_of(text), None, "{text}");
        }
    }
}
