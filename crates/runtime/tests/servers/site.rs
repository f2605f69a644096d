//! The pipeline that these servers run, and where they run it.

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use alluvium_plan::{Environment, PipelineStatus, Plan, SourceFile, load_pipeline};
use alluvium_runtime::{PipelineConfig, Running, Server, ServerConfig};
use alluvium_source::{Cluster, EmbeddedBroker};
use alluvium_store::Store;

const HEAD: &str = "\
version: 1
source:
  kafka: {connection: main, topics: [events], start: earliest}
decode:
  json: {schema: event.yaml}
event_time: {column: ts}
commit_every: 100ms
refresh_every: 50ms
";
const PER_KEY: &str = "\
tables:
  per_key:
    window: {tumbling: 1m}
    group_by: {key: key}
    measures: {events: count(*)}
";

/// One that the pipeline takes where `more` is text.
pub(crate) const EVENT: &[u8] = br#"{"ts":"2026-03-01T12:00:00Z","key":"k","more":"m"}"#;

/// The pipeline, with events whose `more` is of this type.
pub(crate) fn plan(more: &str) -> Arc<Plan> {
    plan_of(PER_KEY, &format!("more: {more}"))
}

/// The same with other tables, and other columns beside `ts` and `key`.
pub(crate) fn plan_of(tables: &str, columns: &str) -> Arc<Plan> {
    load(HEAD, tables, columns)
}

/// The pipeline, with another `start`.
pub(crate) fn plan_from(start: &str) -> Arc<Plan> {
    let head = HEAD.replace("start: earliest", &format!("start: {start}"));
    load(&head, PER_KEY, "more: string")
}

fn load(head: &str, tables: &str, columns: &str) -> Arc<Plan> {
    let columns = format!("version: 1\ncolumns: {{ts: timestamp, key: string, {columns}}}\n");
    let mut schema = |_: &Path| Ok(columns.clone().into_bytes());
    let source = SourceFile::new("events.yaml", format!("{head}{tables}"));
    let (plan, _) = load_pipeline(&source, &mut schema, &Environment::default()).unwrap();
    Arc::new(plan)
}

/// A broker with the pipeline's topic.
pub(crate) fn broker() -> EmbeddedBroker {
    EmbeddedBroker::start(None, &[("events".into(), 1)]).unwrap()
}

/// A server of one worker that runs it.
pub(crate) fn serve(plan: Arc<Plan>, cluster: impl Cluster, store: Store) -> Running {
    let config = ServerConfig {
        pipelines: vec![PipelineConfig {
            plan,
            cluster: Arc::new(cluster),
        }],
        workers: 1,
        ingest_bytes: 64 << 20,
        instance: None,
    };
    Server::start(config, store).unwrap()
}

/// Waits for so many seconds at most until its pipeline's status has what is looked for.
pub(crate) fn wait_for<T>(
    running: &Running,
    seconds: u64,
    has: impl Fn(&PipelineStatus) -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        let status = running.status().all().pop().unwrap_or_default();
        match has(&status) {
            Some(found) => return found,
            None => assert!(begun.elapsed() < Duration::from_secs(seconds), "{status:?}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Why its pipeline is not simply running; empty when it is.
pub(crate) fn reason(running: &Running) -> String {
    let reason = running
        .status()
        .all()
        .pop()
        .and_then(|status| status.reason);
    reason.unwrap_or_default()
}
