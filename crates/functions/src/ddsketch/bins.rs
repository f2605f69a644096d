//! How many values fell into which bin of one sign. Owns the bound on bins and how counts lie in memory: a few bins as
//! pairs, many as an array in which a count is found without a search.

use std::mem::size_of;

/// Bins of each sign; with more, the lowest ones are one.
pub(super) const MAX_BINS: i32 = 2048;
/// Pairs from which on an array is thought of ...
const MANY: usize = 24;
/// ... and taken, if it has at most this many places for each pair.
const SPREAD: usize = 6;
/// Places that an array gets in front of a new lowest key, since the next ones will lie near it.
const ROOM: i32 = 32;

/// Counts by bin, all within [`MAX_BINS`] of the highest. Values below that are counted in the lowest bin, so that the
/// bins depend only on the values.
#[derive(Clone, Debug, Default)]
pub(super) struct Bins {
    counts: Counts,
    count: u64,
}

#[derive(Clone, Debug)]
enum Counts {
    /// Ascending by key, no count zero.
    Pairs(Vec<(i32, u64)>),
    /// The counts of all keys from `first` on; that of the last one is not zero.
    Array { first: i32, counts: Vec<u64> },
}

impl Default for Counts {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

impl PartialEq for Bins {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Bins {
    /// Counts `count` values, at least one, in the bin of `key`. Returns by how many bytes the heap has grown.
    #[inline]
    pub(super) fn add(&mut self, key: i32, count: u64) -> isize {
        self.count += count;
        if let Counts::Array { first, counts } = &mut self.counts
            && let Ok(place) = usize::try_from(i64::from(key) - i64::from(*first))
            && let Some(found) = counts.get_mut(place)
        {
            *found += count;
            return 0;
        }
        let before = self.heap_size() as isize;
        self.counts.add(key, count);
        self.heap_size() as isize - before
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (key, count) in other.iter() {
            self.add(key, count);
        }
    }

    /// The bins that hold a value, from the lowest to the highest.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i32, u64)> {
        let (pairs, first, array): (&[(i32, u64)], i32, &[u64]) = match &self.counts {
            Counts::Pairs(pairs) => (pairs, 0, &[]),
            Counts::Array { first, counts } => (&[], *first, counts),
        };
        let array = (first..).zip(array.iter().copied());
        pairs
            .iter()
            .copied()
            .chain(array.filter(|&(_, count)| count > 0))
    }

    /// The number of bins that hold a value.
    pub(super) fn len(&self) -> usize {
        match &self.counts {
            Counts::Pairs(pairs) => pairs.len(),
            Counts::Array { counts, .. } => counts.iter().filter(|count| **count > 0).count(),
        }
    }

    /// The number of values.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The bin of the value at `place` in ascending order, counted from 0.
    pub(super) fn key_at(&self, place: u64) -> i32 {
        let mut passed = 0;
        self.iter()
            .find(|&(_, count)| {
                passed += count;
                passed > place
            })
            .expect("a place is below the number of values")
            .0
    }

