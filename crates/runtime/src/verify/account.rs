//! Which events of the log are part of a table, and whether that can still be told.
//!
//! Owns the fate of each offset: it is folded again as today's definition decides, or left out because the table refused it
//! under an earlier one and nobody has replayed it since, or because it was passed over by hand, or set aside because it cannot be told. Owns the tally of each commit too:
//! what it says of its events against what the log and today's definition say. Does not own the fold.
//!
//! What a commit of today's definition refused, today's definition refuses again (P5): nothing need be known of it. Of a commit of
//! another definition the dead letters tell what it refused ([`Refusals`]). An event whose letter was replayed is part of the table, and
//! is folded once, however many letters it has.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use alluvium_store::{CommitKind, CommitRecord, Gap, LetterPlace, Replayed};
use alluvium_types::{OffsetRange, RawBatch, Reject, TopicPartition};

use super::Doubt;
use crate::refusals::Refusals;

/// What is done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is folded.
    Counts,
    /// It is folded, because a replay has done so.
    Replayed,
    /// It is not folded: the table has refused it, or never read it.
    LeftOut,
    /// It cannot be told whether it is part of the table.
    Undecided,
}

/// How much of a batch is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    All,
    Part,
    Nothing,
}

/// What a commit came to the second time.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// Events that the log has.
    seen: u64,
    /// Of those that are folded and were never replayed, how many are refused today.
    refused: u64,
    /// One of these.
    first: Option<(TopicPartition, i64, String)>,
    left_out: u64,
    replayed: u64,
    undecided: u64,
}

/// One replay of the table's history.
#[derive(Clone, Debug)]
struct PastReplay {
    version: i64,
    /// The definition that decided.
    definition: Option<String>,
    took: Replayed,
    /// Letters that it took as far as can be told.
    known: u64,
}

/// One table's account of the log.
#[derive(Debug)]
pub(super) struct Account {
    /// Today's definition's version.
    definition: Arc<str>,
    stretches: BTreeMap<TopicPartition, OffsetRange>,
    /// What was passed over in these.
    gaps: Vec<Gap>,
    refusals: Refusals,
    replays: Vec<PastReplay>,
    /// Every other event simply counts.
    special: HashMap<TopicPartition, BTreeMap<i64, Fate>>,
    /// By commit.
    tallies: Vec<Tally>,
    refused_replayed: u64,
}

impl Account {
    /// Of a table with this history, which read `stretches` but for the gaps.
    pub(super) fn of(
        definition: &Arc<str>,
        history: &[CommitRecord],
        stretches: BTreeMap<TopicPartition, OffsetRange>,
        gaps: &[Gap],
    ) -> Self {
        let refusals = Refusals::of(history);
        let replays = history
            .iter()
            .filter(|record| record.kind == CommitKind::Replay)
            .filter_map(|record| {
                Some(PastReplay {
                    version: record.version,
                    definition: record.pipeline_version.clone(),
                    took: record.replayed?,
                    known: 0,
                })
            });
        Self {
            definition: definition.clone(),
            stretches,
            gaps: gaps.to_vec(),
            tallies: vec![Tally::default(); refusals.commits.len()],
            replays: replays.collect(),
            refusals,
            special: HashMap::new(),
            refused_replayed: 0,
        }
    }

    /// What the table has read of each partition.
    pub(super) fn stretches(&self) -> &BTreeMap<TopicPartition, OffsetRange> {
        &self.stretches
    }

    /// Whether the fate of its events cannot be told without the dead letters.
    pub(super) fn needs_letters(&self) -> bool {
        let today = Some(&*self.definition);
        let mut commits = self.refusals.commits.iter();
        !self.replays.is_empty()
            || commits.any(|commit| commit.refused > 0 && commit.definition.as_deref() != today)
    }

