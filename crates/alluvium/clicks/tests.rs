use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

const START: i64 = 1_772_323_200_000_000;

fn options() -> ClicksOptions {
    ClicksOptions {
        start: Timestamp::from_micros(START),
        events_per_second: EVENTS_PER_SECOND,
        late: 0.02,
        broken: 0.01,
    }
}

/// FNV-1a over keys, payloads and times: one number for a stretch of the stream.
fn fingerprint(events: impl Iterator<Item = GeneratedEvent>) -> u64 {
    events.fold(0xcbf2_9ce4_8422_2325, |hash, event| {
        event
            .key
            .bytes()
            .chain(event.payload)
            .chain(event.timestamp.micros().to_le_bytes())
            .fold(hash, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
    })
}

#[test]
fn a_seed_makes_the_same_bytes_in_any_batches() {
    let whole: Vec<_> = Clicks::new(7, options()).take(20_000).collect();
    let mut stream = Clicks::new(7, options());
    let mut pieces = Vec::new();
    for size in [1, 999, 4_000, 15_000] {
        pieces.extend(stream.by_ref().take(size));
    }
    assert!(whole == pieces);
    let other = Clicks::new(8, options()).take(20_000);
    assert_ne!(fingerprint(whole.into_iter()), fingerprint(other));
}

#[test]
fn a_seed_makes_the_same_bytes_in_every_release() {
    assert_eq!(
        fingerprint(Clicks::new(7, options()).take(20_000)),
        FINGERPRINT_OF_SEED_7,
        "another generator would make recorded runs incomparable"
    );
}

/// Whether the demo's schema (schemas/click.yaml) takes this event.
fn keeps_the_contract(payload: &[u8]) -> bool {
    let Ok(Value::Object(event)) = serde_json::from_slice(payload) else {
        return false;
    };
    let text = |name: &str| event.get(name).is_some_and(Value::is_string);
    let time = event
        .get("ts")
        .and_then(Value::as_str)
        .is_some_and(|ts| ts.starts_with("20") && ts.ends_with('Z'));
    time && text("user_id")
        && text("url")
        && event.get("is_bot").is_some_and(Value::is_boolean)
        && event
            .get("country")
            .is_none_or(|value| value.is_string() || value.is_null())
        && event.get("status").is_none_or(Value::is_i64)
        && event.get("latency_ms").is_none_or(Value::is_number)
        && event.get("bytes").is_none_or(Value::is_i64)
}

#[test]
fn broken_events_break_the_contract_and_only_they() {
    let mut ledger = Ledger::default();
    for event in Clicks::new(1, options()).take(50_000) {
        ledger.enter(&event);
        assert_eq!(
            keeps_the_contract(&event.payload),
            event.kind != Kind::Broken,
            "{:?}: {}",
            event.kind,
            String::from_utf8_lossy(&event.payload)
        );
    }
    assert_eq!(ledger.total(), 50_000);
    // Both shares stand within five standard deviations.
    assert!(ledger.broken.abs_diff(500) < 112, "{ledger}");
    assert!(ledger.late.abs_diff(1000) < 157, "{ledger}");
    let by_minute: u64 = ledger.by_minute.values().sum();
    assert_eq!(by_minute, ledger.counted());
}

#[test]
fn times_and_lengths_are_as_promised() {
    let mut bytes = 0;
    for event in Clicks::new(2, options()).take(20_000) {
        bytes += event.payload.len();
        let age = event.timestamp.saturating_micros_since(event.event_time);
        match event.kind {
            Kind::Late => assert!((MINUTE..7 * 24 * 60 * MINUTE).contains(&age)),
            Kind::Good | Kind::Broken => assert!((0..2_000_000).contains(&age)),
        }
    }
    let last = Clicks::new(2, options()).nth(20_000).unwrap();
    assert_eq!(last.timestamp.micros(), START + 1_000_000);
    assert!((270..330).contains(&(bytes / 20_000)), "{}", bytes / 20_000);
}

#[test]
fn the_page_explodes_in_a_burst_and_only_there() {
    let pages = |skip: u64| -> usize {
        Clicks::new(3, options())
            .skip(skip as usize)
            .take(1000)
            .filter_map(|event| serde_json::from_slice::<Value>(&event.payload).ok())
            .filter_map(|event| Some(event.get("url")?.as_str()?.split('?').next()?.to_owned()))
            .collect::<BTreeSet<_>>()
            .len()
    };
    assert!(pages(BURST.start) > 900);
    assert!(pages(BURST.start - 1000) < 300);
}

#[test]
fn countries_are_distinct_and_skewed() {
    assert_eq!(BTreeSet::from(words::COUNTRIES).len(), 200);
    let first = Clicks::new(4, options())
        .take(10_000)
        .filter(|event| event.country == Some(words::COUNTRIES[0]))
        .count();
    assert!((1_200..2_200).contains(&first), "{first}");
}

const FINGERPRINT_OF_SEED_7: u64 = 15_905_942_037_973_085_749;
