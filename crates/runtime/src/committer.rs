//! The committer thread: shows each epoch to queries, and makes epochs durable on order.
//!
//! Owns the table writers, the dead letters and the panes that are not committed yet. Does not own the
//! rule of a commit (store) or the moment of one (intake orders it).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_engine::{EpochPart, ObservedBatch, merge_panes};
use alluvium_plan::{MemoryEpoch, Plan, PublishedTable, Publisher, StatusBoard, Trouble};
use alluvium_source::Cluster;
use alluvium_store::{
    CommitFacts, DeadLetters, Ending as CommitEnding, Overtaken, Staged, StoreError, TableWriter,
};
use alluvium_types::{
    AssignmentGeneration, Balance, Epoch, ErrorClass, Generation, Lateness, MemoryBudget, Reject,
    Timestamp, TopicPartition, Window,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::{
    RuntimeError,
    assignment::Acknowledged,
    clock,
    definitions::{self, Definitions},
    freshness::Freshness,
    gather::{Complete, Gather},
    host::Host,
    message::{Ending, LeaderEpochs, Order, Progress, Ranges, ToCommitter, WAKE, go_on_under},
    standings::Standings,
    stop_rule::StopRule,
    watermarks::Watermarks,
};

/// First wait after a commit that failed for a passing reason; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often an idle committer looks at what others have done to its tables.
const FOLLOW_EVERY: Duration = Duration::from_secs(10);
/// How long the broker may take to answer inside a rebalance.
const BROKER_PATIENCE: Duration = Duration::from_secs(4);

/// One table and what it has in memory.
pub(crate) struct Table {
    writer: TableWriter,
    uncommitted: VecDeque<Uncommitted>,
    /// Where each partition stood when partitions were assigned, and where this process has brought it since.
    brought_to: BTreeMap<TopicPartition, i64>,
    /// What a try with an unknown ending staged: only the same may be tried again (P10).
    staged: Option<(Staged, CommitFacts)>,
    /// Whether the last look at what others have made of it failed.
    is_unreadable: bool,
    commits: u64,
    last_commit: Option<Timestamp>,
    balance: Balance,
}

/// One epoch of one table that is in memory only.
struct Uncommitted {
    shown: Arc<MemoryEpoch>,
    leader_epochs: LeaderEpochs,
    balance: Balance,
}

impl Table {
    pub(crate) fn new(writer: TableWriter) -> Self {
        Self {
            writer,
            uncommitted: VecDeque::new(),
            brought_to: BTreeMap::new(),
            staged: None,
            is_unreadable: false,
            commits: 0,
            last_commit: None,
            balance: Balance::default(),
        }
    }

    /// Everything in memory is part of the table now.
    fn bring_on(&mut self) {
        for epoch in &self.uncommitted {
            for (partition, range) in &epoch.shown.ranges {
                self.brought_to.insert(partition.clone(), range.end());
            }
        }
    }

    /// The first of some partitions that somebody else has brought to another offset, and that offset.
    fn moved<'p>(&self, partitions: &'p [TopicPartition]) -> Option<(&'p TopicPartition, i64)> {
        let recorded = &self.writer.checkpoint().offsets;
        partitions.iter().find_map(|partition| {
            let offset = *recorded.get(partition)?;
            (self.brought_to.get(partition) != Some(&offset)).then_some((partition, offset))
        })
    }
}

/// What one round of commits ended with.
enum Round {
    /// Everything is durable.
    Done,
    /// A table has moved on, or the assignment has: what was in flight is void.
    Void,
}

pub(crate) struct Committer {
    pub(crate) plan: Arc<Plan>,
    pub(crate) budget: MemoryBudget,
    pub(crate) generation: AssignmentGeneration,
    pub(crate) acknowledged: Arc<Acknowledged>,
    pub(crate) ending: Arc<Ending>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) status: Arc<StatusBoard>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) inbox: Receiver<ToCommitter>,
    pub(crate) workers: usize,
    /// A small runtime of its own for the store's input and output.
    pub(crate) io: tokio::runtime::Runtime,
    pub(crate) tables: Vec<Table>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) definitions: Definitions,
}

