//! What the threads of a server ask of the machine: to be started, to be waited for, and to wait.
//!
//! Owns nothing but the real one. Whoever brings another decides which thread goes on and when, and so can run whole
//! servers step by step. Time itself is asked of the operating system, wherever it is asked.

use std::{
    fmt, io,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{
    Receiver, RecvTimeoutError, SendTimeoutError, Sender, TryRecvError, TrySendError,
};
use tokio::runtime::Runtime;

/// A machine that runs a server's threads.
pub trait Host: fmt::Debug + Send + Sync + 'static {
    /// Starts a thread.
    ///
    /// # Errors
    /// When the operating system gives none.
    fn spawn(
        &self,
        name: String,
        work: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<JoinHandle<()>>;

    /// Waits for the end of a thread that it started.
    ///
    /// # Errors
    /// With the payload of the panic that ended it.
    fn join(&self, thread: JoinHandle<()>) -> thread::Result<()>;

    /// A small runtime for the store's input and output.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    fn io(&self, name: &str) -> io::Result<Runtime>;

    /// A thread is about to wait, for `patience` at most: how long it may sleep while it does. Every thread of the data path
    /// comes by here before it waits for anything but storage.
    fn wait(&self, patience: Duration) -> Duration;

    /// Sleeps.
    fn sleep(&self, how_long: Duration);
}

/// The machine that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Host for Machine {
    fn spawn(
        &self,
        name: String,
        work: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(name).spawn(work)
    }

    fn join(&self, thread: JoinHandle<()>) -> thread::Result<()> {
        thread.join()
    }

    fn io(&self, name: &str) -> io::Result<Runtime> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
    }

    fn wait(&self, patience: Duration) -> Duration {
        patience
    }

    fn sleep(&self, how_long: Duration) {
        thread::sleep(how_long);
    }
}

impl dyn Host {
    /// The next message, if one comes within `patience`.
    pub(crate) fn receive<T>(
        &self,
        inbox: &Receiver<T>,
        patience: Duration,
    ) -> Result<T, RecvTimeoutError> {
        let patience = self.wait(patience);
        match inbox.try_recv() {
            Ok(message) => Ok(message),
            Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            // With a deadline that has passed a channel still looks many times.
            Err(TryRecvError::Empty) if patience.is_zero() => Err(RecvTimeoutError::Timeout),
            Err(TryRecvError::Empty) => inbox.recv_timeout(patience),
        }
    }

    /// Sends, if there is room within `patience`.
    pub(crate) fn send<T>(
        &self,
        to: &Sender<T>,
        message: T,
        patience: Duration,
    ) -> Result<(), SendTimeoutError<T>> {
        let patience = self.wait(patience);
        match to.try_send(message) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(back)) => Err(SendTimeoutError::Disconnected(back)),
            Err(TrySendError::Full(back)) if patience.is_zero() => {
                Err(SendTimeoutError::Timeout(back))
            }
            Err(TrySendError::Full(back)) => to.send_timeout(back, patience),
        }
    }

    /// Sleeps until `is_over`, at most for so long; looks every `look`.
    pub(crate) fn rest(&self, how_long: Duration, look: Duration, is_over: impl Fn() -> bool) {
        let until = Instant::now() + how_long;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || is_over() {
                return;
            }
            self.sleep(look.min(left));
        }
    }

    /// Tries until it succeeds, at most until `deadline`; `attempt` is told how long it may take and waits by way of this host.
    pub(crate) fn until<T>(
        &self,
        deadline: Instant,
        mut attempt: impl FnMut(Duration) -> Option<T>,
    ) -> Option<T> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let found = attempt(left);
            if found.is_some() || left.is_zero() {
                return found;
            }
        }
    }
}
