//! Dead letters sent through their pipeline again, after it was mended (P23).
//!
//! Owns which letters a table may take: those that it has read and refused. Letters come in the order of the versions that
//! they were committed in, and a table's cursor, the last of these versions, is committed with what they came to; so each is
//! part of it once, however often and by however many this is done. Does not own what a table has refused ([`Refusals`]), nor what
//! becomes of an event: it is folded like any other.

use std::{mem, sync::Arc};

use alluvium_engine::{EngineError, EpochFold, TablePart, merge_panes};
use alluvium_plan::Plan;
use alluvium_store::{
    AuditFault, Letter, Letters, ReplayEnding, Replayed, Store, StoreError, TableWriter, audit,
};
use alluvium_types::{
    Generation, MemoryBudget, OffsetRange, RawBatchBuilder, TableSet, Timestamp, TopicPartition,
};
use tokio::runtime::Handle;

use crate::{pipeline::table_spec, refusals::Refusals};

/// Bytes of letters that are folded as one batch.
const BATCH_BYTES: usize = 8 << 20;

/// Why letters were not replayed. What was committed before stays.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The store failed or refused.
    #[error("letters cannot be replayed into {table}: {source}")]
    Store {
        /// The table.
        table: Arc<str>,
        /// What the store says.
        source: StoreError,
    },
    /// The table's history does not tell what it has read.
    #[error("letters cannot be replayed into {table}: its history is not proven: {fault}")]
    Unproven {
        /// The table.
        table: Arc<str>,
        /// The first thing that is wrong with it.
        fault: AuditFault,
    },
    /// Events cannot be folded.
    #[error("letters cannot be replayed into {table}: {source}")]
    Engine {
        /// The table.
        table: Arc<str>,
        /// What the engine says.
        source: EngineError,
    },
}

/// What is done with letters that are refused again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nothing that comes with them is replayed.
    Stop,
    /// They are passed over for good.
    PassOver,
}

/// What a replay came to for one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Letters that were sent.
    pub letters: u64,
    /// Of these, how many are part of the table now, ...
    pub counted: u64,
    /// ... how many the pipeline does not want, ...
    pub filtered: u64,
    /// ... and how many were passed over, because they are refused again.
    pub refused: u64,
    /// Letters of events that this table has not read, or may have taken when it did.
    pub elsewhere: u64,
    /// Why it ended before the last letter.
    pub halt: Option<Halt>,
}

/// Why a replay ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Letters are refused again; none of those that came with them was replayed.
    RefusedAgain {
        /// How many.
        letters: u64,
        /// The first of them.
        partition: TopicPartition,
        /// Its offset.
        offset: i64,
        /// What is wrong with it.
        error: String,
    },
    /// The table has not read as far as its letters go.
    NotYetRead {
        /// The partition.
        partition: TopicPartition,
        /// The letter's offset.
        offset: i64,
        /// The next offset that the table reads.
        recorded: i64,
    },
}

/// Letters of a pipeline that go through it again. May be done beside servers and beside others who do the same.
#[derive(Debug)]
pub struct Replaying {
    /// Where tables and letters lie.
    pub store: Store,
    /// The mended pipeline.
    pub plan: Arc<Plan>,
    /// What is done with letters that it refuses again.
    pub refused: Refused,
    /// Where the store's requests run; never the thread that replays.
    pub io: Handle,
    /// Letters, panes and buffers are reserved in it.
    pub budget: MemoryBudget,
}

impl Replaying {
    /// Replays into the pipeline's table at `position`, and tells again and again what it has come to.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn run(
        &self,
        position: usize,
        told: &mut dyn FnMut(&Replay),
    ) -> Result<Replay, ReplayError> {
        let (store, io) = (&self.store, &self.io);
        let table = self.plan.tables[position].name.clone();
        let failed = |source| ReplayError::Store {
            table: table.clone(),
            source,
        };
        let spec = table_spec(&self.plan, &self.plan.tables[position]);
        // Where a server refuses events meanwhile there is no end to new ones.
        let there = io
            .block_on(store.letters(&self.plan.name))
            .map_err(failed)?;
        let mut work = Work {
            with: self,
            newest: there.versions_after(None).max(),
            writer: io.block_on(store.table(&spec)).map_err(failed)?,
            position,
            done: Replay::default(),
        };
        loop {
            // What the table had read by then; letters beyond are not judged. They are read after its history: a commit that is
            // newer than the letters in hand may have refused events whose letters are not among them.
            io.block_on(work.writer.refresh()).map_err(failed)?;
            let history = io.block_on(store.history(&table)).map_err(failed)?;
            if let Some(fault) = audit(&history).faults.first() {
                return Err(ReplayError::Unproven {
                    table,
                    fault: fault.clone(),
                });
            }
            let letters = io
                .block_on(store.letters(&self.plan.name))
                .map_err(failed)?;
            let mut refusals = Refusals::of(&history);
            let places = io.block_on(letters.places(&table)).map_err(failed)?;
            refusals.count(&places, letters.have_expired());
            if work.replay_some(&letters, &refusals)? == Progress::Ended {
                return Ok(work.done);
            }
            told(&work.done);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Committed,
    Ended,
}

struct Work<'a> {
    with: &'a Replaying,
    /// The last version of letters that was there when this began; `None`: there was none.
    newest: Option<i64>,
    writer: TableWriter,
    position: usize,
    done: Replay,
}

