//! What is passed over changes no answer, and what need not be read is passed over: files by the bounds in the log, row
//! groups by statistics and bloom filters, pages by their index.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alluvium_plan::{
    CommittedFile, Finish, MeasureShape, PartitionBy, StateKind, StateShape, TableShape,
};
use alluvium_query::{Limits, QueryEngine};
use alluvium_store::{CommitFacts, Effort, Store, StoreRules, TableSpec, choose};
use alluvium_types::{Balance, Epoch, MemoryBudget, OffsetRange, Timestamp};
use datafusion::arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::concat_batches,
    datatypes::{DataType, Field},
};
use object_store::memory::InMemory;
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::{prelude::*, sample::select};

use crate::support::*;

const COUNTRIES: [&str; 12] = [
    "AT", "CH", "CL", "DE", "DK", "FR", "IT", "JP", "NO", "SE", "UK", "US",
];

fn comparison() -> impl Strategy<Value = String> {
    let country = || select(&COUNTRIES[..]);
    let operator = select(&["=", "<>", "<", "<=", ">", ">="][..]);
    let list = proptest::collection::vec(country(), 1..4);
    prop_oneof![
        (operator.clone(), country())
            .prop_map(|(operator, country)| format!("country {operator} '{country}'")),
        (select(&["IN", "NOT IN"][..]), list.clone())
            .prop_map(|(is_in, list)| format!("country {is_in} ('{}')", list.join("','"))),
        // More than become comparisons.
        list.prop_map(|list| {
            let many: Vec<String> = (0..30).map(|number| format!("'Z{number}'")).collect();
            format!("country IN ('{}',{})", list.join("','"), many.join(","))
        }),
        (country(), any::<bool>()).prop_map(|(country, negated)| {
            let not = if negated { "NOT " } else { "" };
            format!("country {not}LIKE '{}%'", &country[..1])
        }),
        Just("country IS NULL".to_owned()),
        (country(), country())
            .prop_map(|(from, to)| format!("country BETWEEN '{from}' AND '{to}'")),
        (operator, 0..90, select(&["window_start", "window_end"][..])).prop_map(
            |(operator, minute, column)| {
                let (hour, minute) = (12 + minute / 60, minute % 60);
                format!("{column} {operator} '2026-03-01T{hour}:{minute:02}:00Z'")
            }
        ),
    ]
}

fn predicate() -> impl Strategy<Value = String> {
    comparison().prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one} AND {other})")),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one} OR {other})")),
            inner.prop_map(|one| format!("NOT ({one})")),
        ]
    })
}

