//! A broker that is older than ids of topics serves, and the status says what is not noticed then (P18).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alluvium_plan::PipelineState;
use alluvium_source::{Assignments, Broker, Cluster, Drain, SourceError, Subscription};
use alluvium_store::{Store, StoreRules};
use alluvium_types::{AssignmentGeneration, Timestamp, TopicId, TopicPartition};
use object_store::memory::InMemory;

use crate::site::{broker, plan, reason, serve, wait_for};

/// As Kafka was before 2.8.
#[derive(Debug)]
struct WithoutIds(Broker);

impl Cluster for WithoutIds {
    fn join(
        &self,
        subscription: Subscription,
        generation: AssignmentGeneration,
        assignments: Arc<dyn Assignments>,
    ) -> Result<Box<dyn Drain>, SourceError> {
        self.0.join(subscription, generation, assignments)
    }

    fn partition_counts(
        &self,
        topics: &[Arc<str>],
        timeout: Duration,
    ) -> Result<BTreeMap<Arc<str>, Option<i32>>, SourceError> {
        self.0.partition_counts(topics, timeout)
    }

    fn topic_ids(
        &self,
        _: &[Arc<str>],
        _: Duration,
    ) -> Result<BTreeMap<Arc<str>, TopicId>, SourceError> {
        Ok(BTreeMap::new())
    }

    fn log_bounds(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, (i64, i64)>, SourceError> {
        self.0.log_bounds(partitions, timeout)
    }

    fn offsets_at(
        &self,
        partitions: &[TopicPartition],
        time: Timestamp,
        timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, i64>, SourceError> {
        self.0.offsets_at(partitions, time, timeout)
    }
}

#[test]
fn topics_without_ids_are_told() {
    for gives_ids in [true, false] {
        let broker = broker();
        let store = Store::over(Arc::new(InMemory::new()), StoreRules::default());
        let cluster = Broker::new(broker.brokers());
        let running = match gives_ids {
            true => serve(plan("string"), cluster, store),
            false => serve(plan("string"), WithoutIds(cluster), store),
        };
        wait_for(&running, 60, |status| {
            let runs = status.state == PipelineState::Running && !status.partitions.is_empty();
            runs.then_some(())
        });
        let reason = reason(&running);
        assert_eq!(reason.contains("no id of events"), !gives_ids, "{reason}");
        running.drain();
        running.join(Duration::from_secs(20)).expect("it ends");
    }
}
