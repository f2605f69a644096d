//! Golden cases: a pipeline does what its file says, whole and stitched.
//!
//! Each case is run by engine and store as a server would: epochs of a few records, one commit an epoch,
//! 1, 2 and 7 workers. After every epoch everything is thrown away and opened again from the table, so a
//! run stopped and resumed at every epoch must equal the golden file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use alluvium_engine::{EpochFold, PartitionTimes, merge_panes};
use alluvium_plan::{Plan, SourceFile, load_pipeline};
use alluvium_query::{Limits, QueryEngine};
use alluvium_source::{Replay, ReplayLine};
use alluvium_store::{CommitFacts, Ending, StorageConfig, Store, TableSpec, audit};
use alluvium_types::{
    Balance, Epoch, Generation, Lateness, MemoryBudget, OffsetRange, RawBatch, TableSet, Timestamp,
    TopicPartition,
};
use datafusion::arrow::{
    array::{Array, RecordBatch},
    compute::cast,
    datatypes::DataType,
    json::LineDelimitedWriter,
};
use serde_json::{Map, Value};

/// 2026-03-02T00:00:00Z, the Kafka timestamp of every record.
const RECORDED: i64 = 1_772_409_600_000_000;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the golden folder can be listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("pipeline.yaml").exists())
        .collect();
    cases.sort();
    assert!(cases.len() >= 10, "the golden cases are there");
    cases
}

fn plan(case: &Path) -> Arc<Plan> {
    let file = SourceFile::read(&case.join("pipeline.yaml")).expect("a golden pipeline is text");
    let mut read = |path: &Path| fs::read(path);
    match load_pipeline(&file, &mut read, &Default::default()) {
        Ok((plan, _)) => Arc::new(plan),
        Err(found) => panic!("{}", found.render(alluvium_plan::Color::Plain)),
    }
}

fn lines(case: &Path) -> Vec<ReplayLine> {
    let bytes = fs::read(case.join("events.ndjson")).expect("a golden case has events");
    let mut payloads: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    assert_eq!(
        payloads.pop(),
        Some(b"".as_slice()),
        "the last payload ends in a line feed"
    );
    payloads
        .into_iter()
        .map(|payload| ReplayLine {
            timestamp: Some(Timestamp::from_micros(RECORDED)),
            ..ReplayLine::from(payload.to_vec())
        })
        .collect()
}

