//! The intake thread: owns the consumer, cuts and deals out raw batches, and is the only clock.
//!
//! It never blocks on a channel (P28): what does not fit is kept, and nothing more is taken until it
//! does. Holding still is simply not asking; what the client has prefetched stays bounded by its queue
//! budget and is not thrown away, as pausing would.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use alluvium_plan::{PartitionStatus, Plan, StatusBoard, Trouble};
use alluvium_source::{Drain, Notice, PartitionView, SourceError};
use alluvium_types::{
    AssignmentGeneration, Epoch, ErrorClass, FetchedBatch, Generation, MemoryBudget, OffsetRange,
    TopicPartition,
};
use crossbeam_channel::{Sender, TrySendError};

use crate::{
    RuntimeError, clock, lag,
    message::{
        Ending, LeaderEpochs, Order, Progress, Ranges, Sealed, ToCommitter, ToWorker, go_on_under,
    },
    pace::Pace,
    standings::Standings,
    transactions::OpenTransactions,
};

/// Batches that one worker may have waiting. With a batch of at most 1/128 of the ingest budget and two
/// workers that is a 16th of the budget, and the states that come of them about a quarter.
pub(crate) const INBOX_BATCHES: usize = 4;
/// Batches taken between two looks at the broker's queue.
const TAKES_PER_ROUND: usize = 32;
/// How long intake sleeps in the broker's queue when something waits for room, or when records can arrive without waking it.
const SHORT_IDLE: Duration = Duration::from_millis(5);
/// How long it sleeps when nothing waits and whatever arrives wakes it: rebalances and ticks come late by this at most. A
/// process with nothing to do costs a hundredth of a core with it, less than half of what it costs with the short one.
const LONG_IDLE: Duration = Duration::from_millis(20);
/// How often the status board is told about partitions.
const STATUS_EVERY: Duration = Duration::from_millis(250);
/// A complaint about a broker that is this old has been overcome: one that lasts is made again sooner. librdkafka makes the same
/// one every 30 s at most.
const COMPLAINT_LASTS: Duration = Duration::from_secs(45);

pub(crate) struct Intake {
    pub(crate) plan: Arc<Plan>,
    pub(crate) budget: MemoryBudget,
    pub(crate) generation: AssignmentGeneration,
    pub(crate) ending: Arc<Ending>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) status: Arc<StatusBoard>,
    pub(crate) standings: Arc<Mutex<Standings>>,
    pub(crate) drain: Box<dyn Drain>,
    pub(crate) workers: Vec<Sender<ToWorker>>,
    pub(crate) committer: Sender<ToCommitter>,
    pub(crate) batch_bytes: usize,
    /// When the client complained last, until that is overcome.
    pub(crate) complained: Option<Instant>,
    pub(crate) transactions: OpenTransactions,
}

/// What is open, under one generation.
struct Open {
    generation: Generation,
    epoch: Epoch,
    standings: Standings,
    /// What the open epoch covers so far, for each table.
    ranges: Vec<Ranges>,
    /// Under which leaders the last of it was written.
    leader_epochs: LeaderEpochs,
    /// A batch that found no room.
    batch: VecDeque<(FetchedBatch, alluvium_types::TableSet)>,
    /// Barriers that found no room, by worker; a worker with one gets nothing else first (P28).
    barriers: Vec<Option<Epoch>>,
    /// The epoch whose news the committer had no room for.
    sealed: Option<Sealed>,
    pace: Pace,
    /// The epoch of the last commit order, until it is done.
    ordered: Option<Epoch>,
    /// Whether anything was sealed since the last commit order.
    dirty: bool,
}

impl Open {
    fn has_data(&self) -> bool {
        self.ranges.iter().any(|ranges| !ranges.is_empty())
    }

    /// Whether nothing that this pipeline has taken waits to be folded or committed. Then it has nothing to give back by waiting.
    fn is_empty(&self) -> bool {
        !self.dirty && !self.has_data() && self.ordered.is_none() && self.is_clear()
    }

    fn is_clear(&self) -> bool {
        self.batch.is_empty() && self.sealed.is_none() && self.barriers.iter().all(Option::is_none)
    }
}

