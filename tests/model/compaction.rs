//! Servers that merge the files of one table beside appends and beside each other (P8, P10, P36).
//!
//! Owns which files are live in the newest version, and which exist. Does not own the judgement of epochs
//! ([`crate::commit`]): an append here is right and lands at once.
//!
//! Where it abstracts:
//! * A file is the set of events whose panes it has, and a number that says who wrote it.
//! * Looking, choosing and merging are one step: nobody sees a file before its commit.
//! * A snapshot that is no longer young is loaded anew, and a load may begin at a log checkpoint. Here it may do so at any
//!   moment, so time needs no model. What is lost with it are the commit ids of the versions that were passed over.

use stateright::{Model, Property};

mod compactor;
mod tests;

pub(crate) use compactor::{Compactor, Phase, Put};

/// How large the model is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Servers that merge files.
    pub(crate) compactors: usize,
    /// Appends, of one event each.
    pub(crate) appends: u8,
    /// Merges, together.
    pub(crate) merges: u8,
    /// Puts that nobody waits for any more and that may still land, at once.
    pub(crate) late: usize,
}

/// The rules of a merge, and what weaker ones would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// P36.
    pub(crate) fence: Fence,
    /// What becomes of a file whose commit was stopped.
    pub(crate) leftover: Leftover,
}

/// What refuses the put of a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fence {
    /// The put is the very next version after one in which all files were live: what the code does.
    #[default]
    NextVersion,
    /// The next free version, unless a version since has moved `alluvium/layout`.
    Layout,
    /// The next free version: what delta-rs does by itself.
    Nothing,
}

/// What becomes of a file whose commit was stopped by the judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// It is deleted only if no put that names it was ever sent: what the code does with epochs.
    #[default]
    LeftIfSent,
    /// It is deleted unless the newest version has it: what the code does with merged files and with those of dead letters. It
    /// also leaves what a version has taken out of the table since, for queries of older ones.
    DeletedUnlessLive,
    /// It is deleted: files it was made from are gone, so somebody else is taken to have merged them.
    Deleted,
}

/// The model.
#[derive(Clone, Debug)]
pub(crate) struct Compactions {
    /// How large.
    pub(crate) bounds: Bounds,
    /// By which rules.
    pub(crate) rules: Rules,
}

/// A file of panes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct File {
    /// The events in it, a bit each.
    pub(crate) events: u8,
    /// The merge that wrote it; 0: an append.
    pub(crate) merge: u8,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct State {
    /// Who put each version after the first: a merge's number, 0 for an append.
    pub(crate) versions: Vec<u8>,
    /// The files of the newest version, in order.
    pub(crate) live: Vec<File>,
    /// The merges whose file was deleted, a bit each.
    pub(crate) deleted: u8,
    /// Appends so far.
    pub(crate) appends: u8,
    /// Merges so far.
    pub(crate) merges: u8,
    /// The version that a load begins with.
    pub(crate) checkpoint: u8,
    /// The servers; which is which does not matter.
    pub(crate) compactors: Vec<Compactor>,
    /// Puts that nobody waits for any more.
    pub(crate) late: Vec<Put>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A writer appends one event.
    Append,
    /// Somebody writes a log checkpoint.
    Checkpoint,
    /// A server looks at the newest version and merges these of its files, a bit each.
    Merge { server: u8, files: u8 },
    /// It sends the log entry, built from the snapshot in hand.
    Send { server: u8 },
    /// The put takes effect or is refused, and the server hears of it or of something else.
    Answer { server: u8, answer: Answer },
    /// It reads on, entry by entry or from a log checkpoint, and judges again.
    ReadOn { server: u8, how: Reading },
    /// It gives up, or is killed and starts again: what it staged stays where it is.
    Forget { server: u8 },
    /// A put that was given up lands after all.
    Land { late: u8 },
}

/// How a newer version is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// From the snapshot in hand on.
    EntryByEntry,
    /// Anew, from the newest log checkpoint.
    FromCheckpoint,
}

/// What becomes of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It lands, and the server hears so.
    Yes,
    /// It lands, and the server hears something else: nothing, or that the version is taken.
    YesUnheard,
    /// The version is taken, or the store says so and nothing happened.
    Taken,
    /// No reply, and no effect yet: it may land later, or never.
    Nothing,
}

impl State {
    /// The newest version.
    pub(crate) fn newest(&self) -> u8 {
        self.versions.len() as u8
    }

    fn land(&mut self, put: &Put) {
        assert_eq!(put.slot, self.newest() + 1, "only a free slot takes a put");
        // Removing what is not there is no error in Delta.
        self.live.retain(|file| !put.removes.contains(file));
        self.live.push(put.adds);
        self.live.sort();
        self.versions.push(put.adds.merge);
    }

    fn is_deleted(&self, file: &File) -> bool {
        self.deleted & 1 << file.merge != 0
    }

    fn counts_are_exact(&self) -> bool {
        (0..self.appends).all(|event| {
            let has = |file: &&File| file.events & 1 << event != 0;
            self.live.iter().filter(has).count() == 1
        })
    }

    /// Brings equal states to one form.
    fn settle(&mut self) {
        let newest = self.newest();
        self.late.retain(|put| put.slot == newest + 1);
        self.late.sort();
        self.late.dedup();
        // Who put a version is asked only by the server that waits to know.
        for version in &mut self.versions {
            let asked = self
                .compactors
                .iter()
                .any(|it| it.phase != Phase::Idle && it.merge() == *version);
            if !asked && *version != 0 {
                *version = u8::MAX;
            }
        }
        self.compactors.sort();
    }
}

