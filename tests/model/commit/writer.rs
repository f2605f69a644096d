//! One writer: what it holds in memory, and what it does between two looks at the store.
//!
//! Owns the order of P7–P11 and P15–P17 as `store` has it: judge in the snapshot in hand, put, and after anything but a
//! plain yes read on and judge again. Does not own when a step is taken.

use super::{
    Built, Fence, Judge, Log, Offsets, PARTITIONS, Put, Refusal, Rules, Silence, Start, log::has,
};

/// What a writer is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not started, or killed.
    #[default]
    Absent,
    /// Nothing in flight.
    Idle,
    /// As idle, after a commit without a reply was found in the log.
    Resolved,
    /// Everything in flight is void: it waits for an assignment.
    Overtaken,
    /// Judged, not sent.
    Judged,
    /// A put is on its way.
    Waiting,
    /// It was told that the version is taken.
    Refused,
    /// It was told nothing.
    Silent,
}

/// What a commit is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Rows and offsets.
    #[default]
    Epoch,
    /// Where partitions start (P15).
    Start,
    /// Offsets alone; the rows are to follow.
    OffsetsOnly,
    /// Rows whose offsets are recorded already.
    RowsOnly,
    /// Where somebody has moved a partition: no writer's.
    Move,
}

impl Purpose {
    pub(super) fn has_rows(self) -> bool {
        matches!(self, Self::Epoch | Self::RowsOnly)
    }
}

/// One writer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Writer {
    /// What it is at.
    pub(crate) phase: Phase,
    /// The version in hand.
    pub(crate) snapshot: u8,
    /// The version its put is for.
    pub(crate) slot: u8,
    purpose: Purpose,
    owned: u8,
    /// Where it was assigned.
    since: [u8; PARTITIONS],
    /// Where what it has in memory begins.
    pub(super) at: [u8; PARTITIONS],
    to: [u8; PARTITIONS],
    /// The partitions whose offsets the commit records.
    records: u8,
}

enum Verdict {
    Commit { records: u8 },
    Done,
    Overtaken,
}

impl Writer {
    pub(super) fn owns(&self, partition: usize) -> bool {
        has(self.owned, partition)
    }

    pub(super) fn has_snapshot(&self) -> bool {
        !matches!(self.phase, Phase::Absent | Phase::Overtaken)
    }

    /// P17: everything in hand is dropped, the table says where to begin. P15: where it says nothing, a commit of the
    /// start comes first.
    pub(super) fn assign(&mut self, log: &Log, rules: &Rules, partitions: u8, start: u8) {
        *self = Self {
            phase: Phase::Idle,
            snapshot: log.newest(),
            owned: partitions,
            ..Self::default()
        };
        if rules.start == Start::RecordedFirst && log.lacks(self.snapshot, partitions) {
            self.purpose = Purpose::Start;
            self.to = [start; PARTITIONS];
            self.at = self.to;
            self.put_start(log);
        } else {
            self.adopt(log, start);
        }
    }

    fn put_start(&mut self, log: &Log) {
        self.records = (0..PARTITIONS)
            .filter(|&p| self.owns(p) && log.recorded(self.snapshot, p).is_none())
            .fold(0, |set, p| set | 1 << p);
        self.slot = self.snapshot + 1;
        self.phase = Phase::Waiting;
    }

    fn adopt(&mut self, log: &Log, start: u8) {
        self.at = std::array::from_fn(|p| match self.owns(p) {
            true => log.recorded(self.snapshot, p).unwrap_or(start),
            false => 0,
        });
        self.since = self.at;
        self.to = self.at;
        self.purpose = Purpose::Epoch;
        self.phase = Phase::Idle;
    }

    /// P7.
    fn judge(&self, log: &Log, rules: &Rules) -> Verdict {
        let wanted: u8 = (0..PARTITIONS)
            .filter(|&p| self.to[p] > self.at[p])
            .fold(0, |set, p| set | 1 << p);
        let all =
            |fits: &dyn Fn(usize) -> bool| (0..PARTITIONS).all(|p| !has(wanted, p) || fits(p));
        let recorded = |p| log.recorded(self.snapshot, p);
        let starts_there = |p| match (recorded(p), rules.start) {
            (None, start) => start == Start::FetchedFirst,
            (Some(at), _) => at == self.at[p],
        };
        if rules.judge == Judge::Never || all(&starts_there) {
            return Verdict::Commit { records: wanted };
        }
        if all(&|p| recorded(p).is_some_and(|at| at >= self.to[p])) {
            return Verdict::Done;
        }
        let fitting = (0..PARTITIONS)
            .filter(|&p| has(wanted, p) && starts_there(p))
            .fold(0, |set, p| set | 1 << p);
        match rules.judge {
            Judge::RangeByRange if fitting != 0 => Verdict::Commit { records: fitting },
            _ => Verdict::Overtaken,
        }
    }

