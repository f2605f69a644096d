//! The sketch: how many values fell into which logarithmic bin. Owns adding, merging and answering; `ddsketch/bins.rs`
//! keeps the counts.
//! The mapping of values to bins and back is that of the crate `sketches-ddsketch`, whose store we
//! do not use: its merge panics when a sketch reaches beyond an almost full one on both sides, and
//! it keeps a kilobyte for a single value.
//!
//! *DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees*, Masson,
//! Rim, Lee, 2019; the store is its "collapsing lowest" one.

use std::sync::LazyLock;

use sketches_ddsketch::Config;

use super::bins::Bins;
use crate::error::FunctionError;

/// Counts up to here are exact as doubles, which is what the encoding keeps.
pub(super) const MAX_COUNT: u64 = 1 << 53;

/// The one configuration: relative error 1 %.
pub(super) static CONFIG: LazyLock<Config> = LazyLock::new(Config::defaults);

/// A sketch of a distribution. Two sketches of the same values are equal but for `sum`, whatever
/// the order and the merges they came by.
#[derive(Clone, Debug)]
pub(super) struct Sketch {
    pub(super) positive: Bins,
    pub(super) negative: Bins,
    pub(super) zeros: u64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// For other readers of the bytes; depends on the order of additions.
    pub(super) sum: f64,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            positive: Bins::default(),
            negative: Bins::default(),
            zeros: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sum: 0.0,
        }
    }
}

impl Sketch {
    /// Adds a finite value. Returns by how many bytes the heap has grown.
    #[inline]
    pub(super) fn add(&mut self, value: f64) -> isize {
        // Minus zero becomes zero; else `min` and `max` would depend on which of them came first.
        let value = value + 0.0;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        if value > CONFIG.min_possible() {
            self.positive.add(CONFIG.key(value), 1)
        } else if value < -CONFIG.min_possible() {
            self.negative.add(CONFIG.key(-value), 1)
        } else {
            self.zeros += 1;
            0
        }
    }

    /// Adds all values of another sketch.
    pub(super) fn merge(&mut self, other: &Self) -> Result<(), FunctionError> {
        if self.count() + other.count() > MAX_COUNT {
            return Err(FunctionError::Damaged {
                sketch: "DDSketch",
                reason: format!("more than {MAX_COUNT} values"),
            });
        }
        self.positive.merge(&other.positive);
        self.negative.merge(&other.negative);
        self.zeros += other.zeros;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        Ok(())
    }

    /// The number of values.
    pub(super) fn count(&self) -> u64 {
        self.positive.count() + self.zeros + self.negative.count()
    }

    /// The element `⌊rank · (n − 1)⌋` of the sorted values, within the relative error; `None` when
    /// there is no value. `rank` is between 0 and 1.
    pub(super) fn quantile(&self, rank: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let element = (rank * (count - 1) as f64) as u64;
        if element == 0 {
            return Some(self.min);
        }
        if element >= count - 1 {
            return Some(self.max);
        }
        let negative = self.negative.count();
        let value = if element < negative {
            -CONFIG.value(self.negative.key_at(negative - 1 - element))
        } else if element < negative + self.zeros {
            0.0
        } else {
            CONFIG.value(self.positive.key_at(element - negative - self.zeros))
        };
        // The middle of an outer bin may lie beyond every value, even beyond every double.
        Some(value.clamp(self.min, self.max))
    }

    /// Bytes on the heap.
    #[inline]
    pub(super) fn heap_size(&self) -> usize {
        self.positive.heap_size() + self.negative.heap_size()
    }
}
