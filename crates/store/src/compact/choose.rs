//! Which files of a table are merged next.
//!
//! Owns the rule, as a function of what the log says of the files. A file is rewritten only together with at least as
//! many bytes of smaller ones, so however a table grows, a byte is rewritten no more often than a file can double, and
//! what is left beside full files are fewer than [`FAN`] small ones and one file a doubling.
//!
//! Files that are full are rewritten only where many of them hold the same windows, as they do after partitions of a topic
//! were read at different speeds: a reader of such a window opens all of them. Side by side they become files that follow
//! each other. Does not own what a merge does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alluvium_plan::CommittedFile;

use crate::stage::ROW_GROUP_ROWS;

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
/// So many full files that hold the same windows are worth being rewritten while a table grows.
const DEEP: usize = 4;
/// Bytes that are read to put files that hold the same windows one after the other.
const MOST_TANGLED: u64 = 1 << 30;

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// What pays for itself while the table grows.
    AsItGrows,
    /// Whatever can be merged, because somebody asked for it, ...
    Everything,
    /// ... and, once that is done, whatever holds the same windows as another file.
    InOrder,
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

    /// Bytes that are held of them at most while they are read side by side.
    pub fn held(&self) -> u64 {
        self.files.iter().map(held).sum()
    }

    /// Bytes of a file of the result, when it is more than one: as few as may be, of equal size.
    pub(super) fn bytes_of_a_file(&self) -> Option<u64> {
        let bytes = self.bytes();
        let files = bytes.div_ceil(MOST_BYTES);
        (files > 1).then(|| bytes / files)
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
        if is_ours(&file.path) && !passed_over.contains(&file.path) {
            let lacked = file.missing_states.iter().collect();
            kin.entry((&file.partition_values, lacked))
                .or_default()
                .push(file);
        }
    }
    let tangled = || {
        let tangled = kin.values().map(|files| tangled(files, effort, memory));
        tangled.flatten().max_by_key(Vec::len)
    };
    let chosen = match effort {
        // Files that follow each other are not joined any more: that could go on for ever.
        Effort::InOrder => tangled(),
        Effort::AsItGrows => by_size(files, &kin, effort, memory).or_else(tangled),
        Effort::Everything => by_size(files, &kin, effort, memory),
    }?;
    let mut files: Vec<CommittedFile> = chosen.into_iter().cloned().collect();
    files.sort_by(|left, right| {
        (left.window_start, &left.path).cmp(&(right.window_start, &right.path))
    });
    Some(Choice { files })
}

fn by_size<'f>(
    files: &[CommittedFile],
    kin: &BTreeMap<Kin<'_>, Vec<&'f CommittedFile>>,
    effort: Effort,
    memory: u64,
) -> Option<Vec<&'f CommittedFile>> {
    let newest = files.iter().map(|file| &file.partition_values).max();
    kin.iter()
        .filter_map(|((partition, _), files)| {
            let mut files = files.clone();
            files.retain(|file| file.size < FULL);
            let fan = match effort {
                Effort::Everything | Effort::InOrder => 2,
                Effort::AsItGrows if Some(*partition) == newest => FAN,
                Effort::AsItGrows => FAN_OF_THE_PAST,
            };
            files.sort_by(|left, right| (left.size, &left.path).cmp(&(right.size, &right.path)));
            let worth = match effort {
                Effort::Everything | Effort::InOrder => files.len(),
                Effort::AsItGrows => worth_merging(&files),
            };
            if worth < fan {
                return None;
            }
            files.truncate(worth);
            files.truncate(readable_at_once(&files, memory, MOST_BYTES));
            (files.len() >= 2).then_some(files)
        })
        .max_by_key(Vec::len)
}

/// Of these, the files that hold the window which most of them hold, when that are too many.
fn tangled<'f>(
    files: &[&'f CommittedFile],
    effort: Effort,
    memory: u64,
) -> Option<Vec<&'f CommittedFile>> {
    let (least, deep) = match effort {
        Effort::Everything | Effort::InOrder => (0, 2),
        Effort::AsItGrows => (FULL, DEEP),
    };
    let mut spans: Vec<(i64, i64, &CommittedFile)> = files
        .iter()
        .filter(|file| file.size >= least)
        .filter_map(|file| {
            let (first, last) = file.window_start?;
            // Bounds in the log are of milliseconds. Neighbours may share the window between them.
            let [first, last] = [first, last].map(|moment| moment.micros().div_euclid(1000));
            (first < last).then_some((first, last, *file))
        })
        .collect();
    spans.sort_by_key(|(first, _, _)| *first);
    let mut deepest: Vec<&CommittedFile> = Vec::new();
    let mut open: Vec<(i64, &CommittedFile)> = Vec::new();
    for (first, last, file) in spans {
        open.retain(|(last, _)| *last > first);
        open.push((last, file));
        if open.len() > deepest.len() {
            let mut together: Vec<&CommittedFile> = open.iter().map(|(_, file)| *file).collect();
            together.sort_by_key(|file| (file.size, &file.path));
            together.truncate(readable_at_once(&together, memory, MOST_TANGLED));
            // As many of them as can be read.
            if together.len() > deepest.len() {
                deepest = together;
            }
        }
    }
    (deepest.len() >= deep).then_some(deepest)
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

/// How many of these, from the smallest, can be read side by side and are `most` bytes at most.
fn readable_at_once(by_size: &[&CommittedFile], memory: u64, most: u64) -> usize {
    let (mut all_held, mut bytes) = (0, 0);
    by_size
        .iter()
        .take(MOST_FILES)
        .take_while(|file| {
            all_held += held(file);
            bytes += file.size;
            all_held <= memory && bytes <= most
        })
        .count()
}

/// What is held of a file while it is read: a row group, which has few bytes where it has as many rows as it may have.
fn held(file: &CommittedFile) -> u64 {
    let most = file.size.min(MOST_HELD);
    match file.rows {
        // Row groups are not all of one size.
        Some(rows) if rows > 0 => most.min(file.size * 3 / 2 * ROW_GROUP_ROWS as u64 / rows),
        _ => most,
    }
}

#[cfg(test)]
mod tests;