/// What belongs to the current generation only, apart from the tables' panes.
struct Flight {
    held: Generation,
    gather: Gather,
    rejects: Vec<Reject>,
    /// Counted memory of the parts that the panes came from.
    parts: VecDeque<(Epoch, Vec<EpochPart>)>,
    watermarks: Watermarks,
    assigned: Vec<TopicPartition>,
}

impl Drop for Committer {
    /// However it ended: queries of these tables go by what storage has from here on, as those of a server without this pipeline.
    fn drop(&mut self) {
        for table in &self.plan.tables {
            self.publisher.withdraw(&table.name);
        }
        // What was read beyond that counts for nobody.
        self.tell_watermarks(|partition| self.recorded_watermark(partition));
    }
}

impl Committer {
    /// Works until it is told that nothing follows; the last epoch carries a commit order of its own.
    pub(crate) fn run(mut self) {
        let mut flight = Flight {
            held: self.generation.current(),
            gather: Gather::new(self.workers),
            rejects: Vec::new(),
            parts: VecDeque::new(),
            watermarks: Watermarks::new(self.plan.event_time.clone()),
            assigned: Vec::new(),
        };
        let mut freshness = Freshness::default();
        let mut stop_rule = self.plan.stop_if.map(StopRule::new);
        for table in &self.plan.tables {
            // A counter that is not there yet cannot be found to stand still.
            metrics::counter!("alluvium_commits_total", "table" => table.name.to_string())
                .increment(0);
        }
        for counter in [
            "alluvium_commit_retries_total",
            "alluvium_commits_overtaken_total",
        ] {
            metrics::counter!(counter, "pipeline" => self.plan.name.to_string()).increment(0);
        }
        self.publish_all();
        let mut followed = Instant::now();
        while !self.ending.has_failed() {
            self.follow_generation(&mut flight);
            match self.host.receive(&self.inbox, WAKE) {
                Ok(ToCommitter::Close) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.take(&mut flight, message),
                Err(RecvTimeoutError::Timeout) => {
                    if followed.elapsed() >= FOLLOW_EVERY {
                        self.follow_tables(&mut flight);
                        followed = Instant::now();
                    }
                    continue;
                }
            }
            while let Some(complete) = flight.gather.next_complete() {
                let order = complete.sealed.order;
                let epoch = complete.sealed.epoch;
                let outcome = self
                    .accept(&mut flight, complete, &mut freshness, &mut stop_rule)
                    .and_then(|()| match order {
                        Order::Publish => Ok(()),
                        Order::Commit => self.commit(&mut flight, epoch),
                    });
                if let Err(error) = outcome {
                    self.ending.fail(error);
                    return;
                }
            }
        }
    }

    /// Withdraws everything of an older generation and says so (P27).
    fn follow_generation(&mut self, flight: &mut Flight) {
        let current = self.generation.current();
        if flight.held == current {
            return;
        }
        flight.held = current;
        flight.gather.clear();
        flight.rejects.clear();
        flight.assigned.clear();
        for table in &mut self.tables {
            table.uncommitted.clear();
            if let Some((staged, _)) = table.staged.take() {
                self.io.block_on(table.writer.discard(&staged));
            }
        }
        flight.parts.clear();
        self.publish_all();
        self.acknowledged.set(current);
    }

    /// Shows what other writers, and the merging of files, have made of the tables; while there are events, every commit
    /// does. Files that are not part of a table any more are deleted in the end, so nobody may go on reading them.
    fn follow_tables(&mut self, flight: &mut Flight) {
        for table in &mut self.tables {
            let refreshed = self.io.block_on(table.writer.refresh());
            let was_unreadable = std::mem::replace(&mut table.is_unreadable, refreshed.is_err());
            let (pipeline, name) = (&self.plan.name, table.writer.name());
            match refreshed {
                // It is tried again every few seconds, so it is told once.
                Err(error) if !was_unreadable => {
                    let version = table.writer.version();
                    tracing::warn!(%pipeline, table = %name, version, "answers stay at this version until a newer one can be read: {error}");
                }
                Ok(()) if was_unreadable => {
                    tracing::info!(%pipeline, table = %name, "the table can be read on again");
                }
                Ok(()) | Err(_) => {}
            }
        }
        self.publish_all();
        self.leave_if_moved(flight);
    }

