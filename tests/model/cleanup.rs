//! Log clean-up under writers that sleep: old log entries go, and their slots take puts again (P12, P37, O3).
//!
//! Owns the slots of one log as a reader finds them, next to what each version really was; the ledger; and time. Does not
//! own the swarm of writers and replies ([`crate::commit`]): two writers and one partition are enough here.
//!
//! Where it abstracts:
//! * Time is a tick, a quarter of the log's retention. What is younger than a quarter has seen one tick at most, what is older
//!   than the retention has seen four; entries are cleaned up after three already, which allows more than the store does.
//! * A log checkpoint is written at any moment, for the newest version; clean-up may take every old entry before it.
//! * A put travels as long as it likes.
//! * Versions that no writer looks at and no put aims at are folded together.

use stateright::{Model, Property};

mod log;
mod tests;
mod writer;

use log::{Log, Put};
use writer::{Phase, Writer};

/// Ticks after which an entry may be cleaned up.
const RETENTION: u8 = 3;
/// Ticks that a snapshot has seen at most while it is young.
const YOUNG: u8 = 1;
/// Records of the partition at most, and so versions.
const RECORDS: usize = 4;

/// How large the model is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Writers.
    pub(crate) writers: usize,
    /// Records of the partition.
    pub(crate) records: u8,
    /// Puts that nobody waits for any more and that may still land, at once.
    pub(crate) late: usize,
}

/// The rules of old snapshots, and what weaker ones would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// P12.
    pub(crate) young: Young,
    /// P37.
    pub(crate) history: History,
}

/// When a snapshot's age is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Young {
    /// Before the put, when a yes has come, and whenever the log is read on: what the code does.
    #[default]
    AtBothEnds,
    /// A yes is believed, however long it took.
    BeforeThePut,
    /// Never.
    Never,
}

/// Whom an auditor believes about a version that both the log and the ledger have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum History {
    /// The ledger, which was written before the slot became free: what the code does.
    #[default]
    LedgerFirst,
    /// The log.
    LogFirst,
}

/// The model.
#[derive(Clone, Debug)]
pub(crate) struct CleanUps {
    /// How large.
    pub(crate) bounds: Bounds,
    /// By which rules.
    pub(crate) rules: Rules,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct State {
    /// The table.
    pub(crate) log: Log,
    /// The writers; which is which does not matter.
    pub(crate) writers: Vec<Writer>,
    /// Puts that nobody waits for any more.
    pub(crate) late: Vec<Put>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A quarter of the retention passes.
    Tick,
    /// Somebody writes a log checkpoint.
    Checkpoint,
    /// Somebody copies old entries to the ledger and removes them.
    CleanUp,
    /// The writer of this number loads the table and is assigned the partition.
    Assign(u8),
    /// It reads on without having anything in flight.
    Refresh(u8),
    /// It ends an epoch before this offset, judges it and sends the log entry.
    Commit(u8, u8),
    /// Its put takes effect or is refused, and it hears of it or of something else.
    Answer(u8, Answer),
    /// It reads on and judges again.
    ReadOn(u8),
    /// A put that was given up lands after all.
    Land(u8),
}

/// What becomes of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It lands, and the writer hears so.
    Yes,
    /// It lands, and the writer hears something else.
    YesUnheard,
    /// There is such an entry, or the store says so and nothing happened.
    Taken,
    /// No reply, and no effect yet: it may land later, or never.
    Nothing,
}