impl Intake {
    /// Reads until the pipeline drains or fails; returns the consumer, still a member of its group, so
    /// that the caller can close it after the last commit.
    pub(crate) fn run(mut self) -> Box<dyn Drain> {
        self.count_rebalances(0);
        let mut open = self.open(Epoch::default());
        let mut last_status = Instant::now() - STATUS_EVERY;
        let mut last_sealed = None;
        let mut events = 0;
        let mut bytes = 0;
        while !self.ending.has_failed() {
            if !self.generation.is_current(open.generation) {
                open = self.open(open.epoch);
                last_sealed = None;
            }
            let busy = self.deal(&mut open, &mut events, &mut bytes);
            let waits = !open.is_clear() || self.budget.is_half_used() || self.ending.is_draining();
            let patience = match busy {
                true => Duration::ZERO,
                false if self.drain.wakes() && !waits => LONG_IDLE,
                false => SHORT_IDLE,
            };
            if let Err(error) = self.serve(&mut open, patience) {
                self.ending.fail(error);
                break;
            }
            if !self.generation.is_current(open.generation) {
                continue;
            }
            self.hear(&mut open);
            if self.ending.is_draining() {
                if last_sealed.is_none() && open.is_clear() {
                    last_sealed = Some(self.seal(&mut open, Order::Commit));
                } else if last_sealed.is_some() && open.is_clear() {
                    break;
                }
            } else if open.is_clear() {
                self.tick(&mut open);
            }
            self.push_out(&mut open);
            if last_status.elapsed() >= STATUS_EVERY {
                last_status = Instant::now();
                self.tell_status(events, bytes);
            }
        }
        self.tell_status(events, bytes);
        self.drain
    }

    fn open(&self, last: Epoch) -> Open {
        Open {
            generation: self.generation.current(),
            epoch: last.next(),
            standings: self.current_standings(),
            ranges: vec![Ranges::new(); self.plan.tables.len()],
            leader_epochs: LeaderEpochs::new(),
            batch: VecDeque::new(),
            barriers: vec![None; self.workers.len()],
            sealed: None,
            pace: Pace::starting_at(
                Instant::now(),
                self.plan.commit_every,
                self.plan.refresh_every,
            ),
            ordered: None,
            dirty: false,
        }
    }

    /// Where every table stands, as the committer said last.
    fn current_standings(&self) -> Standings {
        self.standings
            .lock()
            .expect("nobody panics while holding this lock")
            .clone()
    }

    /// Serves the consumer's main queue: rebalances happen in here.
    fn serve(&mut self, open: &mut Open, patience: Duration) -> Result<(), RuntimeError> {
        self.ending.beat();
        let notices = self
            .drain
            .serve(patience)
            .map_err(|source| self.kafka(source))?;
        for notice in notices {
            match notice {
                Notice::Assigned {
                    generation,
                    partitions,
                } => {
                    // Offsets that could not be read inside the rebalance come later, under the generation that is
                    // open already (P17). With what was known before, no table would want the records.
                    if generation == open.generation {
                        open.standings = self.current_standings();
                    }
                    tracing::info!(pipeline = %self.plan.name, partitions = partitions.len(), "partitions assigned");
                    self.tell_committed(&self.current_standings().starts());
                    self.status.update(&self.plan.name, |status| {
                        status.rebalances += 1;
                        status.set_trouble(Trouble::Start, None);
                        status.set_trouble(Trouble::Broker, None);
                    });
                    self.complained = None;
                    self.count_rebalances(1);
                }
                Notice::Revoked => {
                    tracing::info!(pipeline = %self.plan.name, "partitions revoked");
                }
                Notice::StartsUnknown { partitions } => {
                    let text = format!(
                        "the recorded offsets of {} partitions cannot be read yet",
                        partitions.len()
                    );
                    self.status.update(&self.plan.name, |status| {
                        // The committer may have said why.
                        if !status.troubles.contains_key(&Trouble::Start) {
                            status.set_trouble(Trouble::Start, Some(text));
                        }
                    });
                }
                Notice::Halted { partition, halt } => {
                    tracing::error!(pipeline = %self.plan.name, %partition, "halted: {halt}");
                    metrics::counter!("alluvium_partition_halts_total", "pipeline" => self.plan.name.to_string())
                        .increment(1);
                }
                Notice::Error { class, text } => {
                    if class == ErrorClass::Transient {
                        tracing::warn!(pipeline = %self.plan.name, "{text}");
                    } else {
                        tracing::error!(pipeline = %self.plan.name, "{text}");
                    }
                    self.trouble(Trouble::Broker, Some(text));
                    self.complained = Some(Instant::now());
                }
                Notice::Fenced(reason) => {
                    return Err(RuntimeError::Fenced {
                        pipeline: self.plan.name.clone(),
                        reason,
                    });
                }
            }
        }
        Ok(())
    }

    /// By zero at first: a count that appears with its first event passes for one that has not risen.
    fn count_rebalances(&self, by: u64) {
        metrics::counter!("alluvium_rebalances_total", "pipeline" => self.plan.name.to_string())
            .increment(by);
    }

