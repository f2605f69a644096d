//! The one who says which thread goes on: of all threads of a simulation only one ever runs.
//!
//! Owns the order of threads, the time, and what happens later. Every thread of a simulated process comes by
//! [`World::pause`] before it waits and at every call to a store; there another one may go on, time passes, and a process that
//! was killed meanwhile ends. Does not own what a fault is.

use std::{
    cell::RefCell,
    panic,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use crate::{
    choices::Choices,
    clock::{Time, Told},
    kafka::Kafka,
    report::Counts,
};

pub(crate) const MILLI: i64 = 1_000_000;
pub(crate) const SECOND: i64 = 1000 * MILLI;

/// What a thread ends with when its process is killed.
struct Killed;

/// Everything of one simulation.
pub(crate) struct World {
    pub(crate) time: Time,
    /// Who runs.
    running: AtomicUsize,
    state: Mutex<State>,
}

/// What is decided and known. Only the thread that runs looks at it.
pub(crate) struct State {
    pub(crate) choices: Choices,
    pub(crate) kafka: Kafka,
    pub(crate) counts: Counts,
    /// What is wrong.
    pub(crate) violations: Vec<String>,
    /// What happened, if anybody wants to read it.
    pub(crate) story: Option<Vec<String>>,
    threads: Vec<Slot>,
    pub(crate) processes: Vec<Process>,
    later: Vec<Later>,
    turns: u64,
}

/// One thread.
struct Slot {
    process: Option<usize>,
    handle: Option<Thread>,
    /// When it had its last turn.
    turn: u64,
    /// Asleep until then.
    until: i64,
    is_over: bool,
}

/// One process, seen from outside.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) is_killed: bool,
    /// Stopped until then.
    pub(crate) stopped_until: i64,
    /// It has left its group in order.
    pub(crate) has_left: bool,
    /// Without a connection to Kafka until then.
    pub(crate) cut_until: i64,
    /// Whether it still reaches the partitions' leaders then, and only the group's coordinator is away.
    pub(crate) still_reads: bool,
}

struct Later {
    at: i64,
    work: Box<dyn FnOnce() + Send>,
}

thread_local! {
    static HERE: RefCell<Option<(Arc<World>, usize)>> = const { RefCell::new(None) };
}

/// The simulation that this thread belongs to.
pub(crate) fn here() -> Option<Arc<World>> {
    HERE.with_borrow(|here| here.as_ref().map(|(world, _)| world.clone()))
}

fn me() -> usize {
    HERE.with_borrow(|here| here.as_ref().map_or(0, |(_, thread)| *thread))
}

impl World {
    /// A simulation whose first thread is this one.
    pub(crate) fn begin(choices: Choices, kafka: Kafka, tells: bool) -> (Arc<Self>, Told) {
        let world = Arc::new(Self {
            time: Time::default(),
            running: AtomicUsize::new(0),
            state: Mutex::new(State {
                choices,
                kafka,
                counts: Counts::default(),
                violations: Vec::new(),
                story: tells.then(Vec::new),
                threads: vec![Slot {
                    process: None,
                    handle: Some(thread::current()),
                    turn: 0,
                    until: 0,
                    is_over: false,
                }],
                processes: Vec::new(),
                later: Vec::new(),
                turns: 0,
            }),
        });
        HERE.set(Some((world.clone(), 0)));
        let told = Told::tell(&world.time, 0);
        (world, told)
    }

