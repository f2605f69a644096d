//! `alluvium run`: every pipeline beside the server file, and the doors, until a signal.
//!
//! Owns the order of starting and ending. What runs is the runtime's and the doors'.

use std::{
    env, fs,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use alluvium_plan::{Diagnostics, Plan, Trouble};
use alluvium_query::{Limits, QueryEngine, runtime_for_clients};
use alluvium_runtime::{
    Instance, PipelineConfig, Running, RuntimeError, Server, ServerConfig, Stopped,
};
use alluvium_source::Broker;
use alluvium_store::Store;
use alluvium_types::ErrorClass;

use crate::{
    balances,
    cli::RunArgs,
    doors::{DOORS, Door, Entry, Kind, PortTaken},
    failure::Failure,
    files::{self, Found},
    output::{Format, to_stdout},
    signals::Stop,
    telemetry,
};

/// How often it looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// Runs until a signal, or until no pipeline is left; one that its own `stop_if` ended is left, for its tables.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let found = files::load(&args.server)?;
    for warning in &found.warnings.0 {
        tracing::warn!("{warning}");
    }
    let plans = plans(&found)?;
    let stop =
        Stop::on_signals("draining: the last commits are on their way; once more ends at once")?;
    let metrics = telemetry::Metrics::start()
        .map_err(|error| Failure::work("metrics cannot be recorded").because(&*error))?;
    let entry = Entry::of(&found.server)?;
    let listen = &found.server.listen;
    let http = Door::listen(Kind::Http, listen.http, PortTaken::Refuse)?;
    let postgres = Door::listen_at(Kind::Postgres, listen.postgres)?;
    let flight = Door::listen_at(Kind::Flight, listen.flight)?;

    let io = runtime_for_clients(DOORS)?;
    let store = io.block_on(usable_store(&found))?;
    let running = start(&found, plans, store.clone(), Some(instance(&found)?))?;
    let queries = queries(&found, store, &running)?;
    entry.renew(&io);
    let scheme = entry.scheme();
    let http = Door::open(http, &io, queries.clone(), &running, metrics, entry.clone())?;
    let mut doors = vec![http];
    tracing::info!("HTTP listens on {scheme}://{}", doors[0].address());
    if let Some(listener) = postgres {
        let door = Door::open_postgres(listener, &io, queries.clone(), entry.clone())?;
        tracing::info!("Postgres wire listens on {}", door.address());
        doors.push(door);
    }
    if let Some(listener) = flight {
        let door = Door::open_flight(listener, &io, queries, entry)?;
        tracing::info!("Flight SQL listens on {}", door.address());
        doors.push(door);
    }

    let mut fallen = None;
    while fallen.is_none() && !stop.is_asked() && !running.nothing_left() {
        thread::sleep(LOOK);
        fallen = doors.iter().find(|door| door.is_over()).map(Door::kind);
    }
    stop.ask();
    running.drain();
    let status = running.status();
    let started = Instant::now();
    let stopped = running.join(Duration::from_secs(args.drain_seconds));
    let balances = balances::sheet(&status.all());
    if !balances.is_empty() || args.format != Format::Table {
        to_stdout(|out| balances.write(args.format, out))?;
    }
    // Queries are answered until the last commit is visible.
    for door in doors {
        door.close(&io);
    }
    let Some(stopped) = stopped else {
        let failure = Failure::work(format!(
            "the last commits took longer than {} seconds; what was not committed is read again at the next start",
            args.drain_seconds
        ));
        let troubles = status.all().into_iter();
        let refused = troubles
            .filter_map(|pipeline| pipeline.troubles.get(&Trouble::Commit).cloned())
            .next();
        return Err(match refused {
            Some(why) => failure.help(format!("mend what refuses them: {why}")),
            None => failure.help("give them more time with `--drain-seconds`"),
        });
    };
    tracing::info!("drained in {} ms", started.elapsed().as_millis());
    if let Some(kind) = fallen {
        return Err(Failure::work(format!(
            "the door for {kind} ended by itself, so the server did too"
        ))
        .help("the log says why; start it again: nothing is lost"));
    }
    verdict(&stopped)
}

/// The one of that name.
pub(super) fn plan_of(found: &Found, pipeline: &str) -> Result<Arc<Plan>, Failure> {
    let plans = plans(found)?;
    if let Some(plan) = plans.iter().find(|plan| *plan.name == *pipeline) {
        return Ok(plan.clone());
    }
    let known: Vec<&str> = plans.iter().map(|plan| &*plan.name).collect();
    Err(Failure::input(format!("there is no pipeline `{pipeline}`"))
        .help(format!("there are: {}", known.join(", "))))
}

