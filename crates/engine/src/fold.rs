//! One worker's fold of one epoch.
//!
//! Owns the way of an event: decode, event time, the pipeline's `where`, then each table that wants
//! it. Every step works on a batch; what happens to an event depends on nothing but the event (P5).
//! Does not own lateness, which is settled in offset order over all workers, nor merging.

mod table;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use alluvium_plan::Plan;
use alluvium_types::{
    Balance, MemoryBudget, RawBatch, RawRecord, Reject, Reservation, Stage, TableSet, Timestamp,
};
use bytes::Bytes;
use datafusion::arrow::{
    array::{Array, AsArray, BooleanArray, RecordBatch, UInt32Array},
    compute::{filter, filter_record_batch},
    datatypes::{TimestampMicrosecondType, UInt32Type},
};

use crate::{
    EngineError, JsonDecoder, ObservedBatch,
    evaluate::{Failures, as_selection, evaluate},
    pool::{BATCH_ROWS, task_context},
};
use table::TableFold;

/// Decoded payloads of one step are at most this, so that a step's columns stay small.
const STEP_BYTES: usize = 16 << 20;

/// The fold of one epoch on one worker: for each table one finite plan, fed batch by batch.
pub struct EpochFold {
    plan: Arc<Plan>,
    decoder: JsonDecoder,
    tables: Vec<TableFold>,
    rejects: Vec<Reject>,
    observed: Vec<ObservedBatch>,
    /// Counts rejects and observed times; plans count their states themselves.
    reservation: Reservation,
}

/// What one worker makes of one epoch.
#[derive(Debug)]
pub struct EpochPart {
    /// For each table of the plan, in its order.
    pub tables: Vec<TablePart>,
    /// Events that could not be taken.
    pub rejects: Vec<Reject>,
    /// Accepted event times, from which lateness is settled.
    pub observed: Vec<ObservedBatch>,
    /// Counts all of the above until this value is dropped.
    _reservation: Option<Reservation>,
}

/// What one worker makes of one epoch for one table.
#[derive(Debug, Default)]
pub struct TablePart {
    /// Panes in the shape's pane schema, a key in at most one row, in no order.
    pub panes: Vec<RecordBatch>,
    /// What became of the events; `late` is 0, since only offset order tells.
    pub balance: Balance,
}

impl EpochPart {
    /// The part of a worker that got no batch.
    pub fn empty(plan: &Plan) -> Self {
        Self {
            tables: plan.tables.iter().map(|_| TablePart::default()).collect(),
            rejects: Vec::new(),
            observed: Vec::new(),
            _reservation: None,
        }
    }
}

/// Decoded rows and the records that they come from.
struct Rows {
    batch: RecordBatch,
    /// For each row the position of its record in the raw batch.
    records: UInt32Array,
}

impl Rows {
    fn keep(&self, selection: &BooleanArray) -> Result<Self, EngineError> {
        Ok(Self {
            batch: filter_record_batch(&self.batch, selection)?,
            records: filter(&self.records, selection)?
                .as_primitive::<UInt32Type>()
                .clone(),
        })
    }
}

/// A refusal before it has its event's bytes.
struct Refusal {
    stage: Stage,
    error: String,
    column: Option<String>,
    table: Option<Arc<str>>,
}

