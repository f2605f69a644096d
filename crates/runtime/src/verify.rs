//! A table's rows computed a second time from Kafka, and compared with what it has.
//!
//! Owns the order of the work: one version of each table, what of the log belongs to it, whether the log still has
//! that, one reading of it for all tables, the comparison. Everything is read and nothing written, neither to storage nor to
//! Kafka. Does not own the fate of an event ([`account`]), nor when two rows are the same ([`compare_panes`]).

mod account;
mod doubt;
mod error;
mod log;
mod prepared;
mod recompute;
mod runs;
mod stored;
mod windows;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use alluvium_engine::{Comparison, EngineError, Sides, compare_panes};
use alluvium_plan::Plan;
use alluvium_source::{Broker, DrainKind, Reread, SourceError, Subscription};
use alluvium_store::{Store, StoreError};
use alluvium_types::{MemoryBudget, OffsetRange, ReadError, TopicPartition};
use tokio::runtime::Handle;

use log::Log;
use prepared::Prepared;
use recompute::{Recomputed, Recomputing};
use runs::{DiskError, Room, RunError};
use stored::StoredRows;

pub use doubt::Doubt;
pub use error::{Refusal, VerifyError};
pub use windows::Windows;

/// How long nothing may come of records that the log has.
const READ_PATIENCE: Duration = Duration::from_secs(600);
/// Bytes of a batch of the log.
const BATCH_BYTES: usize = 1 << 20;
/// The client's queues may hold this share of the budget, beside it, ...
const QUEUE_SHARE: usize = 16;
/// ... and this at most. Small messages take several times their bytes there.
const QUEUE_BYTES: usize = 16 << 20;
/// Panes that wait to be merged may take this share of the budget, those of all tables together.
const RUN_SHARE: usize = 8;
/// How many differing rows are told.
const DIFFERENCES: usize = 10;

/// What is verified, and with what.
#[derive(Clone, Debug)]
pub struct Verify {
    /// Where the tables are.
    pub store: Store,
    /// Their pipeline.
    pub plan: Arc<Plan>,
    /// Its Kafka connection.
    pub broker: Broker,
    /// Which windows.
    pub windows: Windows,
    /// A runtime that goes on while the calling thread waits.
    pub io: Handle,
    /// Counts batches, states and panes.
    pub budget: MemoryBudget,
    /// Where rows wait that do not fit.
    pub folder: PathBuf,
}

/// How far the reading of the log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Offsets that were passed.
    pub passed: u64,
    /// Of these many.
    pub of: u64,
    /// Events in them.
    pub events: u64,
}

/// What became of one table.
#[derive(Debug)]
pub struct TableVerdict {
    /// The table.
    pub table: Arc<str>,
    /// What was found, or why nothing could be.
    pub outcome: Result<Verified, Refusal>,
}

/// A table beside its rows computed again.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The table's version.
    pub version: i64,
    /// What that version has read, from its recorded starts, and was read again.
    pub stretches: BTreeMap<TopicPartition, OffsetRange>,
    /// Events in these.
    pub events: u64,
    /// The rows.
    pub comparison: Comparison,
    /// What may explain differences.
    pub doubts: Vec<Doubt>,
    /// Measures that depend on the order of events: equal as far as any order can tell.
    pub rounded: Vec<Arc<str>>,
}

