//! A Kafka that keeps its records in memory: topics that grow, and one consumer group with static and dynamic members.
//!
//! Owns logs, the group's books and who is taken for dead. A member whose process stands still, or has no connection, goes on
//! with what it fetched before, and learns what others did only when it asks again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_source::{
    Assignments, Cluster, Drain, Halt, Notice, PartitionView, Recorded, SourceError, Subscription,
};
use alluvium_types::{
    AssignmentGeneration, Damaged, FetchedBatch, Generation, MemoryBudget, OffsetRange,
    RawBatchBuilder, Timestamp, TopicId, TopicPartition,
};

use crate::{
    events::Record,
    report::Kind,
    world::{MILLI, SECOND, World},
};

/// How often a member may begin anew with the partitions that it has: once for each time that somebody else moved them.
const MOST_AFRESH: u32 = 6;
/// A member of which nothing is heard for so long is taken for dead.
pub(crate) const SESSION: i64 = 2 * SECOND;
/// How long a rebalance may hold a member up: a third of the session.
const PATIENCE: Duration = Duration::from_millis(666);
/// How long before starts that could not be read are asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How long the group waits for members that are alive to join.
const JOIN_PATIENCE: i64 = SECOND;

/// The cluster as it is.
#[derive(Debug, Default)]
pub(crate) struct Kafka {
    pub(crate) topics: Vec<Topic>,
    group: Group,
    /// How often questions are not answered, in a thousand.
    pub(crate) silent: u32,
}

/// One topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) logs: Vec<Log>,
}

/// One partition.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Also of what retention has removed: the truth is to know it.
    pub(crate) records: Vec<Record>,
    /// Where it begins.
    pub(crate) low: i64,
    /// Where a table may begin to read it, apart from 0: where the log has begun so far, and where somebody has moved another table that
    /// had nothing, as all have one start (P15).
    pub(crate) starts: BTreeSet<i64>,
    pub(crate) high: i64,
}

#[derive(Debug, Default)]
struct Group {
    generation: u64,
    members: BTreeMap<u64, Member>,
    /// Since when members are asked to join.
    joining: Option<i64>,
    next: u64,
    /// Members whose name another one has now.
    fenced: BTreeSet<u64>,
    /// The partitions that were dealt out last.
    dealt: usize,
}

#[derive(Debug)]
struct Member {
    process: usize,
    instance: Option<String>,
    has_joined: bool,
    /// The generation that it was told of.
    told: u64,
    seen: i64,
    partitions: Vec<TopicPartition>,
}

impl Kafka {
    pub(crate) fn partitions(&self) -> Vec<TopicPartition> {
        self.topics
            .iter()
            .flat_map(|topic| {
                (0..topic.logs.len())
                    .map(|number| TopicPartition::new(topic.name.clone(), number as i32))
            })
            .collect()
    }

    pub(crate) fn log(&self, partition: &TopicPartition) -> Option<&Log> {
        let topic = self
            .topics
            .iter()
            .find(|topic| topic.name == partition.topic)?;
        topic.logs.get(partition.partition as usize)
    }

    pub(crate) fn log_mut(&mut self, partition: &TopicPartition) -> Option<&mut Log> {
        let mut topics = self.topics.iter_mut();
        let topic = topics.find(|topic| topic.name == partition.topic)?;
        topic.logs.get_mut(partition.partition as usize)
    }
}

/// What the group tells a member that asks.
enum Told {
    Nothing,
    Fenced,
    /// It is not a member, or has to join again: everything is taken back first.
    JoinAgain,
    Assigned(Vec<TopicPartition>),
}

impl Group {
    /// A member comes. One of the same name is replaced, and keeps what it has.
    fn join(&mut self, process: usize, instance: Option<String>, now: i64) -> u64 {
        self.next += 1;
        let id = self.next;
        let former = instance.as_ref().and_then(|name| {
            let mut members = self.members.iter();
            let (&former, _) = members.find(|(_, held)| held.instance.as_ref() == Some(name))?;
            Some(former)
        });
        let member = match former.and_then(|former| Some((former, self.members.remove(&former)?))) {
            Some((former, held)) => {
                self.fenced.insert(former);
                Member {
                    process,
                    told: 0,
                    seen: now,
                    ..held
                }
            }
            None => {
                self.ask_to_join(now);
                Member {
                    process,
                    instance,
                    has_joined: true,
                    told: 0,
                    seen: now,
                    partitions: Vec::new(),
                }
            }
        };
        self.members.insert(id, member);
        id
    }

