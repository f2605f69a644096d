//! The sweeping of files that no version names, beside commits that sleep (P8, P37, S11).
//!
//! Owns how old a staged file is when its log entry lands. Does not own anything else of a commit: writers here keep to
//! P7–P11, and every put that may not land is refused.
//!
//! Where it abstracts:
//! * A tick is a quarter of the time for which orphans are kept. A file that is younger than half of it has seen two ticks
//!   at most, one that is swept has seen four.
//! * A put travels for less than a quarter. One that takes longer is the one thing that no look at a clock before it can
//!   make good; with what the store keeps orphans for by default that is most of a day.

use stateright::{Model, Property};

mod tests;

/// Ticks that a staged file has seen at most while it may be committed.
const FRESH: u8 = 2;
/// Ticks after which it is swept.
const SWEPT: u8 = 4;
/// Ticks that a put is under way at most.
const TRAVEL: u8 = 1;

/// When the age of the staged files is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Checked {
    /// Before every put: what the code does.
    #[default]
    BeforeEveryPut,
    /// When a commit is begun; not when it has read on and judged again.
    WhenBegun,
}

/// The model.
#[derive(Clone, Debug)]
struct Sweeps {
    writers: usize,
    /// Records of the one partition; an epoch has one.
    records: u8,
    checked: Checked,
}

/// A staged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum File {
    /// It exists, and is this many ticks old.
    Aged(u8),
    /// It was taken for an orphan.
    Swept,
}

/// A log entry on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Put {
    slot: u8,
    file: File,
    travelled: u8,
}

/// What a writer is at. The version in hand is the record where its epoch starts, because every version has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Writer {
    /// Nothing in flight.
    #[default]
    Idle,
    /// A file is written for the epoch that starts here.
    Staged { at: u8, file: File },
    /// A put is on its way.
    Waiting(Put),
    /// Anything but a plain yes came back.
    Unsettled { at: u8, file: File },
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct State {
    newest: u8,
    /// A version names a file that is gone.
    dangles: bool,
    writers: Vec<Writer>,
    late: Option<Put>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A quarter of the time for which orphans are kept passes.
    Tick,
    /// Somebody lists the folder, reads the newest version, and deletes what is old and not named.
    Sweep,
    /// This writer stages the next epoch, from the newest version.
    Stage(usize),
    /// It begins to commit what it has staged.
    Begin(usize),
    /// Its put lands, and it hears so.
    Yes(usize),
    /// The version is taken, or the store says so and nothing happened.
    Taken(usize),
    /// No reply, and no effect yet.
    Nothing(usize),
    /// It reads on and judges again.
    ReadOn(usize),
    /// The put that was given up lands after all.
    Land,
}

impl File {
    fn tick(&mut self) {
        if let Self::Aged(age) = self {
            *age = (*age + 1).min(SWEPT);
        }
    }

    fn sweep(&mut self) {
        if *self == Self::Aged(SWEPT) {
            *self = Self::Swept;
        }
    }

    /// By the writer's own clock: it does not look whether the file exists.
    fn is_fresh(self) -> bool {
        matches!(self, Self::Aged(age) if age <= FRESH)
    }
}

impl State {
    fn land(&mut self, put: Put) {
        assert_eq!(put.slot, self.newest + 1, "only a free slot takes a put");
        self.newest = put.slot;
        self.dangles |= put.file == File::Swept;
    }

    fn files(&mut self) -> impl Iterator<Item = &mut File> {
        let of_writers = self.writers.iter_mut().filter_map(|it| match it {
            Writer::Idle => None,
            Writer::Staged { file, .. } | Writer::Unsettled { file, .. } => Some(file),
            Writer::Waiting(put) => Some(&mut put.file),
        });
        of_writers.chain(self.late.iter_mut().map(|put| &mut put.file))
    }

    /// A put that has travelled for too long is lost.
    fn tick(&mut self) {
        self.files().for_each(File::tick);
        for it in &mut self.writers {
            if let Writer::Waiting(put) = it {
                put.travelled += 1;
                if put.travelled > TRAVEL {
                    *it = Writer::Unsettled {
                        at: put.slot - 1,
                        file: put.file,
                    };
                }
            }
        }
        if let Some(put) = &mut self.late {
            put.travelled += 1;
        }
        let newest = self.newest;
        self.late
            .take_if(|put| put.travelled > TRAVEL || put.slot <= newest);
    }
}

fn send(at: u8, file: File) -> Writer {
    Writer::Waiting(Put {
        slot: at + 1,
        file,
        travelled: 0,
    })
}

impl Model for Sweeps {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            newest: 0,
            dangles: false,
            writers: vec![Writer::Idle; self.writers],
            late: None,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.extend([Step::Tick, Step::Sweep]);
        for (position, it) in state.writers.iter().enumerate() {
            match it {
                Writer::Idle if state.newest < self.records => steps.push(Step::Stage(position)),
                Writer::Idle => {}
                Writer::Staged { .. } => steps.push(Step::Begin(position)),
                Writer::Waiting(put) => {
                    steps.push(Step::Taken(position));
                    if put.slot == state.newest + 1 {
                        steps.push(Step::Yes(position));
                        if state.late.is_none() {
                            steps.push(Step::Nothing(position));
                        }
                    }
                }
                Writer::Unsettled { .. } => steps.push(Step::ReadOn(position)),
            }
        }
        if state.late.is_some_and(|put| put.slot == state.newest + 1) {
            steps.push(Step::Land);
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Tick => next.tick(),
            Step::Sweep => next.files().for_each(File::sweep),
            Step::Stage(writer) => {
                let at = next.newest;
                next.writers[writer] = Writer::Staged {
                    at,
                    file: File::Aged(0),
                };
            }
            Step::Begin(writer) => {
                let Writer::Staged { at, file } = next.writers[writer] else {
                    return None;
                };
                next.writers[writer] = match file.is_fresh() {
                    true => send(at, file),
                    false => Writer::Idle,
                };
            }
            Step::Yes(writer) => {
                let Writer::Waiting(put) = next.writers[writer] else {
                    return None;
                };
                next.land(put);
                next.writers[writer] = Writer::Idle;
            }
            Step::Taken(writer) | Step::Nothing(writer) => {
                let Writer::Waiting(put) = next.writers[writer] else {
                    return None;
                };
                if step == Step::Nothing(writer) {
                    next.late = Some(put);
                }
                next.writers[writer] = Writer::Unsettled {
                    at: put.slot - 1,
                    file: put.file,
                };
            }
            Step::ReadOn(writer) => {
                let Writer::Unsettled { at, file } = next.writers[writer] else {
                    return None;
                };
                let may_put = match self.checked {
                    Checked::BeforeEveryPut => file.is_fresh(),
                    Checked::WhenBegun => true,
                };
                next.writers[writer] = match next.newest == at && may_put {
                    true => send(at, file),
                    false => Writer::Idle,
                };
            }
            Step::Land => {
                let put = next.late.take()?;
                next.land(put);
            }
        }
        next.writers.sort();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(FILES_EXIST, |_, state: &State| !state.dangles),
            Property::sometimes("a staged file is swept", |_, state: &State| {
                state.clone().files().any(|file| *file == File::Swept)
            }),
            Property::sometimes(
                "the log is read to its end",
                |model: &Self, state: &State| state.newest == model.records,
            ),
        ]
    }
}

/// Nothing dangles.
const FILES_EXIST: &str = "every file that a version names exists";