fn json(path: &Path) -> Value {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// How a case is cut into work.
#[derive(Clone, Copy, Debug)]
struct Cut {
    partitions: i32,
    workers: usize,
    /// Records of an epoch; everything is dropped and opened again after each.
    epoch: usize,
    batch: usize,
}

/// Runs a case and returns the sum of each table's balance.
async fn run(plan: &Arc<Plan>, lines: &[ReplayLine], store: &Store, cut: Cut) -> Vec<Balance> {
    let budget = MemoryBudget::new(1 << 30);
    let topic = plan.source.topics[0].clone();
    let mut totals = vec![Balance::default(); plan.tables.len()];
    let replay = || {
        Replay::new(topic.clone(), cut.partitions, lines.to_vec(), &[cut.batch])
            .stamped(Generation(1), Timestamp::from_micros(RECORDED))
    };
    let starts: BTreeMap<TopicPartition, i64> = replay()
        .partitions()
        .into_iter()
        .map(|partition| (partition, 0))
        .collect();
    for epoch in 1.. {
        // Nothing but the tables is left of the epoch before.
        let mut writers = Vec::new();
        for table in &plan.tables {
            let spec = TableSpec {
                name: table.name.clone(),
                pipeline: plan.name.clone(),
                shape: Arc::new(table.shape.clone()),
                partition_by: table.partition_by,
                definition: table.definition.clone(),
            };
            let mut writer = store.table(&spec).await.expect("a table opens");
            writer
                .record_start(
                    &starts,
                    &BTreeMap::from([(topic.clone(), cut.partitions)]),
                    &BTreeMap::new(),
                )
                .await
                .expect("the start is recorded");
            writers.push(writer);
        }
        let mut letters = store
            .dead_letters(&plan.name)
            .await
            .expect("dead letters open");
        let recorded = writers[0].checkpoint().clone();
        letters
            .known(&recorded.offsets)
            .await
            .expect("known letters");

        let mut batches: Vec<RawBatch> = Vec::new();
        let mut records = 0;
        for batch in replay().starting_at(&recorded.offsets) {
            if records >= cut.epoch {
                break;
            }
            records += batch.len();
            batches.push(batch);
        }
        if batches.is_empty() {
            return totals;
        }
        let mut folds: Vec<EpochFold> = (0..cut.workers)
            .map(|_| EpochFold::new(plan.clone(), budget.clone()).expect("a fold"))
            .collect();
        let mut ranges: BTreeMap<TopicPartition, OffsetRange> = BTreeMap::new();
        for (position, batch) in batches.iter().enumerate() {
            ranges
                .entry(batch.partition.clone())
                .and_modify(|range| *range = range.join(batch.range).expect("ranges chain"))
                .or_insert(batch.range);
            folds[position % cut.workers]
                .push(batch, TableSet::all(plan.tables.len()))
                .expect("the engine takes any bytes");
        }
        // The last worker hands over first.
        let mut parts: Vec<_> = folds
            .into_iter()
            .rev()
            .map(|fold| fold.finish().expect("a fold ends"))
            .collect();

        let delay = i64::try_from(plan.event_time.max_delay.as_micros()).unwrap();
        let mut late = vec![Lateness::default(); plan.tables.len()];
        let mut watermarks = BTreeMap::new();
        for partition in ranges.keys() {
            let newest = recorded
                .watermarks
                .get(partition)
                .map(|mark| mark.saturating_add_micros(delay));
            let mut times = PartitionTimes::new(newest);
            let mut observed: Vec<_> = parts
                .iter()
                .flat_map(|part| &part.observed)
                .filter(|batch| batch.partition == *partition)
                .cloned()
                .collect();
            let settled = times.settle(&mut observed, plan.event_time.max_delay, plan.tables.len());
            for (sum, here) in late.iter_mut().zip(settled) {
                sum.add(&here);
            }
            if let Some(newest) = times.newest() {
                watermarks.insert(partition.clone(), newest.saturating_add_micros(-delay));
            }
        }
        let rejects: Vec<_> = parts
            .iter_mut()
            .flat_map(|part| std::mem::take(&mut part.rejects))
            .collect();
        letters
            .commit(&rejects, &plan.version, Timestamp::from_micros(RECORDED))
            .await
            .expect("dead letters are kept");
        for (position, writer) in writers.iter_mut().enumerate() {
            let mut balance = Balance::default();
            let mut panes = Vec::new();
            for part in &mut parts {
                balance.add(&part.tables[position].balance);
                panes.push(std::mem::take(&mut part.tables[position].panes));
            }
            let balance = balance.with_late(late[position]);
            let merged =
                merge_panes(&plan.tables[position].shape, panes, &budget).expect("panes merge");
            let staged = writer
                .stage(merged, Some(&budget))
                .await
                .expect("panes are staged");
            let facts = CommitFacts {
                ranges: ranges.clone(),
                watermarks: watermarks.clone(),
                leader_epochs: BTreeMap::new(),
                balance,
                pipeline_version: plan.version.clone(),
                settings: Default::default(),
                epoch: Epoch(epoch),
            };
            let ending = writer.commit(&staged, &facts).await.expect("a commit ends");
            assert!(matches!(ending, Ending::Committed { .. }), "{ending:?}");
            totals[position].add(&balance);
        }
    }
    unreachable!("an epoch without records returns")
}

/// All rows of a query, as JSON objects.
async fn rows(queries: &QueryEngine, sql: &str) -> Vec<Map<String, Value>> {
    let result = queries
        .session()
        .query(sql, Vec::new())
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let batches = result
        .collect()
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut writer = LineDelimitedWriter::new(Vec::new());
    for batch in &batches {
        writer.write(&exact(batch)).expect("rows become JSON");
    }
    writer.finish().expect("rows become JSON");
    let text = String::from_utf8(writer.into_inner()).expect("JSON is text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a row is JSON"))
        .collect()
}

/// Decimals as text, because a JSON number is read as a double.
fn exact(batch: &RecordBatch) -> RecordBatch {
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    RecordBatch::try_from_iter_with_nullable(columns.map(|(field, column)| {
        let column = if column.data_type().is_decimal() {
            cast(column, &DataType::Utf8).expect("a decimal becomes text")
        } else {
            column.clone()
        };
        (field.name(), column, true)
    }))
    .expect("a batch")
}

/// Whether an actual value is what the golden file expects (tests/golden/README.md).
fn equal(expected: &Value, actual: Option<&Value>) -> bool {
    let actual = actual.unwrap_or(&Value::Null);
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    match expected {
        Value::Object(about) => {
            let (Some(near), Some(within)) = (about["approx"].as_f64(), about["within"].as_f64())
            else {
                return false;
            };
            // The bound is met exactly at the edge of a bin, so the last bit may lie beyond it.
            let most = within * near.abs() * (1.0 + 1e-9);
            number(actual).is_some_and(|value| (value - near).abs() <= most)
        }
        Value::Number(wanted) if wanted.is_f64() => {
            let wanted = wanted.as_f64().expect("a float");
            number(actual).is_some_and(|value| {
                (value - wanted).abs() <= 1e-9 * wanted.abs().max(f64::MIN_POSITIVE)
            })
        }
        Value::Number(_) | Value::String(_) => plain(expected) == plain(actual),
        other => other == actual,
    }
}