    /// Decides by the dead letters that may be of this table, all that there are.
    pub(super) fn judge(&mut self, letters: &[LetterPlace], have_expired: bool) {
        let place = |letter: &LetterPlace| (letter.partition.clone(), letter.offset);
        self.refusals.count(letters, have_expired);
        let mut judged: BTreeMap<(TopicPartition, i64), (usize, Fate)> = BTreeMap::new();
        for letter in letters {
            let Some(commit) = self.refusals.commit(&letter.partition, letter.offset) else {
                continue;
            };
            // One version may have two of an event; under one definition, so they say the same.
            let is_judged = judged.contains_key(&place(letter));
            let refusals = &self.refusals;
            if is_judged || !refusals.is_the_one(&letter.partition, letter.offset, letter.version) {
                continue;
            }
            let is_certain = self.refusals.is_certain(commit, &letter.definition);
            let fate = match is_certain {
                true => self
                    .replay_of(letter.version)
                    .map_or(Fate::LeftOut, |replay| {
                        let PastReplay {
                            definition, took, ..
                        } = &self.replays[replay];
                        // Which ones it passed over it does not say: the same definition does so again.
                        let decides_again = definition.as_deref() == Some(&*self.definition);
                        let took = *took;
                        self.replays[replay].known += 1;
                        match took.refused {
                            0 => Fate::Replayed,
                            _ if decides_again => Fate::Replayed,
                            all if all == took.letters => Fate::LeftOut,
                            _ => Fate::Undecided,
                        }
                    }),
                false => Fate::Undecided,
            };
            judged.insert(place(letter), (commit, fate));
        }
        for ((partition, offset), (commit, fate)) in judged {
            let read_by = &self.refusals.commits[commit];
            let decides_again = read_by.definition.as_deref() == Some(&*self.definition);
            if fate != Fate::Replayed && (decides_again || read_by.refused == 0) {
                continue;
            }
            let tally = &mut self.tallies[commit];
            match fate {
                Fate::Replayed => tally.replayed += 1,
                Fate::LeftOut => tally.left_out += 1,
                Fate::Undecided => tally.undecided += 1,
                Fate::Counts => {}
            }
            self.special
                .entry(partition)
                .or_default()
                .insert(offset, fate);
        }
    }

    /// The replay that took the letters of this version of theirs.
    fn replay_of(&self, version: i64) -> Option<usize> {
        self.replays
            .iter()
            .position(|replay| replay.took.after < Some(version) && version <= replay.took.up_to)
    }

    /// How much of a batch is folded into the table.
    pub(super) fn share_of(&self, batch: &RawBatch) -> Share {
        let Some(stretch) = self.stretches.get(&batch.partition) else {
            return Share::Nothing;
        };
        let (start, end) = (batch.range.start(), batch.range.end());
        if end <= stretch.start() || stretch.end() <= start {
            return Share::Nothing;
        }
        let overlaps = |gap: &OffsetRange| gap.start() < end && start < gap.end();
        let gap = self.gaps_of(&batch.partition).find(overlaps);
        if gap.is_some_and(|gap| gap.start() <= start && end <= gap.end()) {
            return Share::Nothing;
        }
        let is_whole = stretch.start() <= start && end <= stretch.end() && gap.is_none();
        let special = self.special.get(&batch.partition).into_iter();
        let mut special = special.flat_map(|special| special.range(start..end));
        match is_whole && special.all(|(_, fate)| *fate == Fate::Replayed) {
            true => Share::All,
            false => Share::Part,
        }
    }

    /// What is done with the event at an offset.
    pub(super) fn fate(&self, partition: &TopicPartition, offset: i64) -> Fate {
        let stretch = self.stretches.get(partition);
        let was_read = stretch.is_some_and(|stretch| stretch.contains(offset))
            && !self.gaps_of(partition).any(|gap| gap.contains(offset));
        if !was_read {
            return Fate::LeftOut;
        }
        let special = self.special.get(partition);
        let fate = special.and_then(|special| special.get(&offset));
        fate.copied().unwrap_or(Fate::Counts)
    }

    /// What was passed over of a partition by hand: seldom anything.
    fn gaps_of(&self, partition: &TopicPartition) -> impl Iterator<Item = OffsetRange> {
        let gaps = self.gaps.iter();
        gaps.filter(move |gap| gap.partition == *partition)
            .map(|gap| gap.offsets)
    }

    /// What the table has read of a partition, in the order of offsets.
    pub(super) fn read_of(&self, partition: &TopicPartition) -> Vec<OffsetRange> {
        let Some(stretch) = self.stretches.get(partition) else {
            return Vec::new();
        };
        let (mut read, mut from) = (Vec::new(), stretch.start());
        for gap in self.gaps_of(partition) {
            read.extend(OffsetRange::new(from, gap.start()));
            from = gap.end();
        }
        read.extend(OffsetRange::new(from, stretch.end()));
        read.retain(|range| !range.is_empty());
        read
    }

