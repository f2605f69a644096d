//! The threads of queries: how many, and how far behind those of ingestion they stand.
//!
//! Owns the one priority that everything has which works for analysts: planning, executing, and writing answers for clients. Ingestion
//! keeps the process's own, so that it wins wherever both want the same core. Does not own what they do.

use std::{
    cell::Cell,
    io,
    mem::{self, ManuallyDrop},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use tokio::runtime::{Builder, Handle, Runtime};

/// Stack of the threads that execute: expressions nest as deep as the gate allows.
const WORKER_STACK: usize = 32 << 20;
/// Stack of the threads that parse and plan: the gate's limits in a debug build, several times over. Only
/// what is touched becomes memory.
const PLANNING_STACK: usize = 256 << 20;
/// How long a planner's thread waits for another query. What a deep query has touched of its stack is memory that nobody counts.
const KEPT: Duration = Duration::from_secs(1);
/// How long the end of threads is waited for. A join that does not yield may keep one of them longer than anybody waits.
const ENDING: Duration = Duration::from_secs(1);
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
///
/// Its threads are joined, not left to end by themselves: `pthread_detach` reads a thread's descriptor after it has given it away
/// (glibc, bug 19951), and that lies in a stack which is unmapped at once where it is as large as ours. Whoever lets go of threads
/// that are just ending is now and then ended with SIGSEGV, an answer already given.
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
                .thread_stack_size(WORKER_STACK)
                .thread_name("alluvium-query")
                .on_thread_start(give_way),
        )
    }

    /// As many threads that parse and plan, by `spawn_blocking` alone. They are kept for the next query, for a moment.
    pub(crate) fn planners(most: usize) -> io::Result<Self> {
        Self::of(
            Builder::new_current_thread()
                .max_blocking_threads(most)
                .thread_keep_alive(KEPT)
                .thread_stack_size(PLANNING_STACK)
                .thread_name("alluvium-query-plan")
                .on_thread_start(give_way),
        )
    }

    /// A thread that only watches, and gives way to nobody: it does little, and has to be in time.
    pub(crate) fn watch() -> io::Result<Self> {
        Self::of(
            Builder::new_multi_thread()
                .worker_threads(1)
                .thread_stack_size(WORKER_STACK)
                .thread_name("alluvium-query-watch"),
        )
    }

    fn of(builder: &mut Builder) -> io::Result<Self> {
        let runtime = builder.enable_all().build()?;
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
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        // Where no thread can be had that waits, they stay as they are, idle, until the process ends.
        let runtime = ManuallyDrop::new(runtime);
        let (last, ended) = mpsc::channel::<()>();
        let farewell = move || {
            drop(ManuallyDrop::into_inner(runtime));
            drop(last);
        };
        let named = thread::Builder::new().name("alluvium-query-end".into());
        let Ok(farewell) = named.spawn(farewell) else {
            return;
        };
        // A thread that runs tasks must not wait.
        let may_wait = Handle::try_current().is_err();
        if may_wait && ended.recv_timeout(ENDING) == Err(RecvTimeoutError::Disconnected) {
            // It has nothing more to do, and nothing to say.
            let _ = farewell.join();
        } else {
            // It may be ending just now: it is not let go of, either.
            mem::forget(farewell);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Instant,
    };

    use super::*;

    /// The threads of this process with such a name.
    #[cfg(target_os = "linux")]
    fn named(name: &str) -> usize {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let name_of = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm"));
        // One that ends while it is looked at has no name any more.
        let names = tasks.filter_map(|task| name_of(task.ok()?).ok());
        names.filter(|found| found.trim() == name).count()
    }

    fn threads_of(name: &str) -> Threads {
        let mut builder = Builder::new_multi_thread();
        Threads::of(builder.worker_threads(3).thread_name(name)).unwrap()
    }

    #[test]
    fn their_end_is_waited_for() {
        let threads = threads_of("ended-at-once");
        let ended = Arc::new(AtomicBool::new(false));
        let ends = ended.clone();
        threads.handle().spawn_blocking(move || {
            thread::sleep(ENDING / 4);
            ends.store(true, Ordering::Relaxed);
        });
        drop(threads);
        assert!(ended.load(Ordering::Relaxed));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn whoever_runs_tasks_does_not_wait_for_their_end() {
        let outer = Builder::new_current_thread().build().unwrap();
        let threads = threads_of("ended-later");
        // It is not idle when its end is asked for.
        threads
            .handle()
            .spawn_blocking(|| thread::sleep(ENDING / 2));
        let asked = Instant::now();
        outer.block_on(async move { drop(threads) });
        while named("ended-later") > 0 {
            assert!(asked.elapsed() < Duration::from_secs(60), "they live on");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn one_that_does_not_end_is_not_waited_for_without_end() {
        let threads = threads_of("never-ended");
        threads.handle().spawn_blocking(|| {
            loop {
                thread::park();
            }
        });
        drop(threads);
    }

    #[test]
    fn planners_have_deep_stacks_and_are_kept() {
        /// A frame of 64 KiB at least, a thousand times over is a quarter of a planner's stack.
        fn deep(left: u32) -> u64 {
            let frame = std::hint::black_box([u64::from(left); 8 << 10]);
            if left == 0 {
                frame[0]
            } else {
                deep(left - 1) + frame[1]
            }
        }
        let planners = Threads::planners(2).unwrap();
        let asked = Builder::new_current_thread().build().unwrap();
        let mut last = None;
        // One that has just answered may not be back yet when the next question comes.
        let is_kept = (0..1000).any(|_| {
            let planned = planners.handle().spawn_blocking(|| {
                assert!(works_for_clients());
                (deep(1000), thread::current().id())
            });
            let (sum, id) = asked.block_on(planned).unwrap();
            assert_eq!(sum, 500_500);
            last.replace(id) == Some(id)
        });
        assert!(is_kept);
    }
}