impl Verify {
    /// Verifies every table of the pipeline, in its order, beside whatever goes on: of each the version that is the newest
    /// now. `tell` hears how far the reading is. The calling thread works, and takes no part in `io`.
    ///
    /// # Errors
    /// [`VerifyError`] when the work could not be done. That a table cannot be verified is no error but its verdict.
    pub fn run(&self, tell: &mut dyn FnMut(Reading)) -> Result<Vec<TableVerdict>, VerifyError> {
        let mut verdicts: BTreeMap<usize, Result<Verified, Refusal>> = BTreeMap::new();
        let mut prepared = Vec::new();
        for position in 0..self.plan.tables.len() {
            match Prepared::of(self, position) {
                Ok(table) => prepared.push(table),
                Err(refusal) => {
                    verdicts.insert(position, Err(refusal));
                }
            }
        }
        let log = Log::ask(self, &prepared)?;
        prepared.retain(|table| match log.refusal(table) {
            Some(refusal) => {
                verdicts.insert(table.position, Err(refusal));
                false
            }
            None => true,
        });
        let recomputed = self.read(prepared, tell)?;
        let ids = log::ids_of(self, recomputed.iter().map(|table| &table.prepared))?;
        for table in recomputed {
            let position = table.prepared.position;
            // A topic that was made anew meanwhile gave other events.
            let verdict = match log::other_topic(&table.prepared, &ids) {
                Some(refusal) => Err(refusal),
                None => self.compare(table)?,
            };
            verdicts.insert(position, verdict);
        }
        let verdict = |(position, outcome): (usize, _)| TableVerdict {
            table: self.plan.tables[position].name.clone(),
            outcome,
        };
        Ok(verdicts.into_iter().map(verdict).collect())
    }

    /// Reads the log once, and folds it into all tables.
    fn read(
        &self,
        tables: Vec<Prepared>,
        tell: &mut dyn FnMut(Reading),
    ) -> Result<Vec<Recomputed>, VerifyError> {
        let passes = passes(&tables);
        let room = self.room(tables.len());
        let mut work = Recomputing::begin(self, tables, &room)?;
        let mut reading = Reading {
            of: passes.iter().flat_map(BTreeMap::values).map(length).sum(),
            ..Reading::default()
        };
        for stretches in &passes {
            self.read_pass(stretches, &mut work, &mut reading, tell)?;
        }
        work.finish()
    }

    fn read_pass(
        &self,
        stretches: &BTreeMap<TopicPartition, OffsetRange>,
        work: &mut Recomputing<'_>,
        reading: &mut Reading,
        tell: &mut dyn FnMut(Reading),
    ) -> Result<(), VerifyError> {
        let source = |source| self.source(source);
        let mut log = Reread::begin(
            &self.broker,
            self.subscription(stretches.len()),
            stretches,
            READ_PATIENCE,
        )
        .map_err(source)?;
        while let Some(batch) = log.next(BATCH_BYTES).map_err(source)? {
            let (partition, range) = (batch.partition.clone(), batch.range);
            let mut events = 0;
            let folded = batch.read(|records| {
                events += records.len() as u64;
                work.push(&records)
            });
            folded.map_err(|error| match error {
                ReadError::Taker(error) => error,
                ReadError::Damaged(damaged) => self.source(SourceError::Unreadable {
                    partition,
                    offset: damaged.offset,
                    text: damaged.text,
                }),
            })?;
            reading.passed += length(&range);
            reading.events += events;
            tell(*reading);
        }
        Ok(())
    }

    /// As the pipeline reads; nobody joins its group.
    fn subscription(&self, partitions: usize) -> Subscription {
        let source = &self.plan.source;
        Subscription {
            drain: DrainKind::Portable,
            topics: source.topics.clone(),
            group: self.plan.group(),
            instance: None,
            properties: source.properties.clone(),
            memory: self.budget.clone(),
            queue_bytes: (self.budget.limit() / QUEUE_SHARE).min(QUEUE_BYTES),
            partition_count: partitions,
        }
    }

    fn room(&self, tables: usize) -> Room {
        Room {
            budget: self.budget.clone(),
            share: self.budget.limit() / RUN_SHARE / tables.max(1),
            folder: self.folder.clone(),
        }
    }

