//! Counts what DataFusion holds against our memory budget (P30).
//!
//! Owns the mirror between the two counters. It never refuses: too much memory means an earlier
//! barrier, ordered by whoever watches the budget, never a failed or a spilled aggregation.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use alluvium_types::{MemoryBudget, Reservation};
use datafusion::{
    common::Result,
    execution::{
        TaskContext,
        config::SessionConfig,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{MemoryLimit, MemoryPool, MemoryReservation},
        runtime_env::RuntimeEnvBuilder,
    },
};

/// Rows of one batch, in and out of every plan.
pub(crate) const BATCH_ROWS: usize = 8192;

/// Counts what plans hold, and, for states that are to become columns, the room for these too.
#[derive(Debug)]
pub(crate) struct BudgetPool {
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    /// How often they are counted.
    times: usize,
    reservation: Reservation,
}

impl Held {
    fn count(&mut self) {
        self.reservation.resize(self.bytes * self.times);
    }
}

impl BudgetPool {
    /// Counts every byte once.
    pub(crate) fn once(budget: &MemoryBudget) -> Arc<Self> {
        Self::counting(1, budget)
    }

    /// Counts every byte twice until [`Self::give_room`]. States become columns all at once, and while they do, they are
    /// there in both forms. Who counts that when it happens finds the room taken.
    pub(crate) fn with_room(budget: &MemoryBudget) -> Arc<Self> {
        Self::counting(2, budget)
    }

    fn counting(times: usize, budget: &MemoryBudget) -> Arc<Self> {
        let held = Held {
            bytes: 0,
            times,
            reservation: budget.reserve(0),
        };
        Arc::new(Self {
            held: Mutex::new(held),
        })
    }

    /// Counts once from now on, and lets `reservation` count the room. What is counted together stays as it is.
    pub(crate) fn give_room(&self, reservation: &mut Reservation) {
        let mut held = self.lock();
        let room = held.bytes * (held.times - 1);
        held.times = 1;
        held.count();
        reservation.resize(reservation.bytes() + room);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held
            .lock()
            .expect("nobody panics while holding the counter")
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut held = self.lock();
        held.bytes = change(held.bytes);
        held.count();
    }
}

impl fmt::Display for BudgetPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BudgetPool({} bytes)", self.reserved())
    }
}

impl MemoryPool for BudgetPool {
    fn name(&self) -> &str {
        "budget"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.change(|bytes| bytes + additional);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.change(|bytes| bytes.saturating_sub(shrink));
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.grow(reservation, additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.lock().bytes
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Infinite
    }
}

/// What every plan of the engine runs in: memory counted by `pool`, no files, and no step that
/// gives up aggregating because keys seem to be unique, which would write one sketch a row.
pub(crate) fn task_context(pool: Arc<BudgetPool>) -> Result<Arc<TaskContext>> {
    let mut config = SessionConfig::new()
        .with_batch_size(BATCH_ROWS)
        .with_target_partitions(1);
    config
        .options_mut()
        .execution
        .skip_partial_aggregation_probe_rows_threshold = usize::MAX;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .with_disk_manager_builder(
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
        )
        .build_arc()?;
    Ok(Arc::new(
        TaskContext::default()
            .with_session_config(config)
            .with_runtime(runtime),
    ))
}
