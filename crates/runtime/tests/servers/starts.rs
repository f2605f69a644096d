//! Where a pipeline begins to read a topic of which its tables record nothing (P15).

use std::{sync::Arc, time::Duration};

use alluvium_plan::PipelineState;
use alluvium_source::{Broker, EventProducer};
use alluvium_store::{Store, StoreRules};
use object_store::memory::InMemory;

use crate::site::{EVENT, broker, plan_from, reason, serve, wait_for};

#[test]
fn a_pipeline_begins_where_its_file_says() {
    // Three records, and one that comes while the server is there. Times are for a real Kafka: the embedded broker finds none.
    let starts = [("earliest", Some(4)), ("latest", Some(1)), ("fail", None)];
    for (start, expected) in starts {
        let broker = broker();
        let cluster = Broker::new(broker.brokers());
        let mut producer = EventProducer::new(&cluster, "events").unwrap();
        let mut send = |count| {
            for _ in 0..count {
                producer.send(Some(0), None, EVENT, None).unwrap();
            }
            producer.flush(Duration::from_secs(30)).unwrap();
        };
        send(3);
        let store = Store::over(Arc::new(InMemory::new()), StoreRules::default());
        let running = serve(plan_from(start), cluster, store);
        let state = wait_for(&running, 60, |status| {
            let reads = status.state == PipelineState::Running && !status.partitions.is_empty();
            (reads || status.state == PipelineState::Stopped).then_some(status.state)
        });
        match expected {
            Some(expected) => {
                assert_eq!(
                    state,
                    PipelineState::Running,
                    "{start}: {}",
                    reason(&running)
                );
                send(1);
                wait_for(&running, 60, |status| {
                    let counted = status.tables.first()?.balance.counted;
                    assert!(counted <= expected, "{start}: {counted}");
                    (counted == expected).then_some(())
                });
            }
            None => {
                assert_eq!(state, PipelineState::Stopped);
                let why = reason(&running);
                assert!(
                    why.contains("start: fail") && why.contains("per_key"),
                    "{why}"
                );
            }
        }
        running.drain();
        running.join(Duration::from_secs(20)).expect("it ends");
    }
}
