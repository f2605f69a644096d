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
/// How long it is told that something of a log was damaged: it is seen again when a log is cleaned up, every hour, unless it was
/// replaced.
const DAMAGE_TOLD_FOR: Duration = Duration::from_secs(2 * 3600);
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
    let letters = plans
        .iter()
        .map(|plan| {
            let upkeep = store.upkeep_of_dead_letters(&plan.name, plan.keep_dead_letters);
            Kept::new(upkeep, format!("dead_letters.{}", plan.name), &plan.name)
        })
        .collect();
    let plans = plans.to_vec();
    let io = host.io("upkeep-io")?;
    Background::start("upkeep", host, move |stop| {
        let work = Work {
            store,
            plans,
            publisher,
            status,
            stop,
            io,
            tables: BTreeMap::new(),
            letters,
            clock: Clock::default(),
            is_cut_off: false,
        };
        work.run();
    })
}

/// One table, and when it may be looked at again.
struct Kept {
    upkeep: Upkeep,
    /// What SQL calls it, which is what a person looks for.
    name: String,
    pipeline: Arc<str>,
    not_before: Option<Instant>,
    /// What of its log was damaged, and when that was seen.
    damaged: Option<(String, Instant)>,
    /// Why it fails now, when it does.
    failing: Option<String>,
}

impl Kept {
    fn new(upkeep: Upkeep, name: String, pipeline: &Arc<str>) -> Self {
        Self {
            upkeep,
            name,
            pipeline: pipeline.clone(),
            not_before: None,
            damaged: None,
            failing: None,
        }
    }

    fn waits(&self) -> bool {
        self.not_before.is_some_and(|until| Instant::now() < until)
    }

    /// Does what is due, after which it is left alone for `pause`; whether it came to its end before this was told to stop.
    fn keep_up(&mut self, io: &Runtime, stop: &Stop, clock: &mut Clock, pause: Duration) -> bool {
        let begun = Instant::now();
        let Some(outcome) = stop.unless_asked(io, self.upkeep.run()) else {
            return false;
        };
        if let Some(ahead) = self.upkeep.take_clock_ahead() {
            clock.is_ahead(ahead);
        }
        let table = &self.name;
        let damaged = self.upkeep.take_damaged();
        if !damaged.is_empty() {
            let damaged = format!("{table}: {}", damaged.join("; "));
            tracing::warn!("{damaged}");
            self.damaged = Some((damaged, begun));
        }
        let (failing, pause) = match outcome {
            Ok(done) => {
                let took = begun.elapsed();
                tracing::debug!(table, ?done, ?took, "kept up");
                (self.upkeep.failing().map(str::to_owned), pause)
            }
            Err(error) => {
                tracing::warn!("the upkeep of {table} failed, commits go on: {error}");
                (Some(error.to_string()), AFTER_TROUBLE)
            }
        };
        self.failing = failing.map(|error| {
            format!("the upkeep of {table} fails and is tried again, commits go on: {error}")
        });
        self.not_before = Some(Instant::now() + pause);
        true
    }

    fn damaged(&self) -> Option<&str> {
        let damaged = self.damaged.as_ref();
        let damaged = damaged.filter(|(_, seen)| seen.elapsed() < DAMAGE_TOLD_FOR);
        damaged.map(|(text, _)| text.as_str())
    }

    /// What is wrong with it.
    fn troubles(&self) -> impl Iterator<Item = &str> {
        self.damaged().into_iter().chain(self.failing.as_deref())
    }

    /// The same as metrics, of which the first ends by itself.
    fn measure(&self) {
        let gauge = |metric: &'static str, is_so: bool| {
            metrics::gauge!(
                metric, "pipeline" => self.pipeline.to_string(), "table" => self.name.clone()
            )
            .set(if is_so { 1.0 } else { 0.0 });
        };
        gauge("alluvium_log_damaged", self.damaged().is_some());
        gauge("alluvium_upkeep_failing", self.failing.is_some());
    }
}

/// Whether this machine's clock is that of the storage.
#[derive(Default)]
struct Clock {
    trouble: Option<String>,
}

impl Clock {
    /// It was `ahead` of the storage's by so many milliseconds; below zero it was behind.
    fn is_ahead(&mut self, ahead: i64) {
        metrics::gauge!("alluvium_clock_ahead_seconds").set(ahead as f64 / 1000.0);
        let is_wrong = ahead.unsigned_abs() >= WRONG_CLOCK.as_millis() as u64;
        self.trouble = is_wrong.then(|| {
            let side = if ahead > 0 { "ahead of" } else { "behind" };
            format!(
                "this machine's clock is {} s {side} the storage's: `final` and freshness go by it; set it right",
                ahead.unsigned_abs() / 1000
            )
        });
        if let Some(trouble) = &self.trouble {
            tracing::warn!("{trouble}");
        }
    }
}

struct Work {
    store: Store,
    plans: Vec<Arc<Plan>>,
    publisher: Arc<Publisher>,
    status: Arc<StatusBoard>,
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
                let Some(kept) = known(&mut self.tables, &self.store, &self.plans, name) else {
                    continue;
                };
                if !kept.waits() && kept.upkeep.is_due(table.committed.version) {
                    self.is_cut_off |=
                        !kept.keep_up(&self.io, &self.stop, &mut self.clock, Duration::ZERO);
                }
            }
            drop(published);
            for kept in &mut self.letters {
                if !kept.waits() {
                    self.is_cut_off |=
                        !kept.keep_up(&self.io, &self.stop, &mut self.clock, LOOK_AT_LETTERS_EVERY);
                }
            }
            self.tell();
            self.stop.rest(LOOK_EVERY);
        }
        if self.is_cut_off {
            // What was under way would panic in a runtime that ends, and a request that never ends must not hold the end of
            // the process: so it goes on until that.
            std::mem::forget(self.io);
        }
    }

    /// Told with every look: a pipeline that does not run yet has another reason for that in its status.
    fn tell(&self) {
        self.tables
            .values()
            .chain(&self.letters)
            .for_each(Kept::measure);
        for plan in &self.plans {
            let all = self.tables.values().chain(&self.letters);
            let troubles: Vec<&str> = all
                .filter(|kept| kept.pipeline == plan.name)
                .flat_map(Kept::troubles)
                .collect();
            let upkeep = (!troubles.is_empty()).then(|| troubles.join("; "));
            self.status.update(&plan.name, |status| {
                status.set_trouble(Trouble::Clock, self.clock.trouble.clone());
                status.set_trouble(Trouble::Upkeep, upkeep);
            });
        }
    }
}

/// The upkeep of a published table, which begins when it is first published.
fn known<'a>(
    tables: &'a mut BTreeMap<Arc<str>, Kept>,
    store: &Store,
    plans: &[Arc<Plan>],
    name: &Arc<str>,
) -> Option<&'a mut Kept> {
    let writes = |plan: &&Arc<Plan>| plan.tables.iter().any(|table| table.name == *name);
    let plan = plans.iter().find(writes)?;
    let begun = || Kept::new(store.upkeep(name), name.to_string(), &plan.name);
    Some(tables.entry(name.clone()).or_insert_with(begun))
}