    /// Everybody joins again before partitions are dealt out.
    fn ask_to_join(&mut self, now: i64) {
        if self.joining.is_none() {
            self.joining = Some(now);
            for member in self.members.values_mut() {
                member.has_joined = false;
            }
        }
    }

    fn leave(&mut self, id: u64, now: i64) {
        let is_static = self
            .members
            .get(&id)
            .is_some_and(|member| member.instance.is_some());
        // A static member stays in the books until its session is over (P29).
        if !is_static && self.members.remove(&id).is_some() {
            self.ask_to_join(now);
        }
    }
}

impl World {
    /// Moves the group on: who is alive, who is dead, and what is dealt out.
    fn tend_group(&self) {
        let now = self.now();
        let mut guard = self.state();
        let state = &mut *guard;
        let group = &mut state.kafka.group;
        for member in group.members.values_mut() {
            let process = &state.processes[member.process];
            let is_heard =
                !process.is_killed && process.stopped_until <= now && process.cut_until <= now;
            if is_heard && !process.has_left {
                member.seen = now;
            }
        }
        let before = group.members.len();
        group
            .members
            .retain(|_, member| now - member.seen < SESSION);
        let count: usize = state
            .kafka
            .topics
            .iter()
            .map(|topic| topic.logs.len())
            .sum();
        if group.members.len() < before || (count != group.dealt && !group.members.is_empty()) {
            group.ask_to_join(now);
        }
        let Some(since) = group.joining else { return };
        // Who is alive and has not joined is waited for, for a while.
        let is_waited_for = now - since < JOIN_PATIENCE;
        if is_waited_for && group.members.values().any(|member| !member.has_joined) {
            return;
        }
        group.members.retain(|_, member| member.has_joined);
        group.joining = None;
        group.generation += 1;
        group.dealt = count;
        let partitions = state.kafka.partitions();
        let group = &mut state.kafka.group;
        let members = group.members.len().max(1);
        for (position, member) in group.members.values_mut().enumerate() {
            member.partitions = partitions
                .iter()
                .enumerate()
                .filter(|(number, _)| number % members == position)
                .map(|(_, partition)| partition.clone())
                .collect();
        }
        state.counts.add(Kind::Rebalance);
        let generation = state.kafka.group.generation;
        drop(guard);
        self.tell(|| format!("the group deals out: generation {generation}, {members} members"));
    }

    fn ask_group(&self, id: u64) -> Told {
        let now = self.now();
        let mut state = self.state();
        let group = &mut state.kafka.group;
        if group.fenced.contains(&id) {
            return Told::Fenced;
        }
        let Some(member) = group.members.get_mut(&id) else {
            return Told::JoinAgain;
        };
        member.seen = now;
        if group.joining.is_some() {
            if member.has_joined {
                return Told::Nothing;
            }
            return Told::JoinAgain;
        }
        if member.told == group.generation {
            return Told::Nothing;
        }
        member.told = group.generation;
        Told::Assigned(member.partitions.clone())
    }

    fn is_cut_off(&self, process: usize) -> bool {
        self.state().processes[process].cut_until > self.now()
    }

    /// Whether a question of this process gets no answer.
    fn is_silent(&self, process: usize) -> bool {
        if self.is_cut_off(process) {
            return true;
        }
        let mut state = self.state();
        let silent = state.kafka.silent;
        let is_silent = state.choices.rarely(silent);
        if is_silent {
            state.counts.add(Kind::NoAnswer);
        }
        is_silent
    }
}

/// The cluster as one process reaches it.
pub(crate) struct SimulatedCluster {
    pub(crate) world: Arc<World>,
    pub(crate) process: usize,
    pub(crate) instance: Option<String>,
}

impl std::fmt::Debug for SimulatedCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedCluster")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl SimulatedCluster {
    fn ask(&self) -> Result<(), SourceError> {
        self.world.pause(0);
        if self.world.is_silent(self.process) {
            return Err(SourceError::Sockets(std::io::Error::other(
                "the brokers do not answer",
            )));
        }
        Ok(())
    }
}

