//! What all queries share: memory, threads and functions.
//!
//! Owns these resources. They are apart from the data path: queries run on a runtime and in a memory pool of their own, so
//! that a greedy query harms other queries at most. Does not own threads ([`crate::threads`]), how much queries may
//! use ([`crate::limits`]), nor what a single one does ([`crate::run`]).

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, OnceLock},
};

use alluvium_functions as functions;
use alluvium_plan::{Publisher, StatusBoard};
use datafusion::{
    catalog::CatalogProviderList,
    common::{Result as DataFusionResult, plan_err},
    execution::{
        SessionState, SessionStateBuilder,
        context::SessionConfig,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{FairSpillPool, MemoryPool},
        object_store::ObjectStoreRegistry,
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
};
use object_store::ObjectStore;
use tokio::{runtime::Handle, sync::Semaphore};
use url::Url;

use crate::{
    access::Share,
    catalog::Catalogs,
    client::Client,
    error::{ErrorKind, QueryError},
    fence::{self, Account},
    limits::Limits,
    names::{CATALOG, PUBLIC},
    panes::STORE_URL,
    postgres::{self, Postgres},
    read_files::ReadFiles,
    reuse::{KeptPartials, ReusePartials},
    spill::Disk,
    storage::Storage,
    threads::{Threads, threads_for_queries},
    view::{Shelf, View},
};

/// Of what queries have, the share for the footers and page indexes of files that were opened before.
const FOOTERS: usize = 8;

/// What sessions and queries share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) shelf: Arc<Shelf>,
    status: Option<Arc<StatusBoard>>,
    disk: Arc<Disk>,
    base: SessionState,
    /// Made when the first client of Postgres comes.
    postgres: OnceLock<Result<Postgres, QueryError>>,
    /// Threads that parse and plan.
    planners: Threads,
    /// Threads that execute.
    workers: Threads,
    /// The thread that watches time, so that it passes while all workers are busy.
    watch: Threads,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryEngine")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn start(
        storage: Arc<dyn Storage>,
        publisher: Option<Arc<Publisher>>,
        status: Option<Arc<StatusBoard>>,
        limits: Limits,
    ) -> Result<Self, QueryError> {
        let no_threads = |error: io::Error| {
            let text = format!("the threads for queries could not be started: {error}");
            QueryError::new(ErrorKind::Internal, text)
        };
        let environment = environment(storage.object_store(), limits.memory)?;
        let files = ReadFiles::new(&environment.memory_pool, limits.memory);
        let partials = KeptPartials::new(&environment.memory_pool, limits.memory);
        Ok(Self {
            limits,
            permits: Arc::new(Semaphore::new(limits.concurrent)),
            shelf: Arc::new(Shelf::new(storage, publisher, files)),
            status,
            disk: Disk::new(limits.disk)?,
            base: base_state(environment, threads_for_queries(), partials),
            postgres: OnceLock::new(),
            planners: Threads::planners(limits.concurrent.max(1)).map_err(no_threads)?,
            workers: Threads::workers().map_err(no_threads)?,
            watch: Threads::watch().map_err(no_threads)?,
        })
    }

    pub(crate) fn planners(&self) -> &Handle {
        self.planners.handle()
    }

    pub(crate) fn workers(&self) -> &Handle {
        self.workers.handle()
    }

    pub(crate) fn watch(&self) -> &Handle {
        self.watch.handle()
    }

    /// What a session has beside our tables when it speaks to clients of Postgres.
    pub(crate) fn postgres(&self) -> Result<&Postgres, QueryError> {
        let made = self
            .postgres
            .get_or_init(|| Postgres::over(&self.base, self.shelf.clone(), self.status.clone()));
        made.as_ref().map_err(Clone::clone)
    }

    /// A session state over one query's view.
    ///
    /// # Errors
    /// When a catalogue or an environment for this client alone cannot be made.
    pub(crate) fn state(
        &self,
        view: &Arc<View>,
        client: &Client,
        postgres: Option<&Postgres>,
    ) -> Result<SessionState, QueryError> {
        let pg_catalog = match postgres {
            Some(postgres) => Some(postgres.catalog_for(client)?),
            None => None,
        };
        let base = postgres.map_or(&self.base, |postgres| &postgres.base);
        let catalogs: Arc<dyn CatalogProviderList> = Arc::new(
            Catalogs::new(
                view.clone(),
                self.status.clone(),
                client.access.clone(),
                pg_catalog,
            )
            .with_table_functions(base.table_functions().clone()),
        );
        let state =
            SessionStateBuilder::new_from_existing(base.clone()).with_catalog_list(catalogs);
        let environment = base.runtime_env();
        let share = Share::of(
            environment.memory_pool.clone(),
            client.access.memory(&self.limits),
            client.taken.clone(),
        );
        let share: Arc<dyn MemoryPool> = Arc::new(share);
        let account = Account::of(&share);
        let spilled = self.disk.share(client.access.disk(&self.limits));
        let environment = RuntimeEnvBuilder::from_runtime_env(environment)
            .with_memory_pool(share)
            .with_disk_manager_builder(
                DiskManagerBuilder::default().with_temp_file_factory(Arc::new(spilled)),
            )
            .build_arc()?;
        let state = state.with_runtime_env(environment);
        let mut state = state.build();
        if let (Some(user), Some(_)) = (client.access.user(), postgres) {
            use datafusion::execution::FunctionRegistry;
            state.register_udf(postgres::session_user(user))?;
        }
        state.config_mut().set_extension(client.estimate.clone());
        let options = state.config_mut().options_mut();
        options.extensions.insert(account);
        // The moment that now() answers, the same in the whole query.
        state.mark_start_execution();
        Ok(state)
    }
}