    /// A partition that is moved by hand, or read by another server, is read from where its tables stand. What is in flight need not
    /// show it, as nothing may be, or all of it may count as done (P7). At the end nothing is read any more, and the last epoch is judged as
    /// every other.
    fn leave_if_moved(&mut self, flight: &mut Flight) {
        if self.ending.is_draining() || !self.generation.is_current(flight.held) {
            return;
        }
        let assigned = &flight.assigned;
        let moved = self.tables.iter().find_map(|table| {
            let (partition, offset) = table.moved(assigned)?;
            Some((table.writer.name(), partition, offset))
        });
        let Some((table, partition, offset)) = moved else {
            return;
        };
        tracing::info!(
            pipeline = %self.plan.name,
            %table,
            %partition,
            offset,
            "moved by hand or by another server; everything in flight is dropped and read again from the table"
        );
        self.void(flight);
        self.follow_generation(flight);
    }

    /// Everything in flight is stale from here on (P27); intake assigns afresh when it looks.
    fn void(&self, flight: &Flight) {
        self.generation.advance();
        self.progress.lock().void = Some(flight.held);
    }

    fn take(&mut self, flight: &mut Flight, message: ToCommitter) {
        match message {
            ToCommitter::Sealed(sealed) if sealed.generation == flight.held => {
                flight.gather.seal(sealed);
            }
            ToCommitter::Part {
                epoch,
                generation,
                part,
            } if generation == flight.held => flight.gather.part(epoch, *part),
            ToCommitter::Sealed(_) | ToCommitter::Part { .. } | ToCommitter::Close => {}
            ToCommitter::Starts {
                partitions,
                generation,
                reply,
            } => self.answer_starts(flight, partitions, generation, &reply),
        }
    }

    /// Reads where every table stands; a partition that no table knows yet is started at its low
    /// mark (P16). Without an answer the caller tries again later (P17).
    fn answer_starts(
        &mut self,
        flight: &mut Flight,
        partitions: Vec<TopicPartition>,
        generation: Generation,
        reply: &Sender<Standings>,
    ) {
        self.follow_generation(flight);
        if generation != flight.held {
            return;
        }
        match self.read_starts(&partitions) {
            Ok(standings) => {
                let smallest = standings.starts();
                if let Err(error) = self.io.block_on(self.dead_letters.known(&smallest)) {
                    self.report_start(generation, &error, "the dead letters cannot be read yet");
                    return;
                }
                let recorded = partitions
                    .iter()
                    .map(|partition| (partition.clone(), self.recorded_watermark(partition)))
                    .collect();
                // What was told before is older than what is read from here on.
                self.progress.lock().offsets.clear();
                flight.watermarks.assign(recorded, Instant::now());
                flight.assigned = partitions;
                self.publish_all();
                // The receiver is gone when the callback's deadline has passed; it asks again.
                let _too_late = reply.send(standings);
            }
            Err(error) => {
                let consequence = "the recorded offsets cannot be read yet";
                self.report_start(generation, &error, consequence);
            }
        }
    }