impl Model for Compactions {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            versions: Vec::new(),
            live: Vec::new(),
            deleted: 0,
            appends: 0,
            merges: 0,
            checkpoint: 0,
            compactors: vec![Compactor::default(); self.bounds.compactors],
            late: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let newest = state.newest();
        if state.appends < self.bounds.appends {
            steps.push(Step::Append);
        }
        if state.checkpoint < newest {
            steps.push(Step::Checkpoint);
        }
        for (position, it) in state.compactors.iter().enumerate() {
            let server = position as u8;
            match it.phase {
                Phase::Idle | Phase::Resolved => {
                    if state.merges < self.bounds.merges {
                        let subsets = 1_u8..1 << state.live.len();
                        let several = subsets.filter(|files| files.count_ones() > 1);
                        steps.extend(several.map(|files| Step::Merge { server, files }));
                    }
                    continue;
                }
                Phase::Staged => {
                    steps.push(Step::Send { server });
                    steps.push(Step::ReadOn {
                        server,
                        how: Reading::EntryByEntry,
                    });
                }
                Phase::Waiting => {
                    let mut answer = |answer| steps.push(Step::Answer { server, answer });
                    if it.slot == newest + 1 {
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
                Phase::Unsettled => {
                    steps.push(Step::ReadOn {
                        server,
                        how: Reading::EntryByEntry,
                    });
                    if state.checkpoint > it.snapshot {
                        steps.push(Step::ReadOn {
                            server,
                            how: Reading::FromCheckpoint,
                        });
                    }
                }
            }
            if it.phase != Phase::Waiting || state.late.len() < self.bounds.late {
                steps.push(Step::Forget { server });
            }
        }
        for late in 0..state.late.len() {
            steps.push(Step::Land { late: late as u8 });
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        let newest = next.newest();
        match step {
            Step::Append => {
                next.live.push(File {
                    events: 1 << next.appends,
                    merge: 0,
                });
                next.live.sort();
                next.appends += 1;
                next.versions.push(0);
            }
            Step::Checkpoint => next.checkpoint = newest,
            Step::Merge { server, files } => {
                next.merges += 1;
                let chosen = (0..next.live.len())
                    .filter(|place| files & 1 << place != 0)
                    .map(|place| next.live[place])
                    .collect();
                next.compactors[usize::from(server)] =
                    Compactor::stage(newest, chosen, next.merges);
            }
            Step::Send { server } => next.compactors[usize::from(server)].send(),
            Step::Answer { server, answer } => {
                let mut it = next.compactors[usize::from(server)].clone();
                match answer {
                    Answer::Yes => {
                        next.land(&it.put());
                        it = Compactor::default();
                    }
                    Answer::YesUnheard => {
                        next.land(&it.put());
                        it.phase = Phase::Unsettled;
                    }
                    Answer::Taken => it.refused(&state.versions, &self.rules),
                    Answer::Nothing => {
                        next.late.push(it.put());
                        it.phase = Phase::Unsettled;
                    }
                }
                next.compactors[usize::from(server)] = it;
            }
            Step::ReadOn { server, how } => {
                let mut it = next.compactors[usize::from(server)].clone();
                if it.read_on(state, how, &self.rules) == compactor::File::IsDeleted {
                    next.deleted |= 1 << it.merge();
                    it = Compactor::default();
                }
                next.compactors[usize::from(server)] = it;
            }
            Step::Forget { server } => {
                let it = std::mem::take(&mut next.compactors[usize::from(server)]);
                if it.phase == Phase::Waiting && it.slot == newest + 1 {
                    next.late.push(it.put());
                }
            }
            Step::Land { late } => {
                let put = next.late.remove(usize::from(late));
                next.land(&put);
            }
        }
        next.settle();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SAME_TOTALS, |_, state: &State| state.counts_are_exact()),
            Property::always(FILES_EXIST, |_, state: &State| {
                !state.live.iter().any(|file| state.is_deleted(file))
            }),
            Property::sometimes("a merge meets an append", |_, state: &State| {
                state.compactors.iter().any(|it| {
                    it.phase == Phase::Unsettled && it.meets(state, |version| version == 0)
                })
            }),
            Property::sometimes("two merges of one file meet", |_, state: &State| {
                state.compactors.iter().any(|it| {
                    it.phase == Phase::Unsettled
                        && it.meets(state, |version| version != 0)
                        && !it.is_all_live(state)
                })
            }),
            Property::sometimes(
                "a merge without a reply turns out to have landed",
                |_, state: &State| {
                    state
                        .compactors
                        .iter()
                        .any(|it| it.phase == Phase::Resolved)
                },
            ),
            Property::sometimes(
                "a file that was never named is deleted",
                |_, state: &State| state.deleted != 0,
            ),
            Property::sometimes(
                "everything is in one file",
                |model: &Self, state: &State| {
                    state.appends == model.bounds.appends && state.live.len() == 1
                },
            ),
        ]
    }
}

/// Exactly once.
pub(crate) const SAME_TOTALS: &str = "every event is in one live file";
/// Nothing dangles.
pub(crate) const FILES_EXIST: &str = "every live file exists";