    /// Counts the events that the log has.
    pub(super) fn read(&mut self, batch: &RawBatch) {
        let commits = self.refusals.commits_in(&batch.partition, batch.range);
        for (range, commit) in commits {
            let is_whole = range.start() <= batch.range.start() && batch.range.end() <= range.end();
            let seen = match is_whole {
                true => batch.len(),
                false => {
                    let records = batch.records();
                    records
                        .filter(|record| range.contains(record.offset()))
                        .count()
                }
            };
            self.tallies[commit].seen += seen as u64;
        }
    }

    /// Counts an event that is refused today.
    pub(super) fn refused(&mut self, reject: &Reject) {
        match self.fate(&reject.partition, reject.offset) {
            Fate::LeftOut | Fate::Undecided => {}
            Fate::Replayed => self.refused_replayed += 1,
            Fate::Counts => {
                let commit = self.refusals.commit(&reject.partition, reject.offset);
                let Some(commit) = commit else {
                    return;
                };
                let tally = &mut self.tallies[commit];
                tally.refused += 1;
                tally.first.get_or_insert_with(|| {
                    (
                        reject.partition.clone(),
                        reject.offset,
                        reject.error.clone(),
                    )
                });
            }
        }
    }

    /// Events that the log has of what the table has read.
    pub(super) fn events(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.seen).sum()
    }

    /// What speaks against the second computation, when everything was read and folded.
    pub(super) fn doubts(&self) -> Vec<Doubt> {
        let mut doubts = Vec::new();
        doubts.extend(self.missing_events());
        doubts.extend(self.taken_then());
        doubts.extend(self.refused_then());
        let undecided = |tally: &Tally| tally.undecided;
        doubts.extend(
            self.first(undecided)
                .map(|(events, version)| Doubt::Undecided { events, version }),
        );
        for replay in &self.replays {
            if replay.known != replay.took.letters {
                doubts.push(Doubt::Replay {
                    version: replay.version,
                    letters: replay.took.letters,
                    known: replay.known,
                });
            }
        }
        let refused_by_replays: u64 = self.replays.iter().map(|replay| replay.took.refused).sum();
        let events = self.refused_replayed.saturating_sub(refused_by_replays);
        if events > 0 {
            doubts.push(Doubt::ReplayedThen { events });
        }
        doubts
    }

    /// The sum of a figure over all commits, and the version of the first that has one.
    fn first(&self, figure: impl Fn(&Tally) -> u64) -> Option<(u64, i64)> {
        let sum = self.tallies.iter().map(&figure).sum();
        let commits = self.refusals.commits.iter().zip(&self.tallies);
        let mut with_one = commits.filter(|(_, tally)| figure(tally) > 0);
        with_one.next().map(|(commit, _)| (sum, commit.version))
    }

    fn missing_events(&self) -> Option<Doubt> {
        let commits = self.refusals.commits.iter().zip(&self.tallies);
        let mut odd = commits.filter(|(commit, tally)| commit.events != tally.seen);
        let (first, _) = odd.next()?;
        Some(Doubt::Events {
            counted: self
                .refusals
                .commits
                .iter()
                .map(|commit| commit.events)
                .sum(),
            found: self.events(),
            version: first.version,
        })
    }

    /// By how many events each commit has refused fewer, and more, than are refused today.
    fn imbalances(&self) -> impl Iterator<Item = (i64, &Tally, u64, u64)> {
        let commits = self.refusals.commits.iter().zip(&self.tallies);
        commits.map(|(commit, tally)| {
            // What is left of its refusals when those are taken off whose letters are known.
            let known = tally.left_out + tally.replayed;
            let rest = commit.refused.saturating_sub(known);
            let more_today = tally.refused.saturating_sub(rest);
            let more_then = rest.saturating_sub(tally.refused + tally.undecided);
            (commit.version, tally, more_today, more_then)
        })
    }

    fn taken_then(&self) -> Option<Doubt> {
        let events = self.imbalances().map(|(_, _, today, _)| today).sum();
        let (version, tally, ..) = self.imbalances().find(|(_, _, today, _)| *today > 0)?;
        let (partition, offset, error) = tally.first.clone()?;
        Some(Doubt::TakenThen {
            events,
            version,
            partition,
            offset,
            error,
        })
    }

    fn refused_then(&self) -> Option<Doubt> {
        let events = self.imbalances().map(|(_, _, _, then)| then).sum();
        let (version, ..) = self.imbalances().find(|(_, _, _, then)| *then > 0)?;
        Some(Doubt::RefusedThen { events, version })
    }
}
