//! How long it takes until queries see an event: the 99th percentile of the last minute.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The stretch that is looked at.
const STRETCH: Duration = Duration::from_secs(60);
/// More batches than this in a stretch are thinned from the old end.
const MOST_SAMPLES: usize = 8192;

/// Samples of one pipeline, one a batch: its oldest record's delay.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    samples: VecDeque<(Instant, i64)>,
}

impl Freshness {
    /// A batch became visible `micros` after its oldest record was written.
    pub(crate) fn add(&mut self, at: Instant, micros: i64) {
        if self.samples.len() == MOST_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((at, micros.max(0)));
    }

    /// The 99th percentile in milliseconds, `None` without a sample in the last minute.
    pub(crate) fn p99_ms(&mut self, now: Instant) -> Option<f64> {
        while let Some(&(at, _)) = self.samples.front()
            && now.saturating_duration_since(at) > STRETCH
        {
            self.samples.pop_front();
        }
        let mut delays: Vec<i64> = self.samples.iter().map(|&(_, micros)| micros).collect();
        let rank = delays.len().checked_sub(1)? * 99 / 100;
        let (_, &mut p99, _) = delays.select_nth_unstable(rank);
        Some(p99 as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_hundredth_shows() {
        let start = Instant::now();
        let mut freshness = Freshness::default();
        assert_eq!(freshness.p99_ms(start), None);
        for sample in 0..1000 {
            freshness.add(start, if sample < 15 { 5_000_000 } else { 1_000 });
        }
        assert_eq!(freshness.p99_ms(start), Some(5000.0));
        assert_eq!(freshness.p99_ms(start + Duration::from_secs(61)), None);
    }
}
