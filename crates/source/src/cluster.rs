//! What a pipeline asks of Kafka, as two traits: a cluster, and a member of a consumer group there.
//!
//! [`Broker`] is the cluster that is meant. Another one makes it possible to run whole pipelines against a Kafka that
//! does what a test wants when it wants it.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use alluvium_types::{
    AssignmentGeneration, Damaged, FetchedBatch, Timestamp, TopicId, TopicPartition,
};

use crate::{
    Assignments, Broker, KafkaDrain, Notice, PartitionView, SourceError, Subscription, inquiry,
};

/// A Kafka cluster: groups to join, and questions outside any group.
pub trait Cluster: fmt::Debug + Send + Sync + 'static {
    /// Joins a group. See [`KafkaDrain::subscribe`].
    ///
    /// # Errors
    /// When the configuration or the topics are refused.
    fn join(
        &self,
        subscription: Subscription,
        generation: AssignmentGeneration,
        assignments: Arc<dyn Assignments>,
    ) -> Result<Box<dyn Drain>, SourceError>;

    /// How many partitions each topic has. See [`partition_counts`](crate::partition_counts).
    ///
    /// # Errors
    /// When no broker answers in time.
    fn partition_counts(
        &self,
        topics: &[Arc<str>],
        timeout: Duration,
    ) -> Result<BTreeMap<Arc<str>, Option<i32>>, SourceError>;

    /// Which topics of their names these are. See [`topic_ids`](crate::topic_ids).
    ///
    /// # Errors
    /// When no broker answers in time.
    fn topic_ids(
        &self,
        topics: &[Arc<str>],
        timeout: Duration,
    ) -> Result<BTreeMap<Arc<str>, TopicId>, SourceError>;

    /// Where logs begin and end. See [`log_bounds`](crate::log_bounds).
    ///
    /// # Errors
    /// When no broker answers in time.
    fn log_bounds(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, (i64, i64)>, SourceError>;

    /// The first offsets at or after a time. See [`offsets_at`](crate::offsets_at).
    ///
    /// # Errors
    /// When no broker answers in time.
    fn offsets_at(
        &self,
        partitions: &[TopicPartition],
        time: Timestamp,
        timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, i64>, SourceError>;
}

/// A member of a consumer group that starts where it is told and never skips in silence. One thread owns it and calls
/// [`serve`](Self::serve) and [`take`](Self::take) in turn. [`KafkaDrain`] says what each of these promises.
pub trait Drain: Send {
    /// Serves the group's protocol and whatever else waits, no longer than `timeout`: rebalances happen in here.
    ///
    /// # Errors
    /// What cannot be served on.
    fn serve(&mut self, timeout: Duration) -> Result<Vec<Notice>, SourceError>;

    /// Takes what one partition has, in turn: about `max_bytes` at most. `None` when nothing is there.
    fn take(&mut self, max_bytes: usize, now: Timestamp) -> Option<FetchedBatch>;

    /// Where every partition of the assignment stands.
    fn partitions(&self) -> Vec<PartitionView>;

    /// A worker could not unpack what was fetched there: the partition halts in front of it (P18).
    fn mark_damaged(&mut self, partition: &TopicPartition, damaged: Damaged);

    /// Whether [`serve`](Self::serve) returns as soon as there is something to take.
    fn wakes(&self) -> bool;

    /// Who brings the bytes, in a word for the log.
    fn kind(&self) -> &'static str;

    /// Drops everything in flight and assigns the same partitions from the recorded offsets again (P7).
    fn assign_afresh(&mut self);

    /// Tells Kafka how far the table is (P14).
    fn tell_progress(&mut self, offsets: &BTreeMap<TopicPartition, i64>);

    /// Leaves the group, or at least stops, within `deadline`.
    ///
    /// # Errors
    /// When that takes longer.
    fn close(self: Box<Self>, deadline: Duration) -> Result<(), SourceError>;
}

impl Cluster for Broker {
    fn join(
        &self,
        subscription: Subscription,
        generation: AssignmentGeneration,
        assignments: Arc<dyn Assignments>,
    ) -> Result<Box<dyn Drain>, SourceError> {
        let drain = KafkaDrain::subscribe(self, subscription, generation, assignments)?;
        Ok(Box::new(drain))
    }

    fn partition_counts(
        &self,
        topics: &[Arc<str>],
        timeout: Duration,
    ) -> Result<BTreeMap<Arc<str>, Option<i32>>, SourceError> {
        inquiry::partition_counts(self, topics, timeout)
    }

    fn topic_ids(
        &self,
        topics: &[Arc<str>],
        timeout: Duration,
    ) -> Result<BTreeMap<Arc<str>, TopicId>, SourceError> {
        inquiry::topic_ids(self, topics, timeout)
    }

    fn log_bounds(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, (i64, i64)>, SourceError> {
        inquiry::log_bounds(self, partitions, timeout)
    }

    fn offsets_at(
        &self,
        partitions: &[TopicPartition],
        time: Timestamp,
        timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, i64>, SourceError> {
        inquiry::offsets_at(self, partitions, time, timeout)
    }
}

impl Drain for KafkaDrain {
    fn serve(&mut self, timeout: Duration) -> Result<Vec<Notice>, SourceError> {
        KafkaDrain::serve(self, timeout)
    }

    fn take(&mut self, max_bytes: usize, now: Timestamp) -> Option<FetchedBatch> {
        KafkaDrain::take(self, max_bytes, now)
    }

    fn partitions(&self) -> Vec<PartitionView> {
        KafkaDrain::partitions(self)
    }

    fn mark_damaged(&mut self, partition: &TopicPartition, damaged: Damaged) {
        KafkaDrain::mark_damaged(self, partition, damaged);
    }

    fn wakes(&self) -> bool {
        KafkaDrain::wakes(self)
    }

    fn kind(&self) -> &'static str {
        KafkaDrain::kind(self)
    }

    fn assign_afresh(&mut self) {
        KafkaDrain::assign_afresh(self);
    }

    fn tell_progress(&mut self, offsets: &BTreeMap<TopicPartition, i64>) {
        KafkaDrain::tell_progress(self, offsets);
    }

    fn close(self: Box<Self>, deadline: Duration) -> Result<(), SourceError> {
        KafkaDrain::close(*self, deadline)
    }
}
