//! One writer of two tables and their dead letters.
//!
//! Owns the order of its commits: letters, then table by table. Does not own when a step is taken.

use super::{
    Cut, Order, Rules, TABLES, Unique, letters,
    log::{LETTERS, Logs},
};

/// What a writer is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Not assigned, or overtaken.
    #[default]
    Void,
    /// Nothing in flight.
    Idle,
    /// A put is on its way.
    Waiting,
    /// Anything but a plain yes came back.
    Unsettled,
}

/// A log entry on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Put {
    pub(super) log: usize,
    pub(super) slot: u8,
    pub(super) letters: u8,
    pub(super) from: u8,
    pub(super) to: u8,
}

/// One writer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Writer {
    pub(super) phase: Phase,
    /// The versions in hand.
    snapshots: [u8; TABLES + 1],
    /// Where it was assigned, and where what it has in memory begins, by table.
    since: [u8; TABLES],
    at: [u8; TABLES],
    /// Where the epoch ends.
    to: u8,
    /// How many of the commits of this epoch are done.
    done: usize,
    /// The log it puts to, and the version.
    log: usize,
    slot: u8,
    /// Letters that the put has.
    new: u8,
}

impl Writer {
    pub(super) fn smallest(&self) -> u8 {
        self.at.into_iter().min().unwrap_or(0)
    }

    /// P17, P19, P22: every table is read, and which letters there are.
    pub(super) fn assign(&mut self, logs: &Logs, rules: &Rules) {
        let at: [u8; TABLES] = std::array::from_fn(|table| logs.newest_offset(table));
        *self = Self {
            phase: Phase::Idle,
            snapshots: std::array::from_fn(|log| logs.newest(log)),
            since: at,
            at,
            ..Self::default()
        };
        if rules.cut == Cut::Nowhere {
            self.at = [self.smallest(); TABLES];
            self.since = self.at;
        }
        self.to = self.smallest();
    }

    pub(super) fn commit(&mut self, logs: &Logs, rules: &Rules, to: u8) {
        self.to = to;
        self.done = 0;
        self.go_on(logs, rules);
    }

    /// The log that is next.
    fn next_log(&self, rules: &Rules) -> usize {
        match (rules.order, self.done) {
            (Order::LettersFirst, 0) => LETTERS,
            (Order::LettersFirst, done) => done - 1,
            (Order::TablesFirst, done) => done,
        }
    }

    /// Puts to the next log that lacks something, or is done with the epoch.
    fn go_on(&mut self, logs: &Logs, rules: &Rules) {
        while self.done <= TABLES {
            if self.next_log(rules) == LETTERS {
                let wanted = letters(self.at, self.to);
                self.new = match rules.unique {
                    Unique::KnownAndFenced | Unique::KnownOnly => {
                        wanted & !logs.known(self.snapshots[LETTERS])
                    }
                    Unique::No => wanted,
                };
                if self.new != 0 {
                    return self.send(LETTERS);
                }
            } else {
                let table = self.next_log(rules);
                let recorded = logs.offset(table, self.snapshots[table]);
                if self.to > self.at[table] {
                    if recorded == self.at[table] {
                        return self.send(table);
                    }
                    if recorded < self.to {
                        self.phase = Phase::Void;
                        return;
                    }
                }
            }
            self.done += 1;
        }
        self.at = self.at.map(|at| at.max(self.to));
        self.phase = Phase::Idle;
    }

    fn send(&mut self, log: usize) {
        self.log = log;
        self.slot = self.snapshots[log] + 1;
        self.phase = Phase::Waiting;
    }

    pub(super) fn put(&self) -> Put {
        let (letters, from, to) = match self.log {
            LETTERS => (self.new, 0, 0),
            table => (0, self.at[table], self.to),
        };
        Put {
            log: self.log,
            slot: self.slot,
            letters,
            from,
            to,
        }
    }

    pub(super) fn landed(&mut self, logs: &Logs, rules: &Rules) {
        self.snapshots[self.log] = self.slot;
        self.done += 1;
        self.go_on(logs, rules);
    }

    /// The slot is taken.
    pub(super) fn refused(&mut self, logs: &Logs, rules: &Rules) {
        match (rules.unique, self.log) {
            // Nothing it could conflict with: the library goes on to the next version.
            (Unique::KnownOnly, LETTERS) => self.slot = logs.newest(LETTERS) + 1,
            _ => self.phase = Phase::Unsettled,
        }
    }

    pub(super) fn read_on(&mut self, logs: &Logs, rules: &Rules) {
        self.snapshots[self.log] = logs.newest(self.log);
        self.go_on(logs, rules);
    }

    pub(super) fn forgot_nothing(&self, logs: &Logs) -> bool {
        self.phase != Phase::Idle
            || (0..TABLES).all(|table| {
                (self.since[table]..self.at[table]).all(|record| logs.count(table, record) == 1)
            })
    }

    /// Whether letters that it wanted to put are there by now.
    pub(super) fn meets_known_letters(&self, logs: &Logs) -> bool {
        let newest = logs.known(logs.newest(LETTERS));
        self.phase == Phase::Unsettled && self.log == LETTERS && self.new & newest != 0
    }

    /// The oldest version of a log that it may still ask for.
    pub(super) fn oldest(&self, log: usize) -> Option<u8> {
        (self.phase != Phase::Void).then_some(self.snapshots[log])
    }

    /// Numbers the versions of a log from `oldest` on.
    pub(super) fn renumber(&mut self, log: usize, oldest: u8) {
        if self.phase == Phase::Void {
            return;
        }
        self.snapshots[log] -= oldest;
        if self.phase == Phase::Waiting && self.log == log {
            self.slot -= oldest;
        }
    }

    /// Forgets what its phase does not look at.
    pub(super) fn tidy(&mut self) {
        match self.phase {
            Phase::Void => *self = Self::default(),
            Phase::Idle => {
                self.to = self.smallest();
                (self.done, self.log, self.slot, self.new) = (0, 0, 0, 0);
            }
            Phase::Unsettled => self.slot = 0,
            Phase::Waiting => {}
        }
    }
}
