//! One worker thread: folds raw batches into the open epoch and hands it over at the barrier.
//!
//! Owns its inbox, the unpacking of what was fetched, and the fold of the open epoch. Does not own what a batch means
//! (engine) or when an epoch ends (intake).

use std::sync::Arc;

use alluvium_engine::{EpochFold, EpochPart};
use alluvium_plan::Plan;
use alluvium_types::{
    AssignmentGeneration, FetchedBatch, Generation, MemoryBudget, ReadError, TableSet,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};

use crate::{
    RuntimeError,
    host::Host,
    message::{Ending, Progress, ToCommitter, ToWorker, Unreadable, WAKE},
};

pub(crate) struct Worker {
    pub(crate) plan: Arc<Plan>,
    pub(crate) budget: MemoryBudget,
    pub(crate) generation: AssignmentGeneration,
    pub(crate) ending: Arc<Ending>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) inbox: Receiver<ToWorker>,
    pub(crate) committer: Sender<ToCommitter>,
    pub(crate) host: Arc<dyn Host>,
}

impl Worker {
    /// Works until intake drops its end of the inbox, or the pipeline fails.
    pub(crate) fn run(self) {
        let mut open: Option<(Generation, EpochFold)> = None;
        // Under it a batch could not be unpacked: nothing of it is handed over any more.
        let mut void: Option<Generation> = None;
        while !self.ending.has_failed() {
            let message = match self.host.receive(&self.inbox, WAKE) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    open = open.filter(|(held, _)| self.generation.is_current(*held));
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            open = open.filter(|(held, _)| self.generation.is_current(*held));
            let outcome = match message {
                ToWorker::Batch { batch, .. }
                    if !self.generation.is_current(batch.generation)
                        || void == Some(batch.generation) =>
                {
                    Ok(())
                }
                ToWorker::Batch { batch, tables } => self
                    .fold(&mut open, batch.generation)
                    .and_then(|fold| match read(fold, batch, tables) {
                        Ok(()) => Ok(()),
                        Err(Unpacking::Engine(error)) => Err(error),
                        Err(Unpacking::Unreadable(unreadable)) => {
                            void = Some(unreadable.generation);
                            self.progress.lock().unreadable.push(unreadable);
                            Ok(())
                        }
                    }),
                ToWorker::Barrier { generation, .. }
                    if !self.generation.is_current(generation) || void == Some(generation) =>
                {
                    Ok(())
                }
                ToWorker::Barrier { epoch, generation } => {
                    let part = match open.take() {
                        Some((_, fold)) => fold.finish(),
                        None => Ok(EpochPart::empty(&self.plan)),
                    };
                    part.map(|part| {
                        self.hand_over(
                            generation,
                            ToCommitter::Part {
                                epoch,
                                generation,
                                part: Box::new(part),
                            },
                        );
                    })
                }
            };
            if let Err(source) = outcome {
                self.ending.fail(RuntimeError::Engine {
                    pipeline: self.plan.name.clone(),
                    source,
                });
            }
        }
    }

    fn fold<'o>(
        &self,
        open: &'o mut Option<(Generation, EpochFold)>,
        generation: Generation,
    ) -> Result<&'o mut EpochFold, alluvium_engine::EngineError> {
        let fold = match open.take() {
            Some(held) => held,
            None => (
                generation,
                EpochFold::new(self.plan.clone(), self.budget.clone())?,
            ),
        };
        Ok(&mut open.insert(fold).1)
    }

    /// Waits for room, and gives up when the part has become stale (P27).
    fn hand_over(&self, generation: Generation, mut message: ToCommitter) {
        while self.generation.is_current(generation) && !self.ending.has_failed() {
            match self.host.send(&self.committer, message, WAKE) {
                Ok(()) => return,
                Err(SendTimeoutError::Timeout(back)) => message = back,
                Err(SendTimeoutError::Disconnected(_)) => return,
            }
        }
    }
}

/// Unpacks a batch and folds its records.
fn read(fold: &mut EpochFold, batch: FetchedBatch, tables: TableSet) -> Result<(), Unpacking> {
    let (partition, generation) = (batch.partition.clone(), batch.generation);
    batch
        .read(|records| fold.push(&records, tables))
        .and_then(|()| fold.settle().map_err(ReadError::Taker))
        .map_err(|error| match error {
            ReadError::Taker(error) => Unpacking::Engine(error),
            ReadError::Damaged(damaged) => Unpacking::Unreadable(Unreadable {
                partition,
                generation,
                damaged,
            }),
        })
}

/// Why a batch was not folded.
enum Unpacking {
    Engine(alluvium_engine::EngineError),
    Unreadable(Unreadable),
}
