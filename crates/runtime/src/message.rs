//! What travels between the threads of one pipeline, and the shared cells beside the channels.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use alluvium_engine::EpochPart;
use alluvium_types::{
    Damaged, Epoch, FetchedBatch, Generation, OffsetRange, TableSet, TopicPartition,
};
use crossbeam_channel::Sender;

use crate::{RuntimeError, standings::Standings};

/// How long a thread sleeps in a channel before it looks at the generation and the stop flag.
pub(crate) const WAKE: Duration = Duration::from_millis(50);

/// Ranges of one table, by partition, none empty (P4).
pub(crate) type Ranges = BTreeMap<TopicPartition, OffsetRange>;

/// Under which leaders of their partitions the last offsets of some stretch were written, where that is known (P18).
pub(crate) type LeaderEpochs = BTreeMap<TopicPartition, i32>;

/// A partition's stretch goes on, to an offset that was written under this leader.
pub(crate) fn go_on_under(
    leaders: &mut LeaderEpochs,
    partition: &TopicPartition,
    leader_epoch: Option<i32>,
) {
    match leader_epoch {
        Some(epoch) => leaders.insert(partition.clone(), epoch),
        None => leaders.remove(partition),
    };
}

/// From intake to one worker.
pub(crate) enum ToWorker {
    /// Fold these records into these tables.
    Batch {
        batch: FetchedBatch,
        tables: TableSet,
    },
    /// Hand over everything since the last barrier.
    Barrier {
        epoch: Epoch,
        generation: Generation,
    },
}

/// What the committer does once an epoch is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Show it to queries.
    Publish,
    /// Show it and commit everything up to it.
    Commit,
}

/// One epoch as intake closed it.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) epoch: Epoch,
    pub(crate) generation: Generation,
    /// What it covers, for each table of the plan.
    pub(crate) ranges: Vec<Ranges>,
    /// Under which leaders their last offsets were written.
    pub(crate) leader_epochs: LeaderEpochs,
    pub(crate) order: Order,
}

/// To the committer, from intake, workers and the rebalance callback.
pub(crate) enum ToCommitter {
    Sealed(Sealed),
    Part {
        epoch: Epoch,
        generation: Generation,
        part: Box<EpochPart>,
    },
    /// Where each table stands in these partitions; no answer when that cannot be read.
    Starts {
        partitions: Vec<TopicPartition>,
        generation: Generation,
        reply: Sender<Standings>,
    },
    /// Every worker has handed over its last part: nothing follows.
    Close,
}

/// What the committer and the workers tell intake: only the latest counts, so it is a cell and never blocks.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    cell: Mutex<Committed>,
}

/// Bytes that a worker could not unpack, and the generation that is void for it.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable {
    pub(crate) partition: TopicPartition,
    pub(crate) generation: Generation,
    pub(crate) damaged: Damaged,
}

/// The latest news of the committer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Committed {
    /// The last epoch whose commit order is done.
    pub(crate) epoch: Epoch,
    /// Smallest recorded offset over all tables, of partitions that moved since intake looked last.
    pub(crate) offsets: BTreeMap<TopicPartition, i64>,
    /// Everything in flight under this generation is void: assign afresh from the table (P7).
    pub(crate) void: Option<Generation>,
    /// What workers could not unpack since intake looked last.
    pub(crate) unreadable: Vec<Unreadable>,
}

impl Progress {
    /// The cell, for changing it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Committed> {
        self.cell
            .lock()
            .expect("nobody panics while holding the progress cell")
    }

    /// Takes the news: everything but the epoch is handed out once.
    pub(crate) fn take(&self) -> Committed {
        let mut cell = self.lock();
        Committed {
            epoch: cell.epoch,
            offsets: std::mem::take(&mut cell.offsets),
            void: cell.void.take(),
            unreadable: std::mem::take(&mut cell.unreadable),
        }
    }
}

