//! What a command that takes longer than a second says on stderr meanwhile: one line that is rewritten on a
//! terminal, plain lines elsewhere.
//!
//! Owns how often and in which way. Does not own the words.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::output::say;

const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(5);

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
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(anstream::stderr().lock(), "\r\x1b[2K");
        }
    }
}