    pub(super) fn commit(&mut self, log: &Log, rules: &Rules, to: [u8; PARTITIONS]) {
        self.to = to;
        self.purpose = match rules.offsets {
            Offsets::WithTheRows => Purpose::Epoch,
            Offsets::BeforeTheRows => Purpose::OffsetsOnly,
        };
        self.judge_and_put(log, rules);
    }

    fn judge_and_put(&mut self, log: &Log, rules: &Rules) {
        match self.judge(log, rules) {
            Verdict::Commit { records } => {
                self.records = records;
                match rules.built {
                    Built::FromJudged => self.send(self.snapshot),
                    Built::FromRefreshed => self.phase = Phase::Judged,
                }
            }
            Verdict::Done => self.done(Phase::Idle),
            Verdict::Overtaken => self.phase = Phase::Overtaken,
        }
    }

    /// Sends the log entry, built from `snapshot`.
    pub(super) fn send(&mut self, snapshot: u8) {
        self.snapshot = snapshot;
        self.slot = snapshot + 1;
        self.phase = Phase::Waiting;
    }

    pub(super) fn put(&self, by: u8) -> Put {
        Put {
            slot: self.slot,
            by,
            purpose: self.purpose,
            from: self.at,
            to: self.to,
            records: self.records,
        }
    }

    /// The put is in the log, and the snapshot in hand has it.
    pub(super) fn landed(&mut self, log: &Log, rules: &Rules, idle: Phase) {
        match self.purpose {
            Purpose::Epoch | Purpose::RowsOnly => self.done(idle),
            Purpose::Start => self.adopt(log, 0),
            Purpose::OffsetsOnly => {
                debug_assert_eq!(rules.offsets, Offsets::BeforeTheRows);
                self.purpose = Purpose::RowsOnly;
                self.records = 0;
                self.send(self.snapshot);
            }
            Purpose::Move => unreachable!("no writer moves a partition"),
        }
    }

    fn done(&mut self, idle: Phase) {
        self.at = self.to;
        self.phase = idle;
    }

    /// The slot is taken. delta-rs goes on to the next one by itself, unless its conflict check forbids.
    pub(super) fn refused(&mut self, log: &Log, rules: &Rules) {
        let passes = match rules.fence {
            Fence::NextVersion => false,
            Fence::SameIds => !log.touched_since(self.snapshot, self.records),
            Fence::Nothing => true,
        };
        match passes {
            true => self.slot = log.newest() + 1,
            false => self.phase = Phase::Refused,
        }
    }

    /// P10, P11.
    pub(super) fn read_on(&mut self, log: &Log, rules: &Rules, by: u8) {
        if self.phase == Phase::Silent && rules.silence == Silence::SendAgain {
            return self.send(log.newest());
        }
        let is_landed = log.has_since(self.snapshot, &self.put(by));
        self.snapshot = log.newest();
        if is_landed || (self.phase == Phase::Refused && rules.refusal == Refusal::CountsAsDone) {
            return self.landed(log, rules, Phase::Resolved);
        }
        match self.purpose {
            Purpose::Start if log.lacks(self.snapshot, self.owned) => self.put_start(log),
            Purpose::Start => self.adopt(log, 0),
            Purpose::RowsOnly => self.send(self.snapshot),
            Purpose::Epoch | Purpose::OffsetsOnly => self.judge_and_put(log, rules),
            Purpose::Move => unreachable!("no writer moves a partition"),
        }
    }

    /// What it no longer has in memory is in the table, but for partitions that somebody moved: what was passed over counts as done, and
    /// who moves it back while there are no events makes everybody read it who goes on there.
    pub(super) fn forgot_nothing(&self, log: &Log) -> bool {
        let is_idle = matches!(self.phase, Phase::Idle | Phase::Resolved);
        !is_idle
            || (0..PARTITIONS)
                .filter(|&p| !log.is_moved(p))
                .all(|p| (self.since[p]..self.at[p]).all(|record| log.count(p, record) == 1))
    }

    /// Whether it was refused and has lost a partition of its epoch to somebody who went on.
    pub(super) fn is_refused_zombie(&self, log: &Log) -> bool {
        self.phase == Phase::Refused
            && self.purpose == Purpose::Epoch
            && (0..PARTITIONS).any(|p| {
                self.to[p] > self.at[p] && log.recorded(log.newest(), p) != Some(self.at[p])
            })
    }

    /// Numbers versions from `oldest` on and forgets what its phase does not look at.
    pub(super) fn tidy(&mut self, oldest: u8) {
        if !self.has_snapshot() {
            *self = Self {
                phase: self.phase,
                ..Self::default()
            };
            return;
        }
        self.snapshot -= oldest;
        match self.phase {
            Phase::Waiting => self.slot -= oldest,
            Phase::Refused | Phase::Silent => self.slot = 0,
            _ => {
                self.slot = 0;
                if self.phase != Phase::Judged {
                    self.records = 0;
                    self.to = self.at;
                    self.purpose = Purpose::Epoch;
                }
            }
        }
    }
}