    /// Leaves the simulation; every other thread of it is over, but for what the operating system has to do yet. `None`: not within
    /// seconds.
    pub(crate) fn end(self: Arc<Self>) -> Option<State> {
        HERE.set(None);
        for _ in 0..100_000 {
            if Arc::strong_count(&self) == 1 {
                break;
            }
            thread::sleep(Duration::from_micros(50));
        }
        let world = Arc::into_inner(self)?;
        Some(
            world
                .state
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> i64 {
        self.time.now()
    }

    pub(crate) fn add_process(&self) -> usize {
        let mut state = self.state();
        state.processes.push(Process::default());
        state.processes.len() - 1
    }

    /// Room for a thread of a process, which has its first turn later.
    pub(crate) fn add_thread(&self, process: usize) -> usize {
        let mut state = self.state();
        let turn = state.turns;
        state.threads.push(Slot {
            process: Some(process),
            handle: None,
            turn,
            until: 0,
            is_over: false,
        });
        state.threads.len() - 1
    }

    pub(crate) fn set_handle(&self, thread: usize, handle: Thread) {
        self.state().threads[thread].handle = Some(handle);
    }

    pub(crate) fn is_over(&self, thread: usize) -> bool {
        self.state().threads[thread].is_over
    }

    pub(crate) fn is_process_over(&self, process: usize) -> bool {
        self.state()
            .threads
            .iter()
            .all(|slot| slot.process != Some(process) || slot.is_over)
    }

    /// The body of a thread: waits for its first turn, works, and gives the turn on for good.
    pub(crate) fn live(
        self: Arc<Self>,
        thread: usize,
        off: i64,
        name: &str,
        work: impl FnOnce(),
    ) -> thread::Result<()> {
        HERE.set(Some((self.clone(), thread)));
        let told = Told::tell(&self.time, off);
        self.await_turn(thread);
        let result = if self.is_killed(thread) {
            Ok(())
        } else {
            panic::catch_unwind(panic::AssertUnwindSafe(work))
        };
        if let Err(payload) = &result
            && !payload.is::<Killed>()
        {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("something");
            self.state()
                .violations
                .push(format!("{name} panicked: {text}"));
        }
        let next = {
            let mut state = self.state();
            state.threads[thread].is_over = true;
            self.choose(&mut state)
        };
        drop(told);
        HERE.set(None);
        self.hand_over(next);
        result
    }

    /// Others may go on here; this thread sleeps for `nanos` of the simulation's time at least.
    pub(crate) fn pause(&self, nanos: i64) {
        if thread::panicking() {
            return;
        }
        let me = me();
        let next = {
            let mut state = self.state();
            state.turns += 1;
            let turn = state.turns;
            let slot = &mut state.threads[me];
            slot.turn = turn;
            slot.until = if nanos > 0 { self.now() + nanos } else { 0 };
            self.choose(&mut state)
        };
        if next != me {
            self.hand_over(next);
            self.await_turn(me);
        }
        if self.is_killed(me) {
            panic::resume_unwind(Box::new(Killed));
        }
    }

    fn is_killed(&self, thread: usize) -> bool {
        let state = self.state();
        state.threads[thread]
            .process
            .is_some_and(|process| state.processes[process].is_killed)
    }

    fn await_turn(&self, me: usize) {
        while self.running.load(Ordering::Acquire) != me {
            thread::park();
        }
    }

    fn hand_over(&self, next: usize) {
        let handle = self.state().threads[next].handle.clone();
        self.running.store(next, Ordering::Release);
        if let Some(handle) = handle {
            handle.unpark();
        }
    }

    /// Whose turn it is now. Time passes, and what was to happen by then has happened.
    fn choose(&self, state: &mut MutexGuard<'_, State>) -> usize {
        let drawn = state.choices.below(1 << 16);
        // With many threads each has its turn as often as with few.
        let alive = state.threads.iter().filter(|slot| !slot.is_over).count() as i64;
        let passes = [16, 16, 16, 8, 16, 32, 64, 160][(drawn & 7) as usize] * MILLI;
        self.time.advance(passes / alive.max(4));
        loop {
            self.let_happen(state);
            let now = self.now();
            let mut ready: Vec<(u64, usize)> = state
                .threads
                .iter()
                .enumerate()
                .filter(|(_, slot)| !slot.is_over)
                .filter(|(_, slot)| match slot.process {
                    None => slot.until <= now,
                    Some(process) => {
                        let process = &state.processes[process];
                        process.is_killed || (slot.until <= now && process.stopped_until <= now)
                    }
                })
                .map(|(position, slot)| (slot.turn, position))
                .collect();
            if ready.is_empty() {
                let next = state.next_event(now);
                self.time.advance(next - now);
                continue;
            }
            ready.sort_unstable();
            let drawn = drawn >> 3;
            let position = match drawn & 3 {
                0 | 1 => 0,
                _ => (drawn >> 2) as usize % ready.len(),
            };
            return ready[position].1;
        }
    }

    fn let_happen(&self, state: &mut MutexGuard<'_, State>) {
        let now = self.now();
        while let Some(position) = state.later.iter().position(|later| later.at <= now) {
            let later = state.later.remove(position);
            (later.work)();
        }
    }

    /// Something that happens by itself after a while. It may not look at the simulation's state.
    pub(crate) fn later(&self, after: i64, work: impl FnOnce() + Send + 'static) {
        let at = self.now() + after;
        self.state().later.push(Later {
            at,
            work: Box::new(work),
        });
    }

    /// Whether something is still to happen by itself.
    pub(crate) fn awaits(&self) -> bool {
        !self.state().later.is_empty()
    }

    /// Writes down what happened, if anybody wants to read it.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        let at = self.now();
        let mut state = self.state();
        if let Some(story) = &mut state.story {
            story.push(format!(
                "{:>4}.{:03} {}",
                at / SECOND,
                at % SECOND / MILLI,
                what()
            ));
        }
    }
}

impl State {
    /// When the next thread can go on, or something happens by itself.
    fn next_event(&self, now: i64) -> i64 {
        let threads = self
            .threads
            .iter()
            .filter(|slot| !slot.is_over)
            .map(|slot| {
                let stopped = slot
                    .process
                    .map_or(0, |process| self.processes[process].stopped_until);
                slot.until.max(stopped)
            });
        let later = self.later.iter().map(|later| later.at);
        threads.chain(later).min().unwrap_or(now).max(now + MILLI)
    }
}
