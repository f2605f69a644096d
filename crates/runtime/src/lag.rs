//! Where partitions stand, told to metrics, and how far they are behind, also of pipelines that have stopped and see Kafka no
//! more.
//!
//! Owns the thread that asks for the latter. A stopped pipeline whose lag stood still would look as if nothing waited for it.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use alluvium_plan::{PartitionStatus, PipelineState, PipelineStatus, Plan, StatusBoard};
use alluvium_source::Cluster;
use alluvium_store::{Store, StoreError};
use alluvium_types::TopicPartition;
use tokio::runtime::Runtime;

use crate::{
    PipelineConfig,
    background::{Background, Stop},
    host::Host,
};

/// How often it is asked.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of what asks is waited for when the process ends.
const FAREWELL: Duration = Duration::from_millis(100);

const LAG: &str = "alluvium_kafka_consumer_lag_records";
const OPEN_TRANSACTION: &str = "alluvium_kafka_open_transaction_records";
const HALTED: &str = "alluvium_partition_halted";

/// Sets the metrics of every partition, as far as its figures are known. `held_back` are the records behind transactions that have
/// been open for long.
pub(crate) fn tell(
    pipeline: &str,
    partitions: &[PartitionStatus],
    held_back: &BTreeMap<TopicPartition, i64>,
) {
    for partition in partitions {
        if let Some(lag) = partition.lag {
            set(LAG, pipeline, partition, lag);
        }
        let open = held_back.get(&key(partition)).copied().unwrap_or(0);
        set(OPEN_TRANSACTION, pipeline, partition, open);
        let halted = i64::from(partition.halted.is_some());
        set(HALTED, pipeline, partition, halted);
    }
}

/// Nothing of partitions that are not held any more is this server's to tell: nobody is to be called for what another one reads.
pub(crate) fn forget(pipeline: &str, before: &[PartitionStatus], now: &[PartitionStatus]) {
    let is_held = |one: &PartitionStatus| {
        let is_it =
            |held: &PartitionStatus| held.partition == one.partition && held.topic == one.topic;
        now.iter().any(is_it)
    };
    for gone in before.iter().filter(|one| !is_held(one)) {
        for metric in [LAG, OPEN_TRANSACTION, HALTED] {
            set(metric, pipeline, gone, 0);
        }
    }
}

fn set(metric: &'static str, pipeline: &str, partition: &PartitionStatus, value: i64) {
    metrics::gauge!(
        metric,
        "pipeline" => pipeline.to_owned(),
        "topic" => partition.topic.clone(),
        "partition" => partition.partition.to_string()
    )
    .set(value as f64);
}

/// Starts the thread. Told to stop, it ends after the question in hand.
pub(crate) fn start(
    store: Store,
    pipelines: &[PipelineConfig],
    status: Arc<StatusBoard>,
    host: &Arc<dyn Host>,
) -> io::Result<Background> {
    let pipelines = pipelines.to_vec();
    let io = host.io("lag-io")?;
    Background::start("lag", host, move |stop| {
        let watch = Watch {
            store,
            pipelines,
            status,
            stop,
            io,
        };
        watch.run();
    })
}

struct Watch {
    store: Store,
    pipelines: Vec<PipelineConfig>,
    status: Arc<StatusBoard>,
    stop: Stop,
    io: Runtime,
}

impl Watch {
    fn run(self) {
        loop {
            self.stop.rest(LOOK_EVERY);
            for stopped in self.status.all() {
                if self.stop.is_asked() {
                    break;
                }
                if stopped.state == PipelineState::Stopped && !stopped.partitions.is_empty() {
                    self.look(&stopped);
                }
            }
            if self.stop.is_asked() {
                break;
            }
        }
        // A request that is still under way must not hold the end of the process.
        self.io.shutdown_timeout(FAREWELL);
    }

