//! Holds a producer to a rate.
//!
//! Owns the arithmetic of waiting. Does not own what is sent.

use std::{
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

/// The longest sleep at once, so that whoever waits can be stopped.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// A steady rate of events, counted from its start; time lost to waiting elsewhere is not caught up.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: Option<NonZeroU64>,
    from: Instant,
    sent: u64,
}

impl Pace {
    /// `per_second` events each second; `None`: as fast as it goes.
    pub(crate) fn new(per_second: Option<NonZeroU64>) -> Self {
        Self {
            per_second,
            from: Instant::now(),
            sent: 0,
        }
    }

    /// Counts `events` as sent.
    pub(crate) fn count(&mut self, events: u64) {
        self.sent += events;
    }

    /// How long to wait at `now` before the next event is due.
    fn due_in(&self, now: Instant) -> Duration {
        let Some(per_second) = self.per_second else {
            return Duration::ZERO;
        };
        let due = Duration::from_secs_f64(self.sent as f64 / per_second.get() as f64);
        (self.from + due).saturating_duration_since(now)
    }

    /// Sleeps until the next event is due or `stop` says so; wakes often enough to notice.
    pub(crate) fn wait(&mut self, stop: impl Fn() -> bool) {
        loop {
            let wait = self.due_in(Instant::now());
            if wait.is_zero() || stop() {
                return;
            }
            thread::sleep(wait.min(LONGEST_SLEEP));
        }
    }

    /// Forgets how far behind it is: the rate holds from now on.
    pub(crate) fn restart(&mut self) {
        self.from = Instant::now();
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_at_their_rate() {
        let mut pace = Pace::new(NonZeroU64::new(1000));
        pace.count(500);
        assert_eq!(pace.due_in(pace.from), Duration::from_millis(500));
        assert_eq!(
            pace.due_in(pace.from + Duration::from_secs(1)),
            Duration::ZERO
        );
        let mut free = Pace::new(None);
        free.count(u64::MAX);
        assert_eq!(free.due_in(free.from), Duration::ZERO);
    }
}