    fn trouble(&self, trouble: Trouble, text: Option<String>) {
        self.status
            .update(&self.plan.name, |status| status.set_trouble(trouble, text));
    }

    /// Takes batches and deals them out while there is room; whether it got any.
    fn deal(&mut self, open: &mut Open, events: &mut u64, bytes: &mut u64) -> bool {
        if self.ending.is_draining() {
            return false;
        }
        let mut busy = false;
        for _ in 0..TAKES_PER_ROUND {
            self.push_out(open);
            if !open.batch.is_empty() || (self.budget.is_nearly_used() && !open.is_empty()) {
                break;
            }
            let Some(batch) = self.drain.take(self.batch_bytes, clock::now()) else {
                break;
            };
            if batch.generation != open.generation {
                break;
            }
            busy = true;
            if *events == 0 {
                tracing::info!(pipeline = %self.plan.name, partition = %batch.partition, "first records");
            }
            *events += batch.records() as u64;
            *bytes += batch.bytes() as u64;
            cut_for_tables(&open.standings, batch, |batch, tables| {
                go_on_under(
                    &mut open.leader_epochs,
                    &batch.partition,
                    batch.leader_epoch,
                );
                for (position, ranges) in open.ranges.iter_mut().enumerate() {
                    if tables.contains(position) {
                        extend(ranges, &batch.partition, batch.range);
                    }
                }
                open.batch.push_back((batch, tables));
            });
        }
        self.push_out(open);
        busy
    }

    /// Sends what was kept, as far as there is room.
    fn push_out(&mut self, open: &mut Open) {
        for (worker, barrier) in self.workers.iter().zip(&mut open.barriers) {
            let Some(epoch) = *barrier else { continue };
            let message = ToWorker::Barrier {
                epoch,
                generation: open.generation,
            };
            if worker.try_send(message).is_ok() {
                *barrier = None;
            }
        }
        if let Some(sealed) = open.sealed.take() {
            // A committer that is gone has failed; the loop sees that.
            if let Err(TrySendError::Full(ToCommitter::Sealed(back))) =
                self.committer.try_send(ToCommitter::Sealed(sealed))
            {
                open.sealed = Some(back);
            }
        }
        while let Some((batch, tables)) = open.batch.pop_front() {
            let roomiest = self
                .workers
                .iter()
                .zip(&open.barriers)
                .filter(|(worker, barrier)| barrier.is_none() && !worker.is_full())
                .min_by_key(|(worker, _)| worker.len());
            let Some((worker, _)) = roomiest else {
                open.batch.push_front((batch, tables));
                return;
            };
            if let Err(TrySendError::Full(ToWorker::Batch { batch, tables })) =
                worker.try_send(ToWorker::Batch { batch, tables })
            {
                open.batch.push_front((batch, tables));
                return;
            }
        }
    }

    /// Ends the epoch when it is time to, by this thread's clock.
    fn tick(&mut self, open: &mut Open) {
        let now = Instant::now();
        // One early commit at a time (P30).
        let squeezed = self.budget.is_half_used() && (open.dirty || open.has_data());
        match open.pace.due(now, open.ordered.is_none(), squeezed) {
            Some(Order::Publish) if !open.has_data() => open.pace.passed_over(now),
            Some(order) => {
                self.seal(open, order);
            }
            None => {}
        }
    }

    fn seal(&mut self, open: &mut Open, order: Order) -> Epoch {
        let epoch = open.epoch;
        open.sealed = Some(Sealed {
            epoch,
            generation: open.generation,
            ranges: std::mem::replace(
                &mut open.ranges,
                vec![Ranges::new(); self.plan.tables.len()],
            ),
            leader_epochs: std::mem::take(&mut open.leader_epochs),
            order,
        });
        open.barriers.fill(Some(epoch));
        open.epoch = epoch.next();
        open.pace.ended(Instant::now(), order);
        open.dirty = true;
        if order == Order::Commit {
            open.ordered = Some(epoch);
            open.dirty = false;
        }
        epoch
    }

    /// Takes the committer's news.
    fn hear(&mut self, open: &mut Open) {
        let news = self.progress.take();
        if open.ordered.is_some_and(|ordered| ordered <= news.epoch) {
            open.ordered = None;
        }
        let mut void = news.void.is_some();
        if !news.offsets.is_empty() {
            self.drain.tell_progress(&news.offsets);
            self.tell_committed(&news.offsets);
        }
        for unreadable in news.unreadable {
            self.drain
                .mark_damaged(&unreadable.partition, unreadable.damaged);
            void |= self.generation.is_current(unreadable.generation);
        }
        if void {
            self.drain.assign_afresh();
        }
    }

