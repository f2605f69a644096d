//! Which files of a table are merged next.
//!
//! Owns the rule, as a function of what the log says of the files. A file is rewritten only together with at least as
//! many bytes of smaller ones, so however a table grows, a byte is rewritten no more often than a file can double, and
//! what is left beside full files are fewer than [`FAN`] small ones and one file a doubling. Does not own what a merge
//! does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alluvium_plan::CommittedFile;

/// Files of a stretch that is still written to are merged once there are so many.
const FAN: usize = 8;
/// Files of a day or month that newer ones follow are merged once there are so many.
const FAN_OF_THE_PAST: usize = 4;
/// A file of this size is full: it is not rewritten any more.
const FULL: u64 = 64 << 20;
/// A merge reads no more than this, so its result is not much more than full.
const MOST_BYTES: u64 = 2 * FULL;
/// Below this size opening a file costs more than its bytes: such files are always worth merging.
const SMALL: u64 = 256 << 10;
/// Files of one merge at most.
const MOST_FILES: usize = 256;
/// What is held of one file at most while it is read: a row group.
const MOST_HELD: u64 = 16 << 20;

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// What pays for itself while the table grows.
    AsItGrows,
    /// Whatever can be merged, because somebody asked for it.
    Everything,
}

/// Files of one table that are merged into one.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    files: Vec<CommittedFile>,
}

impl Choice {
    /// The files, at least two: of one partition value, and lacking the same states (P35).
    pub fn files(&self) -> &[CommittedFile] {
        &self.files
    }

    /// Their rows, where the log says.
    pub fn rows(&self) -> Option<u64> {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// Bytes that are held of them at most while they are read side by side.
    pub fn held(&self) -> u64 {
        self.files.iter().map(|file| file.size.min(MOST_HELD)).sum()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// What files must have in common to be merged.
type Kin<'f> = (&'f BTreeMap<String, Option<String>>, BTreeSet<&'f Arc<str>>);

/// The files to merge next, the most numerous first, because each of them costs every reader of their windows; `None` when
/// nothing pays. Reading them side by side holds at most `memory` bytes of them. `passed_over` names files that are left
/// alone.
pub fn choose(
    files: &[CommittedFile],
    effort: Effort,
    memory: u64,
    passed_over: &BTreeSet<String>,
) -> Option<Choice> {
    let mut kin: BTreeMap<Kin<'_>, Vec<&CommittedFile>> = BTreeMap::new();
    for file in files {
        if file.size < FULL && is_ours(&file.path) && !passed_over.contains(&file.path) {
            let lacked = file.missing_states.iter().collect();
            kin.entry((&file.partition_values, lacked))
                .or_default()
                .push(file);
        }
    }
    let newest = files.iter().map(|file| &file.partition_values).max();
    kin.into_iter()
        .filter_map(|((partition, _), mut files)| {
            let fan = match effort {
                Effort::Everything => 2,
                Effort::AsItGrows if Some(partition) == newest => FAN,
                Effort::AsItGrows => FAN_OF_THE_PAST,
            };
            files.sort_by(|left, right| (left.size, &left.path).cmp(&(right.size, &right.path)));
            let worth = match effort {
                Effort::Everything => files.len(),
                Effort::AsItGrows => worth_merging(&files),
            };
            if worth < fan {
                return None;
            }
            files.truncate(worth);
            files.truncate(readable_at_once(&files, memory));
            (files.len() >= 2).then_some(files)
        })
        .max_by_key(Vec::len)
        .map(|chosen| {
            let mut files: Vec<CommittedFile> = chosen.into_iter().cloned().collect();
            files.sort_by(|left, right| {
                (left.window_start, &left.path).cmp(&(right.window_start, &right.path))
            });
            Choice { files }
        })
}

/// Whether the log spells a path as it is. Another writer's may be URL-encoded in ways that we would not spell again when
/// we remove it, and then a reader would count it beside what took its place.
fn is_ours(path: &str) -> bool {
    path.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_./=".contains(&byte))
}

/// How many of these, from the smallest, are worth merging: up to the last that has as many bytes of smaller ones.
fn worth_merging(by_size: &[&CommittedFile]) -> usize {
    let mut smaller = 0;
    let mut worth = 0;
    for (position, file) in by_size.iter().enumerate() {
        if file.size <= smaller.max(SMALL) {
            worth = position + 1;
        }
        smaller += file.size;
    }
    worth
}

/// How many of these, from the smallest, can be read side by side and make one file.
fn readable_at_once(by_size: &[&CommittedFile], memory: u64) -> usize {
    let (mut held, mut bytes) = (0, 0);
    by_size
        .iter()
        .take(MOST_FILES)
        .take_while(|file| {
            held += file.size.min(MOST_HELD);
            bytes += file.size;
            held <= memory && bytes <= MOST_BYTES
        })
        .count()
}

#[cfg(test)]
mod tests;
