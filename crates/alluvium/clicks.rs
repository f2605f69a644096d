//! The demo's events: clicks of a web shop, made from a seed.
//!
//! Owns what is in an event and when it happened. The same seed and options give the same bytes, whatever
//! the rate or the batches they are sent in: nothing here reads a clock. Does not own where events go.
//!
//! A simulated clock starts at `start` and moves on by one step an event. It is the record's
//! timestamp too, so that `accept` decides the same about an event in every run (P5).

use alluvium_types::Timestamp;
use rand::{Rng, SeedableRng, rngs::StdRng};

mod ledger;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use ledger::Ledger;

/// Events of one simulated second unless the options say otherwise.
pub(crate) const EVENTS_PER_SECOND: f64 = 20_000.0;

/// Of every so many events ...
const BURST_EVERY: u64 = 250_000;
/// ... this many come from a crawler that never visits a page twice: the key explodes.
const BURST: std::ops::Range<u64> = 20_000..25_000;
const USERS: f64 = 500_000.0;
const PAGES: usize = 400;
const BOTS: f64 = 0.04;
const MINUTE: i64 = 60_000_000;

/// What the events are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ClicksOptions {
    /// Where the simulated clock starts.
    pub(crate) start: Timestamp,
    /// How many events a simulated second holds.
    pub(crate) events_per_second: f64,
    /// The share of events that arrive minutes to days after they happened, from 0 to 1.
    pub(crate) late: f64,
    /// The share of events that no pipeline can take, from 0 to 1.
    pub(crate) broken: f64,
}

/// What an event is, as its maker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It happened within the last two seconds.
    Good,
    /// It happened minutes to days ago.
    Late,
    /// It breaks the contract: cut off, a wrong type, or a missing field.
    Broken,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GeneratedEvent {
    /// The record's key: the user.
    pub(crate) key: String,
    /// The event's bytes.
    pub(crate) payload: Vec<u8>,
    /// The simulated now: the record's timestamp.
    pub(crate) timestamp: Timestamp,
    /// When it happened.
    pub(crate) event_time: Timestamp,
    /// What it is.
    pub(crate) kind: Kind,
    /// Its country, where it says one.
    pub(crate) country: Option<&'static str>,
    /// Whether it says that it comes from a machine; the demo's pipeline filters those.
    pub(crate) is_bot: bool,
}

/// An endless stream of events.
#[derive(Debug)]
pub(crate) struct Clicks {
    options: ClicksOptions,
    random: StdRng,
    countries: Skew,
    pages: Skew,
    made: u64,
}

impl Clicks {
    /// Starts the stream of `seed`.
    pub(crate) fn new(seed: u64, options: ClicksOptions) -> Self {
        Self {
            options,
            random: StdRng::seed_from_u64(seed),
            countries: Skew::new(words::COUNTRIES.len()),
            pages: Skew::new(PAGES),
            made: 0,
        }
    }

    fn now(&self) -> Timestamp {
        let micros = self.made as f64 / self.options.events_per_second * 1e6;
        self.options.start.saturating_add_micros(micros as i64)
    }

    fn event(&mut self) -> GeneratedEvent {
        let timestamp = self.now();
        let kind = self.kind();
        let age = match kind {
            Kind::Late => self.lateness(),
            Kind::Good | Kind::Broken => self.random.random_range(0..2_000_000),
        };
        let event_time = timestamp.saturating_add_micros(-age);
        let user = self.random.random::<f64>().powi(3) * USERS;
        let key = format!("u-{:06}", user as u32);
        let country = (!self.random.random_bool(0.02))
            .then(|| words::COUNTRIES[self.countries.pick(&mut self.random)]);
        let is_bot = self.random.random_bool(BOTS);
        let mut payload = self.payload(event_time, &key, country, is_bot);
        if kind == Kind::Broken {
            self.break_it(&mut payload);
        }
        self.made += 1;
        GeneratedEvent {
            key,
            payload,
            timestamp,
            event_time,
            kind,
            country,
            is_bot,
        }
    }

    fn kind(&mut self) -> Kind {
        let drawn: f64 = self.random.random();
        if drawn < self.options.broken {
            Kind::Broken
        } else if drawn < self.options.broken + self.options.late {
            Kind::Late
        } else {
            Kind::Good
        }
    }

    /// Mostly minutes, often hours, sometimes days; always more than the pipeline's `max_delay`.
    fn lateness(&mut self) -> i64 {
        match self.random.random_range(0..100) {
            0..70 => self.random.random_range(MINUTE..30 * MINUTE),
            70..95 => self.random.random_range(60 * MINUTE..24 * 60 * MINUTE),
            _ => self
                .random
                .random_range(24 * 60 * MINUTE..7 * 24 * 60 * MINUTE),
        }
    }