    fn read_starts(&mut self, partitions: &[TopicPartition]) -> Result<Standings, RuntimeError> {
        let store = RuntimeError::of_store(&self.plan.name);
        let kafka = RuntimeError::of_source(&self.plan.name);
        let mut standings = Vec::with_capacity(self.tables.len());
        let mut topics = BTreeMap::new();
        let mut leader_epochs = BTreeMap::new();
        for table in &mut self.tables {
            self.io.block_on(table.writer.refresh()).map_err(&store)?;
            let absent: Vec<TopicPartition> = partitions
                .iter()
                .filter(|partition| !table.writer.checkpoint().offsets.contains_key(*partition))
                .cloned()
                .collect();
            if !absent.is_empty() {
                let bounds = self
                    .cluster
                    .log_bounds(&absent, BROKER_PATIENCE)
                    .map_err(&kafka)?;
                let starts = bounds
                    .into_iter()
                    .map(|(partition, (low, _))| (partition, low))
                    .collect();
                let counts = self
                    .cluster
                    .partition_counts(&self.plan.source.topics, BROKER_PATIENCE)
                    .map_err(&kafka)?
                    .into_iter()
                    .filter_map(|(topic, count)| Some((topic, count?)))
                    .collect();
                self.io
                    .block_on(table.writer.record_start(&starts, &counts, &topics))
                    .map_err(&store)?;
            }
            let checkpoint = table.writer.checkpoint();
            // The first table that records a topic names it for all (P18).
            for (topic, id) in &checkpoint.topics {
                topics.entry(topic.clone()).or_insert(*id);
            }
            for (partition, &epoch) in &checkpoint.leader_epochs {
                if let Some(&offset) = checkpoint.offsets.get(partition) {
                    leader_epochs.insert((partition.clone(), offset), epoch);
                }
            }
            let offsets = &checkpoint.offsets;
            table.brought_to = partitions
                .iter()
                .filter_map(|partition| Some((partition.clone(), *offsets.get(partition)?)))
                .collect();
            standings.push(table.brought_to.clone());
        }
        Ok(Standings::new(standings, topics, leader_epochs))
    }

    /// The newest watermark that any table records for a partition.
    fn recorded_watermark(&self, partition: &TopicPartition) -> Option<Timestamp> {
        self.tables
            .iter()
            .filter_map(|table| table.writer.checkpoint().watermarks.get(partition).copied())
            .max()
    }

    /// Settles lateness, checks the balance and shows the epoch's panes to queries.
    fn accept(
        &mut self,
        flight: &mut Flight,
        complete: Complete,
        freshness: &mut Freshness,
        stop_rule: &mut Option<StopRule>,
    ) -> Result<(), RuntimeError> {
        let Complete { sealed, mut parts } = complete;
        let now = Instant::now();
        let observed = parts
            .iter_mut()
            .flat_map(|part| std::mem::take(&mut part.observed))
            .collect::<Vec<_>>();
        let oldest: Vec<Timestamp> = observed
            .iter()
            .filter_map(|batch| batch.oldest_record)
            .collect();
        let late = self.settle(flight, observed, now);
        let rejects: Vec<Reject> = parts
            .iter_mut()
            .flat_map(|part| std::mem::take(&mut part.rejects))
            .collect();

        let mut events = 0;
        // Tables may refuse different events, and the same one.
        let refused = rejects
            .iter()
            .map(|reject| (&reject.partition, reject.offset));
        let refused = refused.collect::<BTreeSet<_>>().len() as u64;
        for (position, table) in self.tables.iter_mut().enumerate() {
            let mut balance = Balance::default();
            let mut panes = Vec::new();
            for part in &mut parts {
                let part = &mut part.tables[position];
                balance.add(&part.balance);
                panes.append(&mut part.panes);
            }
            let balance = balance.with_late(late[position]);
            let balance = balance.checked().map_err(|source| RuntimeError::Balance {
                pipeline: self.plan.name.clone(),
                table: self.plan.tables[position].name.clone(),
                epoch: sealed.epoch,
                source,
            })?;
            events = events.max(balance.events_in);
            let ranges = sealed.ranges[position].clone();
            if ranges.is_empty() {
                continue;
            }
            let shown = Arc::new(MemoryEpoch {
                epoch: sealed.epoch,
                ranges,
                panes,
            });
            table.uncommitted.push_back(Uncommitted {
                shown,
                leader_epochs: sealed.leader_epochs.clone(),
                balance,
            });
        }
        flight.parts.push_back((sealed.epoch, parts));
        flight.rejects.extend(rejects);
        self.publish_all();

        let clock = clock::now();
        for record in oldest {
            freshness.add(now, clock.saturating_micros_since(record));
        }
        let p99 = freshness.p99_ms(now);
        self.status.update(&self.plan.name, |status| {
            status.rejected += refused;
            status.freshness_p99_ms = p99;
        });
        self.tell_watermarks(|partition| flight.watermarks.own(partition));
        metrics::counter!("alluvium_records_rejected_total", "pipeline" => self.plan.name.to_string())
            .increment(refused);
        metrics::counter!("alluvium_records_late_total", "pipeline" => self.plan.name.to_string())
            .increment(late.iter().map(Lateness::events).max().unwrap_or(0));
        if let Some((rejected, events)) = stop_rule
            .as_mut()
            .and_then(|rule| rule.add(now, events, refused))
        {
            return Err(RuntimeError::TooManyRejects {
                pipeline: self.plan.name.clone(),
                rejected,
                events,
                last: flight.rejects.last().map(place_of).unwrap_or_default(),
            });
        }
        Ok(())
    }

