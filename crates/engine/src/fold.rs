//! One worker's fold of one epoch.
//!
//! Owns the way of an event: decode, event time, the pipeline's `where`, then each table that wants
//! it. Every step works on a batch; what happens to an event depends on nothing but the event (P5).
//! Does not own lateness, which is settled in offset order over all workers, nor merging.

mod table;
#[cfg(test)]
mod tests;

use std::{mem, ops::ControlFlow, sync::Arc};

use alluvium_plan::{Accept, Plan};
use alluvium_types::{
    Balance, MemoryBudget, OffsetRange, RawBatch, RawRecord, Reject, Reservation, Stage, TableSet,
    Timestamp,
};
use bytes::Bytes;
use datafusion::{
    arrow::{
        array::{Array, AsArray, BooleanArray, RecordBatch},
        compute::filter_record_batch,
        datatypes::TimestampMicrosecondType,
    },
    execution::memory_pool::MemoryPool,
};

use crate::{
    EngineError, JsonDecoder, ObservedBatch,
    evaluate::{Failures, as_selection, evaluate},
    lateness::micros,
    pool::{BATCH_ROWS, BudgetPool, task_context},
};
use table::TableFold;

/// Payloads of one step are about this at most, so that its columns stay in a core's cache, and the raw batches that it
/// holds on to are few.
const STEP_BYTES: usize = 512 << 10;

/// The fold of one epoch on one worker: for each table one finite plan, fed batch by batch.
pub struct EpochFold {
    plan: Arc<Plan>,
    decoder: JsonDecoder,
    tables: Vec<TableFold>,
    /// What was decoded last and is not folded yet.
    stretch: Option<Stretch>,
    rejects: Vec<Reject>,
    observed: Vec<ObservedBatch>,
    /// Counts rejects and observed times; plans count their states themselves.
    reservation: Reservation,
    /// Where plans count them.
    states: Arc<BudgetPool>,
}

/// Raw batches that follow each other in one partition's log. They are decoded one by one, as small as they come, and
/// folded together, because each step over columns has a price of its own.
struct Stretch {
    /// Those with records that are decoded and not folded.
    batches: Vec<RawBatch>,
    /// For each decoded row the batch and the record.
    places: Vec<Place>,
    /// Bytes of their payloads.
    bytes: usize,
    /// Kafka's timestamps of the records that are not folded, from the oldest to the newest; `None`: none has one.
    written: Option<(Timestamp, Timestamp)>,
    /// What is known of the whole stretch.
    observed: ObservedBatch,
}

/// A record: a position in the stretch's batches, and one in the batch.
#[derive(Clone, Copy)]
struct Place(u32, u32);

impl Stretch {
    fn starting_with(batch: &RawBatch, tables: TableSet, accept: Accept) -> Self {
        Self {
            batches: Vec::new(),
            places: Vec::new(),
            bytes: 0,
            written: None,
            observed: ObservedBatch {
                partition: batch.partition.clone(),
                range: batch.range,
                tables,
                event_times: Vec::with_capacity(batch.len()),
                cap: cap(batch, accept),
                oldest_record: None,
            },
        }
    }

    /// Whether `batch` follows and everything that is known of the stretch holds for it too.
    fn goes_on_with(&self, batch: &RawBatch, tables: TableSet, accept: Accept) -> bool {
        let observed = &self.observed;
        observed.range.end() == batch.range.start()
            && observed.partition == batch.partition
            && observed.tables == tables
            && observed.cap == cap(batch, accept)
    }

    fn hold(&mut self, batch: &RawBatch, written: Option<(Timestamp, Timestamp)>) {
        self.batches.push(batch.clone());
        self.written = match (self.written, written) {
            (Some((oldest, newest)), Some((old, new))) => Some((oldest.min(old), newest.max(new))),
            (one, other) => one.or(other),
        };
    }

    /// Whether it is time for a step.
    #[inline]
    fn is_enough(&self) -> bool {
        self.places.len() == BATCH_ROWS || self.bytes >= STEP_BYTES
    }
}

