//! The sweeping of files that no version names, beside commits that sleep and puts that travel (P8, P37, S11).
//!
//! Owns how old a staged file is when its log entry lands, and the version that a sweep puts before it deletes. Does not own
//! anything else of a commit: writers here keep to P7–P11.
//!
//! Where it abstracts:
//! * A tick is a quarter of the time for which orphans are kept. A file that is younger than half of it has seen two ticks
//!   at most, one that is swept has seen four.
//! * A put travels for as long as it likes. That it is lost is one that never lands.
//! * There is one sweep at a time: two of them delete what both would.

use stateright::{Model, Property};

mod tests;

/// Ticks that a staged file has seen at most while it may be committed.
const FRESH: u8 = 2;
/// Ticks after which it is swept.
const SWEPT: u8 = 4;

/// When the age of the staged files is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Checked {
    /// Before every put: what the code does.
    #[default]
    BeforeEveryPut,
    /// When a commit is begun; not when it has read on and judged again.
    WhenBegun,
}

/// What a sweep does between its look at the table and the first delete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fence {
    /// It puts the version after the one that it looked at: what the code does.
    #[default]
    NextVersion,
    /// Nothing.
    Absent,
}

/// The model.
#[derive(Clone, Debug)]
struct Sweeps {
    writers: usize,
    /// Records of the one partition; an epoch has one.
    records: u8,
    /// Sweeps that put a version, at most.
    sweeps: u8,
    checked: Checked,
    fence: Fence,
}

/// A staged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum File {
    /// It exists, and is this many ticks old.
    Aged(u8),
    /// The sweep under way has found it old and unnamed.
    Listed,
    /// It was taken for an orphan.
    Swept,
}

/// A log entry on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Put {
    slot: u8,
    /// The record that it counts.
    record: u8,
    file: File,
}

/// What a writer is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Writer {
    /// Nothing in flight.
    #[default]
    Idle,
    /// A file is written for the epoch of this record, in the knowledge of this version.
    Staged { seen: u8, record: u8, file: File },
    /// A put is on its way.
    Waiting(Put),
    /// Anything but a plain yes came back.
    Unsettled { record: u8, file: File },
}

/// What the sweep is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Sweep {
    /// Nothing under way.
    #[default]
    Idle,
    /// It has listed what is old and then read this version, which does not name it.
    Looked { seen: u8 },
    /// Nothing holds it back any more.
    Deleting,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct State {
    newest: u8,
    /// Records that are counted: the recorded offset.
    read: u8,
    /// A version names a file that is gone.
    dangles: bool,
    writers: Vec<Writer>,
    late: Option<Put>,
    sweep: Sweep,
    sweeps: u8,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A quarter of the time for which orphans are kept passes.
    Tick,
    /// Somebody lists the folder, and then reads the newest version.
    Look,
    /// He puts the version after it, if nobody has.
    Fence,
    /// He deletes what was old and is not named.
    Delete,
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

    /// By the writer's own clock: it does not look whether the file exists.
    fn is_fresh(self) -> bool {
        matches!(self, Self::Aged(age) if age <= FRESH)
    }
}

impl State {
    fn land(&mut self, put: Put) {
        assert_eq!(put.slot, self.newest + 1, "only a free slot takes a put");
        assert_eq!(put.record, self.read, "it was judged in the version before");
        self.newest = put.slot;
        self.read += 1;
        self.dangles |= put.file == File::Swept;
        if put.file == File::Listed && self.sweep == Sweep::Deleting {
            // It is named now, and is deleted all the same.
            self.dangles = true;
        }
    }

    fn files(&mut self) -> impl Iterator<Item = &mut File> {
        let of_writers = self.writers.iter_mut().filter_map(|it| match it {
            Writer::Idle => None,
            Writer::Staged { file, .. } | Writer::Unsettled { file, .. } => Some(file),
            Writer::Waiting(put) => Some(&mut put.file),
        });
        of_writers.chain(self.late.iter_mut().map(|put| &mut put.file))
    }

    fn replace(&mut self, from: File, to: File) {
        self.files()
            .filter(|file| **file == from)
            .for_each(|file| *file = to);
    }
}

impl Model for Sweeps {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            newest: 0,
            read: 0,
            dangles: false,
            writers: vec![Writer::Idle; self.writers],
            late: None,
            sweep: Sweep::Idle,
            sweeps: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.push(Step::Tick);
        steps.push(match state.sweep {
            Sweep::Idle if state.sweeps < self.sweeps => Step::Look,
            Sweep::Idle => Step::Tick,
            Sweep::Looked { .. } => Step::Fence,
            Sweep::Deleting => Step::Delete,
        });
        for (position, it) in state.writers.iter().enumerate() {
            match it {
                Writer::Idle if state.read < self.records => steps.push(Step::Stage(position)),
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
            Step::Tick => next.files().for_each(File::tick),
            Step::Look => {
                next.replace(File::Aged(SWEPT), File::Listed);
                next.sweeps += 1;
                next.sweep = match self.fence {
                    Fence::NextVersion => Sweep::Looked { seen: next.newest },
                    Fence::Absent => Sweep::Deleting,
                };
            }
            Step::Fence => {
                let Sweep::Looked { seen } = next.sweep else {
                    return None;
                };
                // Taken: it reads on, and judges what it listed by the version that it reads then.
                next.sweep = match seen == next.newest {
                    true => {
                        next.newest += 1;
                        Sweep::Deleting
                    }
                    false => Sweep::Looked { seen: next.newest },
                };
            }
            Step::Delete => {
                next.replace(File::Listed, File::Swept);
                next.sweep = Sweep::Idle;
            }
            Step::Stage(writer) => {
                next.writers[writer] = Writer::Staged {
                    seen: next.newest,
                    record: next.read,
                    file: File::Aged(0),
                };
            }
            Step::Begin(writer) => {
                let Writer::Staged { seen, record, file } = next.writers[writer] else {
                    return None;
                };
                next.writers[writer] = match file.is_fresh() {
                    true => Writer::Waiting(Put {
                        slot: seen + 1,
                        record,
                        file,
                    }),
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
                    record: put.record,
                    file: put.file,
                };
            }
            Step::ReadOn(writer) => {
                let Writer::Unsettled { record, file } = next.writers[writer] else {
                    return None;
                };
                let may_put = match self.checked {
                    Checked::BeforeEveryPut => file.is_fresh(),
                    Checked::WhenBegun => true,
                };
                next.writers[writer] = match next.read == record && may_put {
                    true => Writer::Waiting(Put {
                        slot: next.newest + 1,
                        record,
                        file,
                    }),
                    false => Writer::Idle,
                };
            }
            Step::Land => {
                let put = next.late.take()?;
                next.land(put);
            }
        }
        // A put whose version is taken is as good as lost.
        let newest = next.newest;
        next.late.take_if(|put| put.slot <= newest);
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
                |model: &Self, state: &State| state.read == model.records,
            ),
        ]
    }
}

/// Nothing dangles.
const FILES_EXIST: &str = "every file that a version names exists";
