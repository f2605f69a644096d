//! `system.*` shows what the status board and storage say.

use std::{collections::BTreeMap, sync::Arc};

use alluvium_plan::{PartitionStatus, PipelineState, StatusBoard, TableStatus};
use alluvium_query::{Commit, Limits, QueryEngine};
use alluvium_types::{Balance, OffsetRange, Timestamp};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_partitions_commits_tables_and_pipelines() {
    let shed = Shed::new();
    shed.put("clicks_per_minute", shed.table(vec![], 40, Some(1)).await);
    let commit = Commit {
        version: 3,
        committed_at: Some(Timestamp::from_micros(NOON)),
        kind: "commit".into(),
        pipeline: Some("web".into()),
        commit_id: Some("abc".into()),
        pipeline_version: Some("v1".into()),
        balance: Some(Balance {
            events_in: 10,
            counted: 7,
            filtered: 2,
            rejected: 1,
            late: 4,
            late_by: BTreeMap::from([("10".to_owned(), 2), ("more".to_owned(), 1)]).into(),
        }),
        ranges: vec![(partition(), OffsetRange::new(30, 40).unwrap())],
        replayed: None,
    };
    let replay = Commit {
        version: 4,
        kind: "replay".into(),
        replayed: Some(5),
        ..Commit::default()
    };
    *shed.history.lock().unwrap() = vec![commit, replay];
    let board = Arc::new(StatusBoard::default());
    let engine = QueryEngine::new(shed, None, Some(board.clone()), Limits::default()).unwrap();
    let answer = async |sql: &str| {
        let result = engine.session().query(sql, vec![]).await.unwrap();
        lines(&result.collect().await.unwrap())
    };
    let partitions = "SELECT pipeline, \"table\", topic, partition, committed, watermark, lag, halted, stable_end FROM system.partitions";
    assert_eq!(
        answer(partitions).await,
        ["web clicks_per_minute clicks 0 40 2026-03-01T12:01:00Z NULL NULL NULL"]
    );
    board.update(&"web".into(), |status| {
        status.state = PipelineState::Running;
        status.tables = vec![TableStatus {
            table: "clicks_per_minute".into(),
            ..TableStatus::default()
        }];
        status.partitions = vec![PartitionStatus {
            topic: "clicks".into(),
            partition: 0,
            position: Some(45),
            log_end: Some(50),
            stable_end: Some(45),
            halted: Some("out of range".into()),
            ..PartitionStatus::default()
        }];
    });
    assert_eq!(
        answer(partitions).await,
        ["web clicks_per_minute clicks 0 40 NULL 10 out of range 45"]
    );
    assert_eq!(
        answer("SELECT * FROM system.commits").await,
        [
            "clicks_per_minute 3 2026-03-01T12:00:00Z commit web abc v1 10 7 2 1 4 \
          [{\"end\":40,\"partition\":0,\"start\":30,\"topic\":\"clicks\"}] NULL",
            "clicks_per_minute 4 NULL replay NULL NULL NULL NULL NULL NULL NULL NULL [] 5"
        ]
    );
    assert_eq!(
        answer("SELECT * FROM system.lateness ORDER BY more_than_seconds").await,
        [
            "clicks_per_minute 3 2026-03-01T12:00:00Z 1 10 2",
            "clicks_per_minute 3 2026-03-01T12:00:00Z 604800 NULL 1",
            "clicks_per_minute 3 2026-03-01T12:00:00Z NULL NULL 1"
        ]
    );
    assert_eq!(
        answer("SELECT name, state, partitions, tables FROM system.pipelines").await,
        ["web running 1 clicks_per_minute"]
    );
    let measures = answer("SELECT measures FROM system.tables").await;
    assert!(
        measures[0].contains("users: approx_distinct(user)"),
        "{measures:?}"
    );
}
