//! The thread that keeps up the tables that a server writes: log checkpoints, the ledger, log clean-up, orphans, dead
//! letters that were kept long enough (P37).
//!
//! Owns when a table is looked at. Does not own what is done then, or when it is due: that is the store's [`Upkeep`]. Commits
//! neither wait for it nor fail with it: it shares nothing with them but the published version, which tells it how far a
//! table has come.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_plan::{Plan, Publisher, StatusBoard, Trouble};
use alluvium_store::{Store, Upkeep};
use tokio::runtime::Runtime;

use crate::{
    background::{Background, Stop},
    host::Host,
};

/// How often it looks whether something is due for a table.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it looks at dead letters, whose version nobody publishes.
const LOOK_AT_LETTERS_EVERY: Duration = Duration::from_secs(60);
/// How long a table is left alone after its upkeep failed.
const AFTER_TROUBLE: Duration = Duration::from_secs(30);
/// A clock that is wrong by this is told of.
const WRONG_CLOCK: Duration = Duration::from_secs(60);

/// Starts it for what `publisher` publishes, and for the dead letters of these pipelines. Told to stop, it ends where it is: what
/// it leaves unfinished is what a crash would leave.
pub(crate) fn start(
    store: Store,
    plans: &[Arc<Plan>],
    publisher: Arc<Publisher>,
    status: Arc<StatusBoard>,
    host: &Arc<dyn Host>,
) -> io::Result<Background> {
    let clock = Clock {
        status,
        pipelines: plans.iter().map(|plan| plan.name.clone()).collect(),
    };
    let letters = plans
        .iter()
        .map(|plan| Kept::new(store.upkeep_of_dead_letters(&plan.name, plan.keep_dead_letters)))
        .collect();
    let io = host.io("upkeep-io")?;
    Background::start("upkeep", host, move |stop| {
        let work = Work {
            store,
            publisher,
            stop,
            io,
            tables: BTreeMap::new(),
            letters,
            clock,
            is_cut_off: false,
        };
        work.run();
    })
}

/// One table, and when it may be looked at again.
struct Kept {
    upkeep: Upkeep,
    not_before: Option<Instant>,
}

impl Kept {
    fn new(upkeep: Upkeep) -> Self {
        Self {
            upkeep,
            not_before: None,
        }
    }

    fn waits(&self) -> bool {
        self.not_before.is_some_and(|until| Instant::now() < until)
    }
}

/// Tells when this machine's clock is not that of the storage.
struct Clock {
    status: Arc<StatusBoard>,
    pipelines: Vec<Arc<str>>,
}

impl Clock {
    /// It was `ahead` of the storage's by so many milliseconds; below zero it was behind.
    fn tell(&self, ahead: i64) {
        metrics::gauge!("alluvium_clock_ahead_seconds").set(ahead as f64 / 1000.0);
        let is_wrong = ahead.unsigned_abs() >= WRONG_CLOCK.as_millis() as u64;
        let text = is_wrong.then(|| {
            let side = if ahead > 0 { "ahead of" } else { "behind" };
            format!(
                "this machine's clock is {} s {side} the storage's: `final` and freshness go by it; set it right",
                ahead.unsigned_abs() / 1000
            )
        });
        if let Some(text) = &text {
            tracing::warn!("{text}");
        }
        for pipeline in &self.pipelines {
            self.status.update(pipeline, |status| {
                status.set_trouble(Trouble::Clock, text.clone());
            });
        }
    }
}

struct Work {
    store: Store,
    publisher: Arc<Publisher>,
    stop: Stop,
    io: Runtime,
    tables: BTreeMap<Arc<str>, Kept>,
    letters: Vec<Kept>,
    clock: Clock,
    /// Whether something was under way when this was told to stop.
    is_cut_off: bool,
}

impl Work {
    fn run(mut self) {
        while !self.stop.is_asked() {
            let published = self.publisher.current();
            for (name, table) in &published.tables {
                let store = &self.store;
                let kept = self
                    .tables
                    .entry(name.clone())
                    .or_insert_with(|| Kept::new(store.upkeep(name)));
                if !kept.waits() && kept.upkeep.is_due(table.committed.version) {
                    self.is_cut_off |=
                        !keep_up(&self.io, &self.stop, &self.clock, kept, Duration::ZERO);
                }
            }
            drop(published);
            for kept in &mut self.letters {
                if !kept.waits() {
                    self.is_cut_off |= !keep_up(
                        &self.io,
                        &self.stop,
                        &self.clock,
                        kept,
                        LOOK_AT_LETTERS_EVERY,
                    );
                }
            }
            self.stop.rest(LOOK_EVERY);
        }
        if self.is_cut_off {
            // What was under way would panic in a runtime that ends, and a request that never ends must not hold the end of
            // the process: so it goes on until that.
            std::mem::forget(self.io);
        }
    }
}

/// Does what is due for one table, which is then left alone for `pause`; whether it came to its end before this was told to
/// stop.
fn keep_up(io: &Runtime, stop: &Stop, clock: &Clock, kept: &mut Kept, pause: Duration) -> bool {
    let begun = Instant::now();
    let outcome = stop.unless_asked(io, kept.upkeep.run());
    let pause = match outcome {
        None => return false,
        Some(Ok(done)) => {
            let took = begun.elapsed();
            tracing::debug!(table = kept.upkeep.table(), ?done, ?took, "kept up");
            if let Some(ahead) = done.clock_ahead {
                clock.tell(ahead);
            }
            pause
        }
        Some(Err(error)) => {
            let table = kept.upkeep.table();
            tracing::warn!(
                "the upkeep of {table} is tried again in {AFTER_TROUBLE:?}, commits go on: {error}"
            );
            AFTER_TROUBLE
        }
    };
    kept.not_before = Some(Instant::now() + pause);
    true
}
