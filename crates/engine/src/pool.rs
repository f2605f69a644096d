//! Counts what DataFusion holds against our memory budget (P30).
//!
//! Owns the mirror between the two counters. It never refuses: too much memory means an earlier
//! barrier, ordered by whoever watches the budget, never a failed or a spilled aggregation.

use std::{
    fmt,
    sync::{Arc, Mutex},
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

#[derive(Debug)]
struct BudgetPool {
    held: Mutex<Reservation>,
}

impl BudgetPool {
    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut held = self
            .held
            .lock()
            .expect("nobody panics while holding the counter");
        let bytes = change(held.bytes());
        held.resize(bytes);
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
        self.held
            .lock()
            .expect("nobody panics while holding the counter")
            .bytes()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Infinite
    }
}

/// What every plan of the engine runs in: memory counted by `budget`, no files, and no step that
/// gives up aggregating because keys seem to be unique, which would write one sketch a row.
pub(crate) fn task_context(budget: &MemoryBudget) -> Result<Arc<TaskContext>> {
    let mut config = SessionConfig::new()
        .with_batch_size(BATCH_ROWS)
        .with_target_partitions(1);
    config
        .options_mut()
        .execution
        .skip_partial_aggregation_probe_rows_threshold = usize::MAX;
    let pool = BudgetPool {
        held: Mutex::new(budget.reserve(0)),
    };
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
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
