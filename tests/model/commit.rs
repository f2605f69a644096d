//! Writers of one table: judging, putting, lost and late replies, rebalances, starts (P7–P11, P15–P17, P27); and people who move a
//! partition by hand meanwhile (P7).
//!
//! Owns one table's log and any number of writers that each believe in their own assignment. Does not own time (log
//! clean-up is in [`crate::cleanup`]), removed files ([`crate::compaction`]) or a second table ([`crate::letters`]).
//!
//! Where it abstracts:
//! * The consumer group is any choice at any moment: `Assign` gives any writer any partitions and tells nobody else. So
//!   every zombie is there, without a group: a paused writer is one that takes no step for a while.
//! * A kill and a restart are `Assign` too: both forget everything but the table.
//! * What a writer does without the store is one step: judging and sending, reading the log to its end and judging.
//!   Between two of its looks at the store nobody else can see what it does.
//! * An epoch in flight stands for all that are merged into one commit.
//! * A move by hand is one step, looking and putting: its put is the very next version after the one that was looked at, so one that
//!   lands late, or of which nothing is heard, is a move that was made later.
//! * Versions before the oldest snapshot in hand are folded together; nobody can ask for them.

use stateright::{Model, Property};

mod log;
mod rules;
mod tests;
mod writer;

pub(crate) use log::{Log, Put};
pub(crate) use rules::{Back, Built, Fence, Judge, Offsets, Refusal, Rules, Silence, Start};
pub(crate) use writer::{Phase, Purpose, Writer};

/// Partitions of the topic at most.
pub(crate) const PARTITIONS: usize = 2;
/// Records of a partition at most.
pub(crate) const RECORDS: usize = 4;

/// How large the model is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Writers.
    pub(crate) writers: usize,
    /// Partitions that have records.
    pub(crate) partitions: usize,
    /// Records in each.
    pub(crate) records: u8,
    /// Puts that their writers have given up and that may still land, at once.
    pub(crate) late: usize,
    /// What the table records in the beginning.
    pub(crate) recorded: Option<u8>,
    /// Moves by hand.
    pub(crate) moves: u8,
}

/// The model.
#[derive(Clone, Debug)]
pub(crate) struct Commits {
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
    /// How often somebody may still move a partition by hand.
    pub(crate) moves: u8,
    /// Somebody has seen that the table has no events, at some moment. Kept only where the rules go by it.
    pub(crate) heard_empty: bool,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A writer forgets what it had (rebalance, or kill and restart) and is assigned these partitions, a bit each. Where
    /// nothing is recorded it resolves the start of the pipeline to `start`.
    Assign {
        writer: u8,
        partitions: u8,
        start: u8,
    },
    /// It looks at the newest version without having anything in flight.
    Refresh { writer: u8 },
    /// It ends an epoch before these offsets, judges it and sends the log entry.
    Commit { writer: u8, to: [u8; PARTITIONS] },
    /// Only where the commit is built from another snapshot than was judged: now it is built and sent.
    Send { writer: u8 },
    /// The put takes effect or is refused, and the writer hears of it, or hears something else.
    Answer { writer: u8, answer: Answer },
    /// After anything but a plain yes: it reads on, and what it does then is up to the rules.
    ReadOn { writer: u8 },
    /// A put that was given up lands after all.
    Land { late: u8 },
    /// Somebody sees that the table has no events.
    Hear,
    /// Somebody moves a partition to an offset.
    Move { partition: u8, to: u8 },
}

/// What becomes of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It lands, and the writer hears so.
    Yes,
    /// It lands, and the reply is lost.
    YesUnheard,
    /// It lands, the client library sends it a second time, and the writer hears that the version is taken.
    TakenByItself,
    /// The version is taken; or the store says so and nothing happened, as S3 does with a 409.
    Taken,
    /// No reply, and no effect yet: it may land later, or never.
    Nothing,
}

impl Commits {
    fn ends(&self, writer: &Writer) -> Vec<[u8; PARTITIONS]> {
        let choices = |partition: usize| {
            let at = writer.at[partition];
            let most = match writer.owns(partition) {
                true => self.bounds.records,
                false => at,
            };
            at..=most.max(at)
        };
        let mut ends = Vec::new();
        for first in choices(0) {
            for second in choices(1) {
                if [first, second] != writer.at {
                    ends.push([first, second]);
                }
            }
        }
        ends
    }

