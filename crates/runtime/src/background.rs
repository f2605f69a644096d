//! A thread that a server has beside all pipelines, for work that nobody waits for.
//!
//! Owns its start, and how it is told to stop. Does not own the work: that looks at [`Stop`], and says how soon it ends.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::runtime::Runtime;

use crate::{host::Host, message::WAKE};

/// The thread, seen from the one who started it.
pub(crate) struct Background {
    stop: Stop,
    thread: JoinHandle<()>,
    host: Arc<dyn Host>,
}

impl Background {
    /// Runs `work` on a thread called `name`.
    pub(crate) fn start(
        name: &str,
        host: &Arc<dyn Host>,
        work: impl FnOnce(Stop) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Stop {
            asked: Arc::default(),
            host: host.clone(),
        };
        let asked = stop.clone();
        let thread = host.spawn(name.to_owned(), Box::new(move || work(asked)))?;
        Ok(Self {
            stop,
            thread,
            host: host.clone(),
        })
    }

    /// Asks it to end, and returns at once.
    pub(crate) fn stop(&self) {
        self.stop.asked.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    pub(crate) fn join(self) {
        if let Err(panic) = self.host.join(self.thread) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Whether the thread was asked to end.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    asked: Arc<AtomicBool>,
    host: Arc<dyn Host>,
}

impl Stop {
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// What comes of work for the store; `None` when it is asked to stop before. Then nobody waits for the rest.
    pub(crate) fn unless_asked<T>(&self, io: &Runtime, work: impl Future<Output = T>) -> Option<T> {
        let asked = async {
            while !self.is_asked() {
                tokio::time::sleep(WAKE).await;
            }
        };
        io.block_on(async {
            tokio::select! {
                biased;
                () = asked => None,
                done = work => Some(done),
            }
        })
    }

    /// Sleeps for so long, or until it is asked.
    pub(crate) fn rest(&self, how_long: Duration) {
        self.host.rest(how_long, WAKE, || self.is_asked());
    }
}
