//! The log folded into tables a second time.
//!
//! Owns the folds, which end whenever they have grown to their share of the memory, and what they came to. Does not own which
//! events are part of which table ([`Account`](super::account::Account)).

use std::{mem, sync::Arc};

use alluvium_engine::{EngineError, EpochFold, EpochPart};
use alluvium_plan::{Plan, Rounding, TableShape};
use alluvium_types::{RawBatch, RawBatchBuilder, TableSet};

use super::{
    Verify, VerifyError,
    account::{Fate, Share},
    prepared::Prepared,
    runs::{Room, Runs},
};

/// When this share of the budget is in use, folds end. What they have counted is there twice then, as states and as the panes that
/// are made of these, and once more while panes are merged.
const FOLD_SHARE: usize = 4;

/// One table's rows, computed again and not merged yet.
pub(super) struct Recomputed {
    pub(super) prepared: Prepared,
    /// The shape of the panes: the table's, and the states that bound rounding.
    pub(super) shape: Arc<TableShape>,
    pub(super) roundings: Vec<Rounding>,
    pub(super) rows: Runs,
    /// Rows of events of which it cannot be told whether they are part of the table.
    pub(super) undecided: Runs,
}

pub(super) struct Recomputing<'v> {
    verify: &'v Verify,
    plan: Arc<Plan>,
    tables: Vec<Recomputed>,
    fold: EpochFold,
    /// Of events that are not decided; there are seldom any.
    undecided: Option<EpochFold>,
}

impl<'v> Recomputing<'v> {
    pub(super) fn begin(
        verify: &'v Verify,
        tables: Vec<Prepared>,
        room: &Room,
    ) -> Result<Self, VerifyError> {
        let mut plan = Plan::clone(&verify.plan);
        let mut begun = Vec::with_capacity(tables.len());
        for prepared in tables {
            let table = &mut plan.tables[prepared.position];
            let wider = table.with_rounding(&plan.decoded);
            let (wider, roundings) = wider.map_err(|source| {
                verify.engine(EngineError::Fold {
                    table: table.name.clone(),
                    source: Box::new(source),
                })
            })?;
            *table = wider;
            let shape = Arc::new(table.shape.clone());
            begun.push(Recomputed {
                prepared,
                roundings,
                rows: Runs::new(shape.clone(), room),
                undecided: Runs::new(shape.clone(), room),
                shape,
            });
        }
        let plan = Arc::new(plan);
        let fold = EpochFold::new(plan.clone(), verify.budget.clone());
        Ok(Self {
            fold: fold.map_err(|source| verify.engine(source))?,
            verify,
            plan,
            tables: begun,
            undecided: None,
        })
    }

    /// Folds a batch into the tables that its events are part of.
    pub(super) fn push(&mut self, batch: &RawBatch) -> Result<(), VerifyError> {
        let mut whole = TableSet::default();
        let mut is_whole = true;
        for table in &mut self.tables {
            let Prepared {
                position, account, ..
            } = &mut table.prepared;
            account.read(batch);
            match account.share_of(batch) {
                Share::All => whole = whole.with(*position),
                Share::Nothing => {}
                Share::Part => is_whole = false,
            }
        }
        match is_whole {
            true => self.fold.push(batch, whole),
            false => self.push_apart(batch),
        }
        .map_err(|source| self.verify.engine(source))?;
        let budget = &self.verify.budget;
        if budget.used() >= budget.limit() / FOLD_SHARE {
            self.end_part()?;
        }
        Ok(())
    }

    /// Folds the events of a batch that are not all part of the same tables.
    fn push_apart(&mut self, batch: &RawBatch) -> Result<(), EngineError> {
        let mut kinds: Vec<((TableSet, TableSet), RawBatchBuilder)> = Vec::new();
        for record in batch.records() {
            let (mut counts, mut undecided) = (TableSet::default(), TableSet::default());
            for table in &self.tables {
                let Prepared {
                    position, account, ..
                } = &table.prepared;
                match account.fate(&batch.partition, record.offset()) {
                    Fate::Counts | Fate::Replayed => counts = counts.with(*position),
                    Fate::Undecided => undecided = undecided.with(*position),
                    Fate::LeftOut => {}
                }
            }
            let kind = (counts, undecided);
            let at = kinds.iter().position(|(known, _)| *known == kind);
            let at = at.unwrap_or_else(|| {
                kinds.push((kind, RawBatchBuilder::default()));
                kinds.len() - 1
            });
            // Keys and headers matter to dead letters only, and none is written.
            let (offset, timestamp) = (record.offset(), record.timestamp());
            kinds[at]
                .1
                .push(offset, timestamp, None, record.value(), []);
        }
        for ((counts, undecided), records) in kinds {
            let reservation = self.verify.budget.reserve(records.size());
            let records = records.finish(
                batch.partition.clone(),
                batch.range,
                batch.generation,
                batch.received,
                Some(reservation),
            );
            self.fold.push(&records, counts)?;
            if undecided.is_empty() {
                continue;
            }
            let fold = match self.undecided.take() {
                Some(fold) => fold,
                None => EpochFold::new(self.plan.clone(), self.verify.budget.clone())?,
            };
            self.undecided.insert(fold).push(&records, undecided)?;
        }
        Ok(())
    }

    /// Ends the folds, and keeps what they came to.
    fn end_part(&mut self) -> Result<(), VerifyError> {
        let next = EpochFold::new(self.plan.clone(), self.verify.budget.clone());
        let next = next.map_err(|source| self.verify.engine(source))?;
        let part = mem::replace(&mut self.fold, next).finish();
        let mut part = part.map_err(|source| self.verify.engine(source))?;
        for reject in mem::take(&mut part.rejects) {
            for table in &mut self.tables {
                let name = &self.plan.tables[table.prepared.position].name;
                if reject.table.as_ref().is_none_or(|named| named == name) {
                    table.prepared.account.refused(&reject);
                }
            }
        }
        self.keep(part, |table| &mut table.rows)?;
        if let Some(fold) = self.undecided.take() {
            let part = fold.finish();
            let part = part.map_err(|source| self.verify.engine(source))?;
            self.keep(part, |table| &mut table.undecided)?;
        }
        Ok(())
    }

    fn keep(
        &mut self,
        mut part: EpochPart,
        runs: impl Fn(&mut Recomputed) -> &mut Runs,
    ) -> Result<(), VerifyError> {
        for table in &mut self.tables {
            let panes = mem::take(&mut part.tables[table.prepared.position].panes);
            let windows = self.verify.windows;
            let panes: Result<Vec<_>, _> =
                panes.iter().map(|panes| windows.within(panes)).collect();
            let panes =
                panes.map_err(|source| self.verify.engine(EngineError::Batch { source }))?;
            runs(table)
                .add(panes)
                .map_err(|error| self.verify.of_run(error))?;
        }
        Ok(())
    }

    /// Ends the work.
    pub(super) fn finish(mut self) -> Result<Vec<Recomputed>, VerifyError> {
        self.end_part()?;
        Ok(self.tables)
    }
}
