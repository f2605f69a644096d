//! Windows that lie in one file are read without a merge, and every answer is the one that the merge gives (P34).

use std::sync::Arc;

use alluvium_plan::Publisher;
use alluvium_query::{Limits, QueryEngine};

use crate::support::*;

const KEYS: usize = 150;

/// Clicks of some minutes, a few for each key.
fn clicks(minutes: std::ops::Range<i64>, keys: &[&'static str]) -> Vec<Click> {
    minutes
        .flat_map(|minute| {
            keys.iter().enumerate().flat_map(move |(number, key)| {
                let number = number as i64;
                (0..=number % 3).map(move |again| Click {
                    minute,
                    country: key,
                    user: number * 31 + again,
                    latency: ((minute + number) % 7 != 0).then_some((number * 13 % 500) as f64),
                    bytes: minute * 1000 + number + again,
                })
            })
        })
        .collect()
}

/// Files that share a window with their neighbour, one of late rows, one that lacks a state, and rows in memory.
async fn engine(unique: bool) -> QueryEngine {
    let names: Vec<&'static str> = (0..KEYS)
        .map(|key| &*Box::leak(format!("key {key}").into_boxed_str()))
        .collect();
    let shed = Shed::new();
    let mut files = Vec::new();
    for (number, (minutes, keys, missing)) in [
        (0..81, &names[..], &[][..]),
        (80..161, &names[..], &[]),
        (40..46, &names[..20], &[]),
        (161..240, &names[..], &["mean_ms"]),
    ]
    .into_iter()
    .enumerate()
    {
        let panes = fold(&clicks(minutes, keys), 1).await;
        let mut file = shed.file(&format!("f{number}"), &panes, missing).await;
        file.has_unique_keys = unique;
        files.push(file);
    }
    let memory = epoch(1, (0, 1), &clicks(238..242, &names[..50])).await;
    let table = shed.table(files, 0, Some(200)).await;
    let publisher = Arc::new(Publisher::default());
    publisher.publish(&"clicks_per_minute".into(), published(table, vec![memory]));
    QueryEngine::new(shed, Some(publisher), None, Limits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_the_merge() {
    let (apart, merged) = (engine(true).await, engine(false).await);
    for sql in [
        "SELECT * FROM clicks_per_minute ORDER BY window_start, country",
        "SELECT country, sum(clicks), sum(bytes), max(users), min(p99_ms), avg(mean_ms) FROM clicks_per_minute \
         GROUP BY country ORDER BY country",
        "SELECT window_start, clicks FROM clicks_per_minute WHERE country = 'key 7' AND \
         window_start BETWEEN '2026-03-01T12:38:00Z' AND '2026-03-01T13:22:00Z' ORDER BY 1",
        "SELECT count(*) FROM clicks_per_minute WHERE final",
        "SELECT count(*), count(mean_ms) FROM clicks_per_minute WHERE window_start >= '2026-03-01T14:35:00Z'",
        "SELECT date_trunc('hour', window_start) h, measure(users), measure(p50_ms), measure(mean_ms), sum(clicks) \
         FROM clicks_per_minute GROUP BY 1 ORDER BY 1",
        "SELECT a.country, a.clicks FROM clicks_per_minute a JOIN clicks_per_minute b USING (window_start, country) \
         WHERE a.clicks > 2 AND b.window_start = '2026-03-01T13:20:00Z' ORDER BY 1",
        "SELECT slowest FROM clicks_per_minute WHERE window_start = '2026-03-01T12:03:00Z' AND country = 'key 9'",
    ] {
        let rows = answer(&apart, sql).await;
        assert!(!rows.is_empty(), "{sql}");
        assert_eq!(rows, answer(&merged, sql).await, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_windows_that_need_it_are_merged() {
    let explain = "EXPLAIN SELECT sum(bytes) FROM clicks_per_minute";
    let plan = answer(&engine(true).await, explain).await.join("\n");
    assert!(plan.contains("Union"), "{plan}");
    let plan = answer(&engine(false).await, explain).await.join("\n");
    assert!(!plan.contains("Union\n"), "{plan}");
    // A window of one file has nothing to merge at all.
    let point =
        "EXPLAIN SELECT bytes FROM clicks_per_minute WHERE window_start = '2026-03-01T12:03:00Z'";
    let plan = answer(&engine(true).await, point).await.join("\n");
    let physical = plan.split("physical_plan").nth(1).unwrap();
    assert!(
        !physical.contains("DataSourceExec: file_groups={2"),
        "{physical}"
    );
}
