//! Final values do not depend on how events were split over files and epochs (the reading side of "any split gives
//! the same answer"), and a query sees exactly one moment (P32, P35).

use std::sync::Arc;

use alluvium_plan::Publisher;
use alluvium_query::{Limits, QueryEngine, ReadMode};
use proptest::prelude::*;

use crate::support::*;

const EVERYTHING: &str = "SELECT * FROM clicks_per_minute ORDER BY window_start, country";

fn clicks() -> Vec<Click> {
    let countries = ["CH", "DE", "JP"];
    (0..400)
        .map(|number: i64| Click {
            minute: number * 7 % 90,
            country: countries[(number * number % 3) as usize],
            user: number * 31 % 97,
            latency: (number % 11 != 0).then_some(1.0 + (number * 13 % 500) as f64),
            bytes: number * 1_000_003,
        })
        .collect()
}

/// An engine over files and memory epochs, each made of the clicks with its number.
async fn split(clicks: &[Click], homes: &[usize], files: usize) -> QueryEngine {
    let shed = Shed::new();
    let part = |home: usize| -> Vec<Click> {
        let chosen = clicks.iter().zip(homes).filter(|(_, at)| **at == home);
        chosen.map(|(click, _)| click.clone()).collect()
    };
    let last = homes.iter().max().map_or(0, |home| home + 1);
    let mut written = Vec::new();
    for home in 0..files {
        let panes = fold(&part(home), 1).await;
        written.push(shed.file(&format!("f{home}"), &panes, &[]).await);
    }
    let mut memory = Vec::new();
    for home in files..last.max(files) {
        let number = (home - files) as i64;
        memory.push(epoch(number as u64 + 1, (number, number + 1), &part(home)).await);
    }
    let table = shed.table(written, 0, Some(60)).await;
    let publisher = Arc::new(Publisher::default());
    publisher.publish(&"clicks_per_minute".into(), published(table, memory));
    QueryEngine::new(shed, Some(publisher), None, Limits::default()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn any_split_over_files_and_epochs_gives_the_same_answers(
        homes in proptest::collection::vec(0usize..7, 400),
        files in 0usize..7,
    ) {
        runtime().block_on(async {
            let clicks = clicks();
            let whole = split(&clicks, &vec![0; clicks.len()], 1).await;
            let parts = split(&clicks, &homes, files).await;
            let hourly = "SELECT date_trunc('hour', window_start) AS hour, country, measure(clicks), \
                measure(bytes), measure(users), measure(p50_ms), measure(p99_ms), measure(slowest), count(*) \
                FROM clicks_per_minute GROUP BY 1, 2 ORDER BY 1, 2";
            for sql in [
                // Means of doubles are equal up to rounding only.
                "SELECT window_start, window_end, country, final, clicks, bytes, users, p50_ms, p99_ms, slowest, \
                 round(mean_ms, 6) FROM clicks_per_minute ORDER BY window_start, country",
                hourly,
            ] {
                prop_assert_eq!(answer(&whole, sql).await, answer(&parts, sql).await);
            }
            Ok(())
        })?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_in_their_order_and_states_stay_hidden() {
    let engine = split(&clicks(), &[0; 400], 1).await;
    let result = engine.session().query(EVERYTHING, vec![]).await.unwrap();
    let names: Vec<&str> = result
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(
        names,
        [
            "window_start",
            "window_end",
            "country",
            "final",
            "clicks",
            "bytes",
            "users",
            "p50_ms",
            "p99_ms",
            "mean_ms",
            "slowest"
        ]
    );
    let types: Vec<String> = result
        .schema
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    assert_eq!(types[0], "Timestamp(µs, \"UTC\")");
    assert_eq!(types[2], "Utf8");
    assert_eq!(types[4], "Int64");
    assert_eq!(types[5], "Decimal128(38, 0)");
    assert_eq!(types[6], "Int64");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_is_shown_only_when_it_continues_what_is_shown() {
    let shed = Shed::new();
    let file = shed
        .file("a", &fold(&[click(0, "CH", 1, 1.0, 10)], 1).await, &[])
        .await;
    let table = shed.table(vec![file], 10, None).await;
    let one = [click(0, "CH", 2, 1.0, 10)];
    let follows = epoch(1, (10, 11), &one).await;
    let next = epoch(2, (11, 12), &one).await;
    let gap = epoch(3, (13, 14), &one).await;
    let behind_gap = epoch(4, (12, 13), &one).await;
    let already = epoch(5, (9, 10), &one).await;
    let publisher = Arc::new(Publisher::default());
    let engine = QueryEngine::new(shed, Some(publisher.clone()), None, Limits::default()).unwrap();
    let name = "clicks_per_minute".into();
    let sum = "SELECT sum(clicks) FROM clicks_per_minute";
    for (memory, fresh) in [
        (vec![], 1),
        (vec![follows.clone()], 2),
        (vec![follows.clone(), next.clone()], 3),
        (vec![follows.clone(), next.clone(), gap.clone()], 3),
        (vec![follows.clone(), gap, behind_gap], 2),
        (vec![already], 1),
        (vec![next.clone()], 1),
    ] {
        publisher.publish(&name, published(table.clone(), memory));
        let session = engine.session();
        let result = session.query(sum, vec![]).await.unwrap();
        let as_of = result.as_of.tables["public.clicks_per_minute"].clone();
        assert_eq!(lines(&result.collect().await.unwrap()), [fresh.to_string()]);
        assert_eq!(as_of.epochs.len() as i64, fresh - 1);
        assert_eq!(as_of.offsets[&partition()], 9 + fresh);
        session
            .query("SET alluvium.read = 'committed'", vec![])
            .await
            .unwrap();
        let result = session.query(sum, vec![]).await.unwrap();
        assert_eq!(
            result.as_of.tables["public.clicks_per_minute"].offsets[&partition()],
            10
        );
        assert_eq!(lines(&result.collect().await.unwrap()), ["1"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_sees_one_moment_while_commits_swap() {
    // The same event is in memory, then in a file. Whoever counts sees it once.
    let shed = Shed::new();
    let events = [click(0, "CH", 1, 1.0, 10)];
    let file = shed.file("a", &fold(&events, 1).await, &[]).await;
    let before = published(
        shed.table(vec![], 0, None).await,
        vec![epoch(1, (0, 1), &events).await],
    );
    let after = published(shed.table(vec![file], 1, None).await, vec![]);
    let publisher = Arc::new(Publisher::default());
    publisher.publish(&"t".into(), before.clone());
    let engine = QueryEngine::new(shed, Some(publisher.clone()), None, Limits::default()).unwrap();
    let swaps = std::thread::spawn(move || {
        for _ in 0..200 {
            publisher.publish(&"t".into(), after.clone());
            std::thread::yield_now();
            publisher.publish(&"t".into(), before.clone());
        }
    });
    for _ in 0..20 {
        let twice = "SELECT (SELECT sum(clicks) FROM t), (SELECT count(*) FROM panes.t)";
        assert_eq!(answer(&engine, twice).await, ["1 1"]);
    }
    swaps.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_with_a_file_older_than_a_measure_has_no_number_for_it() {
    let shed = Shed::new();
    let old = fold(&[click(0, "CH", 1, 1.0, 10), click(1, "CH", 1, 1.0, 10)], 1).await;
    let new = fold(&[click(1, "CH", 2, 5.0, 10), click(2, "CH", 2, 7.0, 10)], 1).await;
    let files = vec![
        shed.file("old", &old, &["users", "clicks"]).await,
        shed.file("new", &new, &[]).await,
    ];
    shed.put("t", shed.table(files, 0, None).await);
    let engine = QueryEngine::new(shed, None, None, Limits::default()).unwrap();
    assert_eq!(
        answer(
            &engine,
            "SELECT users, clicks, slowest FROM t ORDER BY window_start"
        )
        .await,
        ["NULL NULL 1.0", "NULL NULL 5.0", "1 1 7.0"]
    );
    let measured = "SELECT window_start >= '2026-03-01T12:02:00Z', measure(users), measure(clicks), measure(slowest) \
        FROM t GROUP BY 1 ORDER BY 1";
    assert_eq!(
        answer(&engine, measured).await,
        ["false NULL NULL 5.0", "true 1 1 7.0"]
    );
    let mixed = "SELECT measure(users), count(clicks), count(*) FROM t";
    assert_eq!(answer(&engine, mixed).await, ["NULL 1 3"]);
    let result = engine
        .session()
        .query("SELECT * FROM panes.t", vec![])
        .await
        .unwrap();
    assert!(
        !names(&result.schema)
            .iter()
            .any(|name| name.starts_with('_'))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_older_than_a_measure_counts_like_such_a_file() {
    let shed = Shed::new();
    let mut old = epoch(1, (0, 1), &[click(0, "CH", 1, 1.0, 10)])
        .await
        .as_ref()
        .clone();
    let columns: Vec<usize> = (0..old.panes[0].num_columns())
        .filter(|column| *column != 5)
        .collect();
    assert_eq!(old.panes[0].schema().field(5).name(), "users");
    old.panes = vec![old.panes[0].project(&columns).unwrap()];
    let publisher = Arc::new(Publisher::default());
    let table = shed.table(vec![], 0, None).await;
    publisher.publish(&"t".into(), published(table, vec![Arc::new(old)]));
    let engine = QueryEngine::new(shed, Some(publisher), None, Limits::default()).unwrap();
    assert_eq!(
        answer(&engine, "SELECT users, clicks FROM t").await,
        ["NULL 1"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_on_keys_reach_the_files() {
    let shed = Shed::new();
    let mut files = Vec::new();
    for minute in 0..10 {
        let panes = fold(&[click(minute, "CH", 1, 1.0, 10)], 1).await;
        files.push(shed.file(&format!("m{minute}"), &panes, &[]).await);
    }
    shed.put("t", shed.table(files, 0, Some(3)).await);
    let engine = QueryEngine::new(shed, None, None, Limits::default()).unwrap();
    for (sql, opened) in [
        (
            "SELECT clicks FROM t WHERE window_start = '2026-03-01T12:07:00Z'",
            1,
        ),
        (
            "SELECT clicks FROM t WHERE window_start >= '2026-03-01T12:08:00Z'",
            2,
        ),
        ("SELECT clicks FROM t", 10),
        (
            "SELECT measure(users) FROM t WHERE window_start < '2026-03-01T12:02:00Z'",
            2,
        ),
        (
            "WITH w AS (SELECT window_start AS w, users AS u FROM t) \
             SELECT w, measure(u) FROM w WHERE w >= '2026-03-01T12:06:00Z' GROUP BY w",
            4,
        ),
        (
            "SELECT country, measure(users) FROM t GROUP BY country HAVING country = 'CH'",
            10,
        ),
    ] {
        let plan = answer(&engine, &format!("EXPLAIN {sql}")).await.join("\n");
        let physical = plan.split("physical_plan").nth(1).unwrap();
        assert_eq!(
            physical.matches(".parquet").count(),
            opened,
            "{sql}\n{plan}"
        );
        let is_filtered = sql.contains("WHERE") || sql.contains("HAVING");
        assert_eq!(
            physical.contains("pruning_predicate="),
            is_filtered,
            "{sql}\n{plan}"
        );
    }
    // What is not asked for is not read: no other state than the one of `users`.
    let plan = answer(&engine, "EXPLAIN SELECT users FROM t")
        .await
        .join("\n");
    assert!(
        plan.contains("projection=[window_start, window_end, country, users]"),
        "{plan}"
    );
    assert_eq!(
        answer(&engine, "SELECT count(*), sum(clicks) FROM t WHERE final").await,
        ["3 3"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_vacuumed_is_looked_for_once_more() {
    let shed = Shed::new();
    let panes = fold(&[click(0, "CH", 1, 1.0, 10)], 1).await;
    let file = shed.file("a", &panes, &[]).await;
    let mut gone = file.clone();
    gone.path = "tables/clicks_per_minute/gone.parquet".into();
    let stale = shed.table(vec![gone], 0, None).await;
    shed.put("t", shed.table(vec![file], 0, None).await);
    shed.stale.lock().unwrap().insert("t".into(), stale.clone());
    let engine = QueryEngine::new(shed.clone(), None, None, Limits::default()).unwrap();
    assert_eq!(answer(&engine, "SELECT clicks FROM t").await, ["1"]);
    assert_eq!(*shed.reads.lock().unwrap(), 2);
    // Who may read no more than it needs may read it: what the first try would have read does not count.
    shed.stale.lock().unwrap().insert("t".into(), stale.clone());
    let limits = Limits {
        max_scan: stale.files[0].size,
        ..Limits::default()
    };
    let narrow = QueryEngine::new(shed.clone(), None, None, limits).unwrap();
    assert_eq!(answer(&narrow, "SELECT clicks FROM t").await, ["1"]);
    // Gone for good is an error of storage, not a loop.
    shed.put("t", stale);
    let error = engine
        .session()
        .query("SELECT clicks FROM t", vec![])
        .await
        .unwrap_err();
    assert_eq!(error.code(), "58030");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_reads_tables_of_others_from_storage() {
    let shed = Shed::new();
    let file = shed
        .file("a", &fold(&[click(0, "CH", 1, 1.0, 10)], 1).await, &[])
        .await;
    shed.put("others", shed.table(vec![file], 0, None).await);
    let publisher = Arc::new(Publisher::default());
    publisher.publish(
        &"ours".into(),
        published(shed.table(vec![], 0, None).await, vec![]),
    );
    let engine = QueryEngine::new(shed.clone(), Some(publisher), None, Limits::default()).unwrap();
    let both = "SELECT (SELECT count(*) FROM ours), (SELECT sum(clicks) FROM others)";
    for _ in 0..5 {
        assert_eq!(answer(&engine, both).await, ["0 1"]);
    }
    assert_eq!(*shed.reads.lock().unwrap(), 1);
    let tables: Vec<String> = engine
        .tables(&alluvium_query::Access::unrestricted())
        .await
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(tables, ["others", "ours"]);
    assert_eq!(engine.session().read_mode(), ReadMode::Fresh);
}
