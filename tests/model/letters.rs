//! Dead letters, and two tables that may stand at different offsets (P19, P21, P22).
//!
//! Owns three logs, the order in which a writer commits to them, and the cutting of ranges where tables differ. Does not
//! own the many ways of one table's commit ([`crate::commit`]): one partition and two writers are enough here.
//!
//! What becomes of a record: table 0 refuses record 0, every table refuses record 1, and the rest is taken by both. So
//! there are two letters, one with a table in its key and one without.
//!
//! Where it abstracts:
//! * The set of known letters is what the letters' version in hand has; the code reads it from files, newest last.
//! * A commit id is not looked at: a writer that finds its range recorded, or its letters known, goes on just as if it had
//!   found its id.
//! * Letters are kept for ever.

use stateright::{Model, Property};

mod log;
mod tests;
mod writer;

use log::Logs;
use writer::{Phase, Put, Writer};

/// Tables of the pipeline.
const TABLES: usize = 2;
/// Records of the partition at most.
const RECORDS: usize = 3;

/// The letters of one table alone, and of all of them.
const BY_ONE_TABLE: u8 = 1;
const BY_EVERY_TABLE: u8 = 2;

/// The letters of a stretch of the partition, given where the tables stand that want it.
fn letters(at: [u8; TABLES], to: u8) -> u8 {
    let one = (at[0] == 0 && to > 0).then_some(BY_ONE_TABLE);
    let every = (at.iter().any(|at| *at <= 1) && to > 1).then_some(BY_EVERY_TABLE);
    one.unwrap_or(0) | every.unwrap_or(0)
}

/// How large the model is.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    writers: usize,
    records: u8,
    /// Puts that nobody waits for any more and that may still land, at once.
    late: usize,
}

/// The rules, and what weaker ones would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    unique: Unique,
    order: Order,
    cut: Cut,
}

/// How letters are kept unique (P22).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Unique {
    /// Known letters are left out; the put is the version after the one whose letters are known.
    #[default]
    KnownAndFenced,
    /// Known letters are left out; the put is the next free version.
    KnownOnly,
    /// Nothing is left out.
    No,
}

/// What is committed first (P21).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    LettersFirst,
    TablesFirst,
}

/// What a table that is ahead is given (P19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cut {
    /// Only what lies behind its own recorded offset.
    #[default]
    AtEveryTable,
    /// Everything from the smallest recorded offset on.
    Nowhere,
}

/// The model.
#[derive(Clone, Debug)]
struct Letters {
    bounds: Bounds,
    rules: Rules,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct State {
    logs: Logs,
    /// Which is which does not matter.
    writers: Vec<Writer>,
    /// Puts that nobody waits for any more.
    late: Vec<Put>,
}

/// What can happen; a writer is named by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is assigned the partition, or killed and started again.
    Assign(usize),
    /// It ends an epoch before this offset and begins to commit it, letters first.
    Commit(usize, u8),
    /// Its put takes effect or is refused, and it hears of it or of something else.
    Answer(usize, Answer),
    /// It reads on in the log it was putting to, and judges again.
    ReadOn(usize),
    /// A put that was given up lands after all.
    Land(usize),
}

/// What becomes of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It lands, and the writer hears so.
    Yes,
    /// It lands, and the writer hears something else.
    YesUnheard,
    /// The version is taken, or the store says so and nothing happened.
    Taken,
    /// No reply, and no effect yet: it may land later, or never.
    Nothing,
}