    /// With every epoch and every commit: intake may not have listed the partitions yet when the last event was accepted.
    fn tell_watermarks(&self, of: impl Fn(&TopicPartition) -> Option<Timestamp>) {
        self.status.update(&self.plan.name, |status| {
            for partition in &mut status.partitions {
                let name = TopicPartition::new(partition.topic.as_str(), partition.partition);
                partition.watermark = of(&name);
            }
        });
    }

    /// Counts late events per table, in offset order over all workers (P24).
    fn settle(
        &self,
        flight: &mut Flight,
        observed: Vec<ObservedBatch>,
        now: Instant,
    ) -> Vec<Lateness> {
        let mut late = vec![Lateness::default(); self.tables.len()];
        let mut by_partition: BTreeMap<TopicPartition, Vec<ObservedBatch>> = BTreeMap::new();
        for batch in observed {
            by_partition
                .entry(batch.partition.clone())
                .or_default()
                .push(batch);
        }
        for (partition, mut batches) in by_partition {
            let Some(times) = flight.watermarks.times(&partition, now) else {
                continue;
            };
            let settled = times.settle(
                &mut batches,
                self.plan.event_time.max_delay,
                self.tables.len(),
            );
            for (sum, here) in late.iter_mut().zip(settled) {
                sum.add(&here);
            }
        }
        late
    }

    /// Makes everything up to `epoch` durable: dead letters first (P21), then table by table.
    fn commit(&mut self, flight: &mut Flight, epoch: Epoch) -> Result<(), RuntimeError> {
        let ending = self.commit_patiently(flight, epoch);
        self.status.update(&self.plan.name, |status| {
            status.set_trouble(Trouble::Commit, None);
        });
        ending
    }

