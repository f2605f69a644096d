//! SIGTERM and ctrl-c: the first asks for an orderly end, the second ends the process at once.
//!
//! Owns the signal handlers of the process. Does not own what an orderly end is.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::output::say;

/// Exit code of a process that was interrupted.
const INTERRUPTED: i32 = 130;

/// Whether somebody asked the process to end. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Starts listening for SIGTERM and SIGINT; `farewell` is said at the first one.
    ///
    /// # Errors
    /// When the operating system gives no thread or no handler.
    pub(crate) fn on_signals(farewell: &'static str) -> io::Result<Self> {
        let stop = Self::default();
        let asked = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // Registered before this returns, so that no early signal kills the process.
        let (mut terminate, mut interrupt) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            )
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        tokio::select! {
                            _ = terminate.recv() => {}
                            _ = interrupt.recv() => {}
                        }
                        if asked.ask() {
                            say(format_args!(
                                "ended at once; what was not committed is read again"
                            ));
                            std::process::exit(INTERRUPTED);
                        }
                        if !farewell.is_empty() {
                            say(format_args!("{farewell}"));
                        }
                    }
                });
            })?;
        Ok(stop)
    }

    /// Asks for the end; returns whether that had been asked before.
    pub(crate) fn ask(&self) -> bool {
        self.0.swap(true, Ordering::AcqRel)
    }

    /// Whether the end was asked for.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