impl Model for Letters {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            logs: Logs::default(),
            writers: vec![Writer::default(); self.bounds.writers],
            late: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (place, it) in state.writers.iter().enumerate() {
            steps.push(Step::Assign(place));
            match it.phase {
                Phase::Void => {}
                Phase::Idle => {
                    let first = it.smallest() + 1;
                    steps.extend((first..=self.bounds.records).map(|to| Step::Commit(place, to)));
                }
                Phase::Waiting => {
                    let mut answer = |answer| steps.push(Step::Answer(place, answer));
                    if state.logs.is_next(&it.put()) {
                        answer(Answer::Yes);
                        answer(Answer::YesUnheard);
                        answer(Answer::Taken);
                        if state.late.len() < self.bounds.late {
                            answer(Answer::Nothing);
                        }
                    } else {
                        answer(Answer::Taken);
                    }
                }
                Phase::Unsettled => steps.push(Step::ReadOn(place)),
            }
        }
        steps.extend((0..state.late.len()).map(Step::Land));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        let State {
            logs,
            writers,
            late,
        } = &mut next;
        match step {
            Step::Assign(place) => {
                let it = &mut writers[place];
                if it.phase == Phase::Waiting && logs.is_next(&it.put()) {
                    late.push(it.put());
                }
                it.assign(logs, &self.rules);
            }
            Step::Commit(place, to) => writers[place].commit(logs, &self.rules, to),
            Step::Answer(place, answer) => {
                let it = &mut writers[place];
                match answer {
                    Answer::Yes => {
                        logs.land(&it.put());
                        it.landed(logs, &self.rules);
                    }
                    Answer::YesUnheard => {
                        logs.land(&it.put());
                        it.phase = Phase::Unsettled;
                    }
                    Answer::Taken => it.refused(logs, &self.rules),
                    Answer::Nothing => {
                        late.push(it.put());
                        it.phase = Phase::Unsettled;
                    }
                }
            }
            Step::ReadOn(place) => writers[place].read_on(logs, &self.rules),
            Step::Land(which) => {
                let put = late.remove(which);
                logs.land(&put);
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
                state.logs.counts_are_exact()
            }),
            Property::always(LETTERS_ONCE, |_, state: &State| {
                state.logs.letters_are_unique()
            }),
            Property::always(NO_LETTER_MISSING, |_, state: &State| {
                !state.logs.lacks_letters()
            }),
            Property::always(NOTHING_FORGOTTEN, |_, state: &State| {
                state
                    .writers
                    .iter()
                    .all(|it| it.forgot_nothing(&state.logs))
            }),
            Property::always(READS_TO_THE_END, |model: &Self, state: &State| {
                model.recovers(state)
            }),
            Property::sometimes("tables stand at different offsets", |_, state: &State| {
                state.logs.newest_offset(0) != state.logs.newest_offset(1)
            }),
            Property::sometimes(
                "letters turn out to be there already",
                |_, state: &State| {
                    state
                        .writers
                        .iter()
                        .any(|it| it.meets_known_letters(&state.logs))
                },
            ),
            Property::sometimes(
                "everything is read and kept",
                |model: &Self, state: &State| model.is_complete(&state.logs),
            ),
        ]
    }
}

/// Exactly once, for both tables.
const COUNTED_ONCE: &str = "what a table records is counted in it once, and nothing else is";
/// P22.
const LETTERS_ONCE: &str = "no letter is there twice";
/// P21.
const NO_LETTER_MISSING: &str = "no letter below a recorded offset is missing";
/// What memory may let go of.
const NOTHING_FORGOTTEN: &str = "nothing leaves a writer's memory before it is in the tables";
/// No state is a dead end.
const READS_TO_THE_END: &str = "from here a writer that starts afresh brings everything to its end";

impl Letters {
    fn is_complete(&self, logs: &Logs) -> bool {
        (0..TABLES).all(|table| logs.newest_offset(table) == self.bounds.records)
            && !logs.lacks_letters()
    }

    /// Kills everybody, starts one writer afresh and lets it work.
    fn recovers(&self, state: &State) -> bool {
        let mut logs = state.logs.clone();
        let mut it = Writer::default();
        for _ in 0..10 {
            match it.phase {
                Phase::Void => it.assign(&logs, &self.rules),
                Phase::Waiting => {
                    logs.land(&it.put());
                    it.landed(&logs, &self.rules);
                }
                Phase::Unsettled => it.read_on(&logs, &self.rules),
                Phase::Idle if it.smallest() < self.bounds.records => {
                    it.commit(&logs, &self.rules, self.bounds.records);
                }
                Phase::Idle => break,
            }
        }
        self.is_complete(&logs) && logs.counts_are_exact()
    }
}

impl State {
    /// Brings equal states to one form.
    fn settle(&mut self) {
        let logs = &mut self.logs;
        self.late.retain(|put| logs.is_next(put));
        for log in 0..=TABLES {
            let asked = self.writers.iter().filter_map(|it| it.oldest(log));
            let oldest = asked.min().unwrap_or(logs.newest(log));
            logs.fold(log, oldest);
            for it in &mut self.writers {
                it.renumber(log, oldest);
            }
            for put in self.late.iter_mut().filter(|put| put.log == log) {
                put.slot -= oldest;
            }
        }
        self.writers.iter_mut().for_each(Writer::tidy);
        self.writers.sort();
        self.late.sort();
        self.late.dedup();
    }
}
