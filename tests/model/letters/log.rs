//! The logs of two tables and of their dead letters.
//!
//! Owns what each version records, and the counting. Does not own who puts what.

use super::{BY_EVERY_TABLE, BY_ONE_TABLE, RECORDS, TABLES, writer::Put};

/// The log of letters comes after the tables.
pub(super) const LETTERS: usize = TABLES;

/// Three logs. Versions that nobody asks for are folded into the first one of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Logs {
    /// What each version records: a table's offset, or the letters there are.
    versions: [Versions; TABLES + 1],
    counts: [[u8; RECORDS]; TABLES],
    letters: [u8; 2],
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Versions {
    base: u8,
    tail: Vec<u8>,
}

impl Logs {
    pub(super) fn newest(&self, log: usize) -> u8 {
        self.versions[log].tail.len() as u8
    }

    fn says(&self, log: usize, version: u8) -> u8 {
        match version {
            0 => self.versions[log].base,
            _ => self.versions[log].tail[usize::from(version) - 1],
        }
    }

    /// The offset that a version of a table records.
    pub(super) fn offset(&self, table: usize, version: u8) -> u8 {
        self.says(table, version)
    }

    pub(super) fn newest_offset(&self, table: usize) -> u8 {
        self.offset(table, self.newest(table))
    }

    /// The letters that a version has.
    pub(super) fn known(&self, version: u8) -> u8 {
        self.says(LETTERS, version)
    }

    pub(super) fn count(&self, table: usize, record: u8) -> u8 {
        self.counts[table][usize::from(record)]
    }

    pub(super) fn is_next(&self, put: &Put) -> bool {
        put.slot == self.newest(put.log) + 1
    }

    pub(super) fn land(&mut self, put: &Put) {
        assert!(self.is_next(put), "only a free slot takes a put");
        let says = if put.log == LETTERS {
            for (letter, count) in self.letters.iter_mut().enumerate() {
                *count += u8::from(put.letters & 1 << letter != 0);
            }
            self.known(self.newest(LETTERS)) | put.letters
        } else {
            for record in put.from..put.to {
                self.counts[put.log][usize::from(record)] += 1;
            }
            put.to
        };
        self.versions[put.log].tail.push(says);
    }

    pub(super) fn counts_are_exact(&self) -> bool {
        (0..TABLES).all(|table| {
            let end = self.newest_offset(table);
            (0..RECORDS as u8).all(|record| self.count(table, record) == u8::from(record < end))
        })
    }

    pub(super) fn letters_are_unique(&self) -> bool {
        self.letters.iter().all(|count| *count <= 1)
    }

    /// P21: what a table has passed and could not take is kept.
    pub(super) fn lacks_letters(&self) -> bool {
        let known = self.known(self.newest(LETTERS));
        let passed = |record| (0..TABLES).any(|table| self.newest_offset(table) > record);
        (self.newest_offset(0) > 0 && known & BY_ONE_TABLE == 0)
            || (passed(1) && known & BY_EVERY_TABLE == 0)
    }

    /// Makes `version` the oldest one.
    pub(super) fn fold(&mut self, log: usize, version: u8) {
        self.versions[log].base = self.says(log, version);
        self.versions[log].tail.drain(..usize::from(version));
    }
}