impl Cluster for SimulatedCluster {
    fn join(
        &self,
        subscription: Subscription,
        generation: AssignmentGeneration,
        assignments: Arc<dyn Assignments>,
    ) -> Result<Box<dyn Drain>, SourceError> {
        let now = self.world.now();
        let mut state = self.world.state();
        let id = state
            .kafka
            .group
            .join(self.process, self.instance.clone(), now);
        drop(state);
        let who = (self.process, self.instance.clone());
        self.world
            .tell(|| format!("process {} joins as {:?}", who.0, who.1));
        Ok(Box::new(SimulatedDrain {
            world: self.world.clone(),
            process: self.process,
            instance: self.instance.clone(),
            id,
            generation,
            assignments,
            memory: subscription.memory,
            held: Generation::default(),
            partitions: Vec::new(),
            notices: Vec::new(),
            unstarted: None,
            turn: 0,
            is_fenced: false,
            afresh: 0,
        }))
    }

    fn partition_counts(
        &self,
        topics: &[Arc<str>],
        _timeout: Duration,
    ) -> Result<BTreeMap<Arc<str>, Option<i32>>, SourceError> {
        self.ask()?;
        let state = self.world.state();
        Ok(topics
            .iter()
            .map(|name| {
                let found = state.kafka.topics.iter().find(|topic| topic.name == *name);
                (name.clone(), found.map(|topic| topic.logs.len() as i32))
            })
            .collect())
    }

    fn topic_ids(
        &self,
        topics: &[Arc<str>],
        _timeout: Duration,
    ) -> Result<BTreeMap<Arc<str>, TopicId>, SourceError> {
        self.ask()?;
        Ok(topics
            .iter()
            .enumerate()
            .map(|(position, name)| (name.clone(), TopicId::from_number(100 + position as i64)))
            .collect())
    }

    fn log_bounds(
        &self,
        partitions: &[TopicPartition],
        _timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, (i64, i64)>, SourceError> {
        self.ask()?;
        let state = self.world.state();
        partitions
            .iter()
            .map(|partition| match state.kafka.log(partition) {
                Some(log) => Ok((partition.clone(), (log.low, log.high))),
                None => Err(SourceError::UnknownPartition(partition.clone())),
            })
            .collect()
    }

    fn offsets_at(
        &self,
        partitions: &[TopicPartition],
        _time: Timestamp,
        timeout: Duration,
    ) -> Result<BTreeMap<TopicPartition, i64>, SourceError> {
        let bounds = self.log_bounds(partitions, timeout)?;
        Ok(bounds
            .into_iter()
            .map(|(partition, (low, _))| (partition, low))
            .collect())
    }
}

/// One assigned partition.
struct Held {
    name: TopicPartition,
    position: i64,
    /// Where the next fetch begins.
    fetched: i64,
    queue: VecDeque<Record>,
    halted: Option<Halt>,
}

struct Unstarted {
    partitions: Vec<TopicPartition>,
    generation: Generation,
    again_at: Instant,
}

/// A member of the group.
struct SimulatedDrain {
    world: Arc<World>,
    process: usize,
    instance: Option<String>,
    id: u64,
    generation: AssignmentGeneration,
    assignments: Arc<dyn Assignments>,
    memory: MemoryBudget,
    held: Generation,
    partitions: Vec<Held>,
    notices: Vec<Notice>,
    unstarted: Option<Unstarted>,
    turn: usize,
    is_fenced: bool,
    /// How often it began anew since it was told of an assignment.
    afresh: u32,
}

impl SimulatedDrain {
    fn take_all_back(&mut self) -> (Generation, Instant) {
        let generation = self.generation.advance();
        let deadline = Instant::now() + PATIENCE;
        self.held = generation;
        self.unstarted = None;
        self.partitions.clear();
        self.assignments.revoked(deadline);
        (generation, deadline)
    }

