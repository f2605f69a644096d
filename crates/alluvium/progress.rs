//! What a command that takes longer than a second says on stderr meanwhile: one line that is rewritten on a
//! terminal, plain lines elsewhere.
//!
//! Owns how often and in which way. Does not own the words.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    pin::pin,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;

use crate::output::say;

const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(5);
/// Of waiting that is over by then nothing is told.
const UNTOLD: Duration = Duration::from_secs(1);

/// Where progress is told.
#[derive(Debug)]
pub(crate) struct Progress {
    every: Duration,
    last: Instant,
    is_terminal: bool,
    is_shown: bool,
}

impl Progress {
    /// Progress that begins now; nothing is told in the first moments.
    pub(crate) fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self {
            every: if is_terminal { ON_TERMINAL } else { ELSEWHERE },
            last: Instant::now(),
            is_terminal,
            is_shown: false,
        }
    }

    /// Tells `line` when it is time to.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.last.elapsed() < self.every {
            return;
        }
        self.last = Instant::now();
        if self.is_terminal {
            self.is_shown = true;
            let mut stderr = anstream::stderr().lock();
            // Progress that cannot be shown is no reason to stop the work.
            let _ = write!(stderr, "\r\x1b[2K{}", line()).and_then(|()| stderr.flush());
        } else {
            say(format_args!("{}", line()));
        }
    }

    /// Waits for `work`, and tells meanwhile what is done and for how long.
    pub(crate) async fn during<T>(
        &mut self,
        what: impl fmt::Display,
        work: impl Future<Output = T>,
    ) -> T {
        let begun = Instant::now();
        let mut work = pin!(work);
        let mut moments = tokio::time::interval(ON_TERMINAL);
        moments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = moments.tick() => self.tell(|| format!("{what}, {} s", begun.elapsed().as_secs())),
            }
        }
    }
}

/// Tells what a thread waits for that is blocked for longer than a second, from another one, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Option<(Sender<()>, JoinHandle<()>)>);

impl Waiting {
    /// Begins now.
    pub(crate) fn for_(what: impl Into<String>) -> Self {
        let what = what.into();
        let (done, ended) = mpsc::channel::<()>();
        let tell = move || {
            let begun = Instant::now();
            let mut progress = Progress::new();
            let mut pause = UNTOLD;
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = ON_TERMINAL;
                progress.tell(|| format!("waiting for {what}, {} s", begun.elapsed().as_secs()));
            }
        };
        // Without a thread to spare nothing is told, and the work goes on.
        let thread = thread::Builder::new().name("progress".into()).spawn(tell);
        Self(thread.ok().map(|thread| (done, thread)))
    }

    /// It has come; nothing is told from here on.
    pub(crate) fn end(&mut self) {
        if let Some((done, thread)) = self.0.take() {
            drop(done);
            // It has nothing to say but what it has told.
            let _ = thread.join();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(anstream::stderr().lock(), "\r\x1b[2K");
        }
    }
}
