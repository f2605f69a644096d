//! The files that ship with the product are right, and their JSON Schemas are those of the types.
//!
//! `ALLUVIUM_BLESS=1` writes `schemas/*.schema.json` anew.

#![allow(clippy::unwrap_used, reason = "a test says so when it fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use alluvium_plan::{
    Accept, Environment, Finish, InlineTest, PartitionBy, Plan, SourceFile, Start, StateKind,
    StopIf, TableShape, json_schemas, load_pipeline, load_pipelines, load_server,
};
use datafusion::arrow::datatypes::DataType;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn shipped(path: &str) -> SourceFile {
    let path = root().join(path);
    SourceFile::read(&path).unwrap()
}

fn load(source: &SourceFile) -> (Plan, Vec<InlineTest>) {
    load_pipeline(
        source,
        &mut |path: &Path| fs::read(path),
        &Environment::new(),
    )
    .unwrap_or_else(|told| panic!("{told}"))
}

#[test]
fn clicks_become_the_plan_that_their_file_says() {
    let (plan, tests) = load(&shipped("pipelines/clicks.yaml"));
    assert_eq!(&*plan.name, "clicks");
    assert_eq!(plan.source.connection, "main");
    assert_eq!(plan.source.topics, ["clicks".into()]);
    assert_eq!(plan.source.start, Start::Earliest);
    assert_eq!(plan.columns.len(), 8);
    assert!(plan.columns[2].optional && !plan.columns[3].optional);
    let decoded: Vec<&str> = plan
        .decoded
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(
        decoded,
        [
            "ts",
            "user_id",
            "country",
            "url",
            "status",
            "latency_ms",
            "bytes",
            "is_bot"
        ]
    );
    assert_eq!(plan.event_time.column, 0);
    assert_eq!(plan.event_time.max_delay, Duration::from_secs(30));
    assert_eq!(
        plan.event_time.accept,
        Accept {
            past: Some(Duration::from_secs(30 * 86_400)),
            future: Duration::from_secs(300),
        }
    );
    assert_eq!(
        plan.stop_if,
        Some(StopIf {
            ratio: 0.05,
            over: Duration::from_secs(600),
        })
    );
    assert_eq!(plan.keep_dead_letters, Duration::from_secs(90 * 86_400));
    assert!(plan.filter.is_some());

    let table = &plan.tables[0];
    assert_eq!(&*table.name, "clicks_per_minute");
    assert_eq!(table.window, Duration::from_secs(60));
    assert_eq!(table.partition_by, PartitionBy::Day);
    let states: Vec<(&str, StateKind)> = table
        .shape
        .states
        .iter()
        .map(|state| (state.name.as_ref(), state.kind))
        .collect();
    assert_eq!(
        states,
        [
            ("clicks", StateKind::Count),
            ("errors", StateKind::Count),
            ("bytes", StateKind::Sum),
            ("users", StateKind::Hll),
            ("p50_ms", StateKind::DdSketch),
        ],
        "both quantiles share one state"
    );
    assert_eq!(table.folds.len(), 5);
    assert!(table.folds[0].input.is_none() && table.folds[0].filter.is_none());
    assert!(table.folds[1].input.is_none() && table.folds[1].filter.is_some());
    assert_eq!(table.shape.states[2].data_type, DataType::Decimal128(38, 0));
    let last = table.shape.measures.last().unwrap();
    assert_eq!((last.state, last.finish), (4, Finish::Quantile(0.99)));
    assert_eq!(last.data_type, DataType::Float64);
    assert_eq!(table.shape.group_columns[0].data_type(), &DataType::Utf8);
    assert_eq!(
        table.definition,
        "event_time: ts
pipeline where: NOT is_bot
window: 1m
group country: coalesce(country, 'ZZ')
group page: split_part(url, '?', 1)
measure clicks: count(*)
measure errors: count(*) FILTER (WHERE status >= 500)
measure bytes: sum(bytes)
measure users: approx_distinct(user_id)
measure p50_ms: approx_percentile_cont(latency_ms, 0.5)
measure p99_ms: approx_percentile_cont(latency_ms, 0.99)
"
    );
    let read_back = TableShape::from_pane_schema(&table.shape.pane_schema()).unwrap();
    assert_eq!(read_back, table.shape);

    assert_eq!(tests.len(), 2);
    assert_eq!(
        String::from_utf8_lossy(&tests[0].given[0]),
        r#"{"ts":"2026-03-01T12:00:05Z","user_id":"ann","country":"CH","url":"/a?x=1","is_bot":false}"#
    );
    let rows = &tests[0].expect["clicks_per_minute"];
    assert_eq!(rows[0]["clicks"], 2);
    assert_eq!(rows[0]["window_start"], "2026-03-01T12:00:00Z");
    assert_eq!(tests[1].given[1], br#"{"ts": 17726xx, "user_id": "#);
    assert_eq!(tests[1].dead_letters, Some(1));
}

#[test]
fn only_what_decides_about_events_changes_the_version() {
    let source = shipped("pipelines/clicks.yaml");
    let version = load(&source).0.version;
    assert_eq!(version.len(), 16);
    let with = |from: &str, to: &str| {
        assert!(source.text.contains(from), "{from}");
        let text = source.text.replace(from, to);
        load(&SourceFile::new(source.path.clone(), text)).0
    };
    for (from, to) in [
        ("coalesce(country, 'ZZ')", "COALESCE(country,'ZZ')  # why"),
        ("{tumbling: 1m}", "{tumbling: 60s}"),
        ("commit_every: 10s", "commit_every: 5s"),
        ("owner: web-analytics@example.com", "owner: somebody"),
        ("partition_by: day", "partition_by: month"),
    ] {
        assert_eq!(with(from, to).version, version, "{to}");
    }
    for (from, to) in [
        ("coalesce(country, 'ZZ')", "coalesce(country, 'XX')"),
        ("{tumbling: 1m}", "{tumbling: 2m}"),
        ("where: not is_bot", "where: is_bot"),
        ("unknown_fields: ignore", "unknown_fields: reject"),
        ("past: 30d", "past: 31d"),
        ("max_delay: 30s", "max_delay: 31s"),
        ("clicks: count(*)", "clicks: count(url)"),
        ("  users_per_hour:", "  users_per_day:"),
    ] {
        assert_ne!(with(from, to).version, version, "{to}");
    }
    // The same in every build: a change of this line is a change for every running pipeline.
    assert_eq!(&*version, "9656d6e68cc0a4d8");
}

#[test]
fn unused_columns_are_not_decoded() {
    let source = shipped("pipelines/clicks.yaml");
    let text = source.text.replace("      mean_ms: avg(latency_ms)\n", "");
    let text: String = text
        .lines()
        .filter(|line| !line.contains("approx_percentile_cont") && !line.contains("errors:"))
        .map(|line| format!("{line}\n"))
        .collect();
    let (plan, _) = load(&SourceFile::new(source.path.clone(), text));
    let decoded: Vec<&str> = plan
        .decoded
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(
        decoded,
        ["ts", "user_id", "country", "url", "bytes", "is_bot"]
    );
    assert_eq!(plan.columns.len(), 8);
}

#[test]
fn the_server_file_is_right() {
    let (server, warnings) = load_server(
        &shipped("alluvium.yaml"),
        &mut |path: &Path| fs::read(path),
        &Environment::new(),
    )
    .unwrap_or_else(|told| panic!("{told}"));
    assert!(warnings.is_empty(), "{warnings}");
    assert_eq!(server.kafka["main"].brokers, "localhost:9092");
}

#[test]
fn all_shipped_pipelines_can_run_together() {
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("pipelines"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let sources: Vec<SourceFile> = paths
        .iter()
        .map(|path| SourceFile::read(path).unwrap())
        .collect();
    let loaded = load_pipelines(
        &sources,
        &mut |path: &Path| fs::read(path),
        &Environment::new(),
        None,
    );
    assert_eq!(
        loaded.unwrap_or_else(|told| panic!("{told}")).len(),
        sources.len()
    );
}

/// Whether null stands anywhere in a schema, as a type or as a value.
fn takes_null(schema: &serde_json::Value) -> bool {
    use serde_json::Value;
    match schema {
        Value::Null => true,
        Value::String(text) => text == "null",
        Value::Array(items) => items.iter().any(takes_null),
        Value::Object(object) => object.values().any(takes_null),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[test]
fn json_schemas_are_those_of_the_types() {
    for (name, text) in json_schemas() {
        assert!(text.contains("draft-07"), "{name}");
        let schema = serde_json::from_str(&text).unwrap();
        assert!(!takes_null(&schema), "{name}: no key takes null");
        let path = root().join("schemas").join(name);
        if std::env::var_os("ALLUVIUM_BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        // As values: the order of keys depends on how the whole tree is built.
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        assert!(
            value(&kept) == value(&text),
            "{name} is out of date: run this test with ALLUVIUM_BLESS=1"
        );
    }
}
