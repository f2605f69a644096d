//! What is produced, and what must become of it.
//!
//! Owns the events' bytes and the truth about them, which nothing else tells.

use std::fmt::Write as _;

use alluvium_types::Timestamp;

use crate::choices::Choices;

/// 2026-03-01 12:00 UTC, where the first window begins.
const BASE_SECONDS: i64 = 1_772_366_400;

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It counts in every table.
    Counts,
    /// The pipeline's filter leaves it out.
    Filtered,
    /// The table `ratios` refuses it, others do not.
    Half,
    /// Every table refuses it.
    Broken,
}

/// One record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) offset: i64,
    pub(crate) timestamp: Timestamp,
    pub(crate) payload: Vec<u8>,
    pub(crate) fate: Fate,
    /// Seconds since the first window began.
    pub(crate) second: i64,
    pub(crate) key: u32,
    pub(crate) amount: i64,
}

impl Record {
    /// The next event of a schedule, which has made `before` events so far.
    pub(crate) fn drawn(choices: &mut Choices, before: i64) -> Self {
        let fate = match choices.below(24) {
            21 => Fate::Filtered,
            22 => Fate::Half,
            23 => Fate::Broken,
            _ => Fate::Counts,
        };
        let out_of_order = i64::from(choices.below(40));
        let second = (before * 2 + 40 - out_of_order).clamp(0, 3599);
        let key = choices.below(5);
        let amount = 1 + i64::from(choices.below(10_000));
        let (minute, rest) = (second / 60, second % 60);
        let mut payload = format!(
            "{{\"ts\":\"2026-03-01T12:{minute:02}:{rest:02}Z\",\"key\":\"k{key}\",\"amount\":{amount}"
        );
        match fate {
            Fate::Filtered => payload.push_str(",\"test\":true"),
            Fate::Half => payload.push_str(",\"divisor\":0"),
            Fate::Broken => {
                let _ = write!(payload, ",\"test\":{amount}");
            }
            Fate::Counts => {}
        }
        payload.push('}');
        Self {
            offset: 0,
            timestamp: Timestamp::from_micros((BASE_SECONDS + second) * 1_000_000),
            payload: payload.into_bytes(),
            fate,
            second,
            key,
            amount,
        }
    }
}

/// One of the pipeline's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableTruth {
    pub(crate) name: &'static str,
    /// Seconds.
    pub(crate) window: i64,
    pub(crate) by_key: bool,
    /// Whether it refuses events that are half right.
    pub(crate) divides: bool,
}

/// The tables of [`PIPELINES`].
pub(crate) const TABLES: [TableTruth; 2] = [
    TableTruth {
        name: "per_key",
        window: 60,
        by_key: true,
        divides: false,
    },
    TableTruth {
        name: "ratios",
        window: 300,
        by_key: false,
        divides: true,
    },
];

impl TableTruth {
    /// Whether an event is part of this table.
    pub(crate) fn counts(&self, record: &Record) -> bool {
        match record.fate {
            Fate::Counts => true,
            Fate::Half => !self.divides,
            Fate::Filtered | Fate::Broken => false,
        }
    }

    /// Whether this table refuses an event.
    pub(crate) fn rejects(&self, record: &Record) -> bool {
        match record.fate {
            Fate::Broken => true,
            Fate::Half => self.divides,
            Fate::Filtered | Fate::Counts => false,
        }
    }

    /// The window, in microseconds since 1970, and the key of an event.
    pub(crate) fn cell(&self, record: &Record) -> (i64, String) {
        let start = BASE_SECONDS + record.second.div_euclid(self.window) * self.window;
        let key = match self.by_key {
            true => format!("k{}", record.key),
            false => String::new(),
        };
        (start * 1_000_000, key)
    }
}

pub(crate) const SCHEMA: &str = "\
version: 1
columns:
  ts: timestamp
  key: string
  amount: bigint
  test: {type: boolean, optional: true}
  divisor: {type: bigint, optional: true}
";

/// A pipeline of one table, and one of two.
pub(crate) const PIPELINES: [&str; 2] = [
    "\
version: 1
source:
  kafka: {connection: main, topics: [events], start: earliest}
decode:
  json: {schema: event.yaml}
event_time: {column: ts, max_delay: 30s, idle_after: 4s}
where: NOT coalesce(test, false)
commit_every: 300ms
refresh_every: 60ms
tables:
  per_key:
    window: {tumbling: 1m}
    group_by: {key: key}
    measures: {events: count(*), amount: sum(amount)}
",
    "\
version: 1
source:
  kafka: {connection: main, topics: [events, more], start: earliest}
decode:
  json: {schema: event.yaml}
event_time: {column: ts, max_delay: 30s, idle_after: 4s}
where: NOT coalesce(test, false)
commit_every: 300ms
refresh_every: 60ms
tables:
  per_key:
    window: {tumbling: 1m}
    group_by: {key: key}
    measures: {events: count(*), amount: sum(amount)}
  ratios:
    window: {tumbling: 5m}
    measures:
      events: count(*)
      amount: sum(amount / coalesce(divisor, 1))
",
];
