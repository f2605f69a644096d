//! What a consumer group told Kafka about its progress, for a producer that waits for it.
//!
//! Owns a client that knows the group's name and never joins it. Nothing of the engine reads
//! this (P14).

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::bounded;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use crate::{
    Broker, SourceError,
    inquiry::{Complaint, partition_counts, show_token, unanswered},
};

/// How long the client may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// A standing question: how far has this group come in this topic?
pub struct GroupProgress {
    broker: Broker,
    topic: Arc<str>,
    partitions: i32,
    /// Present until it is dropped.
    client: Option<BaseConsumer<Complaint>>,
}

impl GroupProgress {
    /// Asks about all partitions that `topic` has now; a topic that does not exist has none.
    ///
    /// # Errors
    /// [`SourceError::Unanswered`] when no broker answers in time.
    pub fn new(
        broker: &Broker,
        group: &str,
        topic: &str,
        timeout: Duration,
    ) -> Result<Self, SourceError> {
        let topic: Arc<str> = topic.into();
        let counts = partition_counts(broker, std::slice::from_ref(&topic), timeout)?;
        let mut config = broker.config();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false");
        let client = broker.create(&config, Complaint::new(broker))?;
        show_token(&client);
        Ok(Self {
            broker: broker.clone(),
            partitions: counts.get(&topic).copied().flatten().unwrap_or(0),
            topic,
            client: Some(client),
        })
    }

    /// The offsets told so far, by partition; a partition without one is left out.
    ///
    /// # Errors
    /// [`SourceError::Unanswered`] when the group's coordinator does not answer in time.
    pub fn offsets(&self, timeout: Duration) -> Result<BTreeMap<i32, i64>, SourceError> {
        let client = self.client.as_ref().expect("present until it is dropped");
        if self.partitions == 0 {
            return Ok(BTreeMap::new());
        }
        // A token that has to be renewed is asked for in a turn of the client.
        client.poll(Duration::ZERO);
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.topic, 0, self.partitions - 1);
        let question = || format!("the group's progress in topic {}", self.topic);
        let told = client
            .committed_offsets(list, timeout)
            .map_err(|cause| unanswered(&self.broker, client, question(), cause))?;
        told.elements()
            .iter()
            .filter_map(|element| match (element.error(), element.offset()) {
                (Err(cause), _) => Some(Err(unanswered(&self.broker, client, question(), cause))),
                (Ok(()), Offset::Offset(offset)) => Some(Ok((element.partition(), offset))),
                (Ok(()), _) => None,
            })
            .collect()
    }
}

impl Drop for GroupProgress {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else {
            return;
        };
        // A client with a group may wait for its coordinator for ever when it ends.
        let (done, ended) = bounded(1);
        let spawned = thread::Builder::new()
            .name("kafka-farewell".to_owned())
            .spawn(move || {
                drop(client);
                let _ = done.send(());
            });
        if spawned.is_err() || ended.recv_timeout(FAREWELL).is_err() {
            tracing::warn!("a client that asked for a group's progress did not end");
        }
    }
}

/// Asks once how far `group` has come in `topic`. To ask repeatedly, keep a [`GroupProgress`].
///
/// # Errors
/// As [`GroupProgress::new`] and [`GroupProgress::offsets`].
pub fn group_progress(
    broker: &Broker,
    group: &str,
    topic: &str,
    timeout: Duration,
) -> Result<BTreeMap<i32, i64>, SourceError> {
    let deadline = Instant::now() + timeout;
    let progress = GroupProgress::new(broker, group, topic, timeout)?;
    progress.offsets(deadline.saturating_duration_since(Instant::now()))
}
