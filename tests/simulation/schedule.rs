//! One schedule: servers that come and go over one storage root while events arrive, and then the truth.
//!
//! Owns what is done to whom and when, as the choices say, and the peace at the end in which everything has to be caught up
//! with.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use alluvium_plan::{Environment, PipelineState, Plan, SourceFile, load_pipeline};
use alluvium_runtime::{
    Host as _, PipelineConfig, Running, Server, ServerConfig, TableCompaction, table_spec,
};
use alluvium_store::{Effort, Goal, Store, StoreRules, Vacuum, audit};
use alluvium_types::{MemoryBudget, TopicPartition};
use tokio::runtime::Runtime;

use crate::{
    choices::Choices,
    events::{PIPELINES, Record, SCHEMA, TABLES, TableTruth},
    kafka::{BEYOND_SESSION, Kafka, Log, SimulatedCluster, Topic, append},
    machine::SimulatedMachine,
    objects::{Objects, Weather},
    report::{Counts, Kind},
    truth::{Table, check_memory, judge_letters},
    world::{MILLI, SECOND, World},
};

const PIPELINE: &str = "simulated";
/// Names that servers are started under again and again.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Processes that live at the same time, at most.
const MOST_PROCESSES: usize = 4;
/// How long everything may take to be caught up with once there is peace.
const PEACE: i64 = 120 * SECOND;
/// How often somebody looks in peace whether retention has removed what is to be read next.
const RESCUE_EVERY: i64 = 10 * SECOND;
const HOUR: i64 = 3600 * SECOND;

/// How a schedule ended.
#[derive(Debug)]
pub struct Outcome {
    /// What was found to be wrong; empty: nothing.
    pub violations: Vec<String>,
    /// Every decision.
    pub choices: Vec<u16>,
    /// What took effect.
    pub counts: Counts,
    /// What happened, if it was asked for.
    pub story: Vec<String>,
}

/// Where the decisions of a schedule come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Drawn.
    Seed(u64),
    /// As they were, and after the last one the calm one.
    Script(Vec<u16>),
}

/// Runs one schedule on this thread and its own.
pub fn run(source: Source, tells: bool) -> Outcome {
    let choices = match source {
        Source::Seed(seed) => Choices::drawn(seed),
        Source::Script(script) => Choices::scripted(script),
    };
    let (world, told) = World::begin(choices, Kafka::default(), tells);
    let mut director = Director::new(world.clone());
    director.chaos();
    director.peace();
    let mut faults = director.verdict();
    director.end_all();
    drop(director);
    drop(told);
    let Some(mut state) = world.end() else {
        return Outcome {
            violations: vec!["a thread outlived its simulation".to_owned()],
            choices: Vec::new(),
            counts: Counts::default(),
            story: Vec::new(),
        };
    };
    state.violations.append(&mut faults);
    Outcome {
        violations: state.violations,
        choices: state.choices.made(),
        counts: state.counts,
        story: state.story.unwrap_or_default(),
    }
}

struct Simulated {
    process: usize,
    name: Option<&'static str>,
    running: Option<Running>,
    /// How many of its commits met a table that had moved on.
    overtaken: u64,
    is_draining: bool,
}

struct Director {
    world: Arc<World>,
    objects: Objects,
    plan: Arc<Plan>,
    tables: &'static [TableTruth],
    /// Whether hours pass in it, as they do in a quarter.
    has_hours: bool,
    /// Whether retention removes events and somebody moves partitions by hand, as in another quarter.
    has_gaps: bool,
    /// When somebody last moved on what retention had removed, in peace.
    rescued_at: i64,
    workers: usize,
    servers: Vec<Simulated>,
    events: i64,
    faults: Vec<String>,
    /// What every version of each table records.
    recorded: Vec<Recorded>,
    /// Where somebody wanted to move partitions of each table.
    wanted: Vec<BTreeSet<(TopicPartition, i64)>>,
}

#[derive(Default)]
struct Recorded {
    table: Table,
    versions: Vec<BTreeMap<TopicPartition, i64>>,
}