    fn url(&mut self) -> String {
        let in_burst = BURST.contains(&(self.made % BURST_EVERY));
        let page = if in_burst {
            format!("/search/{:012x}", self.random.random::<u64>() >> 16)
        } else {
            match self.pages.pick(&mut self.random) {
                0 => "/".to_owned(),
                page @ 1..40 => {
                    let section = words::SECTIONS[page % words::SECTIONS.len()];
                    format!("/{section}/{page}")
                }
                page => format!("/item/{page:04}"),
            }
        };
        let campaign = words::CAMPAIGNS[self.random.random_range(0..words::CAMPAIGNS.len())];
        let token: u32 = self.random.random();
        format!("{page}?utm_campaign={campaign}&t={token:08x}")
    }

    fn payload(
        &mut self,
        event_time: Timestamp,
        user: &str,
        country: Option<&str>,
        is_bot: bool,
    ) -> Vec<u8> {
        let url = self.url();
        let status = words::STATUSES[self.random.random_range(0..words::STATUSES.len())];
        // A log-normal shape would need no less code and no more truth: most are quick, a few crawl.
        let latency = 4.0 / (1.0 - self.random.random::<f64>() * 0.999);
        let size: u32 = self.random.random_range(200..80_000);
        let session: u64 = self.random.random();
        let referrer = words::REFERRERS[self.random.random_range(0..words::REFERRERS.len())];
        let agent = words::USER_AGENTS[self.random.random_range(0..words::USER_AGENTS.len())];
        // Half of the events without a country say null, the others say nothing.
        let country = match country {
            Some(code) => format!("\"country\":\"{code}\","),
            None if session.is_multiple_of(2) => "\"country\":null,".to_owned(),
            None => String::new(),
        };
        format!(
            "{{\"ts\":\"{event_time}\",\"user_id\":\"{user}\",{country}\"url\":\"{url}\",\
             \"status\":{status},\"latency_ms\":{latency:.2},\"bytes\":{size},\"is_bot\":{is_bot},\
             \"session\":\"{session:016x}\",\"referrer\":\"{referrer}\",\"user_agent\":\"{agent}\"}}"
        )
        .into_bytes()
    }

    /// Breaks the contract in one of the ways producers do. Every result is refused by a decoder that keeps
    /// to the schema.
    fn break_it(&mut self, payload: &mut Vec<u8>) {
        match self.random.random_range(0..6) {
            0 => {
                let cut = self.random.random_range(1..payload.len());
                payload.truncate(cut);
            }
            1 => replace_value(payload, "is_bot", Some("\"maybe\"")),
            2 => replace_value(payload, "ts", Some("\"yesterday\"")),
            3 => replace_value(payload, "latency_ms", Some("\"fast\"")),
            4 => replace_value(payload, "user_id", None),
            _ => replace_value(payload, "url", None),
        }
    }
}

impl Iterator for Clicks {
    type Item = GeneratedEvent;

    fn next(&mut self) -> Option<GeneratedEvent> {
        Some(self.event())
    }
}

/// Replaces the value of `field` in an event of ours, or takes the whole field out. No value of ours holds
/// a comma or a brace.
fn replace_value(payload: &mut Vec<u8>, field: &str, value: Option<&str>) {
    let text = std::str::from_utf8(payload).expect("events are made of ASCII words");
    let name = format!("\"{field}\":");
    let start = text.find(&name).expect("every event has this field");
    let end = start
        + text[start..]
            .find(',')
            .expect("another field follows this one");
    let replaced = match value {
        Some(value) => format!("{}{name}{value}{}", &text[..start], &text[end..]),
        None => format!("{}{}", &text[..start], &text[end + 1..]),
    };
    *payload = replaced.into_bytes();
}

/// Draws positions of which the first is the most frequent: the n-th comes 1/n times as often (Zipf's law).
#[derive(Debug)]
struct Skew {
    /// Running sums of the weights.
    sums: Vec<f64>,
}

impl Skew {
    fn new(length: usize) -> Self {
        let sums = (1..=length)
            .scan(0.0, |sum, rank| {
                *sum += 1.0 / rank as f64;
                Some(*sum)
            })
            .collect();
        Self { sums }
    }

    fn pick(&self, random: &mut StdRng) -> usize {
        let total = self.sums.last().copied().unwrap_or_default();
        let drawn = random.random::<f64>() * total;
        self.sums
            .partition_point(|&sum| sum <= drawn)
            .min(self.sums.len() - 1)
    }
}
