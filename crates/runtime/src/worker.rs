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

#[cfg(test)]
mod tests {
    use std::{ops::ControlFlow, path::Path};

    use alluvium_plan::{Environment, SourceFile, load_pipeline};
    use alluvium_types::{Damaged, Epoch, OffsetRange, Packed, Piece, Timestamp, TopicPartition};
    use crossbeam_channel::unbounded;

    use super::*;
    use crate::host::Machine;

    #[derive(Debug)]
    struct Torn;

    impl Packed for Torn {
        fn unpack(
            &self,
            range: OffsetRange,
            _: &mut dyn FnMut(Piece) -> ControlFlow<()>,
        ) -> Result<(), Damaged> {
            Err(Damaged {
                offset: range.start(),
                end: range.end(),
                text: "torn".into(),
            })
        }
    }

    fn plan() -> Arc<Plan> {
        let pipeline = "version: 1\nsource: {kafka: {connection: main, topics: [events], start: earliest}}\ndecode: {json: {schema: event.yaml}}\n\
                        event_time: {column: ts, max_delay: 5s}\ntables:\n  t:\n    window: {tumbling: 1m}\n    measures: {events: count(*)}\n";
        let mut schema = |_: &Path| Ok(b"version: 1\ncolumns: {ts: timestamp}\n".to_vec());
        let source = SourceFile::new("pipelines/p.yaml", pipeline);
        let loaded = load_pipeline(&source, &mut schema, &Environment::default());
        loaded.unwrap().0.into()
    }

    /// Intake may hear of it only after the barrier: without the batch the epoch would be whole, and its events gone.
    #[test]
    fn an_epoch_with_a_batch_that_cannot_be_unpacked_is_not_handed_over() {
        let plan = plan();
        for is_torn in [false, true] {
            let generation = AssignmentGeneration::default();
            let current = generation.current();
            let progress = Arc::new(Progress::default());
            let (to_worker, inbox) = unbounded();
            let (committer, parts) = unbounded();
            if is_torn {
                let batch = FetchedBatch::packed(
                    TopicPartition::new("events", 0),
                    OffsetRange::new(3, 7).unwrap(),
                    current,
                    Timestamp::from_micros(0),
                    (4, 100),
                    Arc::new(Torn),
                );
                let tables = TableSet::all(1);
                to_worker.send(ToWorker::Batch { batch, tables }).unwrap();
            }
            let barrier = ToWorker::Barrier {
                epoch: Epoch(1),
                generation: current,
            };
            to_worker.send(barrier).unwrap();
            drop(to_worker);
            let worker = Worker {
                plan: plan.clone(),
                budget: MemoryBudget::new(1 << 30),
                generation,
                ending: Arc::default(),
                progress: progress.clone(),
                inbox,
                committer,
                host: Arc::new(Machine),
            };
            worker.run();
            assert_eq!(parts.try_iter().count(), usize::from(!is_torn));
            assert_eq!(progress.take().unreadable.len(), usize::from(is_torn));
        }
    }
}