impl EpochFold {
    /// Starts an epoch. Its states are counted against `budget`.
    ///
    /// # Errors
    /// [`EngineError`] when the plan cannot be carried out, which is a bug of whoever made it.
    pub fn new(plan: Arc<Plan>, budget: MemoryBudget) -> Result<Self, EngineError> {
        let decoder = JsonDecoder::new(&plan)?;
        let context = task_context(&budget).map_err(|source| EngineError::Merge {
            source: Box::new(source),
        })?;
        let tables = plan
            .tables
            .iter()
            .map(|table| TableFold::new(table, &plan.decoded, &context))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            decoder,
            tables,
            plan,
            rejects: Vec::new(),
            observed: Vec::new(),
            reservation: budget.reserve(0),
        })
    }

    /// Decodes a batch once and folds it into the tables of `tables`.
    ///
    /// # Errors
    /// [`EngineError`] when folding failed; the epoch is void then. A bad event is no error: it becomes
    /// a [`Reject`].
    pub fn push(&mut self, batch: &RawBatch, tables: TableSet) -> Result<(), EngineError> {
        if tables.is_empty() || batch.is_empty() {
            return Ok(());
        }
        let accept = self.plan.event_time.accept;
        let mut observed = ObservedBatch {
            partition: batch.partition.clone(),
            range: batch.range,
            tables,
            event_times: Vec::with_capacity(batch.len()),
            cap: batch.received.saturating_add_micros(micros(accept.future)),
            oldest_record: batch
                .records()
                .filter_map(|record| record.timestamp())
                .min(),
        };
        let rejects_before = self.rejects.len();
        let mut decoded = Vec::with_capacity(batch.len().min(BATCH_ROWS));
        let mut bytes = 0;
        for (position, record) in batch.records().enumerate() {
            match self.decoder.decode(record.value()) {
                Ok(()) => decoded.push(position as u32),
                Err(error) => {
                    let refusal = Refusal {
                        stage: Stage::Decode,
                        error: error.message,
                        column: error.column,
                        table: None,
                    };
                    self.rejects.push(refusal.of(batch, &record));
                    self.count_refused(tables, 1);
                }
            }
            bytes += record.value().map_or(0, <[u8]>::len);
            if decoded.len() == BATCH_ROWS || bytes >= STEP_BYTES {
                self.fold_step(batch, tables, &mut decoded, &mut observed)?;
                bytes = 0;
            }
        }
        self.fold_step(batch, tables, &mut decoded, &mut observed)?;

        let held: usize = self.rejects[rejects_before..]
            .iter()
            .map(Reject::size)
            .sum::<usize>()
            + observed.size();
        self.reservation.resize(self.reservation.bytes() + held);
        if !observed.event_times.is_empty() {
            self.observed.push(observed);
        }
        Ok(())
    }

    /// Folds what the decoder holds: the records at the positions in `decoded`.
    fn fold_step(
        &mut self,
        raw: &RawBatch,
        tables: TableSet,
        decoded: &mut Vec<u32>,
        observed: &mut ObservedBatch,
    ) -> Result<(), EngineError> {
        if decoded.is_empty() {
            return Ok(());
        }
        let rows = Rows {
            batch: self.decoder.finish()?,
            records: std::mem::take(decoded).into(),
        };
        let rows = self.accept(raw, tables, rows)?;
        observed
            .event_times
            .extend_from_slice(self.event_times(&rows));
        let rows = self.filter(raw, tables, rows)?;
        for (position, table) in self.tables.iter_mut().enumerate() {
            if tables.contains(position) {
                table.fold(&rows, self.plan.event_time.column, |row, refusal| {
                    let record = raw.record(rows.records.value(row) as usize);
                    self.rejects.push(refusal.of(raw, &record));
                })?;
            }
        }
        Ok(())
    }

    fn event_times<'r>(&self, rows: &'r Rows) -> &'r [i64] {
        rows.batch
            .column(self.plan.event_time.column)
            .as_primitive::<TimestampMicrosecondType>()
            .values()
    }

    /// Refuses events without event time, and those too far from their record's timestamp (P5). Only
    /// what is left is ever seen by watermarks.
    fn accept(
        &mut self,
        raw: &RawBatch,
        tables: TableSet,
        rows: Rows,
    ) -> Result<Rows, EngineError> {
        let accept = self.plan.event_time.accept;
        let future = micros(accept.future);
        let name = self.plan.decoded.field(self.plan.event_time.column).name();
        let times = rows.batch.column(self.plan.event_time.column);
        let mut refused = Failures::default();
        for (row, &time) in self.event_times(&rows).iter().enumerate() {
            if times.is_null(row) {
                let error =
                    format!("the event has no event time: column {name} is missing or null");
                refused.rows.push((row, error));
                continue;
            }
            let record = raw.record(rows.records.value(row) as usize);
            let Some(written) = record.timestamp() else {
                continue;
            };
            let ahead = Timestamp::from_micros(time).saturating_micros_since(written);
            let bound = if ahead > future {
                format!("more than {:?} after", accept.future)
            } else if let Some(bound) = accept.past
                && ahead < micros(bound).saturating_neg()
            {
                format!("more than {bound:?} before")
            } else {
                continue;
            };
            let error = format!(
                "event time {} is {bound} Kafka's timestamp of the record, {written}, and `accept` does not allow that",
                Timestamp::from_micros(time)
            );
            refused.rows.push((row, error));
        }
        if refused.is_empty() {
            return Ok(rows);
        }
        for (row, error) in &refused.rows {
            let refusal = Refusal {
                stage: Stage::EventTime,
                error: error.clone(),
                column: Some(name.clone()),
                table: None,
            };
            let record = raw.record(rows.records.value(*row) as usize);
            self.rejects.push(refusal.of(raw, &record));
        }
        self.count_refused(tables, refused.rows.len());
        rows.keep(&refused.survivors(rows.batch.num_rows()))
    }

    /// The pipeline's `where`, the same for all tables; NULL is no. An event for which it fails is
    /// refused by all of them.
    fn filter(
        &mut self,
        raw: &RawBatch,
        tables: TableSet,
        rows: Rows,
    ) -> Result<Rows, EngineError> {
        let Some(condition) = self.plan.filter.clone() else {
            return Ok(rows);
        };
        let mut failures = Failures::default();
        let values = evaluate(
            &condition,
            &rows.batch,
            None,
            || "where".into(),
            &mut failures,
        )?;
        let selection = as_selection(&values).ok_or_else(|| EngineError::Type {
            table: self.plan.name.clone(),
            place: "where".into(),
            found: values.data_type().to_string(),
            expected: "Boolean".into(),
        })?;
        let (all, kept) = (rows.batch.num_rows(), selection.true_count());
        let failed = failures.rows.len();
        for (row, error) in failures.rows {
            let refusal = Refusal {
                stage: Stage::Expression,
                error,
                column: None,
                table: None,
            };
            let record = raw.record(rows.records.value(row) as usize);
            self.rejects.push(refusal.of(raw, &record));
        }
        self.count_refused(tables, failed);
        for balance in self.balances(tables) {
            balance.events_in += (all - failed - kept) as u64;
            balance.filtered += (all - failed - kept) as u64;
        }
        if kept == all {
            return Ok(rows);
        }
        rows.keep(&selection)
    }

    fn balances(&mut self, tables: TableSet) -> impl Iterator<Item = &mut Balance> {
        self.tables
            .iter_mut()
            .enumerate()
            .filter(move |(position, _)| tables.contains(*position))
            .map(|(_, table)| &mut table.balance)
    }

    /// Counts events that no table takes.
    fn count_refused(&mut self, tables: TableSet, events: usize) {
        for balance in self.balances(tables) {
            balance.events_in += events as u64;
            balance.rejected += events as u64;
        }
    }

    /// Ends the epoch and takes out what it folded.
    ///
    /// # Errors
    /// [`EngineError`] when a plan failed.
    pub fn finish(self) -> Result<EpochPart, EngineError> {
        let mut reservation = self.reservation;
        let mut tables = Vec::with_capacity(self.tables.len());
        for table in self.tables {
            let part = table.finish()?;
            let panes: usize = part.panes.iter().map(pane_size).sum();
            reservation.resize(reservation.bytes() + panes);
            tables.push(part);
        }
        Ok(EpochPart {
            tables,
            rejects: self.rejects,
            observed: self.observed,
            _reservation: Some(reservation),
        })
    }
}

impl Refusal {
    /// The reject of one record. Its bytes are copied: sharing them would keep a whole raw batch in
    /// memory, uncounted.
    fn of(self, batch: &RawBatch, record: &RawRecord<'_>) -> Reject {
        Reject {
            partition: batch.partition.clone(),
            offset: record.offset(),
            timestamp: record.timestamp(),
            key: record.key().map(Bytes::copy_from_slice),
            headers: record.headers(),
            payload: record.value().map(Bytes::copy_from_slice),
            error: self.error,
            column: self.column,
            stage: self.stage,
            table: self.table,
        }
    }
}

/// Bytes of a pane's rows. Batches that an aggregation emits are slices of common buffers, so whole
/// buffers would be counted many times.
pub(crate) fn pane_size(pane: &RecordBatch) -> usize {
    pane.columns()
        .iter()
        .map(|column| {
            column
                .to_data()
                .get_slice_memory_size()
                .unwrap_or_else(|_| column.get_array_memory_size())
        })
        .sum()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
