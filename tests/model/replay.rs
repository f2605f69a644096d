//! The replay of dead letters into a table, beside letters that come and appends (P23).
//!
//! Owns the cursor and which letters' panes are in the table. Does not own how letters come to be there
//! ([`crate::letters`]).
//!
//! Where it abstracts:
//! * A letter's place is its number in the order of (version, row). Its offset is any that no other letter has: letters of
//!   another partition, or of a table that lagged, come later with a smaller one.
//! * An append by a writer is right, lands at once, and takes a version.

use stateright::{Model, Property};

mod tests;

/// Letters at most.
const LETTERS: usize = 3;

/// What the cursor counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cursor {
    /// Places in the order in which letters were committed.
    #[default]
    Place,
    /// Offsets: everything below is taken to be replayed.
    Offset,
}

/// What is done before a put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Judge {
    /// The cursor that is recorded must be the one where the letters in hand begin (P7).
    #[default]
    Cursor,
    /// Nothing.
    Never,
}

/// The model.
#[derive(Clone, Debug)]
struct Replays {
    servers: usize,
    letters: u8,
    appends: u8,
    cursor: Cursor,
    judge: Judge,
}

/// A log entry on its way: these letters, and the cursor after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Put {
    slot: u8,
    /// A bit a letter, by place.
    adds: u8,
    from: u8,
    to: u8,
}

/// What a server is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Server {
    /// Nothing in hand.
    #[default]
    Idle,
    /// A put is on its way.
    Waiting(Put),
    /// Anything but a plain yes came back.
    Unsettled(Put),
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct State {
    /// The offsets of the letters, in the order in which they came.
    letters: Vec<u8>,
    /// The cursor of each version of the table.
    cursors: Vec<u8>,
    appends: u8,
    /// How often each letter's panes are in the table, by place.
    counts: [u8; LETTERS],
    servers: Vec<Server>,
    late: Option<Put>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A letter with this offset is committed.
    Letter(u8),
    /// A writer appends to the table.
    Append,
    /// A server reads the newest versions, takes some letters behind the cursor, so many, and sends the log entry.
    Replay(usize, u8),
    /// Its put lands, and it hears so.
    Yes(usize),
    /// Its put lands, and it hears something else.
    YesUnheard(usize),
    /// The version is taken, or the store says so and nothing happened.
    Taken(usize),
    /// No reply, and no effect yet.
    Nothing(usize),
    /// It reads on and judges again.
    ReadOn(usize),
    /// It is killed and starts again.
    Kill(usize),
    /// The put that was given up lands after all.
    Land,
}

impl State {
    fn newest(&self) -> u8 {
        self.cursors.len() as u8 - 1
    }

    fn cursor(&self) -> u8 {
        self.cursors[usize::from(self.newest())]
    }

    fn is_next(&self, put: &Put) -> bool {
        put.slot == self.newest() + 1
    }

    fn land(&mut self, put: &Put) {
        assert!(self.is_next(put), "only a free slot takes a put");
        for (place, count) in self.counts.iter_mut().enumerate() {
            *count += u8::from(put.adds & 1 << place != 0);
        }
        self.cursors.push(put.to);
    }

    /// The next so many letters behind the cursor, and the cursor after them.
    fn behind(&self, cursor: Cursor, many: u8) -> Option<Put> {
        let from = self.cursor();
        let mut behind: Vec<(u8, u8)> = (0..)
            .zip(&self.letters)
            .map(|(place, offset)| match cursor {
                Cursor::Place => (place, place),
                Cursor::Offset => (*offset, place),
            })
            .filter(|(key, _)| *key >= from)
            .collect();
        behind.sort_unstable();
        let taken = behind.get(..usize::from(many))?;
        let (last, _) = taken.last()?;
        Some(Put {
            slot: self.newest() + 1,
            adds: taken.iter().fold(0, |all, (_, place)| all | 1 << place),
            from,
            to: last + 1,
        })
    }

    /// Every letter that the cursor has passed is in the table once, and no other is.
    fn counts_are_exact(&self, cursor: Cursor) -> bool {
        (0..).zip(&self.letters).all(|(place, offset)| {
            let key = match cursor {
                Cursor::Place => place,
                Cursor::Offset => *offset,
            };
            self.counts[usize::from(place)] == u8::from(key < self.cursor())
        })
    }