/// No event of a batch moves event time beyond this.
fn cap(batch: &RawBatch, accept: Accept) -> Timestamp {
    batch.received.saturating_add_micros(micros(accept.future))
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

/// Decoded rows and the way back to the records that they come from.
struct Rows {
    batch: RecordBatch,
    /// Which of the step's rows were kept, and which of those, and so on.
    selections: Vec<BooleanArray>,
}

/// The records of the step that is being folded.
struct Step {
    batches: Vec<RawBatch>,
    places: Vec<Place>,
    written: Option<(Timestamp, Timestamp)>,
    tables: TableSet,
}

impl Step {
    /// Whether no event time can be too far from its record's timestamp, whichever that is. `false` says nothing.
    fn all_accepted(&self, times: &[i64], accept: Accept) -> bool {
        let Some((oldest, newest)) = self.written else {
            return true;
        };
        let (mut first, mut last) = (i64::MAX, i64::MIN);
        for &time in times {
            (first, last) = (first.min(time), last.max(time));
        }
        let ahead = Timestamp::from_micros(last).saturating_micros_since(oldest);
        let behind = newest.saturating_micros_since(Timestamp::from_micros(first));
        ahead <= micros(accept.future) && accept.past.is_none_or(|past| behind <= micros(past))
    }

    fn record(&self, position: u32) -> (&RawBatch, RawRecord<'_>) {
        let Place(batch, record) = self.places[position as usize];
        let batch = &self.batches[batch as usize];
        (batch, batch.record(record as usize))
    }
}

impl Rows {
    fn keep(mut self, selection: BooleanArray) -> Result<Self, EngineError> {
        let batch = filter_record_batch(&self.batch, &selection)?;
        self.selections.push(selection);
        Ok(Self {
            batch,
            selections: self.selections,
        })
    }

    /// For each row the position of its place in the step. Asked for where an event is refused, which is seldom.
    fn places(&self) -> Vec<u32> {
        let all = self
            .selections
            .first()
            .map_or(self.batch.num_rows(), Array::len) as u32;
        let mut places: Vec<u32> = (0..all).collect();
        for selection in &self.selections {
            let mut row = 0;
            places.retain(|_| {
                row += 1;
                selection.value(row - 1)
            });
        }
        places
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
        let states = BudgetPool::with_room(&budget);
        let context = task_context(states.clone()).map_err(|source| EngineError::Merge {
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
            stretch: None,
            rejects: Vec::new(),
            observed: Vec::new(),
            reservation: budget.reserve(0),
            states,
        })
    }

    /// Decodes a batch once and folds it into the tables of `tables`, at the latest with [`Self::settle`] or
    /// [`Self::finish`].
    ///
    /// # Errors
    /// [`EngineError`] when folding failed; the epoch is void then. A bad event is no error: it becomes
    /// a [`Reject`].
    pub fn push(&mut self, batch: &RawBatch, tables: TableSet) -> Result<(), EngineError> {
        if tables.is_empty() || batch.is_empty() {
            return Ok(());
        }
        let accept = self.plan.event_time.accept;
        if let Some(stretch) = &self.stretch
            && !stretch.goes_on_with(batch, tables, accept)
        {
            self.settle()?;
        }
        let mut stretch = self
            .stretch
            .take()
            .unwrap_or_else(|| Stretch::starting_with(batch, tables, accept));
        let known = &mut stretch.observed;
        known.range = OffsetRange::new(known.range.start(), batch.range.end())
            .expect("what follows ends behind what it follows");
        let written = batch.written();
        known.oldest_record = written
            .map(|(oldest, _)| oldest)
            .into_iter()
            .chain(known.oldest_record)
            .min();
        stretch.hold(batch, written);
        let mut records = batch.records();
        let mut position = 0_u32;
        let mut refused = Vec::new();
        while records.len() > 0 {
            let at = stretch.batches.len() as u32 - 1;
            let payloads = records.by_ref().map(|record| record.value());
            self.decoder.decode_each(payloads, |payload, decoded| {
                match decoded {
                    Ok(()) => stretch.places.push(Place(at, position)),
                    Err(error) => refused.push((position, error)),
                }
                position += 1;
                stretch.bytes += payload.map_or(0, <[u8]>::len);
                match stretch.is_enough() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            for (position, error) in refused.drain(..) {
                let refusal = Refusal {
                    stage: Stage::Decode,
                    error: error.message,
                    column: error.column,
                    table: None,
                };
                self.refuse(refusal, batch, &batch.record(position as usize));
                self.count_refused(tables, 1);
            }
            if stretch.is_enough() {
                self.fold_step(&mut stretch)?;
                stretch.hold(batch, written);
            }
        }
        self.stretch = Some(stretch);
        Ok(())
    }

    /// Folds everything that was pushed, and lets go of the raw batches. [`Self::push`] may hold on to the last ones until
    /// others follow; whoever sees that none do, for now, calls this.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn settle(&mut self) -> Result<(), EngineError> {
        let Some(mut stretch) = self.stretch.take() else {
            return Ok(());
        };
        self.fold_step(&mut stretch)?;
        let observed = stretch.observed;
        if !observed.event_times.is_empty() {
            self.hold(observed.size());
            self.observed.push(observed);
        }
        Ok(())
    }

    /// Folds what the decoder holds of a stretch.
    fn fold_step(&mut self, stretch: &mut Stretch) -> Result<(), EngineError> {
        let rows = stretch.places.len();
        let step = Step {
            batches: mem::take(&mut stretch.batches),
            places: mem::replace(&mut stretch.places, Vec::with_capacity(rows)),
            written: stretch.written.take(),
            tables: stretch.observed.tables,
        };
        stretch.bytes = 0;
        if step.places.is_empty() {
            return Ok(());
        }
        let rows = Rows {
            batch: self.decoder.finish()?,
            selections: Vec::new(),
        };
        let rows = self.accept(&step, rows)?;
        stretch
            .observed
            .event_times
            .extend_from_slice(self.event_times(&rows));
        let rows = self.filter(&step, rows)?;
        let mut refused = Vec::new();
        for (position, table) in self.tables.iter_mut().enumerate() {
            if step.tables.contains(position) {
                table.fold(&rows, self.plan.event_time.column, |row, refusal| {
                    refused.push((row, refusal));
                })?;
            }
        }
        if !refused.is_empty() {
            let places = rows.places();
            for (row, refusal) in refused {
                let (batch, record) = step.record(places[row]);
                self.refuse(refusal, batch, &record);
            }
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal, batch: &RawBatch, record: &RawRecord<'_>) {
        let reject = refusal.of(batch, record);
        self.hold(reject.size());
        self.rejects.push(reject);
    }

    /// Counts what is held from now on.
    fn hold(&mut self, bytes: usize) {
        self.reservation.resize(self.reservation.bytes() + bytes);
    }

    fn event_times<'r>(&self, rows: &'r Rows) -> &'r [i64] {
        rows.batch
            .column(self.plan.event_time.column)
            .as_primitive::<TimestampMicrosecondType>()
            .values()
    }

    /// Refuses events without event time, and those too far from their record's timestamp (P5). Only
    /// what is left is ever seen by watermarks.
    fn accept(&mut self, step: &Step, rows: Rows) -> Result<Rows, EngineError> {
        let accept = self.plan.event_time.accept;
        let future = micros(accept.future);
        let plan = self.plan.clone();
        let name = plan.decoded.field(plan.event_time.column).name();
        let times = rows.batch.column(self.plan.event_time.column);
        if times.null_count() == 0 && step.all_accepted(self.event_times(&rows), accept) {
            return Ok(rows);
        }
        let places = rows.places();
        let mut refused = Failures::default();
        for (row, &time) in self.event_times(&rows).iter().enumerate() {
            if times.is_null(row) {
                let error =
                    format!("the event has no event time: column {name} is missing or null");
                refused.rows.push((row, error));
                continue;
            }
            let (_, record) = step.record(places[row]);
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
            let (batch, record) = step.record(places[*row]);
            self.refuse(refusal, batch, &record);
        }
        self.count_refused(step.tables, refused.rows.len());
        let survivors = refused.survivors(rows.batch.num_rows());
        rows.keep(survivors)
    }

    /// The pipeline's `where`, the same for all tables; NULL is no. An event for which it fails is
    /// refused by all of them.
    fn filter(&mut self, step: &Step, rows: Rows) -> Result<Rows, EngineError> {
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
        let places = match failed {
            0 => Vec::new(),
            _ => rows.places(),
        };
        for (row, error) in failures.rows {
            let refusal = Refusal {
                stage: Stage::Expression,
                error,
                column: None,
                table: None,
            };
            let (batch, record) = step.record(places[row]);
            self.refuse(refusal, batch, &record);
        }
        self.count_refused(step.tables, failed);
        for balance in self.balances(step.tables) {
            balance.events_in += (all - failed - kept) as u64;
            balance.filtered += (all - failed - kept) as u64;
        }
        if kept == all {
            return Ok(rows);
        }
        rows.keep(selection)
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
    pub fn finish(mut self) -> Result<EpochPart, EngineError> {
        self.settle()?;
        let mut reservation = self.reservation;
        let mut held = reservation.bytes();
        let mut tables = Vec::with_capacity(self.tables.len());
        // A plan counts neither its states nor its columns once it has begun to hand them out.
        self.states.give_room(&mut reservation);
        for table in self.tables {
            let part = table.finish()?;
            held += part.panes.iter().map(pane_size).sum::<usize>();
            reservation.resize(held + self.states.reserved());
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
pub fn pane_size(pane: &RecordBatch) -> usize {
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
