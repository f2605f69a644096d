//! When intake ends an epoch, and for what.
//!
//! Owns the two periods of a pipeline and when each began. Does not own the clock: whoever asks says what time it is.

use std::time::{Duration, Instant};

use crate::message::Order;

#[derive(Debug)]
pub(crate) struct Pace {
    commit_every: Duration,
    refresh_every: Duration,
    last_commit: Instant,
    last_end: Instant,
}

impl Pace {
    pub(crate) fn starting_at(
        now: Instant,
        commit_every: Duration,
        refresh_every: Duration,
    ) -> Self {
        Self {
            commit_every,
            refresh_every,
            last_commit: now,
            last_end: now,
        }
    }

    /// What the open epoch is to be ended for. One commit at a time (`may_commit`), and early where memory is short
    /// (`is_squeezed`, P30).
    pub(crate) fn due(&self, now: Instant, may_commit: bool, is_squeezed: bool) -> Option<Order> {
        let passed = |since: Instant, period| now.duration_since(since) >= period;
        if may_commit && (is_squeezed || passed(self.last_commit, self.commit_every)) {
            Some(Order::Commit)
        } else {
            passed(self.last_end, self.refresh_every).then_some(Order::Publish)
        }
    }

    /// The open epoch was ended for this.
    pub(crate) fn ended(&mut self, now: Instant, order: Order) {
        self.last_end = now;
        if order == Order::Commit {
            self.last_commit = now;
        }
    }

    /// There was nothing to show, so the epoch stays open.
    pub(crate) fn passed_over(&mut self, now: Instant) {
        self.last_end = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn commits_and_what_is_shown_in_between_come_at_their_own_times() {
        let start = Instant::now();
        let mut pace = Pace::starting_at(start, 3 * SECOND, SECOND);
        let mut came = Vec::new();
        for tenth in 0..=65 {
            let now = start + tenth * SECOND / 10;
            if let Some(order) = pace.due(now, true, false) {
                pace.ended(now, order);
                came.push((tenth, order == Order::Commit));
            }
        }
        let expected = [10, 20, 30, 40, 50, 60].map(|tenth| (tenth, tenth % 30 == 0));
        assert_eq!(came, expected);
    }

    #[test]
    fn one_commit_at_a_time_however_short_memory_is() {
        let start = Instant::now();
        let mut pace = Pace::starting_at(start, 3 * SECOND, SECOND);
        assert_eq!(pace.due(start, true, true), Some(Order::Commit));
        pace.ended(start, Order::Commit);
        assert_eq!(pace.due(start, false, true), None);
        let late = start + 9 * SECOND;
        assert_eq!(pace.due(late, false, true), Some(Order::Publish));
        pace.passed_over(late);
        assert_eq!(pace.due(late, false, true), None);
        assert_eq!(pace.due(late, true, false), Some(Order::Commit));
    }
}