impl Work<'_> {
    fn table(&self) -> Arc<str> {
        self.with.plan.tables[self.position].name.clone()
    }

    fn store_error(&self, source: StoreError) -> ReplayError {
        ReplayError::Store {
            table: self.table(),
            source,
        }
    }

    fn engine_error(&self, source: EngineError) -> ReplayError {
        ReplayError::Engine {
            table: self.table(),
            source,
        }
    }

    /// Commits the letters of as many versions as memory holds the panes of.
    fn replay_some(
        &mut self,
        letters: &Letters,
        refusals: &Refusals,
    ) -> Result<Progress, ReplayError> {
        let after = self.writer.checkpoint().replayed;
        let mut fold = EpochFold::new(self.with.plan.clone(), self.with.budget.clone())
            .map_err(|source| self.engine_error(source))?;
        let (mut sent, mut elsewhere, mut up_to) = (0, 0, None);
        let mut held = self.with.budget.reserve(0);
        let asked_for = letters
            .versions_after(after)
            .take_while(|version| Some(*version) <= self.newest);
        for version in asked_for {
            // Where nothing is to be committed yet there is nothing to be gained by it.
            if sent > 0 && self.with.budget.is_half_used() {
                break;
            }
            let letters = self.with.io.block_on(letters.read(version));
            let mut letters = letters.map_err(|source| self.store_error(source))?;
            let table = self.table();
            letters.retain(|letter| letter.table.as_ref().is_none_or(|named| *named == table));
            if let Some(beyond) = self.not_yet_read(&letters) {
                self.done.halt = Some(beyond);
                break;
            }
            held.resize(letters.iter().map(Letter::size).sum());
            let place = |letter: &Letter| (letter.partition.clone(), letter.offset);
            letters.sort_by_cached_key(place);
            letters.dedup_by_key(|letter| place(letter));
            let (ours, others): (Vec<_>, Vec<_>) = letters
                .into_iter()
                .partition(|letter| refusals.has(letter, version));
            elsewhere += others.len() as u64;
            sent += ours.len() as u64;
            self.push(&mut fold, &ours)
                .map_err(|source| self.engine_error(source))?;
            up_to = Some(version);
        }
        let Some(up_to) = up_to.filter(|_| sent > 0) else {
            self.done.elsewhere += elsewhere;
            return Ok(Progress::Ended);
        };
        let mut part = fold.finish().map_err(|source| self.engine_error(source))?;
        let first = part
            .rejects
            .iter()
            .min_by_key(|reject| (&reject.partition, reject.offset));
        if let (Some(first), Refused::Stop) = (first, self.with.refused) {
            self.done.halt = Some(Halt::RefusedAgain {
                letters: part.rejects.len() as u64,
                partition: first.partition.clone(),
                offset: first.offset,
                error: first.error.clone(),
            });
            return Ok(Progress::Ended);
        }
        let TablePart { panes, balance } = mem::take(&mut part.tables[self.position]);
        let replayed = Replayed {
            after,
            up_to,
            letters: sent,
            counted: balance.counted,
            filtered: balance.filtered,
            refused: balance.rejected,
        };
        let shape = &self.with.plan.tables[self.position].shape;
        let merged = merge_panes(shape, vec![panes], &self.with.budget)
            .map_err(|source| self.engine_error(source))?;
        let ending = self.with.io.block_on(async {
            let staged = self.writer.stage(merged, Some(&self.with.budget)).await?;
            let version = &self.with.plan.version;
            self.writer.commit_replay(&staged, &replayed, version).await
        });
        match ending.map_err(|source| self.store_error(source))? {
            ReplayEnding::Committed { version } => {
                tracing::debug!(table = %self.table(), version, ?replayed, "replayed dead letters");
                self.done.letters += sent;
                self.done.counted += replayed.counted;
                self.done.filtered += replayed.filtered;
                self.done.refused += replayed.refused;
                self.done.elsewhere += elsewhere;
            }
            // Somebody else did; what is left is begun from his cursor.
            ReplayEnding::Overtaken => {
                self.done.halt = None;
                return Ok(Progress::Committed);
            }
        }
        match self.done.halt {
            None => Ok(Progress::Committed),
            Some(_) => Ok(Progress::Ended),
        }
    }

    fn not_yet_read(&self, letters: &[Letter]) -> Option<Halt> {
        let offsets = &self.writer.checkpoint().offsets;
        // What the pipeline does not read any more is not waited for.
        let topics = &self.with.plan.source.topics;
        let waited_for = letters
            .iter()
            .filter(|letter| topics.contains(&letter.partition.topic));
        waited_for.into_iter().find_map(|letter| {
            let recorded = *offsets.get(&letter.partition)?;
            (letter.offset >= recorded).then(|| Halt::NotYetRead {
                partition: letter.partition.clone(),
                offset: letter.offset,
                recorded,
            })
        })
    }

    /// Folds letters that come by partition and offset.
    fn push(&self, fold: &mut EpochFold, letters: &[Letter]) -> Result<(), EngineError> {
        let tables = TableSet::default().with(self.position);
        for of_partition in letters.chunk_by(|one, other| one.partition == other.partition) {
            let mut rest = of_partition;
            while let Some(first) = rest.first() {
                let mut builder = RawBatchBuilder::default();
                let mut end = first.offset;
                while let Some(letter) = rest.first()
                    && builder.size() < BATCH_BYTES
                {
                    let headers = letter.headers.iter();
                    let headers = headers.map(|header| (&*header.name, header.value.as_deref()));
                    builder.push(
                        letter.offset,
                        letter.timestamp,
                        letter.key.as_deref(),
                        letter.payload.as_deref(),
                        headers,
                    );
                    end = letter.offset + 1;
                    rest = &rest[1..];
                }
                let range = OffsetRange::new(first.offset, end).expect("offsets grow");
                // Where a watermark stands is no business of a replay.
                let received = Timestamp::default();
                let batch = builder.finish(
                    first.partition.clone(),
                    range,
                    Generation::default(),
                    received,
                    None,
                );
                fold.push(&batch, tables)?;
            }
        }
        fold.settle()
    }
}
