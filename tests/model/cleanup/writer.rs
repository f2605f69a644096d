//! One writer that may sleep between any two of its steps.
//!
//! Owns what it believes the table records, and how old that belief is. Does not own what is true.

use super::{Log, Put, YOUNG, Young};

/// What a writer is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Phase {
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

/// One writer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Writer {
    pub(super) phase: Phase,
    /// The version in hand, and what it is believed to record.
    snapshot: u8,
    recorded: u8,
    /// Ticks since that version was known to be the newest.
    age: u8,
    /// Ticks since the put was sent.
    sent_age: u8,
    pub(super) slot: u8,
    /// Where it was assigned.
    since: u8,
    pub(super) at: u8,
    to: u8,
}

impl Writer {
    /// It loads the table: from a log checkpoint, and the entries after it.
    pub(super) fn assigned(log: &Log) -> Self {
        let recorded = log.recorded(log.newest());
        Self {
            phase: Phase::Idle,
            snapshot: log.newest(),
            recorded,
            since: recorded,
            at: recorded,
            to: recorded,
            ..Self::default()
        }
    }

    pub(super) fn tick(&mut self) {
        self.age = (self.age + 1).min(YOUNG + 1);
        self.sent_age = (self.sent_age + 1).min(YOUNG + 1);
    }

    fn is_young(&self) -> bool {
        self.age <= YOUNG
    }

    pub(super) fn advance(&mut self, log: &Log, young: Young) {
        if young != Young::Never && !self.is_young() {
            self.snapshot = log.newest();
            self.recorded = log.recorded(self.snapshot);
        } else {
            // A slot without an entry passes for the end of the log.
            while let Some(recorded) = log.read(self.snapshot + 1) {
                self.snapshot += 1;
                self.recorded = recorded;
            }
        }
        self.age = 0;
    }

    pub(super) fn commit(&mut self, young: Young, to: u8) {
        self.to = to;
        self.judge_and_put(young);
    }

    /// P7, P12.
    pub(super) fn judge_and_put(&mut self, young: Young) {
        if self.recorded == self.at {
            if young != Young::Never && !self.is_young() {
                self.phase = Phase::Unsettled;
                return;
            }
            self.slot = self.snapshot + 1;
            self.sent_age = 0;
            self.phase = Phase::Waiting;
        } else if self.recorded >= self.to {
            self.at = self.to;
            self.phase = Phase::Idle;
        } else {
            self.phase = Phase::Void;
        }
    }

    pub(super) fn put(&self) -> Put {
        Put {
            slot: self.slot,
            from: self.at,
            to: self.to,
        }
    }

    /// If it slept while the put was under way, only the log itself can say whether this version counts.
    pub(super) fn heard_yes(&mut self, young: Young) {
        if young == Young::AtBothEnds && !self.is_young() {
            self.phase = Phase::Unsettled;
            return;
        }
        self.snapshot = self.slot;
        self.recorded = self.to;
        self.age = self.sent_age;
        self.at = self.to;
        self.phase = Phase::Idle;
    }

    pub(super) fn forgot_nothing(&self, log: &Log) -> bool {
        self.phase != Phase::Idle || (self.since..self.at).all(|record| log.count(record) == 1)
    }

    pub(super) fn is_right(&self, log: &Log) -> bool {
        self.phase == Phase::Void || self.recorded == log.recorded(self.snapshot)
    }

    pub(super) fn slept_past_clean_up(&self, log: &Log) -> bool {
        self.phase != Phase::Void && self.snapshot < log.newest() && log.is_free(self.snapshot + 1)
    }

    /// The oldest version it may still ask for, besides the newest.
    pub(super) fn oldest(&self) -> Option<u8> {
        (self.phase != Phase::Void).then_some(self.snapshot)
    }

    /// Numbers versions from `oldest` on and forgets what its phase does not look at.
    pub(super) fn tidy(&mut self, oldest: u8) {
        self.snapshot = self.snapshot.saturating_sub(oldest);
        self.slot = self.slot.saturating_sub(oldest);
        match self.phase {
            Phase::Void => *self = Self::default(),
            Phase::Idle => {
                self.to = self.at;
                (self.slot, self.sent_age) = (0, 0);
            }
            Phase::Unsettled => (self.slot, self.sent_age) = (0, 0),
            Phase::Waiting => {}
        }
    }
}