fn environment(store: Arc<dyn ObjectStore>, memory: usize) -> Result<Arc<RuntimeEnv>, QueryError> {
    // Each query has its part of the one disk instead.
    let no_disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    // That cache counts for itself, so it is taken from what the pool gives out.
    let footers = memory / FOOTERS;
    let environment = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory - footers)))
        .with_metadata_cache_limit(footers)
        .with_disk_manager_builder(no_disk)
        .with_object_store_registry(Arc::new(OnlyOurs(store)))
        .build_arc()?;
    Ok(environment)
}

fn base_state(
    environment: Arc<RuntimeEnv>,
    threads: usize,
    partials: KeptPartials,
) -> SessionState {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, PUBLIC)
        .with_create_default_catalog_and_schema(false)
        .with_target_partitions(threads);
    let options = config.options_mut();
    // Clients know text, not views of text.
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.parquet.schema_force_view_types = false;
    options.sql_parser.collect_spans = true;
    options.execution.time_zone = Some("UTC".into());
    // Bounds of Parquet files leave NaN out, and the bound of one argument is no bound of an expression of it.
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // It has a minimum and a maximum of its own, which depend on the order of rows where there are two zeros.
    options.optimizer.enable_topk_aggregation = false;
    // A state a row instead of a group is ruinous for sketches.
    options
        .execution
        .skip_partial_aggregation_probe_ratio_threshold = 1.1;
    let mut state = SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_runtime_env(environment)
        // Nothing can be created, so nothing needs to know how.
        .with_table_factories(HashMap::new())
        .with_file_formats(Vec::new())
        .with_optimizer_rule(fence::fence_constants())
        .with_physical_optimizer_rule(Arc::new(ReusePartials::new(Arc::new(partials))))
        .build();
    register(&mut state);
    fence::fence(&mut state).expect("a session state takes every function");
    state
}

/// Adds our functions; `sum` takes the place of DataFusion's, which wraps.
fn register(state: &mut SessionState) {
    use datafusion::execution::FunctionRegistry;
    for aggregate in functions::aggregates() {
        state
            .register_udaf(aggregate)
            .expect("a session state takes every function");
    }
    for scalar in functions::scalars() {
        state
            .register_udf(scalar)
            .expect("a session state takes every function");
    }
}

/// The object stores that queries can reach: the one with our tables (Q5).
#[derive(Debug)]
struct OnlyOurs(Arc<dyn ObjectStore>);

impl ObjectStoreRegistry for OnlyOurs {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        // Queries reach one store, and nothing they say changes which.
        None
    }

    fn get_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        if STORE_URL.starts_with(url.as_str()) || url.as_str().starts_with(STORE_URL) {
            return Ok(self.0.clone());
        }
        plan_err!("queries cannot read {url}")
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::MemoryLimit;
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn footers_are_part_of_what_queries_have() {
        const MEMORY: usize = 96 << 20;
        let environment = environment(Arc::new(InMemory::new()), MEMORY).unwrap();
        // What a query is given shares the cache and its limit.
        let of_query = RuntimeEnvBuilder::from_runtime_env(&environment);
        let of_query = of_query.build_arc().unwrap();
        let footers = of_query.cache_manager.get_metadata_cache_limit();
        let MemoryLimit::Finite(pool) = environment.memory_pool.memory_limit() else {
            panic!("the pool has no limit");
        };
        assert_eq!(footers, MEMORY / FOOTERS);
        assert_eq!(pool + footers, MEMORY);
    }
}
