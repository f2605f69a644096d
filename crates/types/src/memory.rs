//! The budget that holds memory in (P30).
//!
//! Owns the counter and the thresholds. Does not own the reaction to them: intake sends an early
//! barrier at half of the budget and pauses at four fifths, and earlier where the budget is small.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that a merge and a Parquet writer want, whatever the budget is.
const WORK: usize = 24 << 20;

#[derive(Debug)]
struct Counter {
    limit: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
}

/// One shared counter of bytes: raw batches, states in workers, panes until they are committed.
///
/// Counting never fails and never blocks; whoever can slow the flow down asks
/// [`is_half_used`](Self::is_half_used) and [`is_nearly_used`](Self::is_nearly_used).
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Counter>);

impl MemoryBudget {
    /// A budget of `limit` bytes, of which nothing is used.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Counter {
            limit,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }))
    }

    /// The bytes that may be used.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// The bytes in use now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were ever in use.
    pub fn peak(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// What may be used before fetching stops. The last fifth is for merging and Parquet buffers; of a small budget it is
    /// more, two fifths at most, as these do not shrink with it.
    fn flow(&self) -> usize {
        let limit = self.0.limit;
        limit - (limit / 5).max((limit / 5 * 2).min(WORK))
    }

    /// Whether half is used (of a small budget: less): time for an early barrier and commit.
    pub fn is_half_used(&self) -> bool {
        self.used() >= self.flow() / 8 * 5
    }

    /// Whether four fifths are used (of a small budget: less): time to stop fetching.
    pub fn is_nearly_used(&self) -> bool {
        self.used() >= self.flow()
    }

    /// Whether work that can wait may take `bytes` more without holding up fetching. Where that left the flow less than a quarter of
    /// what it may use, whether it uses no more than this quarter.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        let flow = self.flow();
        self.used() <= flow.saturating_sub(bytes).max(flow / 4)
    }

    /// A part of the budget for one purpose, within bounds: `1 / parts` of it, at least `least`, at most `most` bytes.
    pub fn share(&self, parts: usize, least: usize, most: usize) -> usize {
        (self.0.limit / parts).clamp(least, most)
    }

    /// Counts `bytes` until the reservation is dropped.
    pub fn reserve(&self, bytes: usize) -> Reservation {
        self.grow(bytes);
        Reservation {
            budget: self.clone(),
            bytes,
        }
    }

    fn grow(&self, bytes: usize) {
        let used = self.0.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.0.peak.fetch_max(used, Ordering::Relaxed);
    }

    fn shrink(&self, bytes: usize) {
        let before = self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more memory given back than was counted");
    }
}

/// Bytes counted against a [`MemoryBudget`] for as long as this value lives.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    bytes: usize,
}

impl Reservation {
    /// The bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds `bytes` from now on.
    pub fn resize(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.budget.grow(bytes - self.bytes);
        } else {
            self.budget.shrink(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = MemoryBudget::new(100);
        let mut first = budget.reserve(30);
        let second = budget.reserve(25);
        first.resize(60);
        first.resize(10);
        drop(second);
        assert_eq!((budget.used(), budget.peak()), (10, 85));
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn work_that_can_wait_does_so_until_it_fits() {
        const MIB: usize = 1 << 20;
        for (limit, most) in [(1000, 770), (64, 10), (10, 1)] {
            let budget = MemoryBudget::new(limit * MIB);
            let fits = |mib: usize| {
                let _held = budget.reserve(mib * MIB);
                budget.has_room_for(30 * MIB)
            };
            assert!(fits(most) && !fits(most + 1), "{limit}");
        }
    }

    #[test]
    fn a_small_budget_leaves_more_for_work() {
        const MIB: usize = 1 << 20;
        for (limit, half, nearly) in [(1000, 500, 800), (512, 256, 410), (64, 25, 40), (10, 4, 6)] {
            let budget = MemoryBudget::new(limit * MIB);
            let is_used = |mib: usize| {
                let _held = budget.reserve(mib * MIB);
                (budget.is_half_used(), budget.is_nearly_used())
            };
            assert_eq!(is_used(half - 1), (false, false), "{limit}");
            assert_eq!(is_used(half + 1), (true, false), "{limit}");
            assert_eq!(is_used(nearly - 1), (true, false), "{limit}");
            assert_eq!(is_used(nearly + 1), (true, true), "{limit}");
        }
    }
}