    /// Bytes on the heap.
    #[inline]
    pub(super) fn heap_size(&self) -> usize {
        match &self.counts {
            Counts::Pairs(pairs) => pairs.capacity() * size_of::<(i32, u64)>(),
            Counts::Array { counts, .. } => counts.capacity() * size_of::<u64>(),
        }
    }
}

/// The lowest key that is not counted in another bin when `highest` is the highest.
fn lowest(highest: i32) -> i32 {
    highest.saturating_sub(MAX_BINS - 1)
}

impl Counts {
    /// Counts a key that has no place yet, or is found among pairs.
    fn add(&mut self, key: i32, count: u64) {
        match self {
            Self::Pairs(pairs) => {
                add_pair(pairs, key, count);
                if let Some(array) = array_of(pairs) {
                    *self = array;
                }
            }
            Self::Array { first, counts } => {
                let highest = *first + counts.len() as i32 - 1;
                if key > highest {
                    add_above(first, counts, key);
                } else {
                    add_below(first, counts, key.max(lowest(highest)), lowest(highest));
                }
                let place = key.max(*first) - *first;
                counts[place as usize] += count;
            }
        }
    }
}

fn add_pair(pairs: &mut Vec<(i32, u64)>, key: i32, count: u64) {
    let key = pairs
        .last()
        .map_or(key, |&(highest, _)| key.max(lowest(highest)));
    match pairs.binary_search_by_key(&key, |&(key, _)| key) {
        Ok(place) => pairs[place].1 += count,
        Err(place) => {
            if pairs.len() == pairs.capacity() {
                // A quarter more rather than twice as much: there are many groups.
                pairs.reserve_exact(4.max(pairs.len() / 4));
            }
            pairs.insert(place, (key, count));
            if place + 1 == pairs.len() {
                collapse(pairs, lowest(key));
            }
        }
    }
}

/// Counts all bins below `lowest` in that.
fn collapse(pairs: &mut Vec<(i32, u64)>, lowest: i32) {
    let below = pairs.partition_point(|&(key, _)| key < lowest);
    if below == 0 {
        return;
    }
    let count: u64 = pairs[..below].iter().map(|&(_, count)| count).sum();
    if pairs[below].0 == lowest {
        pairs[below].1 += count;
        pairs.drain(..below);
    } else {
        pairs[below - 1] = (lowest, count);
        pairs.drain(..below - 1);
    }
}

/// The same counts as an array, if they lie close enough.
fn array_of(pairs: &[(i32, u64)]) -> Option<Counts> {
    let (&(first, _), &(highest, _)) = (pairs.first()?, pairs.last()?);
    let places = (highest - first) as usize + 1;
    if pairs.len() < MANY || places > SPREAD * pairs.len() {
        return None;
    }
    let mut counts = vec![0; places];
    for &(key, count) in pairs {
        counts[(key - first) as usize] = count;
    }
    Some(Counts::Array { first, counts })
}

/// Makes places up to `key`, which lies above all, and counts what is too far below it in the lowest bin.
fn add_above(first: &mut i32, counts: &mut Vec<u64>, key: i32) {
    let lowest = lowest(key);
    if lowest > *first {
        let below = counts.len().min((lowest - *first) as usize);
        let count: u64 = counts.drain(..below).sum();
        *first = lowest;
        match counts.first_mut() {
            Some(place) => *place += count,
            None => counts.push(count),
        }
    }
    let places = (key - *first) as usize + 1;
    if places > counts.capacity() {
        counts.reserve_exact(places + places / 4 - counts.len());
    }
    counts.resize(places, 0);
}

/// Makes places down to `key`, which lies below all but not below `lowest`, and some more.
fn add_below(first: &mut i32, counts: &mut Vec<u64>, key: i32, lowest: i32) {
    if key >= *first {
        return;
    }
    let begin = lowest.max(key - ROOM);
    counts.reserve_exact((*first - begin) as usize);
    counts.splice(..0, (begin..*first).map(|_| 0));
    *first = begin;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What the bins must be: each key, or the lowest that the highest allows.
    fn expected(keys: &[i32]) -> Vec<(i32, u64)> {
        let lowest = keys.iter().max().map_or(0, |&highest| lowest(highest));
        let mut counts = BTreeMap::new();
        for &key in keys {
            *counts.entry(key.max(lowest)).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    fn bins(keys: &[i32]) -> Bins {
        let mut bins = Bins::default();
        for &key in keys {
            bins.add(key, 1);
        }
        bins
    }

    proptest! {
        #[test]
        fn bins_depend_on_the_keys_only(
            near in proptest::collection::vec(-100..100_i32, 0..400),
            far in proptest::collection::vec(-5000..5000_i32, 0..4),
            turn in 0..400_usize,
            cut in 0..400_usize,
        ) {
            let mut keys = near;
            let turn = turn.min(keys.len());
            keys.splice(turn..turn, far);
            let whole = bins(&keys);
            prop_assert_eq!(whole.iter().collect::<Vec<_>>(), expected(&keys));
            prop_assert_eq!(whole.len(), whole.iter().count());
            prop_assert_eq!(whole.count(), keys.len() as u64);
            let (left, right) = keys.split_at(cut.min(keys.len()));
            let mut merged = bins(right);
            merged.merge(&bins(left));
            prop_assert_eq!(merged, whole);
        }
    }

    #[test]
    fn many_keys_side_by_side_take_eight_bytes_each() {
        let keys: Vec<i32> = (0..1000).chain(0..1000).collect();
        let bins = bins(&keys);
        assert!(matches!(bins.counts, Counts::Array { .. }));
        assert!(bins.heap_size() <= 8 * 1300, "{}", bins.heap_size());
    }
}