/// Text of a value in which equal numbers and equal moments are equal.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.contains('T') && text.ends_with('Z') {
        let bare = text.trim_end_matches('Z');
        return match bare.split_once('.') {
            Some((whole, fraction)) => {
                let fraction = fraction.trim_end_matches('0');
                if fraction.is_empty() {
                    whole.to_owned()
                } else {
                    format!("{whole}.{fraction}")
                }
            }
            None => bare.to_owned(),
        };
    }
    if text.parse::<f64>().is_ok() && text.contains('.') && !text.contains(['e', 'E']) {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

fn assert_rows(place: &str, expected: &Value, mut actual: Vec<Map<String, Value>>) {
    let expected = expected.as_array().expect("an array of rows");
    assert_eq!(
        expected.len(),
        actual.len(),
        "{place}: number of rows; actual {actual:#?}"
    );
    for row in expected {
        let row = row.as_object().expect("a row is an object");
        let found = actual.iter().position(|candidate| {
            row.iter()
                .all(|(column, value)| equal(value, candidate.get(column)))
        });
        match found {
            Some(position) => drop(actual.swap_remove(position)),
            None => panic!(
                "{place}: no row is {}\nleft are\n{}",
                Value::Object(row.clone()),
                actual
                    .iter()
                    .take(40)
                    .map(|row| Value::Object(row.clone()).to_string())
                    .collect::<Vec<_>>()
                    .join("\n")
            ),
        }
    }
}

async fn assert_case(case: &Path, cut: Cut) {
    let name = case
        .file_name()
        .expect("a case has a name")
        .to_string_lossy()
        .into_owned();
    let place = format!("{name}, {cut:?}");
    let plan = plan(case);
    let lines = lines(case);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = StorageConfig {
        root: folder.path().to_string_lossy().into_owned(),
        ..StorageConfig::default()
    };
    let store = Store::open(&config).await.expect("the store opens");
    let totals = run(&plan, &lines, &store, cut).await;

    let queries =
        QueryEngine::new(store.clone(), None, None, Limits::default()).expect("a query engine");
    for table in &plan.tables {
        let expected = json(&case.join("expected").join(format!("{}.json", table.name)));
        let actual = rows(&queries, &format!("select * from {}", table.name)).await;
        assert_rows(&format!("{place}, table {}", table.name), &expected, actual);
    }
    let expected = json(&case.join("expected/dead_letters.json"));
    let letters = rows(
        &queries,
        &format!(
            "select \"offset\" * {} + \"partition\" as line, stage, \"column\", \"table\" from dead_letters.\"{}\"",
            cut.partitions, plan.name
        ),
    )
    .await;
    assert_rows(&format!("{place}, dead letters"), &expected, letters);

    let balances = json(&case.join("balance.json"));
    for (table, total) in plan.tables.iter().zip(&totals) {
        let expected = balances[table.name.as_ref()]
            .as_object()
            .expect("a balance for each table");
        for (what, value) in expected {
            let actual = match what.as_str() {
                "in" => total.events_in,
                "counted" => total.counted,
                "filtered" => total.filtered,
                "rejected" => total.rejected,
                // Said for one partition only.
                "late" if cut.partitions > 1 => continue,
                "late" => total.late,
                other => panic!("{place}: unknown figure {other}"),
            };
            assert_eq!(
                Some(actual),
                value.as_u64(),
                "{place}: {} {what}",
                table.name
            );
        }
        let history = store.history(&table.name).await.expect("a history");
        let report = audit(&history);
        assert!(report.faults.is_empty(), "{place}: {:?}", report.faults);
    }
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work);
}

#[test]
fn a_pipeline_does_what_its_file_says() {
    block_on(async {
        for case in cases() {
            let whole = Cut {
                partitions: 1,
                workers: 1,
                epoch: usize::MAX,
                batch: 100,
            };
            assert_case(&case, whole).await;
        }
    });
}

#[test]
fn stopped_and_resumed_at_every_epoch_it_says_the_same() {
    block_on(async {
        for case in cases() {
            let records = lines(&case).len();
            for (workers, partitions, batch) in [(1, 1, 7), (2, 3, 3), (7, 2, 1)] {
                let epoch = (records / 6).max(1);
                assert_case(
                    &case,
                    Cut {
                        partitions,
                        workers,
                        epoch,
                        batch,
                    },
                )
                .await;
            }
        }
    });
}