impl Model for CleanUps {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            log: Log::default(),
            writers: vec![Writer::default(); self.bounds.writers],
            late: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.extend([Step::Tick, Step::Checkpoint, Step::CleanUp]);
        for (position, it) in state.writers.iter().enumerate() {
            let writer = position as u8;
            steps.push(Step::Assign(writer));
            match it.phase {
                Phase::Void => {}
                Phase::Idle => {
                    steps.push(Step::Refresh(writer));
                    steps.extend(
                        (it.at + 1..=self.bounds.records).map(|to| Step::Commit(writer, to)),
                    );
                }
                Phase::Waiting => {
                    let mut answer = |answer| steps.push(Step::Answer(writer, answer));
                    if state.log.is_free(it.slot) {
                        answer(Answer::Yes);
                        answer(Answer::YesUnheard);
                    }
                    answer(Answer::Taken);
                    if state.late.len() < self.bounds.late {
                        answer(Answer::Nothing);
                    }
                }
                Phase::Unsettled => steps.push(Step::ReadOn(writer)),
            }
        }
        for (position, put) in state.late.iter().enumerate() {
            if state.log.is_free(put.slot) {
                steps.push(Step::Land(position as u8));
            }
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        let State { log, writers, late } = &mut next;
        match step {
            Step::Tick => {
                log.tick();
                writers.iter_mut().for_each(Writer::tick);
            }
            Step::Checkpoint => log.checkpoint = log.newest(),
            Step::CleanUp => log.clean_up(),
            Step::Assign(writer) => {
                let it = &mut writers[usize::from(writer)];
                if it.phase == Phase::Waiting {
                    late.push(it.put());
                }
                *it = Writer::assigned(log);
            }
            Step::Refresh(writer) => writers[usize::from(writer)].advance(log, self.rules.young),
            Step::Commit(writer, to) => {
                writers[usize::from(writer)].commit(self.rules.young, to);
            }
            Step::Answer(writer, answer) => {
                let it = &mut writers[usize::from(writer)];
                match answer {
                    Answer::Yes => {
                        log.land(&it.put());
                        it.heard_yes(self.rules.young);
                    }
                    Answer::YesUnheard => {
                        log.land(&it.put());
                        it.phase = Phase::Unsettled;
                    }
                    Answer::Taken => it.phase = Phase::Unsettled,
                    Answer::Nothing => {
                        late.push(it.put());
                        it.phase = Phase::Unsettled;
                    }
                }
            }
            Step::ReadOn(writer) => {
                let it = &mut writers[usize::from(writer)];
                it.advance(log, self.rules.young);
                it.judge_and_put(self.rules.young);
            }
            Step::Land(which) => {
                let put = late.remove(usize::from(which));
                log.land(&put);
            }
        }
        if next.late.len() > self.bounds.late {
            return None;
        }
        next.settle();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(COUNTED_ONCE, |_, state: &State| {
                state.log.counts_are_exact()
            }),
            Property::always(NOTHING_FORGOTTEN, |_, state: &State| {
                state.writers.iter().all(|it| it.forgot_nothing(&state.log))
            }),
            Property::always(SEES_WHAT_READERS_SEE, |_, state: &State| {
                state.writers.iter().all(|it| it.is_right(&state.log))
            }),
            Property::always(WHOLE_AFTER_CHECKPOINT, |_, state: &State| {
                state.log.is_whole_after_checkpoint()
            }),
            Property::always(HISTORY_IS_TRUE, |model: &Self, state: &State| {
                state.log.history_is_true(model.rules.history)
            }),
            Property::sometimes("a put lands on a dead version", |_, state: &State| {
                state.log.has_dead_version()
            }),
            Property::sometimes("a writer sleeps past clean-up", |_, state: &State| {
                state
                    .writers
                    .iter()
                    .any(|it| it.slept_past_clean_up(&state.log))
            }),
            Property::sometimes(
                "the log is read to its end",
                |model: &Self, state: &State| {
                    state.log.recorded(state.log.newest()) == model.bounds.records
                },
            ),
        ]
    }
}

/// Exactly once.
const COUNTED_ONCE: &str = "what is recorded is counted once, and nothing else is";
/// What memory may let go of.
const NOTHING_FORGOTTEN: &str = "nothing leaves a writer's memory before it is in the table";
/// No dead version is built upon.
const SEES_WHAT_READERS_SEE: &str = "a writer's version says what it says to every reader";
/// A load finds everything.
const WHOLE_AFTER_CHECKPOINT: &str = "after the newest log checkpoint the log is whole";
/// What an auditor relies on.
const HISTORY_IS_TRUE: &str = "log and ledger together tell what was committed";

impl State {
    /// Brings equal states to one form: versions that nobody looks at or puts into any more are folded together.
    fn settle(&mut self) {
        let puts = self.late.iter().map(|put| put.slot - 1);
        let oldest = self.writers.iter().filter_map(Writer::oldest).chain(puts);
        let oldest = oldest.min().unwrap_or(self.log.newest());
        self.log.fold(oldest);
        for it in &mut self.writers {
            it.tidy(oldest);
        }
        for put in &mut self.late {
            put.slot -= oldest;
        }
        self.writers.sort();
        self.late.sort();
        self.late.dedup();
    }
}
