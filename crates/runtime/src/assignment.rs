//! What happens inside a rebalance: the committer withdraws, then the table says where to start.
//!
//! Runs on the intake thread, in the consumer's callback, and therefore with a deadline (P17, P27).
//! Owns the hand-over between callback, committer and intake. Does not own the recorded offsets: the
//! committer reads them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use alluvium_source::{Assignments, Recorded};
use alluvium_types::{AssignmentGeneration, Generation, TopicPartition};
use crossbeam_channel::{RecvTimeoutError, SendTimeoutError, Sender, bounded};

use crate::{host::Host, message::ToCommitter, standings::Standings};

/// How far the committer has followed the generation.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    generation: Mutex<Generation>,
    changed: Condvar,
}

impl Acknowledged {
    /// The committer has withdrawn everything older than `generation` and starts no commit for it.
    pub(crate) fn set(&self, generation: Generation) {
        let mut held = self
            .generation
            .lock()
            .expect("nobody panics while holding this lock");
        *held = (*held).max(generation);
        self.changed.notify_all();
    }

    /// Whether the committer follows `generation`; if not, waits for news of it, at most for `patience`.
    pub(crate) fn wait(&self, generation: Generation, patience: Duration) -> bool {
        let held = self
            .generation
            .lock()
            .expect("nobody panics while holding this lock");
        // A wait of no time still asks the kernel, by this thread's clock.
        if *held >= generation || patience.is_zero() {
            return *held >= generation;
        }
        let (held, _) = self
            .changed
            .wait_timeout(held, patience)
            .expect("nobody panics while holding this lock");
        *held >= generation
    }
}

/// The callback's side.
pub(crate) struct Rebalance {
    pub(crate) generation: AssignmentGeneration,
    pub(crate) acknowledged: Arc<Acknowledged>,
    pub(crate) committer: Sender<ToCommitter>,
    /// Read by intake after the callback returned; both run on the same thread.
    pub(crate) standings: Arc<Mutex<Standings>>,
    pub(crate) host: Arc<dyn Host>,
}

impl Assignments for Rebalance {
    fn revoked(&self, deadline: Instant) {
        let generation = self.generation.current();
        let followed = self.host.until(deadline, |patience| {
            let patience = self.host.wait(patience);
            self.acknowledged.wait(generation, patience).then_some(())
        });
        if followed.is_none() {
            tracing::warn!(
                "a commit is still under way while partitions move; the table decides whether it counts"
            );
        }
    }

    fn starts(
        &self,
        partitions: &[TopicPartition],
        deadline: Instant,
    ) -> Option<BTreeMap<TopicPartition, Recorded>> {
        let (reply, answer) = bounded(1);
        let mut request = Some(ToCommitter::Starts {
            partitions: partitions.to_vec(),
            generation: self.generation.current(),
            reply,
        });
        // A committer that is gone, or that could not read the offsets, gives no answer; nobody waits for it.
        let sent = self.host.until(deadline, |patience| {
            match self.host.send(&self.committer, request.take()?, patience) {
                Ok(()) => Some(true),
                Err(SendTimeoutError::Disconnected(_)) => Some(false),
                Err(SendTimeoutError::Timeout(back)) => {
                    request = Some(back);
                    None
                }
            }
        });
        sent.filter(|&sent| sent)?;
        let answered = self.host.until(deadline, |patience| {
            match self.host.receive(&answer, patience) {
                Ok(standings) => Some(Some(standings)),
                Err(RecvTimeoutError::Disconnected) => Some(None),
                Err(RecvTimeoutError::Timeout) => None,
            }
        });
        let standings = answered.flatten()?;
        let starts = standings.recorded();
        *self
            .standings
            .lock()
            .expect("nobody panics while holding this lock") = standings;
        Some(starts)
    }
}