impl Recorded {
    fn read_on(&mut self, objects: &Objects, table: &TableTruth) {
        self.table
            .read_on(objects, &folder(table), &mut self.versions);
    }
}

thread_local! {
    static PLANS: RefCell<[Option<Arc<Plan>>; 2]> = const { RefCell::new([None, None]) };
}

/// The pipeline of so many tables. Plans do not change, so each is made once.
fn plan(position: usize) -> Arc<Plan> {
    PLANS.with_borrow_mut(|plans| {
        plans[position]
            .get_or_insert_with(|| {
                let mut schema = |_: &Path| Ok(SCHEMA.as_bytes().to_vec());
                let source = SourceFile::new(format!("{PIPELINE}.yaml"), PIPELINES[position]);
                let loaded = load_pipeline(&source, &mut schema, &Environment::default());
                let (plan, _) = loaded.expect("the pipeline of a simulation is right");
                Arc::new(plan)
            })
            .clone()
    })
}

impl Director {
    fn new(world: Arc<World>) -> Self {
        let (weather, season, workers, position, topics) = {
            let mut state = world.state();
            let choices = &mut state.choices;
            let weather = match choices.below(4) {
                0 => Weather::default(),
                1 => Weather {
                    puts: 40,
                    reads: 5,
                    slow: 5,
                },
                2 => Weather {
                    puts: 150,
                    reads: 20,
                    slow: 20,
                },
                _ => Weather {
                    puts: 300,
                    reads: 10,
                    slow: 60,
                },
            };
            let season = choices.below(8);
            let workers = 1 + choices.below(2) as usize;
            let position = choices.below(2) as usize;
            let names: &[&str] = match position {
                0 => &["events"],
                _ => &["events", "more"],
            };
            let topics: Vec<Topic> = names
                .iter()
                .map(|name| Topic {
                    name: (*name).into(),
                    logs: (0..=choices.below(2)).map(|_| Log::default()).collect(),
                })
                .collect();
            (weather, season, workers, position, topics)
        };
        {
            let mut state = world.state();
            state.kafka.topics = topics;
            state.kafka.silent = match weather.puts {
                0 => 0,
                _ => 50,
            };
        }
        Self {
            objects: Objects::new(world.time.clone(), weather),
            plan: plan(position),
            tables: &TABLES[..=position],
            world,
            has_hours: season >= 6,
            has_gaps: season == 5 || season == 6,
            rescued_at: 0,
            workers,
            servers: Vec::new(),
            events: 0,
            faults: Vec::new(),
            recorded: TABLES.iter().map(|_| Recorded::default()).collect(),
            wanted: vec![BTreeSet::new(); TABLES.len()],
        }
    }

    fn below(&self, bound: u32) -> u32 {
        self.world.state().choices.below(bound)
    }

    fn count(&self, kind: Kind) {
        self.world.state().counts.add(kind);
    }

    /// Everything goes wrong that may.
    fn chaos(&mut self) {
        self.start(NAMES[0]);
        let mut steps = 40 + self.below(40);
        while steps > 0 {
            steps -= 1;
            let nanos = i64::from(20 + self.below(250)) * MILLI;
            self.world.pause(nanos);
            self.look_after();
            self.check_memory();
            if self.below(3) > 0 {
                self.produce();
            }
            match self.below(64) {
                0..=23 => {}
                24..=30 => {
                    let name = NAMES[self.below(3) as usize];
                    self.start(name);
                }
                31 => self.start_guest(),
                32..=35 => self.kill(),
                36..=39 => self.stop_for_a_while(),
                40 | 41 | 50 | 51 => self.cut_off(),
                42 => self.drain(),
                43 => self.grow(),
                44 if self.has_hours => {
                    // A log is cleaned up by a checkpoint that is as old as its entries are kept, so it takes them twice.
                    if !self.have_hours_passed() {
                        steps += 60;
                    }
                    self.let_hours_pass();
                }
                52 | 53 if self.have_hours_passed() => self.let_hours_pass(),
                45 | 46 => self.flood(),
                47..=49 => self.maintain_by_hand(),
                54 | 55 if self.has_gaps => self.seek(),
                56 if self.has_gaps => self.remove_by_retention(),
                _ => {}
            }
        }
    }