    fn look(&self, stopped: &PipelineStatus) {
        let named = |known: &&PipelineConfig| *known.plan.name == *stopped.pipeline;
        let Some(PipelineConfig { plan, cluster }) = self.pipelines.iter().find(named) else {
            return;
        };
        let ends = match ends(&**cluster, &stopped.partitions) {
            Ok(ends) => ends,
            Err(error) => {
                tracing::debug!(pipeline = %plan.name, %error, "the lag is not known");
                return;
            }
        };
        let recorded = match self.stop.unless_asked(&self.io, self.recorded(plan)) {
            Some(Ok(recorded)) => recorded,
            Some(Err(error)) => {
                tracing::debug!(pipeline = %plan.name, %error, "what is recorded is not known");
                return;
            }
            None => return,
        };
        self.status.update(&plan.name, |status| {
            measure(&mut status.partitions, &ends, &recorded);
            tell(&status.pipeline, &status.partitions, &BTreeMap::new());
        });
    }

    /// What the slowest table of a pipeline records: other servers of the group may have gone on.
    async fn recorded(&self, plan: &Plan) -> Result<BTreeMap<TopicPartition, i64>, StoreError> {
        let mut slowest = BTreeMap::new();
        for table in &plan.tables {
            let table = self.store.read_table(&table.name).await?;
            for (partition, &offset) in table.offsets.iter() {
                let kept = slowest.entry(partition.clone()).or_insert(offset);
                *kept = offset.min(*kept);
            }
        }
        Ok(slowest)
    }
}

fn ends(
    cluster: &dyn Cluster,
    partitions: &[PartitionStatus],
) -> Result<BTreeMap<TopicPartition, i64>, alluvium_source::SourceError> {
    let partitions: Vec<TopicPartition> = partitions.iter().map(key).collect();
    let bounds = cluster.log_bounds(&partitions, PATIENCE)?;
    Ok(bounds
        .into_iter()
        .map(|(partition, (_, end))| (partition, end))
        .collect())
}

fn key(partition: &PartitionStatus) -> TopicPartition {
    TopicPartition::new(partition.topic.as_str(), partition.partition)
}

fn measure(
    partitions: &mut [PartitionStatus],
    ends: &BTreeMap<TopicPartition, i64>,
    recorded: &BTreeMap<TopicPartition, i64>,
) {
    for partition in partitions {
        let key = key(partition);
        let recorded = recorded.get(&key).copied();
        if let Some((recorded, halted_at)) = recorded.zip(partition.position)
            && recorded > halted_at
        {
            // Somebody moved it on, or reads on.
            partition.halted = None;
        }
        partition.committed = recorded.max(partition.committed);
        if let Some(&end) = ends.get(&key) {
            // Nobody looks at transactions any more.
            (partition.log_end, partition.stable_end) = (Some(end), None);
        }
        let reached = partition.committed.or(partition.position);
        let lag = partition.log_end.zip(reached);
        partition.lag = lag.map(|(end, reached)| (end - reached).max(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_counted_from_what_the_slowest_table_records() {
        let partition = |number, position, committed| PartitionStatus {
            topic: "clicks".into(),
            partition: number,
            position: Some(position),
            committed,
            log_end: Some(40),
            lag: Some(1),
            halted: Some("cut off".into()),
            ..PartitionStatus::default()
        };
        let key = |number| TopicPartition::new("clicks", number);
        let mut partitions = [
            partition(0, 20, Some(10)),
            partition(1, 20, None),
            partition(2, 20, Some(15)),
        ];
        let ends = BTreeMap::from([(key(0), 100), (key(1), 50)]);
        measure(&mut partitions, &ends, &BTreeMap::from([(key(0), 30)]));
        assert_eq!(
            partitions.each_ref().map(|partition| partition.lag),
            [Some(70), Some(30), Some(25)]
        );
        let is_halted = partitions.map(|partition| partition.halted.is_some());
        assert_eq!(is_halted, [false, true, true], "the first was moved on");
    }
}