    /// Up to where partitions are recorded, as far as this says.
    fn tell_committed(&self, offsets: &BTreeMap<TopicPartition, i64>) {
        self.status.update(&self.plan.name, |status| {
            for partition in &mut status.partitions {
                let key = TopicPartition::new(partition.topic.as_str(), partition.partition);
                if let Some(&offset) = offsets.get(&key) {
                    partition.committed = Some(offset);
                }
            }
        });
    }

    fn tell_status(&mut self, events: u64, bytes: u64) {
        let overcome = |at: &mut Instant| at.elapsed() >= COMPLAINT_LASTS;
        if self.complained.take_if(overcome).is_some() {
            self.trouble(Trouble::Broker, None);
        }
        let views = self.drain.partitions();
        let pipeline = self.plan.name.to_string();
        let halted = halted(&views);
        let open = self.transactions.look(&views, Instant::now());
        let starts = self.current_standings().starts();
        if let Some(news) = open.news {
            tracing::warn!(pipeline = %self.plan.name, "{news}");
        }
        self.status.update(&self.plan.name, |status| {
            status.events_in = events;
            status.bytes_in = bytes;
            status.memory_used = self.budget.used() as u64;
            status.memory_limit = self.budget.limit() as u64;
            status.set_trouble(Trouble::Halted, halted);
            status.set_trouble(Trouble::Transaction, open.trouble);
            let before = std::mem::take(&mut status.partitions);
            status.partitions = views
                .into_iter()
                .map(|view| {
                    let known = before.iter().find(|known| {
                        known.partition == view.partition.partition
                            && *known.topic == *view.partition.topic
                    });
                    // Before the first commit it is what was recorded when the partition was assigned.
                    let committed = known
                        .and_then(|known| known.committed)
                        .or(starts.get(&view.partition).copied());
                    let reached = committed.or(Some(view.position));
                    PartitionStatus {
                        topic: view.partition.topic.to_string(),
                        partition: view.partition.partition,
                        position: Some(view.position),
                        committed,
                        log_end: view.log_end,
                        stable_end: view.stable_end,
                        lag: view
                            .log_end
                            .zip(reached)
                            .map(|(end, reached)| (end - reached).max(0)),
                        watermark: known.and_then(|known| known.watermark),
                        halted: view.halted.map(|halt| halt.to_string()),
                    }
                })
                .collect();
            lag::tell(&pipeline, &status.partitions, &open.held_back);
            lag::forget(&pipeline, &before, &status.partitions);
        });
        metrics::counter!("alluvium_records_in_total", "pipeline" => pipeline.clone())
            .absolute(events);
        metrics::counter!("alluvium_bytes_in_total", "pipeline" => pipeline.clone())
            .absolute(bytes);
        metrics::gauge!("alluvium_state_bytes", "pipeline" => pipeline.clone())
            .set(self.budget.used() as f64);
        metrics::gauge!("alluvium_state_limit_bytes", "pipeline" => pipeline)
            .set(self.budget.limit() as f64);
    }

    fn kafka(&self, source: SourceError) -> RuntimeError {
        RuntimeError::of_source(&self.plan.name)(source)
    }
}

/// In words, which partitions stand still.
fn halted(views: &[PartitionView]) -> Option<String> {
    let mut halted = views
        .iter()
        .filter_map(|view| Some((&view.partition, view.halted.as_ref()?)));
    let (partition, halt) = halted.next()?;
    let (count, all) = (1 + halted.count(), views.len());
    Some(format!(
        "{count} of {all} partitions halted, {partition} because: {halt}"
    ))
}

/// Cuts a batch at every offset where another table begins to want it (P19). A piece that no table
/// wants is passed over.
fn cut_for_tables(
    standings: &Standings,
    mut batch: FetchedBatch,
    mut each: impl FnMut(FetchedBatch, alluvium_types::TableSet),
) {
    loop {
        let (tables, cut) = standings.wanted(&batch.partition, batch.range.start());
        let rest = match cut {
            Some(offset) if offset < batch.range.end() => {
                let (before, after) = batch.cut(offset);
                batch = before;
                Some(after)
            }
            _ => None,
        };
        if !tables.is_empty() && !batch.range.is_empty() {
            each(batch, tables);
        }
        match rest {
            Some(after) => batch = after,
            None => return,
        }
    }
}

/// Lengthens the range of a partition by one that continues it.
fn extend(
    ranges: &mut BTreeMap<TopicPartition, OffsetRange>,
    partition: &TopicPartition,
    next: OffsetRange,
) {
    match ranges.get_mut(partition) {
        Some(range) => {
            *range = range
                .join(next)
                .expect("the source hands out chained ranges within one generation");
        }
        None => {
            ranges.insert(partition.clone(), next);
        }
    }
}