    fn settle(&mut self) {
        let newest = self.newest();
        self.late.take_if(|put| put.slot <= newest);
        self.servers.sort();
    }
}

impl Model for Replays {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            letters: Vec::new(),
            cursors: vec![0],
            appends: 0,
            counts: [0; LETTERS],
            servers: vec![Server::Idle; self.servers],
            late: None,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.letters.len() < usize::from(self.letters) {
            let offsets = (0..self.letters).filter(|offset| !state.letters.contains(offset));
            steps.extend(offsets.map(Step::Letter));
        }
        if state.appends < self.appends {
            steps.push(Step::Append);
        }
        for (place, it) in state.servers.iter().enumerate() {
            match it {
                Server::Idle => {
                    let many = 1..=state.letters.len() as u8;
                    let possible = many.filter(|many| state.behind(self.cursor, *many).is_some());
                    steps.extend(possible.map(|many| Step::Replay(place, many)));
                    continue;
                }
                Server::Waiting(put) => {
                    steps.push(Step::Taken(place));
                    if state.is_next(put) {
                        steps.extend([Step::Yes(place), Step::YesUnheard(place)]);
                        if state.late.is_none() {
                            steps.push(Step::Nothing(place));
                        }
                    }
                }
                Server::Unsettled(_) => steps.push(Step::ReadOn(place)),
            }
            if state.late.is_none() || matches!(it, Server::Unsettled(_)) {
                steps.push(Step::Kill(place));
            }
        }
        if state.late.is_some() {
            steps.push(Step::Land);
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        match step {
            Step::Letter(offset) => next.letters.push(offset),
            Step::Append => {
                next.appends += 1;
                next.cursors.push(next.cursor());
            }
            Step::Replay(place, many) => {
                next.servers[place] = Server::Waiting(state.behind(self.cursor, many)?);
            }
            Step::Land => {
                let put = next.late.take()?;
                next.land(&put);
            }
            Step::Yes(place)
            | Step::YesUnheard(place)
            | Step::Taken(place)
            | Step::Nothing(place)
            | Step::ReadOn(place)
            | Step::Kill(place) => {
                let (Server::Waiting(put) | Server::Unsettled(put)) = state.servers[place] else {
                    return None;
                };
                next.servers[place] = match step {
                    Step::Yes(_) => {
                        next.land(&put);
                        Server::Idle
                    }
                    Step::YesUnheard(_) => {
                        next.land(&put);
                        Server::Unsettled(put)
                    }
                    Step::Nothing(_) => {
                        next.late = Some(put);
                        Server::Unsettled(put)
                    }
                    Step::Taken(_) => Server::Unsettled(put),
                    Step::Kill(_) => {
                        if matches!(state.servers[place], Server::Waiting(_)) {
                            next.late = Some(put);
                        }
                        Server::Idle
                    }
                    // The cursor has moved: done, or to be read afresh. Both begin at the recorded cursor.
                    _ if self.judge == Judge::Cursor && state.cursor() != put.from => Server::Idle,
                    _ => {
                        let slot = state.newest() + 1;
                        Server::Waiting(Put { slot, ..put })
                    }
                };
            }
        }
        next.settle();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ADDED_ONCE, |model: &Self, state: &State| {
                state.counts_are_exact(model.cursor)
            }),
            Property::sometimes("a replay meets an append", |_, state: &State| {
                state.appends > 0
                    && state.servers.iter().any(|it| {
                        matches!(it, Server::Unsettled(put) if put.from == state.cursor()
                            && put.slot <= state.newest())
                    })
            }),
            Property::sometimes("two replays of one letter meet", |_, state: &State| {
                state
                    .servers
                    .iter()
                    .any(|it| matches!(it, Server::Unsettled(put) if put.from != state.cursor()))
            }),
            Property::sometimes("every letter is replayed", |model: &Self, state: &State| {
                state.counts[..usize::from(model.letters)]
                    .iter()
                    .all(|count| *count == 1)
            }),
        ]
    }
}

/// P23.
const ADDED_ONCE: &str = "what the cursor has passed is added once, and nothing else is";
