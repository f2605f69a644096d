//! The machine that a simulated process runs on.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle, ThreadId},
    time::Duration,
};

use alluvium_runtime::Host;
use tokio::runtime::Runtime;

use crate::world::World;

/// Starts threads that take turns.
pub(crate) struct SimulatedMachine {
    world: Arc<World>,
    process: usize,
    /// How many nanoseconds the wall clock is off by.
    off: i64,
    threads: Mutex<HashMap<ThreadId, usize>>,
}

impl SimulatedMachine {
    pub(crate) fn new(world: Arc<World>, process: usize, off: i64) -> Self {
        Self {
            world,
            process,
            off,
            threads: Mutex::default(),
        }
    }
}

impl fmt::Debug for SimulatedMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedMachine")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl Host for SimulatedMachine {
    fn spawn(
        &self,
        name: String,
        work: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<JoinHandle<()>> {
        let thread = self.world.add_thread(self.process);
        let (world, off) = (self.world.clone(), self.off);
        let shown = format!("{name} of process {}", self.process);
        let handle = thread::Builder::new()
            .name(name)
            .stack_size(1 << 20)
            .spawn(move || {
                if let Err(payload) = world.live(thread, off, &shown, work) {
                    std::panic::resume_unwind(payload);
                }
            })?;
        self.world.set_handle(thread, handle.thread().clone());
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.insert(handle.thread().id(), thread);
        Ok(handle)
    }

    fn join(&self, handle: JoinHandle<()>) -> thread::Result<()> {
        let id = handle.thread().id();
        let thread = {
            let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.get(&id).copied()
        };
        while thread.is_some_and(|thread| !self.world.is_over(thread)) {
            self.world.pause(0);
        }
        handle.join()
    }

    fn io(&self, _name: &str) -> io::Result<Runtime> {
        // Calls to the store never wait for anything but their turn, so one thread will do: the caller's.
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
    }

    fn wait(&self, _patience: Duration) -> Duration {
        self.world.pause(0);
        Duration::ZERO
    }

    fn sleep(&self, how_long: Duration) {
        self.world
            .pause(i64::try_from(how_long.as_nanos()).unwrap_or(i64::MAX));
    }
}
