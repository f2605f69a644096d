//! `stop_if`: a schema break must stop the pipeline, not fill the dead letters.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use alluvium_plan::StopIf;

/// Fewer events than this in the stretch decide nothing: one bad event of two is no schema break.
const ENOUGH_EVENTS: u64 = 100;

/// Counts of the last stretch of time.
#[derive(Debug)]
pub(crate) struct StopRule {
    rule: StopIf,
    epochs: VecDeque<(Instant, u64, u64)>,
    events: u64,
    rejected: u64,
}

impl StopRule {
    pub(crate) fn new(rule: StopIf) -> Self {
        Self {
            rule,
            epochs: VecDeque::new(),
            events: 0,
            rejected: 0,
        }
    }

    /// Adds one epoch's counts; returns (rejected, events) when too many of the stretch were rejected.
    pub(crate) fn add(&mut self, at: Instant, events: u64, rejected: u64) -> Option<(u64, u64)> {
        self.epochs.push_back((at, events, rejected));
        self.events += events;
        self.rejected += rejected;
        while let Some(&(then, events, rejected)) = self.epochs.front()
            && at.saturating_duration_since(then) > self.stretch()
        {
            self.epochs.pop_front();
            self.events -= events;
            self.rejected -= rejected;
        }
        let broken = self.events >= ENOUGH_EVENTS
            && self.rejected as f64 > self.rule.ratio * self.events as f64;
        broken.then_some((self.rejected, self.events))
    }

    fn stretch(&self) -> Duration {
        self.rule.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_epochs_do_not_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rule = StopRule::new(StopIf {
            ratio: 0.05,
            over: Duration::from_secs(60),
        });
        assert_eq!(rule.add(at(0), 50, 50), None, "too few to judge");
        assert_eq!(rule.add(at(1), 2000, 0), None);
        assert_eq!(rule.add(at(50), 100, 60), Some((110, 2150)));
        assert_eq!(rule.add(at(100), 3000, 0), None, "the first two are over");
    }
}
