//! The time that threads of a simulation are told, whoever asks the operating system for it.
//!
//! Owns `clock_gettime` of this process: threads that belong to a simulation get its time, with what their process' clock is
//! off by, and all others the real one. So no code under test needs a clock of its own.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

/// The wall clock when a simulation begins: 2026-03-02 00:00 UTC, after every event.
const BEGIN_SECONDS: i64 = 1_772_409_600;
/// The monotonic clock when it begins: mostly long before the real one, by which the kernel measures how long a thread sleeps. So one that
/// would sleep until a moment of the simulation does not sleep at all. But hours that pass go beyond what a machine was started
/// for: whatever waits no time may not ask the kernel for it.
const UP_SECONDS: i64 = 100;
const NANOS: i64 = 1_000_000_000;

/// One simulation's time in nanoseconds since it began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Time(Arc<AtomicI64>);

impl Time {
    pub(crate) fn now(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn advance(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

thread_local! {
    static TOLD: Cell<Option<(*const AtomicI64, i64)>> = const { Cell::new(None) };
}

/// Tells this thread the time of a simulation until it is dropped.
pub(crate) struct Told {
    _time: Time,
}

impl Told {
    /// `off` is how many nanoseconds the process' wall clock is off by.
    pub(crate) fn tell(time: &Time, off: i64) -> Self {
        TOLD.set(Some((Arc::as_ptr(&time.0), off)));
        Self {
            _time: time.clone(),
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        TOLD.set(None);
    }
}

/// Does something by a simulation's own wall clock, however far off the process' is, and also on a thread that no simulation knows: what
/// a store stamps, for one.
pub(crate) fn by_the_right_clock<T>(time: &Time, work: impl FnOnce() -> T) -> T {
    let told = TOLD.replace(Some((Arc::as_ptr(&time.0), 0)));
    let done = work();
    TOLD.set(told);
    done
}

/// Stands before the C library's, for Rust's standard library and everything else that is linked in.
///
/// # Safety
/// As of the C library's: `out` points to room for a `timespec`.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    out: *mut libc::timespec,
) -> libc::c_int {
    let Ok(Some((time, off))) = TOLD.try_with(Cell::get) else {
        // SAFETY: the system call takes exactly what this function was given.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) } as libc::c_int;
    };
    // SAFETY: `Told` keeps the number alive for as long as this thread is told of it.
    let since = unsafe { &*time }.load(Ordering::Relaxed);
    let nanos = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => BEGIN_SECONDS * NANOS + since + off,
        _ => UP_SECONDS * NANOS + since,
    };
    // SAFETY: the caller gave room for it.
    unsafe {
        (*out).tv_sec = nanos.div_euclid(NANOS);
        (*out).tv_nsec = nanos.rem_euclid(NANOS);
    }
    0
}
