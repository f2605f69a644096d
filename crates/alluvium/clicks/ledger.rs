//! What was sent, counted by the sender: the figures that a test or a person holds against the product's
//! balance. The product never reads them.

use std::{collections::BTreeMap, fmt};

use alluvium_types::{Timestamp, Window};
use serde_json::{Value, json};

use super::{GeneratedEvent, Kind};
use crate::output::grouped;

/// Counts of the events that were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Sent in time, machines included.
    pub(crate) good: u64,
    /// Sent late, machines included.
    pub(crate) late: u64,
    /// Sent broken.
    pub(crate) broken: u64,
    /// Of the good and the late ones, those that say they come from a machine.
    pub(crate) bots: u64,
    /// The others, by minute of event time and country (`ZZ`: none).
    pub(super) by_minute: BTreeMap<(Timestamp, &'static str), u64>,
}

impl Ledger {
    /// Counts an event.
    pub(crate) fn enter(&mut self, event: &GeneratedEvent) {
        match event.kind {
            Kind::Good => self.good += 1,
            Kind::Late => self.late += 1,
            Kind::Broken => {
                self.broken += 1;
                return;
            }
        }
        if event.is_bot {
            self.bots += 1;
            return;
        }
        let minute = Window::tumbling(event.event_time, 60_000_000)
            .expect("events happen within representable time")
            .start;
        *self
            .by_minute
            .entry((minute, event.country.unwrap_or("ZZ")))
            .or_default() += 1;
    }

    /// All events.
    pub(crate) fn total(&self) -> u64 {
        self.good + self.late + self.broken
    }

    /// Events that the demo's pipeline counts: neither broken nor of machines.
    pub(crate) fn counted(&self) -> u64 {
        self.good + self.late - self.bots
    }

    /// Everything, for programs.
    pub(crate) fn json(&self) -> Value {
        let minutes: Vec<Value> = self
            .by_minute
            .iter()
            .map(|((minute, country), clicks)| {
                json!({"window_start": minute.to_string(), "country": country, "clicks": clicks})
            })
            .collect();
        json!({
            "events": self.total(), "good": self.good, "late": self.late, "broken": self.broken,
            "bots": self.bots, "by_minute_and_country": minutes,
        })
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events: {} in time, {} late, {} broken; {} of them say they are bots",
            grouped(self.total()),
            grouped(self.good),
            grouped(self.late),
            grouped(self.broken),
            grouped(self.bots)
        )
    }
}
