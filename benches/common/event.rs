//! The events that the benches measure with.

use rand::{Rng, rngs::StdRng};

/// Length of event time that all events of one run spread over, in minutes.
pub(crate) const MINUTES: usize = 30;

/// Event `number` of `events`: a click of the shipped schema with three fields that it does not name, eleven in all and
/// about 370 bytes.
pub(crate) fn event(random: &mut StdRng, number: usize, events: usize) -> String {
    let session: u128 = random.random();
    format!(
        concat!(
            r#"{{"ts":"2026-03-01T12:{:02}:{:02}.{:03}Z","user_id":"user-{}","country":"{}{}","url":"/page/{}?q={}","status":{},"#,
            r#""latency_ms":{:.3},"bytes":{},"is_bot":{},"session":"{:032x}","referrer":"https://www.example.com/search?q=mountain+boots","#,
            r#""user_agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Safari/537.36"}}"#
        ),
        number * MINUTES / events,
        random.random_range(0..60),
        random.random_range(0..1000),
        random.random_range(0..100_000),
        char::from(b'A' + random.random_range(0..14_u8)),
        char::from(b'A' + random.random_range(0..14_u8)),
        random.random_range(0..400),
        random.random_range(0..10_000),
        [200, 200, 200, 200, 304, 404, 500][random.random_range(0..7)],
        random.random_range(0.1..900.0),
        random.random_range(100..100_000),
        random.random_range(0..20) == 0,
        session,
    )
}