    fn start(&mut self, generation: Generation, names: Vec<TopicPartition>, deadline: Instant) {
        let starts = if names.is_empty() {
            Some(BTreeMap::new())
        } else {
            self.assignments.starts(&names, deadline)
        };
        let Some(starts) = starts else {
            self.notices.push(Notice::StartsUnknown {
                partitions: names.clone(),
            });
            self.unstarted = Some(Unstarted {
                partitions: names,
                generation,
                again_at: Instant::now() + ASK_AGAIN,
            });
            return;
        };
        self.held = generation;
        self.partitions = names
            .iter()
            .map(|name| self.hold(name, starts.get(name).copied()))
            .collect();
        self.notices.push(Notice::Assigned {
            generation,
            partitions: names,
        });
        for held in &self.partitions {
            if let Some(halt) = &held.halted {
                self.notices.push(Notice::Halted {
                    partition: held.name.clone(),
                    halt: halt.clone(),
                });
            }
        }
    }

    fn hold(&self, name: &TopicPartition, start: Option<Recorded>) -> Held {
        let bounds = |log: &Log| (log.low, log.high);
        let (low, high) = self.world.state().kafka.log(name).map_or((0, 0), bounds);
        let offset = start.map_or(0, |start| start.offset);
        let leader = start.and_then(|start| start.leader_epoch);
        if leader.is_some() {
            self.world.state().counts.add(Kind::UnderLeader);
        }
        if leader.is_some() && leader != leader_of(offset) {
            self.world.state().violations.push(format!(
                "{name} is to be read from {offset} on, before which its leader was {:?} and not {leader:?}",
                leader_of(offset)
            ));
        }
        let halted = match start {
            None => Some(Halt::Unrecorded),
            Some(_) if offset > high => Some(Halt::BeyondHigh {
                recorded: offset,
                high,
            }),
            Some(_) if offset < low => Some(Halt::BeforeLow {
                recorded: offset,
                low,
            }),
            Some(_) => None,
        };
        if matches!(halted, Some(Halt::BeforeLow { .. })) {
            self.world.state().counts.add(Kind::Expired);
        }
        Held {
            name: name.clone(),
            position: offset,
            fetched: offset,
            queue: VecDeque::new(),
            halted,
        }
    }

    fn fetch(&mut self) {
        let mut guard = self.world.state();
        let state = &mut *guard;
        for held in &mut self.partitions {
            if held.halted.is_some() || held.queue.len() > 8 {
                continue;
            }
            let most = 1 + state.choices.below(6) as usize;
            let Some(log) = state.kafka.log(&held.name) else {
                continue;
            };
            if held.fetched < log.low {
                let halt = Halt::BeforeLow {
                    recorded: held.position,
                    low: log.low,
                };
                held.queue.clear();
                held.halted = Some(halt.clone());
                self.notices.push(Notice::Halted {
                    partition: held.name.clone(),
                    halt,
                });
                state.counts.add(Kind::Expired);
                continue;
            }
            let from = log
                .records
                .partition_point(|record| record.offset < held.fetched);
            let found = log.records[from..].iter().take(most).cloned();
            let before = held.queue.len();
            held.queue.extend(found);
            held.fetched = match log.records.get(from + held.queue.len() - before) {
                Some(next) => next.offset,
                // Behind the last record stand markers that are never delivered (P2).
                None => log.high,
            };
        }
    }
}

impl Drain for SimulatedDrain {
    fn serve(&mut self, timeout: Duration) -> Result<Vec<Notice>, SourceError> {
        let _ = timeout;
        self.world.pause(0);
        if self.is_fenced || self.world.is_cut_off(self.process) {
            if self.world.state().processes[self.process].still_reads {
                self.fetch();
            }
            return Ok(std::mem::take(&mut self.notices));
        }
        if self
            .unstarted
            .as_ref()
            .is_some_and(|unstarted| Instant::now() >= unstarted.again_at)
            && let Some(unstarted) = self.unstarted.take()
        {
            let deadline = Instant::now() + PATIENCE;
            self.start(unstarted.generation, unstarted.partitions, deadline);
        }
        self.world.tend_group();
        match self.world.ask_group(self.id) {
            Told::Nothing => {}
            Told::Fenced => {
                self.is_fenced = true;
                self.held = self.generation.advance();
                self.unstarted = None;
                self.partitions.clear();
                self.world.state().counts.add(Kind::Fenced);
                self.notices
                    .push(Notice::Fenced("another member has this name".to_owned()));
            }
            Told::JoinAgain => {
                self.take_all_back();
                self.notices.push(Notice::Revoked);
                let now = self.world.now();
                let mut state = self.world.state();
                let group = &mut state.kafka.group;
                if let Some(member) = group.members.get_mut(&self.id) {
                    member.has_joined = true;
                } else if !group.fenced.contains(&self.id) {
                    self.id = group.join(self.process, self.instance.clone(), now);
                }
            }
            Told::Assigned(partitions) => {
                let process = self.process;
                self.afresh = 0;
                self.world
                    .tell(|| format!("process {process} is given {partitions:?}"));
                let (generation, deadline) = self.take_all_back();
                self.start(generation, partitions, deadline);
            }
        }
        self.fetch();
        Ok(std::mem::take(&mut self.notices))
    }

