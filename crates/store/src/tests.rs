//! The promises of this crate, under rivals and faults. Every random test prints its seed when it fails.

mod checksums;
mod commits;
mod compaction;
mod damaged;
mod faulty;
mod letters;
mod reader;
mod replays;
mod seeks;
mod storage;
mod upkeep;

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

use alluvium_plan::{Finish, MeasureShape, PartitionBy, StateKind, StateShape, TableShape};
use alluvium_types::{Balance, Epoch, OffsetRange, Timestamp, TopicPartition};
use datafusion::arrow::{
    array::{
        ArrayRef, AsArray, BinaryArray, Decimal128Array, Int64Array, RecordBatch, StringArray,
        StructArray, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Decimal128Type, Field, Fields, Int64Type},
};
use object_store::memory::InMemory;

use crate::{
    CommitFacts, Store, StoreRules, TableSpec, TableWriter, Vacuum, commit::LAYOUT, log::TableLog,
    log_checkpoint::write_checkpoint, parquet_reader::read_columns, sweep::vacuum,
};

const DAY: i64 = 86_400_000_000;

fn average() -> Fields {
    Fields::from(vec![
        Field::new("sum", DataType::Decimal128(38, 0), true),
        Field::new("count", DataType::Int64, false),
    ])
}

/// `clicks: count(*)`, `bytes: sum(bytes)`, `mean: avg(bytes)`, and distinct users when `with_users`.
fn shape(with_users: Users) -> Arc<TableShape> {
    let mut kinds = vec![
        ("clicks", StateKind::Count, DataType::Int64, Finish::Value),
        (
            "bytes",
            StateKind::Sum,
            DataType::Decimal128(38, 0),
            Finish::Value,
        ),
        (
            "mean",
            StateKind::Avg,
            DataType::Struct(average()),
            Finish::Average,
        ),
    ];
    if with_users == Users::Counted {
        kinds.push(("users", StateKind::Hll, DataType::Binary, Finish::Distinct));
    }
    Arc::new(TableShape {
        group_columns: vec![Arc::new(Field::new("country", DataType::Utf8, true))],
        states: kinds
            .iter()
            .map(|(name, kind, data_type, _)| StateShape {
                name: (*name).into(),
                kind: *kind,
                data_type: data_type.clone(),
            })
            .collect(),
        measures: kinds
            .iter()
            .enumerate()
            .map(|(state, (name, _, data_type, finish))| MeasureShape {
                name: (*name).into(),
                expression: format!("{name}(\"x\")"),
                state,
                finish: *finish,
                data_type: finish.data_type(data_type),
            })
            .collect(),
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Users {
    Counted,
    Absent,
}

fn definition(with_users: Users) -> String {
    let mut text = "event_time: ts\nwindow: 1m\ngroup country: country\nmeasure clicks: count(*)\n\
                    measure bytes: sum(bytes)\nmeasure mean: avg(bytes)\n"
        .to_owned();
    if with_users == Users::Counted {
        text.push_str("measure users: approx_distinct(user_id)\n");
    }
    text
}

fn spec() -> TableSpec {
    spec_with(Users::Counted)
}

fn spec_with(users: Users) -> TableSpec {
    TableSpec {
        name: "clicks_per_minute".into(),
        pipeline: "clicks".into(),
        shape: shape(users),
        partition_by: PartitionBy::Day,
        definition: definition(users),
    }
}

/// One row for each of `clicks`: (start of the window, how many, the sum of bytes).
fn panes(spec: &TableSpec, clicks: &[(i64, i64, i128)]) -> RecordBatch {
    let starts = clicks.iter().map(|(start, _, _)| Some(*start));
    let ends = clicks.iter().map(|(start, _, _)| Some(start + 60_000_000));
    let moments = |array: TimestampMicrosecondArray| Arc::new(array.with_timezone("UTC"));
    let counts = || {
        clicks
            .iter()
            .map(|(_, count, _)| Some(*count))
            .collect::<Int64Array>()
    };
    let sums = || {
        let values = clicks
            .iter()
            .map(|(_, _, sum)| Some(*sum))
            .collect::<Decimal128Array>();
        Arc::new(values.with_precision_and_scale(38, 0).unwrap())
    };
    let countries = clicks
        .iter()
        .map(|(_, count, _)| (count % 3 != 0).then_some("CH"));
    let mean = StructArray::new(average(), vec![sums(), Arc::new(counts())], None);
    let mut columns: Vec<ArrayRef> = vec![
        moments(starts.collect()),
        moments(ends.collect()),
        Arc::new(countries.collect::<StringArray>()),
        Arc::new(counts()),
        sums(),
        Arc::new(mean),
    ];
    if spec.shape.states.len() == 4 {
        let sketches = clicks.iter().map(|_| Some(b"sketch".as_slice()));
        columns.push(Arc::new(sketches.collect::<BinaryArray>()));
    }
    RecordBatch::try_new(spec.shape.pane_schema(), columns).unwrap()
}

type NoError = std::convert::Infallible;

fn once(batch: RecordBatch) -> impl Iterator<Item = Result<RecordBatch, NoError>> + Send {
    std::iter::once(Ok(batch))
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("clicks", partition)
}

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange::new(start, end).unwrap()
}

fn ranges(list: &[(i32, i64, i64)]) -> BTreeMap<TopicPartition, OffsetRange> {
    list.iter()
        .map(|(partition, start, end)| (tp(*partition), range(*start, *end)))
        .collect()
}

fn facts(list: &[(i32, i64, i64)]) -> CommitFacts {
    let events: i64 = list.iter().map(|(_, start, end)| end - start).sum();
    CommitFacts {
        ranges: ranges(list),
        watermarks: list
            .iter()
            .map(|(partition, _, end)| (tp(*partition), Timestamp::from_micros(end * 1_000_000)))
            .collect(),
        leader_epochs: BTreeMap::new(),
        balance: Balance {
            events_in: events as u64,
            counted: events as u64,
            ..Balance::default()
        },
        pipeline_version: "0123456789abcdef".into(),
        settings: Arc::default(),
        epoch: Epoch(1),
    }
}

/// The panes that "counting the offsets and summing them" makes of some ranges.
fn panes_of(spec: &TableSpec, list: &[(i32, i64, i64)]) -> RecordBatch {
    let rows: Vec<(i64, i64, i128)> = list
        .iter()
        .filter(|(_, start, end)| start < end)
        .map(|(partition, start, end)| {
            let sum = (*start..*end).map(i128::from).sum();
            (i64::from(*partition) * DAY, end - start, sum)
        })
        .collect();
    panes(spec, &rows)
}

fn in_memory() -> Store {
    Store::over(Arc::new(InMemory::new()), rules())
}

fn rules() -> StoreRules {
    StoreRules {
        checkpoint_every: NonZeroU32::new(20).unwrap(),
        put_timeout: Duration::from_millis(200),
        commit_timeout: Duration::from_secs(20),
        ..StoreRules::default()
    }
}

async fn opened(store: &Store, starts: &[(i32, i64)]) -> TableWriter {
    let mut writer = store.table(&spec()).await.unwrap();
    let counts = BTreeMap::from([(Arc::from("clicks"), starts.len() as i32)]);
    let starts = starts
        .iter()
        .map(|(partition, at)| (tp(*partition), *at))
        .collect();
    writer
        .record_start(&starts, &counts, &BTreeMap::new())
        .await
        .unwrap();
    writer
}

/// Stages and commits what lies in `list`, which fits.
async fn commit_ranges(writer: &mut TableWriter, list: &[(i32, i64, i64)]) -> crate::Ending {
    let staged = writer
        .stage(once(panes_of(&spec(), list)), None)
        .await
        .unwrap();
    writer.commit(&staged, &facts(list)).await.unwrap()
}

/// What any reader sums up over the newest version: clicks and bytes.
async fn totals(store: &Store) -> (i64, i128) {
    let table = store.read_table("clicks_per_minute").await.unwrap();
    let mut totals = (0, 0);
    for file in table.files.iter() {
        let columns = ["clicks", "bytes"];
        let mut rows = 0;
        for batch in read_columns(store.object_store(), &file.path, file.size, &columns)
            .await
            .unwrap()
        {
            rows += batch.num_rows() as u64;
            totals.0 += batch
                .column(0)
                .as_primitive::<Int64Type>()
                .values()
                .iter()
                .sum::<i64>();
            totals.1 += batch
                .column(1)
                .as_primitive::<Decimal128Type>()
                .values()
                .iter()
                .sum::<i128>();
        }
        assert_eq!(file.rows, Some(rows));
    }
    totals
}

const AN_HOUR: Duration = Duration::from_secs(3600);

/// Rules under which any new version is worth a log checkpoint, and a put may wait for what a test lets happen.
fn unhurried() -> StoreRules {
    StoreRules {
        checkpoint_every: NonZeroU32::new(1).unwrap(),
        put_timeout: Duration::from_secs(60),
        ..rules()
    }
}

/// Another server writes a log checkpoint of the newest version.
async fn checkpointed(store: &Store, log: &TableLog) {
    let mut snapshot = log.load().await.unwrap().unwrap();
    let written = write_checkpoint(store, log, &mut snapshot).await.unwrap();
    assert_eq!(written, Some(snapshot.version));
}

/// Another server sweeps orphans, when days have passed for the store. Returns how many there were.
async fn swept_days_later(store: &Store, objects: &faulty::FaultyStore, log: &TableLog) -> usize {
    let days = store.rules().orphan_retention.as_secs();
    objects
        .age
        .store(days, std::sync::atomic::Ordering::Relaxed);
    vacuum(store, log, Vacuum::Delete).await.unwrap().len()
}

/// That every version which removes files moves the layout by one, and no other does (P36). Returns how many there are.
async fn layout_moves(log: &TableLog) -> i64 {
    let newest = log.load().await.unwrap().unwrap().version;
    let mut layout = 0;
    for version in 0..=newest {
        let entry = log.read_entry(version).await.unwrap().unwrap();
        let removes = entry.lines.iter().any(|line| line.remove.is_some());
        let moved = entry
            .lines
            .iter()
            .filter_map(|line| line.txn.as_ref())
            .find(|txn| txn.app_id == LAYOUT)
            .map(|txn| txn.version);
        layout += i64::from(removes);
        assert_eq!(moved, removes.then_some(layout), "version {version}");
    }
    layout
}