    fn produce(&mut self) {
        for _ in 0..=self.below(8) {
            self.produce_one();
        }
    }

    fn flood(&mut self) {
        for _ in 0..30 {
            self.produce_one();
        }
    }

    fn produce_one(&mut self) {
        let (record, partition) = {
            let mut guard = self.world.state();
            let state = &mut *guard;
            let record = Record::drawn(&mut state.choices, self.events);
            let partitions = state.kafka.partitions();
            let position = state.choices.below(partitions.len() as u32) as usize;
            (record, partitions[position].clone())
        };
        self.events += 1;
        append(&self.world, &partition, record);
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.servers.len())
            .filter(|&position| self.servers[position].running.is_some())
            .collect()
    }

    fn pick(&self) -> Option<usize> {
        let alive = self.alive();
        let drawn = self.below(alive.len().max(1) as u32) as usize;
        alive.get(drawn).copied()
    }

    fn start(&mut self, name: &'static str) {
        let holds = self
            .servers
            .iter()
            .any(|server| server.running.is_some() && server.name == Some(name));
        // One of its name is there: it is started beside it now and then, as after a machine that was given up.
        if holds && self.below(3) != 2 {
            return;
        }
        if holds {
            self.count(Kind::SameName);
        }
        self.start_as(Some(name));
    }

    fn start_guest(&mut self) {
        self.start_as(None);
    }

    fn start_as(&mut self, name: Option<&'static str>) {
        if self.alive().len() >= MOST_PROCESSES {
            return;
        }
        let process = self.world.add_process();
        // Clocks that are off.
        let off = match self.below(8) {
            6 => -2 * HOUR,
            7 => 26 * HOUR,
            _ => 0,
        };
        let machine = Arc::new(SimulatedMachine::new(self.world.clone(), process, off));
        let cluster = SimulatedCluster {
            world: self.world.clone(),
            process,
            instance: name.map(str::to_owned),
        };
        let store = self.store();
        let config = ServerConfig {
            pipelines: vec![PipelineConfig {
                plan: self.plan.clone(),
                cluster: Arc::new(cluster),
            }],
            workers: self.workers,
            ingest_bytes: 64 << 20,
            instance: None,
        };
        self.world.tell(|| {
            format!(
                "process {process} starts as {name:?}, its clock is off by {} h",
                off / HOUR
            )
        });
        self.count(Kind::Start);
        match Server::start_on(machine, config, store) {
            Ok(running) => self.servers.push(Simulated {
                process,
                name,
                running: Some(running),
                overtaken: 0,
                is_draining: false,
            }),
            Err(error) => self.faults.push(format!("no thread: {error}")),
        }
    }

    fn store(&self) -> Store {
        // A log is cleaned up by what is old, so where hours pass there must be some of it before.
        let checkpoint_every = if self.has_hours { 2 } else { 6 };
        let rules = StoreRules {
            log_retention: Duration::from_secs(3600),
            orphan_retention: Duration::from_secs(2400),
            checkpoint_every: NonZeroU32::new(checkpoint_every).expect("neither is 0"),
            commit_timeout: Duration::from_secs(4),
            longest_pause: Duration::ZERO,
            ..StoreRules::default()
        };
        Store::over(Arc::new(self.objects.clone()), rules)
    }

    /// What an operator does beside the servers: merges whatever can be merged, and deletes what nobody needs.
    fn maintain_by_hand(&mut self) {
        let tables = self.tables;
        self.count(Kind::ByHand);
        self.by_hand("merges and deletes", move |world, store, io| {
            let budget = MemoryBudget::new(64 << 20);
            for table in tables {
                let merged = TableCompaction::open(store, &table.name.into(), io.handle(), &budget)
                    .and_then(|mut merging| {
                        while merging.merge_next(Effort::Everything, &|| false)?.is_some() {}
                        Ok(())
                    });
                let vacuumed = io.block_on(store.vacuum(table.name, Vacuum::Delete));
                world.tell(|| format!("by hand: {merged:?}, {vacuumed:?}"));
            }
        });
    }

    /// A process of its own that does one thing and ends.
    fn by_hand(
        &mut self,
        what: &str,
        work: impl FnOnce(&World, &Store, &Runtime) + Send + 'static,
    ) {
        let process = self.world.add_process();
        let machine = SimulatedMachine::new(self.world.clone(), process, 0);
        let (world, store) = (self.world.clone(), self.store());
        let Ok(io) = machine.io("by hand") else {
            return;
        };
        self.world
            .tell(|| format!("process {process} {what} by hand"));
        let work = move || work(&world, &store, &io);
        match machine.spawn("by-hand".to_owned(), Box::new(work)) {
            Ok(thread) => drop(thread),
            Err(error) => self.faults.push(format!("no thread: {error}")),
        }
    }

    /// An operator moves one partition or all, in one table or all.
    fn seek(&mut self) {
        let partitions = self.world.state().kafka.partitions();
        let meant = self.below(2 * partitions.len() as u32) as usize;
        let of_table = self.below(1 + self.tables.len() as u32) as usize;
        let goal = self.below(8);
        let step = 1 + i64::from(self.below(6));
        let place = i64::from(self.below(1 << 16));
        let mut goals = vec![BTreeMap::new(); self.tables.len()];
        for (position, recorded) in self.recorded.iter_mut().take(self.tables.len()).enumerate() {
            if of_table != 0 && of_table != position + 1 {
                continue;
            }
            recorded.read_on(&self.objects, &self.tables[position]);
            for (number, partition) in partitions.iter().enumerate() {
                if partitions.get(meant).is_some() && meant != number {
                    continue;
                }
                let state = self.world.state();
                let Some(log) = state.kafka.log(partition) else {
                    continue;
                };
                let Some(&offset) = recorded.table.offsets.get(partition) else {
                    continue;
                };
                let goal = match goal {
                    0..=3 => Goal::To((offset + step).clamp(log.low, log.high)),
                    4 => Goal::NotBefore(log.low),
                    5 => Goal::NotBefore(log.high),
                    _ => Goal::To(log.low + place % (log.high - log.low + 1)),
                };
                goals[position].insert(partition.clone(), goal);
            }
        }
        self.seek_to(goals);
    }

    /// In every table to where the log begins: what a person does about a halt.
    fn seek_to_earliest(&mut self) {
        let mut earliest = BTreeMap::new();
        {
            let state = self.world.state();
            for partition in state.kafka.partitions() {
                let low = state.kafka.log(&partition).map_or(0, |log| log.low);
                earliest.insert(partition, Goal::NotBefore(low));
            }
        }
        let goals = self
            .recorded
            .iter()
            .take(self.tables.len())
            .map(|recorded| {
                let mut goals = earliest.clone();
                goals.retain(|partition, _| recorded.table.offsets.contains_key(partition));
                goals
            });
        let goals = goals.collect();
        self.seek_to(goals);
    }

    fn seek_to(&mut self, goals: Vec<BTreeMap<TopicPartition, Goal>>) {
        let mut state = self.world.state();
        for (wanted, goals) in self.wanted.iter_mut().zip(&goals) {
            for (partition, goal) in goals {
                let (Goal::To(offset) | Goal::NotBefore(offset)) = *goal;
                wanted.insert((partition.clone(), offset));
                if let Some(log) = state.kafka.log_mut(partition) {
                    log.starts.insert(offset);
                }
            }
        }
        drop(state);
        let plan = self.plan.clone();
        self.by_hand("moves partitions", move |world, store, io| {
            for (table, goals) in plan.tables.iter().zip(goals) {
                if goals.is_empty() {
                    continue;
                }
                let spec = table_spec(&plan, table);
                let no_ids = BTreeMap::new();
                let sought =
                    io.block_on(async { store.table(&spec).await?.seek(&goals, &no_ids).await });
                world.tell(|| format!("by hand: {} to {goals:?}: {sought:?}", table.name));
            }
        });
    }

    /// What is old is removed, read or not.
    fn remove_by_retention(&mut self) {
        let mut guard = self.world.state();
        let state = &mut *guard;
        let partitions = state.kafka.partitions();
        let drawn = state.choices.below(partitions.len() as u32) as usize;
        let partition = &partitions[drawn];
        let (place, is_all) = (state.choices.below(1 << 16), state.choices.below(2) == 1);
        let Some(log) = state.kafka.log_mut(partition) else {
            return;
        };
        log.low = match is_all {
            true => log.high,
            false => log.low + i64::from(place) % (log.high - log.low + 1),
        };
        let low = log.low;
        log.starts.insert(low);
        drop(guard);
        self.world
            .tell(|| format!("{partition} begins at {low} now"));
    }

    fn kill(&mut self) {
        let Some(position) = self.pick() else { return };
        self.count(Kind::Kill);
        self.kill_at(position);
    }

    fn kill_at(&mut self, position: usize) {
        let server = &mut self.servers[position];
        let process = server.process;
        self.world.tell(|| format!("process {process} is killed"));
        self.world.state().processes[process].is_killed = true;
        server.running = None;
    }

    fn stop_for_a_while(&mut self) {
        let Some(position) = self.pick() else { return };
        let process = self.servers[position].process;
        let nanos = match self.below(3) {
            0 => i64::from(50 + self.below(500)) * MILLI,
            _ => {
                self.count(Kind::Zombie);
                BEYOND_SESSION + i64::from(self.below(4000)) * MILLI
            }
        };
        self.world
            .tell(|| format!("process {process} stands still for {} ms", nanos / MILLI));
        let until = self.world.now() + nanos;
        self.world.state().processes[process].stopped_until = until;
    }

    fn cut_off(&mut self) {
        let Some(position) = self.pick() else { return };
        let process = self.servers[position].process;
        self.count(Kind::CutOff);
        let nanos = BEYOND_SESSION + i64::from(self.below(3000)) * MILLI;
        self.world
            .tell(|| format!("process {process} loses Kafka for {} ms", nanos / MILLI));
        let still_reads = self.below(2) == 1;
        let until = self.world.now() + nanos;
        let mut state = self.world.state();
        let process = &mut state.processes[process];
        process.cut_until = until;
        process.still_reads = still_reads;
    }

    fn drain(&mut self) {
        let Some(position) = self.pick() else { return };
        let server = &mut self.servers[position];
        if let Some(running) = &server.running {
            running.drain();
            server.is_draining = true;
        }
        let process = server.process;
        self.world
            .tell(|| format!("process {process} is asked to end"));
    }

    fn grow(&mut self) {
        let mut state = self.world.state();
        let topics = state.kafka.topics.len() as u32;
        let topic = state.choices.below(topics) as usize;
        if state.kafka.topics[topic].logs.len() < 4 {
            state.kafka.topics[topic].logs.push(Log::default());
            state.counts.add(Kind::Growth);
        }
    }

    fn have_hours_passed(&self) -> bool {
        self.world.state().counts.of(Kind::HoursPass) > 0
    }

    /// Longer than entries of a log are kept.
    fn let_hours_pass(&mut self) {
        self.count(Kind::HoursPass);
        let nanos = HOUR + HOUR / 2 + i64::from(self.below(60)) * SECOND;
        self.world.tell(|| "an hour and a half passes".to_owned());
        self.world.time.advance(nanos);
    }

    /// Notices processes that have ended.
    fn look_after(&mut self) {
        for server in &mut self.servers {
            let Some(running) = &server.running else {
                continue;
            };
            let process = server.process;
            let statuses = running.status().all();
            let overtaken = statuses.iter().map(|status| status.overtaken).sum();
            let more = overtaken - server.overtaken;
            server.overtaken = overtaken;
            self.world.state().counts.add_many(Kind::Overtaken, more);
            let reason = statuses.into_iter().find_map(|status| {
                (status.state == PipelineState::Stopped).then_some(status.reason)
            });
            if reason.is_none() {
                continue;
            }
            running.drain();
            if !self.world.is_process_over(process) {
                continue;
            }
            let Some(running) = server.running.take() else {
                continue;
            };
            while !running.all_over() {
                thread::yield_now();
            }
            let stopped = running.join(Duration::from_secs(3600)).unwrap_or_default();
            self.world.state().processes[process].has_left = true;
            for pipeline in stopped {
                match pipeline.error {
                    None => self.world.state().counts.add(Kind::Drain),
                    Some(alluvium_runtime::RuntimeError::Fenced { .. }) => {}
                    Some(error) => self
                        .faults
                        .push(format!("process {process} ended: {error}")),
                }
            }
            self.world.tell(|| format!("process {process} has ended"));
        }
    }

    /// What is shown of epochs in memory is what their ranges hold.
    fn check_memory(&mut self) {
        for server in &self.servers {
            let Some(running) = &server.running else {
                continue;
            };
            let published = running.publisher().current();
            for (table, recorded) in self.tables.iter().zip(&mut self.recorded) {
                let Some(shown) = published.tables.get(table.name) else {
                    continue;
                };
                let mut reached = shown.committed.offsets.as_ref().clone();
                recorded.read_on(&self.objects, table);
                let version = shown.committed.version;
                if recorded.versions.get(version as usize) != Some(&reached) {
                    self.faults.push(format!(
                        "process {} shows version {version} of {} with other offsets than it records",
                        server.process, table.name
                    ));
                }
                for epoch in shown.visible() {
                    let ranges = epoch
                        .ranges
                        .iter()
                        .map(|(partition, range)| (partition.clone(), (range.start(), range.end())))
                        .collect();
                    let mut state = self.world.state();
                    state.counts.add(Kind::MemoryChecked);
                    let wrong = check_memory(&state.kafka, table, &ranges, &epoch.panes);
                    if let Some(wrong) = wrong {
                        let epoch = epoch.epoch;
                        self.faults.push(format!(
                            "epoch {epoch} in memory of process {}, {}: {wrong}",
                            server.process, table.name
                        ));
                    }
                    for (partition, range) in &epoch.ranges {
                        if reached.get(partition) != Some(&range.start()) {
                            self.faults.push(format!(
                                "epoch {} of {} is shown, and does not continue what is before it in {partition}",
                                epoch.epoch, table.name
                            ));
                        }
                        reached.insert(partition.clone(), range.end());
                    }
                }
            }
        }
    }

    /// Nothing goes wrong any more, and one server has time to catch up.
    fn peace(&mut self) {
        self.world.tell(|| "peace".to_owned());
        self.objects.set_weather(Weather::default());
        self.world.state().kafka.silent = 0;
        let awake = {
            let state = self.world.state();
            let latest = state
                .processes
                .iter()
                .map(|process| process.stopped_until.max(process.cut_until));
            latest.max().unwrap_or(0)
        };
        let deadline = awake.max(self.world.now()) + PEACE;
        let mut seen = 0;
        loop {
            self.world.pause(100 * MILLI);
            self.look_after();
            self.check_memory();
            let now = self.world.now();
            let serving = self
                .servers
                .iter()
                .any(|server| server.running.is_some() && !server.is_draining);
            if !serving {
                self.start_as(Some(NAMES[0]));
            }
            if !self.faults.is_empty() || !self.world.state().violations.is_empty() {
                return;
            }
            let newest = self
                .tables
                .iter()
                .filter_map(|table| self.objects.newest(&folder(table)))
                .sum();
            if self.has_gaps
                && now > awake
                && now - self.rescued_at > RESCUE_EVERY
                && self.is_stuck()
            {
                self.rescued_at = now;
                self.seek_to_earliest();
            }
            if newest != seen || now > deadline {
                seen = newest;
                if now > awake && !self.world.awaits() && self.has_caught_up() {
                    return;
                }
                if now > deadline {
                    let reason: Vec<String> = self
                        .alive()
                        .into_iter()
                        .filter_map(|position| self.servers[position].running.as_ref())
                        .flat_map(|running| running.status().all())
                        .map(|status| format!("{:?} {:?}", status.state, status.reason))
                        .collect();
                    self.faults.push(format!(
                        "after two minutes of peace events are still not read: {reason:?}"
                    ));
                    return;
                }
            }
            if now <= awake || self.world.awaits() {
                seen = 0;
            }
        }
    }

    fn has_caught_up(&mut self) -> bool {
        let state = self.world.state();
        let mut tables = self.tables.iter().zip(&mut self.recorded);
        tables.all(|(table, recorded)| {
            recorded.read_on(&self.objects, table);
            let offsets = &recorded.table.offsets;
            state.kafka.partitions().iter().all(|partition| {
                let high = state.kafka.log(partition).map_or(0, |log| log.high);
                high == 0 || offsets.get(partition) == Some(&high)
            })
        })
    }

    /// Whether a table is to go on with what retention has removed.
    fn is_stuck(&mut self) -> bool {
        let state = self.world.state();
        let mut tables = self.tables.iter().zip(&mut self.recorded);
        tables.any(|(table, recorded)| {
            recorded.read_on(&self.objects, table);
            recorded.table.offsets.iter().any(|(partition, &offset)| {
                let low = state.kafka.log(partition).map_or(0, |log| log.low);
                offset < low
            })
        })
    }

    fn verdict(&mut self) -> Vec<String> {
        let mut faults = std::mem::take(&mut self.faults);
        let mut guard = self.world.state();
        let state = &mut *guard;
        let mut tables = Vec::new();
        let longest = self.tables.iter().map(|table| table.window).max();
        for table in self.tables {
            let read = Table::read(
                &state.kafka,
                &self.objects,
                Some(table),
                &folder(table),
                &mut faults,
            );
            faults.extend(read.judge(&state.kafka, &self.objects, table, &mut state.counts));
            faults.extend(read.judge_watermarks(&state.kafka, table, longest.unwrap_or_default()));
            let wanted = &self.wanted[tables.len()];
            if let Some((partition, offset)) = read.sought.iter().find(|at| !wanted.contains(at)) {
                faults.push(format!(
                    "{} was moved to {offset} of {partition}, where nobody wanted it",
                    table.name
                ));
            }
            tables.push((table, read));
        }
        let folder = format!("dead_letters/{PIPELINE}");
        let letters = Table::read(&state.kafka, &self.objects, None, &folder, &mut faults);
        match letters.letters(&self.objects) {
            // Of what was not read to its end letters are missing.
            Ok(_) if !faults.is_empty() => {}
            Ok(letters) => {
                state.counts.add_many(Kind::Letter, letters.len() as u64);
                judge_letters(&state.kafka, &tables, letters, &mut faults);
            }
            Err(error) => faults.push(error),
        }
        drop(guard);
        faults.extend(self.audited(&tables));
        faults
    }

    /// What the product's own audit finds.
    fn audited(&self, tables: &[(&TableTruth, Table)]) -> Vec<String> {
        let store = Store::over(Arc::new(self.objects.clone()), StoreRules::default());
        let io = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without threads");
        let mut faults = Vec::new();
        for (table, read) in tables {
            match io.block_on(store.history(table.name)) {
                Ok(history) => {
                    let report = audit(&history);
                    let told = report.faults.iter();
                    faults.extend(told.map(|fault| format!("audit of {}: {fault}", table.name)));
                    let gaps = report.gaps.into_iter();
                    let gaps: Vec<_> = gaps
                        .map(|gap| (gap.partition, gap.offsets.start(), gap.offsets.end()))
                        .collect();
                    if gaps != read.gaps {
                        faults.push(format!(
                            "audit of {} tells the gaps {gaps:?}, and there are {:?}",
                            table.name, read.gaps
                        ));
                    }
                }
                Err(error) => faults.push(format!("audit of {}: {error}", table.name)),
            }
        }
        faults
    }

    fn end_all(&mut self) {
        for position in self.alive() {
            self.kill_at(position);
        }
        let processes = self.world.state().processes.len();
        for process in 0..processes {
            self.world.state().processes[process].is_killed = true;
            while !self.world.is_process_over(process) {
                self.world.pause(0);
            }
        }
        self.servers.clear();
    }
}

fn folder(table: &TableTruth) -> String {
    format!("tables/{}", table.name)
}