    /// What a person may do: forward over what is not read then, and back while there are no events.
    fn moves(&self, state: &State, steps: &mut Vec<Step>) {
        let State { log, .. } = state;
        if state.moves == 0 {
            return;
        }
        let goes_back = match self.rules.back {
            Back::WhileEmpty => !log.has_events,
            Back::OnceEmpty => state.heard_empty,
        };
        if self.rules.back == Back::OnceEmpty && !log.has_events && !state.heard_empty {
            steps.push(Step::Hear);
        }
        for partition in 0..self.bounds.partitions {
            let Some(at) = log.recorded(log.newest(), partition) else {
                continue;
            };
            let targets = (0..=self.bounds.records).filter(|&to| to > at || (to < at && goes_back));
            let partition = partition as u8;
            steps.extend(targets.map(|to| Step::Move { partition, to }));
        }
    }
}

impl Model for Commits {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            log: Log::new(&self.bounds),
            writers: vec![Writer::default(); self.bounds.writers],
            late: Vec::new(),
            moves: self.bounds.moves,
            heard_empty: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let newest = state.log.newest();
        for (position, it) in state.writers.iter().enumerate() {
            let writer = position as u8;
            for partitions in 1..1 << self.bounds.partitions {
                let absent = state.log.lacks(newest, partitions);
                for start in 0..=u8::from(absent) {
                    steps.push(Step::Assign {
                        writer,
                        partitions,
                        start,
                    });
                }
            }
            match it.phase {
                Phase::Absent | Phase::Overtaken => {}
                Phase::Idle | Phase::Resolved => {
                    if it.snapshot != newest || it.phase == Phase::Resolved {
                        steps.push(Step::Refresh { writer });
                    }
                    steps.extend(
                        self.ends(it)
                            .into_iter()
                            .map(|to| Step::Commit { writer, to }),
                    );
                }
                Phase::Judged => steps.push(Step::Send { writer }),
                Phase::Waiting => {
                    let mut answer = |answer| steps.push(Step::Answer { writer, answer });
                    if it.slot == newest + 1 {
                        answer(Answer::Yes);
                        answer(Answer::YesUnheard);
                        answer(Answer::TakenByItself);
                        answer(Answer::Taken);
                        if state.late.len() < self.bounds.late {
                            answer(Answer::Nothing);
                        }
                    } else {
                        answer(Answer::Taken);
                        answer(Answer::Nothing);
                    }
                }
                Phase::Refused | Phase::Silent => steps.push(Step::ReadOn { writer }),
            }
        }
        for late in 0..state.late.len() {
            steps.push(Step::Land { late: late as u8 });
        }
        self.moves(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        let State {
            log,
            writers,
            late,
            moves,
            heard_empty,
        } = &mut next;
        match step {
            Step::Assign {
                writer,
                partitions,
                start,
            } => {
                let it = &mut writers[usize::from(writer)];
                // A put under way is left to itself.
                if it.phase == Phase::Waiting && it.slot == log.newest() + 1 {
                    late.push(it.put(writer));
                }
                it.assign(log, &self.rules, partitions, start);
            }
            Step::Refresh { writer } => {
                let it = &mut writers[usize::from(writer)];
                it.snapshot = log.newest();
                it.phase = Phase::Idle;
            }
            Step::Commit { writer, to } => {
                writers[usize::from(writer)].commit(log, &self.rules, to);
            }
            Step::Send { writer } => writers[usize::from(writer)].send(log.newest()),
            Step::Answer { writer, answer } => {
                let it = &mut writers[usize::from(writer)];
                match answer {
                    Answer::Yes => {
                        log.land(&it.put(writer));
                        it.snapshot = it.slot;
                        it.landed(log, &self.rules, Phase::Idle);
                    }
                    Answer::YesUnheard => {
                        log.land(&it.put(writer));
                        it.phase = Phase::Silent;
                    }
                    Answer::TakenByItself => {
                        log.land(&it.put(writer));
                        it.phase = Phase::Refused;
                    }
                    Answer::Taken => it.refused(log, &self.rules),
                    Answer::Nothing => {
                        if it.slot == log.newest() + 1 {
                            late.push(it.put(writer));
                        }
                        it.phase = Phase::Silent;
                    }
                }
            }
            Step::ReadOn { writer } => {
                writers[usize::from(writer)].read_on(log, &self.rules, writer);
            }
            Step::Land { late: which } => {
                let put = late.remove(usize::from(which));
                log.land(&put);
            }
            Step::Hear => *heard_empty = true,
            Step::Move { partition, to } => {
                log.move_to(usize::from(partition), to, *heard_empty);
                *moves -= 1;
            }
        }
        if next.late.len() > self.bounds.late {
            return None;
        }
        next.settle();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(COUNTED_ONCE, |_, state: &State| {
                state.log.counts_are_exact()
            }),
            Property::always(NEVER_BACK, |_, state: &State| !state.log.went_back),
            Property::always(CHAINED, |_, state: &State| !state.log.is_torn),
            Property::always(NOTHING_FORGOTTEN, |_, state: &State| {
                state.writers.iter().all(|it| it.forgot_nothing(&state.log))
            }),
            Property::always(READS_TO_THE_END, |model: &Self, state: &State| {
                model.recovers(state)
            }),
            Property::sometimes("a zombie's put is refused", |_, state: &State| {
                state
                    .writers
                    .iter()
                    .any(|it| it.is_refused_zombie(&state.log))
            }),
            Property::sometimes(
                "a commit without a reply turns out to have landed",
                |_, state: &State| state.writers.iter().any(|it| it.phase == Phase::Resolved),
            ),
            Property::sometimes("a writer is overtaken", |_, state: &State| {
                state.writers.iter().any(|it| it.phase == Phase::Overtaken)
            }),
            Property::sometimes(
                "events are passed over by hand while a put is under way",
                |model: &Self, state: &State| {
                    let is_waiting = |it: &Writer| it.phase == Phase::Waiting;
                    model.bounds.moves == 0
                        || state.log.has_passed_over() && state.writers.iter().any(is_waiting)
                },
            ),
            Property::sometimes("a late put could land", |_, state: &State| {
                !state.late.is_empty()
            }),
            Property::sometimes(
                "the log is read to its end",
                |model: &Self, state: &State| {
                    let newest = state.log.newest();
                    (0..model.bounds.partitions)
                        .all(|p| state.log.recorded(newest, p) == Some(model.bounds.records))
                },
            ),
        ]
    }
}

