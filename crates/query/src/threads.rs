//! The threads of queries: how many, and how far behind those of ingestion they stand.
//!
//! Owns the one priority that everything has which works for analysts: planning, executing, and writing answers for clients. Ingestion
//! keeps the process's own, so that it wins wherever both want the same core. Does not own what they do.

use std::{cell::Cell, io};

use tokio::runtime::{Builder, Handle, Runtime};

/// Stack of the threads that execute: expressions nest as deep as the gate allows.
const WORKER_STACK: usize = 32 << 20;
/// How many steps of niceness below the rest of the process. On a core that ingestion could fill alone, a thread ten steps below
/// gets 110 parts of 1,134 (`sched_prio_to_weight` in Linux), a tenth; on a core that is free, all of it. Fifteen steps would
/// leave it a thirtieth, which is too little to plan a query in while a backlog is worked off.
const STEPS: i32 = 10;
/// The lowest priority that Linux has.
const NICEST: i32 = 19;

/// Spare threads that execute: so many for each that a query is planned for. Joins that compare every row with every other do not
/// yield while they find nothing, and keep their threads beyond the end of their time, which nobody can take back; the others
/// need some that are left.
const SPARE: usize = 4;

/// Threads that one query is planned for, and as many that write answers: half of the cores, and two at least. On two or three
/// cores those are as many threads as ingestion has cores: what keeps queries from harming it is their priority, not their number.
pub(crate) fn threads_for_queries() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    (cores / 2).max(2)
}

thread_local! {
    static WORKS_FOR_CLIENTS: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread works for those who ask. A panic in one ends the query or the connection that it works for: a file that is
/// damaged so that its decoder panics must not end ingestion. Whoever ends the process on a panic asks this in its hook.
pub fn works_for_clients() -> bool {
    WORKS_FOR_CLIENTS.get()
}

/// Puts the calling thread behind the rest of the process, for good. Where that cannot be had, it only counts as one that works
/// for clients.
pub(crate) fn give_way() {
    WORKS_FOR_CLIENTS.set(true);
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpid, getpriority_process, setpriority_process};
        // A thread begins where the one that started it stands, so the first thread of the process is what counts. Without a
        // process the second call means this thread alone.
        if let Ok(own) = getpriority_process(Some(getpid())) {
            let _ = setpriority_process(None, (own + STEPS).min(NICEST));
        }
    }
}

/// A runtime whose threads give way, for whatever works for analysts outside of the engine.
///
/// # Errors
/// When threads cannot be started.
pub fn runtime_for_clients(name: &str) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads_for_queries())
        .thread_name(name)
        .on_thread_start(give_way)
        .enable_all()
        .build()
}

/// A runtime that may be dropped inside another one, where the last session may end.
#[derive(Debug)]
pub(crate) struct Threads {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Threads {
    /// Threads that execute.
    pub(crate) fn workers() -> io::Result<Self> {
        Self::of(
            Builder::new_multi_thread()
                .worker_threads(threads_for_queries() * SPARE)
                .thread_name("alluvium-query")
                .on_thread_start(give_way),
        )
    }

    /// A thread that only watches, and gives way to nobody: it does little, and has to be in time.
    pub(crate) fn watch() -> io::Result<Self> {
        Self::of(
            Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("alluvium-query-watch"),
        )
    }

    fn of(builder: &mut Builder) -> io::Result<Self> {
        let runtime = builder
            .thread_stack_size(WORKER_STACK)
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
