//! Which events a table has read and refused, as its commits and the dead letters tell.
//!
//! Owns the judgement of a letter. That a table refused an event is not believed because there is a letter: a table that read the
//! offset later, under another definition or with a newer program, may have taken it. The commit that covers the offset says how many
//! events it refused, and there is a letter for each of these (P21). So where there are no more letters than that, the
//! table refused them all; where there are more, it cannot be told which ones. Does not own what is done about it.

use std::collections::{BTreeMap, HashMap, HashSet};

use alluvium_store::{CommitKind, CommitRecord, Letter};
use alluvium_types::{OffsetRange, TopicPartition};

/// What a table has read, and what it refused of that.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Its commits, oldest first.
    pub(crate) commits: Vec<Commit>,
    /// Where ranges begin, where they end, and which commit each is part of.
    ranges: HashMap<TopicPartition, BTreeMap<i64, (i64, usize)>>,
    /// Letters were taken out of their table when they were old.
    has_expired: bool,
}

/// One commit of a table.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub(crate) version: i64,
    pub(crate) definition: Option<String>,
    /// Events that it read.
    pub(crate) events: u64,
    /// Events that it refused.
    pub(crate) refused: u64,
    /// Letters of its offsets that may be of this table, each event once.
    letters: u64,
}

impl Refusals {
    /// What a history tells, before any letter is counted.
    pub(crate) fn of(history: &[CommitRecord]) -> Self {
        let mut refusals = Self::default();
        for record in history
            .iter()
            .filter(|record| record.kind == CommitKind::Commit)
        {
            for (partition, range) in &record.ranges {
                let of_partition = refusals.ranges.entry(partition.clone()).or_default();
                of_partition.insert(range.start(), (range.end(), refusals.commits.len()));
            }
            let balance = record.balance.unwrap_or_default();
            refusals.commits.push(Commit {
                version: record.version,
                definition: record.pipeline_version.clone(),
                events: balance.events_in,
                refused: balance.rejected,
                letters: 0,
            });
        }
        refusals
    }

    /// The commit that has this offset.
    pub(crate) fn commit(&self, partition: &TopicPartition, offset: i64) -> Option<usize> {
        let before = self.ranges.get(partition)?.range(..=offset).next_back();
        before
            .filter(|(_, (end, _))| offset < *end)
            .map(|(_, (_, commit))| *commit)
    }

    /// The commits that have offsets of `stretch`, with what they have of the partition.
    pub(crate) fn commits_in(
        &self,
        partition: &TopicPartition,
        stretch: OffsetRange,
    ) -> impl Iterator<Item = (OffsetRange, usize)> {
        let ranges = self.ranges.get(partition);
        let behind = ranges.map(|ranges| ranges.range(..stretch.end()).rev());
        behind
            .into_iter()
            .flatten()
            .take_while(move |(_, (end, _))| *end > stretch.start())
            .filter_map(|(start, (end, commit))| {
                Some((OffsetRange::new(*start, *end).ok()?, *commit))
            })
    }

    /// Takes in where the letters stand that may be of this table. `has_expired`: some were taken out of their table when they
    /// were old.
    pub(crate) fn count(&mut self, letters: Vec<(TopicPartition, i64)>, has_expired: bool) {
        self.has_expired = has_expired;
        let mut seen = HashSet::new();
        for (partition, offset) in letters {
            if let Some(commit) = self.commit(&partition, offset)
                && seen.insert((partition, offset))
            {
                self.commits[commit].letters += 1;
            }
        }
    }

    /// Whether it is certain that the table read this letter's event and refused it.
    pub(crate) fn has(&self, letter: &Letter) -> bool {
        let commit = self.commit(&letter.partition, letter.offset);
        commit.is_some_and(|commit| self.is_certain(commit, &letter.pipeline_version))
    }

    /// Whether this commit certainly refused the event of a letter that was written under `definition`.
    pub(crate) fn is_certain(&self, commit: usize, definition: &str) -> bool {
        let commit = &self.commits[commit];
        match commit.definition.as_deref() == Some(definition) {
            true => commit.refused >= commit.letters,
            // Of letters that are gone it is not known whether they were refused.
            false => commit.refused == commit.letters && !self.has_expired,
        }
    }
}
