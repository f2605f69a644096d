//! What tables refuse, each for itself, counts together in the rule that stops a pipeline.

use std::{sync::Arc, time::Duration};

use alluvium_plan::PipelineState;
use alluvium_source::{Broker, EventProducer};
use alluvium_store::{Store, StoreRules};
use object_store::memory::InMemory;

use crate::site::{broker, plan_of, reason, serve, wait_for};

const TABLES: &str = "\
tables:
  by_one:
    window: {tumbling: 1m}
    group_by: {key: key}
    measures: {ratio: sum(10 / one)}
  by_two:
    window: {tumbling: 1m}
    group_by: {key: key}
    measures: {ratio: sum(10 / two)}
dead_letters: {stop_if: \"60% over 1m\"}
";

#[test]
fn what_different_tables_refuse_adds_up() {
    // Of a hundred, so many are refused by the one table, by the other, and by both: 80 in all, and then 40.
    for (one, two, both, stops) in [(40, 40, 0, true), (0, 0, 40, false)] {
        let broker = broker();
        let cluster = Broker::new(broker.brokers());
        let mut producer = EventProducer::new(&cluster, "events").unwrap();
        for number in 0..300 {
            let place = number % 100;
            let by_nought = |from: i32, count: i32| (from..from + count).contains(&place);
            let (none, first, second) = (
                by_nought(0, both),
                by_nought(both, one),
                by_nought(both + one, two),
            );
            let event = format!(
                r#"{{"ts":"2026-03-01T12:00:00Z","key":"k","one":{},"two":{}}}"#,
                i32::from(!(none || first)),
                i32::from(!(none || second))
            );
            producer.send(None, None, event.as_bytes(), None).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
        let store = Store::over(Arc::new(InMemory::new()), StoreRules::default());
        let running = serve(plan_of(TABLES, "one: int, two: int"), cluster, store);
        let ended = wait_for(&running, 60, |status| {
            let taken = status.tables.iter().map(|table| table.balance.events_in);
            let is_over = status.state == PipelineState::Stopped || taken.min() == Some(300);
            is_over.then_some(status.state)
        });
        let why = reason(&running);
        assert_eq!(ended == PipelineState::Stopped, stops, "{ended:?}: {why}");
        assert_eq!(why.contains("stop_if"), stops, "{why}");
        running.drain();
        running.join(Duration::from_secs(20)).expect("it ends");
    }
}