/// How one pipeline's threads learn that it ends.
#[derive(Debug)]
pub(crate) struct Ending {
    drain: AtomicBool,
    failure: Mutex<Option<RuntimeError>>,
    failed: AtomicBool,
    by_rule: AtomicBool,
    /// By a clock that nobody sets.
    begun: Instant,
    /// When intake last polled, in milliseconds since then and one more; 0: it has not started to.
    heartbeat: AtomicU64,
}

impl Default for Ending {
    fn default() -> Self {
        Self {
            drain: AtomicBool::default(),
            failure: Mutex::default(),
            failed: AtomicBool::default(),
            by_rule: AtomicBool::default(),
            begun: Instant::now(),
            heartbeat: AtomicU64::default(),
        }
    }
}

impl Ending {
    /// Asks for the last barrier, the last commit and the end.
    pub(crate) fn drain(&self) {
        self.drain.store(true, Ordering::Release);
    }

    /// Whether the end was asked for.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.load(Ordering::Acquire)
    }

    /// Records the first failure; the pipeline's threads end as soon as they look.
    pub(crate) fn fail(&self, error: RuntimeError) {
        let mut failure = self
            .failure
            .lock()
            .expect("nobody panics while holding the failure cell");
        let by_rule = matches!(error, RuntimeError::TooManyRejects { .. });
        if failure.is_none() {
            self.by_rule.store(by_rule, Ordering::Release);
        }
        failure.get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// Whether the pipeline's own `stop_if` ended it: a person has to look, and may want to ask its tables.
    pub(crate) fn is_stopped_by_rule(&self) -> bool {
        self.by_rule.load(Ordering::Acquire)
    }

    /// Whether a thread failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The first failure.
    pub(crate) fn take_failure(&self) -> Option<RuntimeError> {
        self.failure
            .lock()
            .expect("nobody panics while holding the failure cell")
            .take()
    }

    /// Intake polled the broker's queue just now (K8).
    pub(crate) fn beat(&self) {
        self.heartbeat
            .store(self.millis().saturating_add(1), Ordering::Relaxed);
    }

    /// For how long intake has not polled; `None`: it has not started to.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let beat = self.heartbeat.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.millis().saturating_sub(beat)))
    }

    /// Whether intake has begun to poll and has not done so for `patience`, though nothing has ended it.
    pub(crate) fn is_wedged(&self, patience: Duration) -> bool {
        let is_silent = self.silence().is_some_and(|silence| silence >= patience);
        is_silent && !self.is_draining() && !self.has_failed()
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn silence_lasts_from_one_beat_to_the_next() {
        let ending = Ending::default();
        let pause = Duration::from_millis(30);
        thread::sleep(pause);
        assert_eq!(ending.silence(), None, "it has not begun");
        ending.beat();
        thread::sleep(pause);
        assert!(ending.silence().unwrap() >= pause - Duration::from_millis(1));
        let before = ending.millis();
        ending.beat();
        let silence = ending.silence().unwrap();
        assert!(silence <= Duration::from_millis(ending.millis() - before));
    }

    #[test]
    fn silence_is_wrong_only_where_nothing_has_ended_it() {
        let patience = Duration::from_millis(20);
        let silent = |ending: &Ending| {
            ending.beat();
            assert!(!ending.is_wedged(Duration::from_secs(60)));
            thread::sleep(patience + Duration::from_millis(1));
            ending.is_wedged(patience)
        };
        let [running, drained, failed] = [(); 3].map(|()| Ending::default());
        thread::sleep(patience);
        assert!(!running.is_wedged(patience), "it has not begun");
        assert!(silent(&running));
        running.beat();
        assert!(!running.is_wedged(Duration::from_secs(60)));
        drained.drain();
        assert!(!silent(&drained));
        failed.fail(RuntimeError::Fenced {
            pipeline: "clicks".into(),
            reason: "another".to_owned(),
        });
        assert!(!silent(&failed));
    }
}
