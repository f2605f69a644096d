//! A table of a few events behind a query engine, for the targets that speak SQL.

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use alluvium_engine::{EpochFold, merge_panes};
use alluvium_plan::{Environment, Plan, SourceFile, load_pipeline};
use alluvium_query::{Limits, QueryEngine};
use alluvium_store::{CommitFacts, Ending, Store, StoreRules, TableSpec};
use alluvium_types::{
    Epoch, Generation, MemoryBudget, OffsetRange, RawBatchBuilder, TableSet, Timestamp,
    TopicPartition,
};
use object_store::memory::InMemory;

const PIPELINE: &str = "version: 1
source:
  kafka: {connection: main, topics: [t], start: earliest}
decode:
  json: {schema: s.yaml}
event_time: {column: ts, max_delay: 1m}
tables:
  clicks:
    window: {tumbling: 1m}
    group_by: {country: country}
    measures:
      n: count(*)
      total: sum(bytes)
      mean: avg(price)
      users: approx_distinct(visitor)
      p95: approx_percentile_cont(price, 0.95)
";
const SCHEMA: &[u8] =
    b"version: 1\ncolumns: {ts: timestamp, country: string?, bytes: bigint?, price: double?, visitor: string?}\n";
const EVENTS: [&str; 3] = [
    r#"{"ts":"2026-03-01T12:00:00Z","country":"de","bytes":10,"price":1.5,"visitor":"a"}"#,
    r#"{"ts":"2026-03-01T12:00:30Z","country":"fr","bytes":-7,"price":2.5,"visitor":"b"}"#,
    r#"{"ts":"2026-03-01T12:01:00Z","bytes":9223372036854775807,"visitor":"a"}"#,
];
/// How long a query may take: less than the fuzzer waits for a target.
const PATIENCE: Duration = Duration::from_secs(3);

/// The plan of a pipeline file over one schema.
pub(crate) fn plan_of(pipeline: &str, schema: &[u8]) -> Plan {
    let mut read = |_: &Path| -> io::Result<Vec<u8>> { Ok(schema.to_vec()) };
    let source = SourceFile::new("pipelines/p.yaml", pipeline);
    let (plan, _) = load_pipeline(&source, &mut read, &Environment::default()).expect("a plan");
    plan
}

/// What the only table of a plan is to be.
pub(crate) fn spec_of(plan: &Plan) -> TableSpec {
    let planned = &plan.tables[0];
    TableSpec {
        name: planned.name.clone(),
        pipeline: plan.name.clone(),
        shape: Arc::new(planned.shape.clone()),
        partition_by: planned.partition_by,
        definition: planned.definition.clone(),
    }
}

/// Answers over the table, within narrow limits.
pub(crate) async fn engine() -> QueryEngine {
    let plan = Arc::new(plan_of(PIPELINE, SCHEMA));
    let store = Store::over(Arc::new(InMemory::new()), StoreRules::default());
    let partition = TopicPartition::new("t", 0);
    let budget = MemoryBudget::new(1 << 30);
    let mut writer = store.table(&spec_of(&plan)).await.expect("a new table");
    let starts = BTreeMap::from([(partition.clone(), 0)]);
    let counts = BTreeMap::from([("t".into(), 1)]);
    writer
        .record_start(&starts, &counts, &BTreeMap::new())
        .await
        .expect("a start");

    let mut builder = RawBatchBuilder::default();
    for (offset, event) in (0..).zip(EVENTS) {
        builder.push(offset, None, None, Some(event.as_bytes()), []);
    }
    let range = OffsetRange::new(0, EVENTS.len() as i64).expect("a range");
    let batch = builder.finish(
        partition.clone(),
        range,
        Generation::default(),
        Timestamp::default(),
        None,
    );
    let mut fold = EpochFold::new(plan.clone(), budget.clone()).expect("a fold");
    fold.push(&batch, TableSet::all(1)).expect("events");
    let mut part = fold.finish().expect("panes");
    let table = part.tables.remove(0);
    let merged = merge_panes(&plan.tables[0].shape, vec![table.panes], &budget).expect("a merge");
    let staged = writer.stage(merged, Some(&budget)).await.expect("a file");
    let facts = CommitFacts {
        ranges: BTreeMap::from([(partition, range)]),
        watermarks: BTreeMap::new(),
        leader_epochs: BTreeMap::new(),
        balance: table.balance,
        pipeline_version: plan.version.clone(),
        settings: Default::default(),
        epoch: Epoch(1),
    };
    let ending = writer.commit(&staged, &facts).await.expect("a commit");
    assert!(matches!(ending, Ending::Committed { .. }), "{ending:?}");

    let limits = Limits {
        memory: 64 << 20,
        disk: 0,
        timeout: PATIENCE,
        max_sql_bytes: 4 << 10,
        max_rows: 10_000,
        max_bytes: 16 << 20,
        ..Limits::default()
    };
    QueryEngine::new(store, None, None, limits).expect("an engine")
}