    /// Puts a table's rows beside those that were computed again.
    fn compare(&self, table: Recomputed) -> Result<Result<Verified, Refusal>, VerifyError> {
        let Recomputed {
            mut prepared,
            shape: wider,
            roundings,
            rows,
            undecided,
        } = table;
        let shape = Arc::new(self.plan.tables[prepared.position].shape.clone());
        let room = self.room(1);
        let stored = StoredRows::new(
            &prepared.reader,
            shape.clone(),
            self.windows,
            &self.io,
            &room,
        );
        let run = |error| self.of_run(error);
        let sides = Sides {
            stored,
            recomputed: rows.merged().map_err(run)?,
            undecided: undecided.merged().map_err(run)?,
        };
        let comparison = match compare_panes(&shape, &wider, &roundings, sides, DIFFERENCES) {
            Ok(comparison) => comparison,
            // What cannot be read or put aside fails the merge from inside; here it is an error of disk or store again.
            Err(error) => {
                return match error.into_external::<DiskError>() {
                    Ok(error) => Err(self.of_run(RunError::Disk(error))),
                    Err(error) => {
                        let error = error.into_external::<StoreError>();
                        Ok(Err(error.map_or_else(Refusal::Rows, Refusal::Store)))
                    }
                };
            }
        };
        let account = &prepared.account;
        prepared.doubts.extend(account.doubts());
        let is_rounded = |state: usize| roundings.iter().any(|rounding| rounding.state == state);
        let measures = shape.measures.iter();
        Ok(Ok(Verified {
            version: prepared.reader.version(),
            stretches: account.stretches().clone(),
            events: account.events(),
            comparison,
            rounded: measures
                .filter(|measure| is_rounded(measure.state))
                .map(|measure| measure.name.clone())
                .collect(),
            doubts: prepared.doubts,
        }))
    }

    fn source(&self, source: SourceError) -> VerifyError {
        VerifyError::Source {
            pipeline: self.plan.name.clone(),
            source,
        }
    }

    fn engine(&self, source: EngineError) -> VerifyError {
        VerifyError::Engine {
            pipeline: self.plan.name.clone(),
            source,
        }
    }

    fn of_run(&self, error: RunError) -> VerifyError {
        match error {
            RunError::Engine(source) => self.engine(source),
            RunError::Disk(DiskError(source)) => VerifyError::Disk {
                folder: self.folder.clone(),
                source,
            },
        }
    }
}

fn length(range: &OffsetRange) -> u64 {
    range.end().abs_diff(range.start())
}

/// What is read of each partition, one stretch after the other: what no table has read may not be there any more, or be unreadable.
fn passes(tables: &[Prepared]) -> Vec<BTreeMap<TopicPartition, OffsetRange>> {
    let mut read: BTreeMap<&TopicPartition, Vec<OffsetRange>> = BTreeMap::new();
    for account in tables.iter().map(|table| &table.account) {
        for partition in account.stretches().keys() {
            let of_partition = read.entry(partition).or_default();
            of_partition.extend(account.read_of(partition));
        }
    }
    let mut passes: Vec<BTreeMap<TopicPartition, OffsetRange>> = Vec::new();
    for (partition, ranges) in read {
        for (pass, stretch) in joined(ranges).into_iter().enumerate() {
            if passes.len() == pass {
                passes.push(BTreeMap::new());
            }
            passes[pass].insert(partition.clone(), stretch);
        }
    }
    passes
}

/// The same offsets in as few ranges as hold them, in order.
fn joined(mut ranges: Vec<OffsetRange>) -> Vec<OffsetRange> {
    ranges.sort_unstable_by_key(|range| range.start());
    let mut joined: Vec<OffsetRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start() <= last.end() => {
                let end = last.end().max(range.end());
                *last = OffsetRange::new(last.start(), end).unwrap_or(*last);
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_any_table_has_read_is_read_once() {
        let range = |(start, end)| OffsetRange::new(start, end).expect("in order");
        let joined = |ranges: &[(i64, i64)]| {
            let ranges = joined(ranges.iter().copied().map(range).collect());
            ranges
                .iter()
                .map(|range| (range.start(), range.end()))
                .collect::<Vec<_>>()
        };
        assert_eq!(joined(&[]), []);
        assert_eq!(joined(&[(20, 30), (0, 10)]), [(0, 10), (20, 30)]);
        assert_eq!(joined(&[(0, 10), (10, 20), (5, 12)]), [(0, 20)]);
        assert_eq!(joined(&[(0, 10), (20, 30), (8, 25)]), [(0, 30)]);
    }
}