    fn take(&mut self, max_bytes: usize, now: Timestamp) -> Option<FetchedBatch> {
        let _ = max_bytes;
        let count = self.partitions.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            let held = &mut self.partitions[at];
            if held.halted.is_some() {
                continue;
            }
            let most = 1 + self.world.state().choices.below(5) as usize;
            let mut builder = RawBatchBuilder::default();
            let mut end = held.position;
            while builder.len() < most
                && let Some(record) = held.queue.pop_front()
            {
                builder.push(
                    record.offset,
                    Some(record.timestamp),
                    None,
                    Some(&record.payload),
                    [],
                );
                end = record.offset + 1;
            }
            if held.queue.is_empty() {
                end = end.max(held.fetched);
            }
            if end == held.position {
                continue;
            }
            let range = OffsetRange::new(held.position, end).expect("the end only grew");
            held.position = end;
            self.turn = at + 1;
            let reservation = self.memory.reserve(builder.size());
            let batch = builder.finish(held.name.clone(), range, self.held, now, Some(reservation));
            let batch = FetchedBatch::from(batch).written_under(leader_of(end));
            return Some(batch);
        }
        None
    }

    fn partitions(&self) -> Vec<PartitionView> {
        self.partitions
            .iter()
            .map(|held| PartitionView {
                partition: held.name.clone(),
                position: held.position,
                log_end: None,
                stable_end: None,
                heard: None,
                low: None,
                halted: held.halted.clone(),
            })
            .collect()
    }

    fn mark_damaged(&mut self, partition: &TopicPartition, damaged: Damaged) {
        let mut state = self.world.state();
        state
            .violations
            .push(format!("{partition} is said to be damaged: {damaged}"));
    }

    fn wakes(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        "simulated"
    }

    fn assign_afresh(&mut self) {
        let names = match self.unstarted.take() {
            Some(unstarted) => unstarted.partitions,
            None => self
                .partitions
                .iter()
                .map(|held| held.name.clone())
                .collect(),
        };
        self.world.state().counts.add(Kind::Afresh);
        self.afresh += 1;
        if self.afresh > MOST_AFRESH {
            self.world.state().violations.push(format!(
                "process {} began to read anew {} times, and its partitions are the same",
                self.process, self.afresh
            ));
        }
        let (generation, deadline) = self.take_all_back();
        self.start(generation, names, deadline);
    }

    fn tell_progress(&mut self, _offsets: &BTreeMap<TopicPartition, i64>) {}

    fn close(self: Box<Self>, _deadline: Duration) -> Result<(), SourceError> {
        self.generation.advance();
        let now = self.world.now();
        let mut state = self.world.state();
        state.processes[self.process].has_left = true;
        state.kafka.group.leave(self.id, now);
        Ok(())
    }
}

/// Adds records to a partition, and now and then a marker behind them that is never delivered.
pub(crate) fn append(world: &World, partition: &TopicPartition, mut record: Record) {
    let mut guard = world.state();
    let state = &mut *guard;
    let marks = state.choices.below(8) == 1;
    let skips = i64::from(state.choices.below(12) == 1);
    let log = state
        .kafka
        .log_mut(partition)
        .expect("events are made for partitions that exist");
    record.offset = log.high + skips;
    log.high = record.offset + 1 + i64::from(marks);
    log.records.push(record);
    state.counts.add(Kind::Event);
}

/// The whole time for which nothing was heard of a process is over after this.
pub(crate) const BEYOND_SESSION: i64 = SESSION + 500 * MILLI;

/// Under which leader the record before an offset was written; of some the broker does not say.
fn leader_of(offset: i64) -> Option<i32> {
    (offset % 5 > 0).then(|| i32::try_from(offset / 3).unwrap_or(i32::MAX))
}
