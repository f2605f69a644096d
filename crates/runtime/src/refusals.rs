//! Which events a table has read and refused, as its commits and the dead letters tell.
//!
//! Owns the judgement of a letter. That a table refused an event is not believed because there is a letter: a table that read the
//! offset later, under another definition or with a newer program, may have taken it. The commit that covers the offset says how many
//! events it refused, and there is a letter for each of these (P21). So where there are no more letters than that, the
//! table refused them all; where there are more, it cannot be told which ones. Does not own what is done about it.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use alluvium_store::{CommitKind, CommitRecord, Letter, LetterPlace};
use alluvium_types::{OffsetRange, TopicPartition};

/// What a table has read, and what it refused of that.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Its commits, oldest first.
    pub(crate) commits: Vec<Commit>,
    /// Where ranges begin, where they end, and which commit each is part of.
    ranges: HashMap<TopicPartition, BTreeMap<i64, (i64, usize)>>,
    /// Of events that have more than one letter: the version that the one came in that counts.
    several: HashMap<(TopicPartition, i64), i64>,
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

    /// Takes in the letters that may be of this table. `has_expired`: some were taken out of their table when they were old.
    ///
    /// An event may have several: one of all tables, by a server that died before its commit, and one of this table, by the server
    /// that went on under another definition. The table refused it once, so one counts (P23): the one under the definition of
    /// the commit, or else the first.
    pub(crate) fn count(&mut self, letters: &[LetterPlace], has_expired: bool) {
        self.has_expired = has_expired;
        let mut seen: HashMap<(&TopicPartition, i64), &LetterPlace> = HashMap::new();
        for letter in letters {
            let Some(commit) = self.commit(&letter.partition, letter.offset) else {
                continue;
            };
            let read_by = &mut self.commits[commit];
            match seen.entry((&letter.partition, letter.offset)) {
                Entry::Vacant(place) => {
                    place.insert(letter);
                    read_by.letters += 1;
                }
                Entry::Occupied(mut place) => {
                    let rank = |letter: &LetterPlace| {
                        let is_of_commit =
                            read_by.definition.as_deref() == Some(&*letter.definition);
                        (!is_of_commit, letter.version)
                    };
                    if rank(letter) < rank(place.get()) {
                        place.insert(letter);
                    }
                    let event = (letter.partition.clone(), letter.offset);
                    self.several.insert(event, place.get().version);
                }
            }
        }
    }

    /// Whether it is certain that the table read this letter's event and refused it, and this is the letter of it that counts.
    pub(crate) fn has(&self, letter: &Letter, version: i64) -> bool {
        let commit = self.commit(&letter.partition, letter.offset);
        commit.is_some_and(|commit| self.is_certain(commit, &letter.pipeline_version))
            && self.is_the_one(&letter.partition, letter.offset, version)
    }

    /// Whether the letter that came in this version is the one of its event that counts.
    pub(crate) fn is_the_one(&self, partition: &TopicPartition, offset: i64, version: i64) -> bool {
        if self.several.is_empty() {
            return true;
        }
        let one = self.several.get(&(partition.clone(), offset));
        one.is_none_or(|one| *one == version)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> TopicPartition {
        TopicPartition::new("t", 0)
    }

    fn place(version: i64, offset: i64, definition: &str) -> LetterPlace {
        LetterPlace {
            version,
            partition: partition(),
            offset,
            definition: definition.into(),
        }
    }

    /// Of a table that read ten offsets under `new` and refused so many of them.
    fn refusals(refused: u64, letters: &[LetterPlace]) -> Refusals {
        let commit = Commit {
            version: 3,
            definition: Some("new".into()),
            events: 10,
            refused,
            letters: 0,
        };
        let mut refusals = Refusals {
            commits: vec![commit],
            ranges: HashMap::from([(partition(), BTreeMap::from([(0, (10, 0))]))]),
            ..Refusals::default()
        };
        refusals.count(letters, false);
        refusals
    }

    fn sent(refusals: &Refusals, letters: &[LetterPlace]) -> Vec<i64> {
        let is_sent = |place: &&LetterPlace| {
            let commit = refusals.commit(&place.partition, place.offset);
            commit.is_some_and(|commit| refusals.is_certain(commit, &place.definition))
                && refusals.is_the_one(&place.partition, place.offset, place.version)
        };
        letters
            .iter()
            .filter(is_sent)
            .map(|place| place.version)
            .collect()
    }

    #[test]
    fn of_several_letters_of_an_event_one_is_sent() {
        // By a server that died before its commit, then by the one that committed.
        let letters = [place(5, 4, "old"), place(6, 4, "new")];
        assert_eq!(sent(&refusals(1, &letters), &letters), [6]);
        let letters = [place(5, 4, "older"), place(6, 4, "old")];
        assert_eq!(sent(&refusals(1, &letters), &letters), [5]);
        let letters = [place(5, 4, "new"), place(6, 4, "new")];
        assert_eq!(sent(&refusals(1, &letters), &letters), [5]);
        // Others are not touched by it.
        let letters = [place(5, 4, "old"), place(6, 4, "new"), place(6, 7, "new")];
        assert_eq!(sent(&refusals(2, &letters), &letters), [6, 6]);
        // More events than were refused: only of those under the commit's own definition it is certain, of none here.
        assert_eq!(sent(&refusals(1, &letters), &letters), Vec::<i64>::new());
    }
}