/// Exactly once.
pub(crate) const COUNTED_ONCE: &str = "what is recorded is counted once, and nothing else is";
/// Progress.
pub(crate) const NEVER_BACK: &str = "recorded offsets never go back";
/// Whole ranges.
pub(crate) const CHAINED: &str = "a range starts where the last one ended";
/// What memory may let go of.
pub(crate) const NOTHING_FORGOTTEN: &str =
    "nothing leaves a writer's memory before it is in the table";
/// No state is a dead end.
pub(crate) const READS_TO_THE_END: &str =
    "from here a writer that starts afresh reads the log to its end";

impl Commits {
    /// Kills everybody, starts one writer afresh and lets it work: the table must then have everything.
    fn recovers(&self, state: &State) -> bool {
        let mut log = state.log.clone();
        let mut it = Writer::default();
        let all = (1 << self.bounds.partitions) - 1;
        for _ in 0..8 {
            match it.phase {
                Phase::Absent | Phase::Overtaken => it.assign(&log, &self.rules, all, 0),
                Phase::Waiting if it.slot == log.newest() + 1 => {
                    log.land(&it.put(u8::MAX));
                    it.snapshot = it.slot;
                    it.landed(&log, &self.rules, Phase::Idle);
                }
                Phase::Judged => it.send(log.newest()),
                _ => match self.ends(&it).pop() {
                    Some(to) => it.commit(&log, &self.rules, to),
                    None => break,
                },
            }
        }
        log.counts_are_exact()
            && (0..self.bounds.partitions)
                .all(|p| log.recorded(log.newest(), p) == Some(self.bounds.records))
    }
}

impl State {
    /// Brings equal states to one form: versions nobody can ask for are folded together, puts that can never land are
    /// dropped, writers are put in order.
    fn settle(&mut self) {
        let newest = self.log.newest();
        self.late.retain(|put| put.slot == newest + 1);
        let oldest = self
            .writers
            .iter()
            .filter(|it| it.has_snapshot())
            .map(|it| it.snapshot)
            .min()
            .unwrap_or(newest);
        self.log.fold(oldest);
        for it in &mut self.writers {
            it.tidy(oldest);
        }
        for put in &mut self.late {
            put.slot -= oldest;
        }
        let mut order: Vec<u8> = (0..self.writers.len() as u8).collect();
        order.sort_by_key(|&position| &self.writers[usize::from(position)]);
        if order
            .iter()
            .enumerate()
            .any(|(to, &from)| to != usize::from(from))
        {
            self.writers.sort();
            let renamed = |by: u8| {
                let place = order.iter().position(|&from| from == by);
                place.map_or(by, |to| to as u8)
            };
            self.log.rename(renamed);
            for put in &mut self.late {
                put.by = renamed(put.by);
            }
        }
        self.late.sort();
        self.late.dedup();
    }
}