/// `pruned` as the log would have it, and `whole`, of whose files nothing is known. Files have few countries or few
/// windows, some lack a state.
async fn both(homes: &[u8]) -> QueryEngine {
    let shed = Shed::new();
    let mut parts: BTreeMap<(usize, i64), Vec<Click>> = BTreeMap::new();
    for (number, home) in homes.iter().enumerate() {
        let number = number as i64;
        let (minute, country) = (number * 7 % 90, number as usize * 5 % COUNTRIES.len());
        let file = match home % 3 {
            0 => (country, 0),
            1 => (100, minute / 20),
            _ => (200, i64::from(*home)),
        };
        parts
            .entry(file)
            .or_default()
            .push(click(minute, COUNTRIES[country], number, 1.0, number));
    }
    let mut files = Vec::new();
    for (number, clicks) in parts.into_values().enumerate() {
        let missing: &[&str] = if number % 5 == 4 { &["bytes"] } else { &[] };
        let panes = fold(&clicks, 1).await;
        files.push(shed.file(&format!("f{number}"), &panes, missing).await);
    }
    let unknown = files.iter().map(|file| CommittedFile {
        rows: None,
        window_start: None,
        bounds: Arc::default(),
        has_unique_keys: false,
        checksum: None,
        ..file.clone()
    });
    shed.put("whole", shed.table(unknown.collect(), 0, Some(60)).await);
    shed.put("pruned", shed.table(files, 0, Some(60)).await);
    QueryEngine::new(shed, None, None, Limits::default()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn answers_are_those_of_all_files(
        homes in proptest::collection::vec(0u8..8, 200),
        predicates in proptest::collection::vec(predicate(), 3),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let engine = both(&homes).await;
            for predicate in predicates {
                for select in [
                    "SELECT window_start, country, final, clicks, bytes, users FROM {t} WHERE {p} ORDER BY 1, 2",
                    "SELECT country, measure(clicks), measure(users), count(*) FROM {t} WHERE {p} GROUP BY 1 ORDER BY 1",
                    "SELECT measure(bytes) FROM {t} WHERE {p}",
                    "SELECT count(*), sum(clicks), min(country), max(window_start) FROM panes.{t} WHERE {p}",
                ] {
                    let [pruned, whole] = ["pruned", "whole"]
                        .map(|table| select.replace("{t}", table).replace("{p}", &predicate));
                    prop_assert_eq!(answer(&engine, &pruned).await, answer(&engine, &whole).await, "{}", pruned);
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn predicates_on_groups_leave_out_files() {
    let shed = Shed::new();
    let mut files = Vec::new();
    for (number, pair) in COUNTRIES.chunks(2).enumerate() {
        let clicks: Vec<Click> = pair
            .iter()
            .map(|country| click(0, country, 1, 1.0, 1))
            .collect();
        files.push(
            shed.file(&format!("f{number}"), &fold(&clicks, 1).await, &[])
                .await,
        );
    }
    shed.put("t", shed.table(files, 0, None).await);
    let engine = QueryEngine::new(shed, None, None, Limits::default()).unwrap();
    let many: Vec<String> = (0..30).map(|number| format!("'Z{number}'")).collect();
    let many = format!("country IN ('CH', 'US', {})", many.join(", "));
    for (predicate, opened) in [
        ("country = 'DE'", 1),
        ("country IN ('DE', 'US')", 2),
        (many.as_str(), 2),
        ("country > 'NO'", 2),
        ("country BETWEEN 'CI' AND 'DA'", 1),
        ("country LIKE 'D%'", 2),
        ("country IS NULL", 0),
        ("country = 'DE' OR country = 'FR'", 2),
        ("country = 'DE' AND country = 'FR'", 0),
        ("window_end > '2026-03-01T12:01:00Z'", 0),
        ("window_end <= '2026-03-01T12:01:00Z'", 6),
    ] {
        for select in [
            "clicks FROM t",
            "measure(users) FROM t",
            "clicks FROM panes.t",
        ] {
            let plan = answer(
                &engine,
                &format!("EXPLAIN SELECT {select} WHERE {predicate}"),
            )
            .await
            .join("\n");
            let physical = plan.split("physical_plan").nth(1).unwrap();
            assert_eq!(
                physical.matches(".parquet").count(),
                opened,
                "{select} {predicate}\n{plan}"
            );
        }
    }
}

const TABLE: &str = "visits";
const WINDOWS: i64 = 300;
const ROWS_OF_A_WINDOW: i64 = 1000;

/// Visits by minute, country and user: few countries, and users that come once.
fn spec() -> TableSpec {
    TableSpec {
        name: TABLE.into(),
        pipeline: "web".into(),
        shape: Arc::new(TableShape {
            group_columns: vec![
                Arc::new(Field::new("country", DataType::Utf8, true)),
                Arc::new(Field::new("user_id", DataType::Int64, true)),
            ],
            states: vec![StateShape {
                name: "visits".into(),
                kind: StateKind::Count,
                data_type: DataType::Int64,
            }],
            measures: vec![MeasureShape {
                name: "visits".into(),
                expression: "count(*)".into(),
                state: 0,
                finish: Finish::Value,
                data_type: DataType::Int64,
            }],
        }),
        partition_by: PartitionBy::Day,
        definition: "event_time: ts\nwindow: 1m\ngroup country: country\ngroup user_id: user_id\n\
                     measure visits: count(*)\n"
            .into(),
    }
}

/// Users come to a window in no order, as far as bounds can see.
fn user(window: i64, row: i64) -> i64 {
    (window * ROWS_OF_A_WINDOW + row) * 7_919 % 1_000_003
}

fn visits(spec: &TableSpec, windows: std::ops::Range<i64>) -> RecordBatch {
    let mut rows = Vec::new();
    for window in windows {
        let mut of_window: Vec<(i64, String, i64)> = (0..ROWS_OF_A_WINDOW)
            .map(|row| (window, format!("country {}", row / 100), user(window, row)))
            .collect();
        of_window.sort();
        rows.extend(of_window);
    }
    let time = |minutes: i64| -> ArrayRef {
        let starts = rows
            .iter()
            .map(|(window, ..)| NOON + (window + minutes) * MINUTE);
        Arc::new(TimestampMicrosecondArray::from_iter_values(starts).with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = vec![
        time(0),
        time(1),
        Arc::new(StringArray::from_iter_values(
            rows.iter().map(|(_, country, _)| country),
        )),
        Arc::new(Int64Array::from_iter_values(
            rows.iter().map(|(.., user)| *user),
        )),
        Arc::new(Int64Array::from_iter_values(
            rows.iter().map(|(.., user)| user % 10 + 1),
        )),
    ];
    RecordBatch::try_new(spec.shape.pane_schema(), columns).unwrap()
}

/// One file of more than two row groups, as the merging of files leaves it.
pub(crate) async fn compacted() -> (Arc<InMemory>, QueryEngine) {
    let objects = Arc::new(InMemory::new());
    let store = Store::over(objects.clone(), StoreRules::default());
    let spec = spec();
    let mut writer = store.table(&spec).await.unwrap();
    let counts = BTreeMap::from([(Arc::from("clicks"), 1)]);
    writer
        .record_start(
            &BTreeMap::from([(partition(), 0)]),
            &counts,
            &BTreeMap::new(),
        )
        .await
        .unwrap();
    for part in 0..2 {
        let windows = part * WINDOWS / 2..(part + 1) * WINDOWS / 2;
        let panes: Result<_, std::convert::Infallible> = Ok(visits(&spec, windows));
        let staged = writer.stage([panes].into_iter(), None).await.unwrap();
        let facts = CommitFacts {
            ranges: BTreeMap::from([(partition(), OffsetRange::new(part, part + 1).unwrap())]),
            watermarks: BTreeMap::from([(partition(), Timestamp::from_micros(NOON))]),
            leader_epochs: BTreeMap::new(),
            balance: Balance {
                events_in: 1,
                counted: 1,
                ..Balance::default()
            },
            pipeline_version: "0123456789abcdef".into(),
            settings: Default::default(),
            epoch: Epoch(1),
        };
        writer.commit(&staged, &facts).await.unwrap();
    }
    let mut compactor = store.compactor(TABLE).await.unwrap();
    let choice = choose(
        compactor.files(),
        Effort::Everything,
        1 << 30,
        &BTreeSet::new(),
    )
    .unwrap();
    let inputs = compactor.open(&choice, 1 << 20).await.unwrap();
    let (rows, schema) = (inputs.rows(), inputs.shape().pane_schema());
    let mut file = compactor.begin(&inputs, &MemoryBudget::new(1 << 30));
    // The files do not share windows, so side by side is one after the other.
    for mut input in inputs.into_files() {
        let mut batches = Vec::new();
        while let Some(batch) = input.next().await {
            batches.push(batch.unwrap());
        }
        file.write(&concat_batches(&schema, &batches).unwrap())
            .await
            .unwrap();
    }
    let staged = file.finish().await.unwrap();
    compactor.commit(&choice, rows, &staged).await.unwrap();
    assert_eq!(compactor.files().len(), 1);
    let engine = QueryEngine::new(store, None, None, Limits::default()).unwrap();
    (objects, engine)
}

/// Where the one file of the one table is.
pub(crate) async fn file_of(objects: &Arc<InMemory>) -> String {
    let store = Store::over(objects.clone(), StoreRules::default());
    let table = store.read_table(TABLE).await.unwrap();
    assert_eq!(table.files.len(), 1);
    table.files[0].path.clone()
}

/// What a scan says that it passed over: `name=<all> total → <left> matched`, with units as people read them.
fn matched(plan: &str, name: &str) -> (f64, f64) {
    let number = |text: &str| -> f64 {
        let mut words = text.split_whitespace();
        let number: f64 = words.next().unwrap().parse().unwrap();
        match words.next() {
            Some("K") => number * 1e3,
            Some("M") => number * 1e6,
            _ => number,
        }
    };
    let said = plan
        .split(&format!("{name}="))
        .nth(1)
        .unwrap_or_else(|| panic!("{name} is not in\n{plan}"));
    let (total, left) = said.split_once(" total → ").unwrap();
    (
        number(total),
        number(left.split(" matched").next().unwrap()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_query_reads_a_page() {
    let (objects, engine) = compacted().await;
    let explain = async |sql: &str| {
        answer(&engine, &format!("EXPLAIN ANALYZE {sql}"))
            .await
            .join("\n")
    };

    // By window and key: one row group by its statistics, of it a page or two by their index.
    let (window, row) = (217, 432);
    let at = format!(
        "window_start = '2026-03-01T15:37:00Z' AND user_id = {}",
        user(window, row)
    );
    let point = format!("SELECT window_start, country, user_id, visits FROM visits WHERE {at}");
    assert_eq!(
        answer(&engine, &point).await,
        [format!(
            "2026-03-01T15:37:00Z country 4 {} {}",
            user(window, row),
            user(window, row) % 10 + 1
        )]
    );
    let plan = explain(&point).await;
    assert_eq!(
        matched(&plan, "row_groups_pruned_statistics"),
        (3.0, 1.0),
        "{plan}"
    );
    let (rows, left) = matched(&plan, "page_index_rows_pruned");
    assert!(rows > 40_000.0 && left <= 2.0 * 4096.0, "{plan}");

    // By key alone: the filter knows that most row groups do not have it.
    let by_user = format!(
        "SELECT window_start, visits FROM visits WHERE user_id = {}",
        user(window, row)
    );
    assert_eq!(
        answer(&engine, &by_user).await,
        [format!(
            "2026-03-01T15:37:00Z {}",
            user(window, row) % 10 + 1
        )]
    );
    let plan = explain(&by_user).await;
    let (groups, left) = matched(&plan, "row_groups_pruned_bloom_filter");
    assert!(groups == 3.0 && left < 3.0, "{plan}");

    // A filter only where it pays.
    let mut filters = BTreeSet::new();
    let bytes = bytes_of(&objects, &file_of(&objects).await).await;
    let metadata = SerializedFileReader::new(bytes).unwrap().metadata().clone();
    assert_eq!(metadata.num_row_groups(), 3);
    for column in metadata
        .row_groups()
        .iter()
        .flat_map(|group| group.columns())
    {
        if column.bloom_filter_offset().is_some() {
            filters.insert(column.column_path().string());
        }
    }
    assert_eq!(filters, BTreeSet::from(["user_id".to_owned()]));

    // Of whatever is passed over nothing is missing.
    let whole = "SELECT count(*), sum(visits), count(DISTINCT window_start) FROM visits";
    let sum: i64 = (0..WINDOWS)
        .flat_map(|window| (0..ROWS_OF_A_WINDOW).map(move |row| user(window, row) % 10 + 1))
        .sum();
    assert_eq!(answer(&engine, whole).await, [format!("300000 {sum} 300")]);
    let hour = "SELECT count(*) FROM visits WHERE country IN ('country 3', 'country 8') AND \
                window_start >= '2026-03-01T13:00:00Z' AND window_start < '2026-03-01T14:00:00Z'";
    assert_eq!(answer(&engine, hour).await, ["12000"]);
}
