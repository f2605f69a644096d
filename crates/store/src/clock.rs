//! How long ago something was, also when the machine slept in between (P12).
//!
//! Owns the measurement. Does not own what is too old.

use std::time::{Duration, Instant, SystemTime};

/// A moment whose age can be asked.
///
/// `Instant` stops while a machine is suspended and the wall clock may be set back, so three clocks are read and
/// the largest age counts: an age that is too large costs one reload, one that is too small could cost events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    monotonic: Instant,
    wall: SystemTime,
    since_boot: Option<Duration>,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: wall(),
            since_boot: since_boot(),
        }
    }

    pub(crate) fn age(self) -> Duration {
        let slept = since_boot()
            .zip(self.since_boot)
            .map_or(Duration::ZERO, |(now, then)| now.saturating_sub(then));
        let wall = wall().duration_since(self.wall).unwrap_or(Duration::ZERO);
        self.monotonic.elapsed().max(wall).max(slept)
    }

    #[cfg(test)]
    pub(crate) fn make_older(&mut self, by: Duration) {
        self.wall -= by;
    }
}

#[cfg(not(test))]
fn wall() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
fn wall() -> SystemTime {
    SystemTime::now() + SLEPT.get()
}

#[cfg(test)]
thread_local! {
    static SLEPT: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

/// As if the machine had been suspended for so long just now, as far as this thread can tell.
#[cfg(test)]
pub(crate) fn suspend(by: Duration) {
    SLEPT.set(SLEPT.get() + by);
}

/// Linux counts `CLOCK_BOOTTIME` here, which goes on during suspend.
fn since_boot() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Milliseconds since 1970 by the wall clock, for what Delta stamps on commits and files.
pub(crate) fn wall_millis() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, millis)
}

/// In milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
