//! The same questions, answered by the real store.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use alluvium_plan::PartitionBy;
use alluvium_query::{Limits, QueryEngine};
use alluvium_store::{CommitFacts, Store, StoreRules, TableSpec};
use alluvium_types::{Balance, Epoch, Header, OffsetRange, Reject, Stage, Timestamp};
use object_store::memory::InMemory;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_commits_is_what_sql_reads() {
    let store = Store::over(Arc::new(InMemory::new()), StoreRules::default());
    let spec = TableSpec {
        name: "clicks_per_minute".into(),
        pipeline: "web".into(),
        shape: Arc::new(shape().await),
        partition_by: PartitionBy::Day,
        definition: "window: 1m\n".into(),
    };
    let mut writer = store.table(&spec).await.unwrap();
    writer
        .record_start(
            &BTreeMap::from([(partition(), 0)]),
            &BTreeMap::from([("clicks".into(), 1)]),
            &BTreeMap::new(),
        )
        .await
        .unwrap();
    for (epoch, clicks) in [
        vec![click(0, "CH", 1, 1.0, 10), click(2, "DE", 1, 1.0, 10)],
        vec![click(0, "CH", 2, 3.0, 10)],
    ]
    .into_iter()
    .enumerate()
    {
        let panes = fold(&clicks, 1).await;
        let staged = writer
            .stage(std::iter::once(Ok::<_, Infallible>(panes)), None)
            .await
            .unwrap();
        let start = epoch as i64 * 10;
        let facts = CommitFacts {
            ranges: BTreeMap::from([(partition(), OffsetRange::new(start, start + 10).unwrap())]),
            watermarks: BTreeMap::from([(partition(), Timestamp::from_micros(NOON + MINUTE))]),
            leader_epochs: BTreeMap::new(),
            balance: Balance {
                events_in: clicks.len() as u64,
                counted: clicks.len() as u64,
                ..Balance::default()
            },
            pipeline_version: "v1".into(),
            settings: Default::default(),
            epoch: Epoch(epoch as u64 + 1),
        };
        writer.commit(&staged, &facts).await.unwrap();
    }
    let letters = [Reject {
        partition: partition(),
        offset: 4,
        timestamp: Some(Timestamp::from_micros(NOON)),
        key: None,
        headers: vec![Header {
            name: "h".into(),
            value: None,
        }],
        payload: Some(b"{".as_slice().into()),
        error: "not JSON".into(),
        column: None,
        stage: Stage::Decode,
        table: None,
    }];
    let mut dead = store.dead_letters("web").await.unwrap();
    dead.known(&BTreeMap::from([(partition(), 0)]))
        .await
        .unwrap();
    dead.commit(&letters, "v1", Timestamp::from_micros(NOON))
        .await
        .unwrap();

    let engine = QueryEngine::new(store, None, None, Limits::default()).unwrap();
    let answer = async |sql: &str| {
        let result = engine.session().query(sql, vec![]).await;
        let result = result.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        lines(&result.collect().await.unwrap())
    };
    assert_eq!(
        answer("SELECT window_start, country, final, clicks, users, p50_ms > 0, mean_ms FROM clicks_per_minute ORDER BY 1").await,
        [
            "2026-03-01T12:00:00Z CH true 2 2 true 2.0",
            "2026-03-01T12:02:00Z DE false 1 1 true 1.0"
        ]
    );
    assert_eq!(
        answer("SELECT measure(users), measure(clicks), measure(mean_ms) FROM clicks_per_minute WHERE window_start < '2026-03-01T12:01:00Z'").await,
        ["2 2 2.0"]
    );
    assert_eq!(
        answer("SELECT topic, partition, \"offset\", error, stage, \"table\", headers[1]['key'], payload FROM dead_letters.web").await,
        ["clicks 0 4 not JSON decode NULL h 7b"]
    );
    assert_eq!(
        answer("SELECT pipeline, committed, watermark FROM system.partitions").await,
        ["web 20 2026-03-01T12:01:00Z"]
    );
    assert_eq!(
        answer("SELECT kind, events_in, counted FROM system.commits WHERE kind = 'commit' ORDER BY version").await,
        ["commit 2 2", "commit 1 1"]
    );
}
