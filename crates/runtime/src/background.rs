//! A thread that a server has beside all pipelines, for work that nobody waits for.
//!
//! Owns its start, its runtime for storage, and how it is told to stop. Does not own the work: that looks at [`Stop`], and says how
//! soon it ends.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;

use crate::message::WAKE;

/// The thread, seen from the one who started it.
pub(crate) struct Background {
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Background {
    /// Runs `work` on a thread called `name`, with a small runtime of its own for the store's input and output.
    pub(crate) fn start(
        name: &str,
        work: impl FnOnce(Stop, Runtime) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Stop::default();
        let io = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("{name}-io"))
            .enable_all()
            .build()?;
        let asked = stop.clone();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(asked, io))?;
        Ok(Self { stop, thread })
    }

    /// Asks it to end, and returns at once.
    pub(crate) fn stop(&self) {
        self.stop.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    pub(crate) fn join(self) {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Whether the thread was asked to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Sleeps for so long, or until it is asked.
    pub(crate) fn rest(&self, how_long: Duration) {
        let until = Instant::now() + how_long;
        while !self.is_asked() && Instant::now() < until {
            thread::sleep(WAKE.min(until.saturating_duration_since(Instant::now())));
        }
    }
}