/// The Kafka that a pipeline reads.
pub(super) fn broker_of(found: &Found, plan: &Plan) -> Broker {
    let connection = &found.server.kafka[&plan.source.connection];
    Broker {
        brokers: connection.brokers.clone(),
        properties: connection.properties.clone(),
    }
}

/// Every pipeline beside the server file, with a connection.
pub(super) fn plans(found: &Found) -> Result<Vec<Arc<Plan>>, Failure> {
    let mut wrong = Diagnostics::default();
    let paths =
        files::pipeline_files(&found.pipelines()).map_err(|found| Failure::wrong_files(&found))?;
    let sources = files::read_all(&paths, &mut wrong);
    let loaded = match files::plans(&sources, Some(&found.connections())) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            wrong.extend(mistakes);
            Vec::new()
        }
    };
    if wrong.has_errors() {
        return Err(Failure::wrong_files(&wrong));
    }
    if loaded.is_empty() {
        return Err(Failure::input(format!(
            "there is no pipeline file in {}",
            found.pipelines().display()
        ))
        .help("a pipeline is a .yaml file there; `alluvium demo` writes one to look at"));
    }
    Ok(loaded.into_iter().map(|(plan, _)| Arc::new(plan)).collect())
}

/// The server's storage, which must refuse to create one key twice (S8).
async fn usable_store(found: &Found) -> Result<Store, Failure> {
    let store = found.store().await?;
    match store.prove().await {
        Ok(()) => {}
        // Storage that is away for a moment is no reason not to start: every pipeline waits for it, and proves it then.
        Err(error) if error.class() == ErrorClass::Transient => {
            tracing::warn!("storage does not answer yet: {error}");
        }
        Err(error) => {
            return Err(Failure::input(format!(
                "the storage at {} cannot be used",
                found.server.storage.root
            ))
            .because(&error));
        }
    }
    Ok(store)
}

/// Starts the pipelines of a server.
pub(super) fn start(
    found: &Found,
    plans: Vec<Arc<Plan>>,
    store: Store,
    instance: Option<Instance>,
) -> Result<Running, Failure> {
    let server = &found.server;
    let pipelines = plans
        .into_iter()
        .map(|plan| PipelineConfig {
            cluster: Arc::new(broker_of(found, &plan)),
            plan,
        })
        .collect();
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let config = ServerConfig {
        pipelines,
        workers: server.workers.map_or_else(cores, usize::from),
        ingest_bytes: server.memory.ingest,
        instance,
    };
    Server::start(config, store)
        .map_err(|error| Failure::work("the pipelines could not be started").because(&error))
}

/// The query engine beside running pipelines.
pub(super) fn queries(
    found: &Found,
    store: Store,
    running: &Running,
) -> Result<QueryEngine, Failure> {
    let limits = Limits::of(&found.server);
    QueryEngine::new(
        store,
        Some(running.publisher()),
        Some(running.status()),
        limits,
    )
    .map_err(|error| Failure::work("queries cannot be answered").because(&error))
}

/// The name in consumer groups (P29).
fn instance(found: &Found) -> Result<Instance, Failure> {
    if let Some(name) = &found.server.instance {
        return Ok(Instance::named(name));
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| fs::read_to_string("/etc/hostname"))
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .or_else(|| env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "localhost".to_owned());
    let file = found.path.canonicalize()?;
    Instance::lowest_free(&host, &file, &env::temp_dir()).map_err(|error| {
        Failure::work("this server has no name in its consumer groups").because(&error)
    })
}

/// What the ends of all pipelines mean for the process. Each has said in the log, where it happened, why it ended; what came after may
/// have hidden that, so it is the last that the process says, too.
fn verdict(stopped: &[Stopped]) -> Result<ExitCode, Failure> {
    let is_file_wrong = |stopped: &Stopped| {
        stopped.is_refused() && !matches!(stopped.error, Some(RuntimeError::Fenced { .. }))
    };
    // The exit code is that of the last: a person need not change a file alone where other work failed.
    let (wrong, failed): (Vec<_>, Vec<_>) = stopped.iter().partition(|one| is_file_wrong(one));
    let reason = |stopped: &&Stopped| stopped.error.as_ref().map(RuntimeError::to_string);
    let wrong = wrong.iter().filter_map(reason).map(Failure::input);
    let failed = failed.iter().filter_map(reason).map(Failure::work);
    Failure::any_of(wrong.chain(failed))?;
    Ok(ExitCode::SUCCESS)
}