    fn commit_patiently(&mut self, flight: &mut Flight, epoch: Epoch) -> Result<(), RuntimeError> {
        let mut wait = FIRST_WAIT;
        loop {
            match self.try_commit(flight) {
                Ok(Round::Done) => break,
                Ok(Round::Void) => {
                    // One that is overtaken again and again hears of it from those who overtake it.
                    self.watch_definitions();
                    self.follow_generation(flight);
                    return Ok(());
                }
                Err(RuntimeError::Store { source, .. })
                    if source.class() == ErrorClass::Transient =>
                {
                    self.report(Trouble::Commit, &source, "the commit is tried again");
                    metrics::counter!("alluvium_commit_retries_total", "pipeline" => self.plan.name.to_string())
                        .increment(1);
                    let is_void = || !self.generation.is_current(flight.held);
                    self.host.rest(wait, WAKE, is_void);
                    if is_void() {
                        self.follow_generation(flight);
                        return Ok(());
                    }
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Err(error) => return Err(error),
            }
        }
        flight.parts.retain(|(held, _)| *held > epoch);
        self.watch_definitions();
        self.report_progress(epoch);
        self.tell_watermarks(|partition| flight.watermarks.own(partition));
        self.leave_if_moved(flight);
        Ok(())
    }

    fn try_commit(&mut self, flight: &mut Flight) -> Result<Round, RuntimeError> {
        let store = RuntimeError::of_store(&self.plan.name);
        if !self.generation.is_current(flight.held) {
            return Ok(Round::Void);
        }
        if !flight.rejects.is_empty() {
            self.io
                .block_on(self.dead_letters.commit(
                    &flight.rejects,
                    &self.plan.version,
                    clock::now(),
                ))
                .map_err(&store)?;
            flight.rejects.clear();
        }
        for position in 0..self.tables.len() {
            if !self.generation.is_current(flight.held) {
                return Ok(Round::Void);
            }
            let started = Instant::now();
            let ending = if self.tables[position].uncommitted.is_empty() {
                self.commit_watermarks(flight, position)?
            } else {
                Some(self.commit_table(flight, position)?)
            };
            match ending {
                None => {}
                Some(CommitEnding::Committed { version }) => {
                    self.tables[position].bring_on();
                    self.committed(position, version, started.elapsed());
                    let recorded = &self.tables[position].writer.checkpoint().watermarks;
                    flight.watermarks.recorded(recorded);
                }
                Some(CommitEnding::AlreadyDone) => {
                    self.tables[position].bring_on();
                    self.tables[position].uncommitted.clear();
                    self.publish(position);
                }
                Some(CommitEnding::Overtaken(overtaken)) => {
                    self.overtaken(flight, position, &overtaken);
                    return Ok(Round::Void);
                }
            }
        }
        Ok(Round::Done)
    }

    fn commit_table(
        &mut self,
        flight: &mut Flight,
        position: usize,
    ) -> Result<CommitEnding, RuntimeError> {
        let pipeline = self.plan.name.clone();
        let engine = |source| RuntimeError::Engine {
            pipeline: pipeline.clone(),
            source,
        };
        let store = RuntimeError::of_store(&self.plan.name);
        let (staged, facts) = match self.tables[position].staged.take() {
            Some(again) => again,
            None => {
                let facts = self.facts(flight, position)?;
                let table = &self.tables[position];
                let parts = table
                    .uncommitted
                    .iter()
                    .map(|epoch| epoch.shown.panes.clone())
                    .collect();
                let merged = merge_panes(&self.plan.tables[position].shape, parts, &self.budget)
                    .map_err(engine)?;
                let staged = self
                    .io
                    .block_on(table.writer.stage(merged, Some(&self.budget)))
                    .map_err(&store)?;
                (staged, facts)
            }
        };
        let table = &mut self.tables[position];
        let put_before = staged.puts();
        let ending = self.io.block_on(table.writer.commit(&staged, &facts));
        metrics::counter!("alluvium_commit_puts_total", "table" => table.writer.name().to_string())
            .increment(u64::from(staged.puts() - put_before));
        match ending {
            Ok(ending) => Ok(ending),
            Err(StoreError::StagedTooOld { .. }) => {
                // Written anew at the next try.
                Err(store(StoreError::StagedTooOld {
                    table: self.plan.tables[position].name.clone(),
                }))
            }
            Err(error) => {
                table.staged = Some((staged, facts));
                Err(store(error))
            }
        }
    }

    /// A commit in which only watermarks move, made only while a window is not final (P25).
    fn commit_watermarks(
        &mut self,
        flight: &mut Flight,
        position: usize,
    ) -> Result<Option<CommitEnding>, RuntimeError> {
        let store = RuntimeError::of_store(&self.plan.name);
        if flight.assigned.is_empty() {
            // Somebody else reads: follow what they commit.
            let table = &mut self.tables[position];
            self.io.block_on(table.writer.refresh()).map_err(&store)?;
            self.publish(position);
            return Ok(None);
        }
        let Some(open_until) = self.open_until(flight, position) else {
            return Ok(None);
        };
        let watermarks = self.watermarks(flight, position);
        let recorded = &self.tables[position].writer.checkpoint().watermarks;
        let moved: BTreeMap<_, _> = watermarks
            .into_iter()
            .filter(|(partition, mark)| recorded.get(partition) != Some(mark))
            // One that has passed every window keeps none open: while another stands still, it need not go on.
            .filter(|(partition, _)| {
                let recorded = recorded.get(partition);
                recorded.is_none_or(|recorded| *recorded < open_until)
            })
            .collect();
        if moved.is_empty() {
            return Ok(None);
        }
        let table = &mut self.tables[position];
        self.io
            .block_on(table.writer.commit_watermarks(&moved))
            .map(Some)
            .map_err(&store)
    }

    /// When the last window of a table ends, if that is not final yet.
    fn open_until(&self, flight: &Flight, position: usize) -> Option<Timestamp> {
        let end = self.last_end(flight, position)?;
        let committed = self.tables[position].writer.committed();
        let is_final = committed.watermark.is_some_and(|mark| mark >= end);
        (!is_final).then_some(end)
    }

    /// When the last window of a table ends; `None`: it has none.
    fn last_end(&self, flight: &Flight, position: usize) -> Option<Timestamp> {
        let (windows, read) = self.windows(flight, position);
        let stored = windows.into_iter().map(|(_, last)| last.end);
        stored.chain(read.map(|window| window.end)).max()
    }

    /// The first and the last window of each file of a table, and that of the newest event which may be in none of them yet.
    fn windows(&self, flight: &Flight, position: usize) -> (Vec<(Window, Window)>, Option<Window>) {
        let size = clock::micros(self.plan.tables[position].window);
        let committed = self.tables[position].writer.committed();
        let files = &committed.files;
        // Where a file does not say which windows it holds, what is recorded stands for them.
        let newest = match files.iter().all(|file| file.window_start.is_some()) {
            true => flight.watermarks.newest_read(),
            false => flight.watermarks.newest_known(),
        };
        // The bounds that files tell are of whole milliseconds, rounded outwards.
        let window = |bound| Window::tumbling(bound, size);
        let stored = files.iter().filter_map(|file| {
            let (first, last) = file.window_start?;
            Some((window(first)?, window(last)?))
        });
        let stored = stored.collect();
        (stored, newest.and_then(window))
    }

    fn watermarks(
        &self,
        flight: &mut Flight,
        position: usize,
    ) -> BTreeMap<TopicPartition, Timestamp> {
        let checkpoint = self.tables[position].writer.checkpoint();
        let partitions: Vec<TopicPartition> = checkpoint.offsets.keys().cloned().collect();
        let (windows, read) = self.windows(flight, position);
        let closed = flight.watermarks.closed_by(clock::now(), &windows, read);
        flight
            .watermarks
            .due(&partitions, &checkpoint.watermarks, closed, Instant::now())
    }

    fn facts(&self, flight: &mut Flight, position: usize) -> Result<CommitFacts, RuntimeError> {
        let mut ranges = Ranges::new();
        let mut leader_epochs = LeaderEpochs::new();
        let mut balance = Balance::default();
        let mut last = Epoch::default();
        for epoch in &self.tables[position].uncommitted {
            for (partition, &range) in &epoch.shown.ranges {
                let joined = match ranges.get(partition) {
                    Some(held) => held.join(range).map_err(|source| RuntimeError::Torn {
                        pipeline: self.plan.name.clone(),
                        epoch: epoch.shown.epoch,
                        partition: partition.clone(),
                        source,
                    })?,
                    None => range,
                };
                ranges.insert(partition.clone(), joined);
                let leader_epoch = epoch.leader_epochs.get(partition).copied();
                go_on_under(&mut leader_epochs, partition, leader_epoch);
            }
            balance.add(&epoch.balance);
            last = epoch.shown.epoch;
        }
        Ok(CommitFacts {
            ranges,
            watermarks: self.watermarks(flight, position),
            leader_epochs,
            balance,
            pipeline_version: self.plan.version.clone(),
            settings: self.definitions.settings().clone(),
            epoch: last,
        })
    }

    fn committed(&mut self, position: usize, version: i64, took: Duration) {
        let name = self.plan.tables[position].name.clone();
        let table = &mut self.tables[position];
        let mut balance = Balance::default();
        for epoch in table.uncommitted.drain(..) {
            balance.add(&epoch.balance);
        }
        table.balance.add(&balance);
        table.is_unreadable = false;
        table.commits += 1;
        table.last_commit = Some(clock::now());
        // From here the offsets are in the table; telling Kafka is only a courtesy (P14).
        self.publish(position);
        tracing::info!(
            pipeline = %self.plan.name,
            table = %name,
            version,
            events = balance.events_in,
            rejected = balance.rejected,
            late = balance.late,
            took_ms = took.as_millis() as u64,
            "committed"
        );
        metrics::counter!("alluvium_commits_total", "table" => name.to_string()).increment(1);
        metrics::histogram!("alluvium_commit_duration_seconds", "table" => name.to_string())
            .record(took.as_secs_f64());
    }

    /// Another writer owns this work now: everything in flight is void (P7).
    fn overtaken(&mut self, flight: &Flight, position: usize, overtaken: &Overtaken) {
        tracing::warn!(
            pipeline = %self.plan.name,
            table = %self.plan.tables[position].name,
            "{overtaken}: the table has moved on; everything in flight is dropped and read again from the table"
        );
        metrics::counter!("alluvium_commits_overtaken_total", "pipeline" => self.plan.name.to_string())
            .increment(1);
        self.status
            .update(&self.plan.name, |status| status.overtaken += 1);
        self.void(flight);
    }

    /// Tells whether others commit by other files.
    fn watch_definitions(&mut self) {
        let now = Instant::now();
        for (table, plan) in self.tables.iter_mut().zip(&self.plan.tables) {
            for definition in table.writer.take_definitions() {
                self.definitions.met(&plan.name, &definition, now);
            }
        }
        let trouble = self.definitions.trouble(now);
        let pipeline = self.plan.name.to_string();
        metrics::gauge!(definitions::CONFLICT, "pipeline" => pipeline).set(if trouble.is_some() {
            1.0
        } else {
            0.0
        });
        self.status.update(&self.plan.name, |status| {
            status.set_trouble(Trouble::Definition, trouble);
        });
    }

    /// Up to where every table has each partition.
    fn report_progress(&self, epoch: Epoch) {
        let mut smallest: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        for table in &self.tables {
            for (partition, &offset) in &table.writer.checkpoint().offsets {
                smallest
                    .entry(partition.clone())
                    .and_modify(|held| *held = offset.min(*held))
                    .or_insert(offset);
            }
        }
        let mut cell = self.progress.lock();
        cell.epoch = epoch;
        cell.offsets = smallest;
    }

    fn publish_all(&mut self) {
        for position in 0..self.tables.len() {
            self.publish(position);
        }
    }

    fn publish(&mut self, position: usize) {
        let name = &self.plan.tables[position].name;
        let table = &self.tables[position];
        let committed = table.writer.committed();
        let shown = alluvium_plan::TableStatus {
            table: name.to_string(),
            version: committed.version,
            commits: table.commits,
            last_commit: table.last_commit,
            files: committed.files.len() as u64,
            watermark: committed.watermark,
            balance: table.balance,
        };
        self.publisher.publish(
            name,
            PublishedTable {
                committed,
                memory: table
                    .uncommitted
                    .iter()
                    .map(|epoch| epoch.shown.clone())
                    .collect(),
            },
        );
        self.status.update(&self.plan.name, |status| {
            match status
                .tables
                .iter_mut()
                .find(|known| known.table == shown.table)
            {
                Some(known) => *known = shown,
                None => status.tables.push(shown),
            }
        });
    }

    fn report(&self, trouble: Trouble, error: &impl fmt::Display, consequence: &str) {
        self.report_if(trouble, error, consequence, || true);
    }

    /// Reports that an assignment cannot be started; one that has been replaced meanwhile needs no start, and nobody would take the
    /// word back.
    fn report_start(&self, generation: Generation, error: &impl fmt::Display, consequence: &str) {
        let is_wanted = || self.generation.is_current(generation);
        self.report_if(Trouble::Start, error, consequence, is_wanted);
    }

    /// In the status only if that still holds while nobody else writes there.
    fn report_if(
        &self,
        trouble: Trouble,
        error: &impl fmt::Display,
        consequence: &str,
        still_holds: impl FnOnce() -> bool,
    ) {
        let text = format!("{error}; {consequence}");
        tracing::warn!(pipeline = %self.plan.name, "{text}");
        self.status.update(&self.plan.name, |status| {
            if still_holds() {
                status.set_trouble(trouble, Some(text));
            }
        });
    }
}

/// Where an event is to be found that was refused, and how far it came. What is in it is for those who may read letters.
fn place_of(reject: &Reject) -> String {
    let column = reject.column.as_ref();
    let column = column.map_or_else(String::new, |column| format!(", column {column}"));
    format!(
        "offset {} of {} (stage {}{column})",
        reject.offset,
        reject.partition,
        reject.stage.name()
    )
}
